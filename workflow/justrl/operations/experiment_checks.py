"""Preflight checks of the experiment: hub, model folder, prompts, reward, engine."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from justrl.errors import UserError
from justrl.io import read_json
from justrl.operations.checks import FAILED, OK, SKIPPED, Check

# (completion, gold, is it right?): what any reward of this project must agree on.
KNOWN_ANSWERS = (
    (r"The sum is \boxed{204}", "204", True),
    (r"so \boxed{7}. No: the answer is \boxed{8}", "8", True),
    (r"therefore $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}", True),
    (r"\boxed{-3}", "-3", True),
    (r"<think>half of it is \boxed{5}</think> The answer is \boxed{10}", "10", True),
    (r"The sum is \boxed{205}", "204", False),
    (r"so \boxed{8}. No: the answer is \boxed{7}", "8", False),
    ("The answer is 204", "204", False),
    (r"The answer is \boxed{204", "204", False),
    ("", "204", False),
)


def hub_repositories(config: Mapping, runs: Sequence[str]) -> list[tuple[str, str, str]]:
    """(kind, hub id, revision) of everything that the runs and their evaluation download."""
    models = {config["runs"][run]["model"] for run in runs}
    datasets = {config["runs"][run]["dataset"] for run in runs}
    evaluation = config["evaluation"]
    entries = [("models", config["models"][name]) for name in sorted(models)]
    entries += [("datasets", config["datasets"][name]) for name in sorted(datasets)]
    entries += [("datasets", config["benchmarks"][name]) for name in evaluation["benchmarks"]]
    found = [(kind, e["hub_id"], e["revision"] or "main") for kind, e in entries if e["source"] == "hub"]
    grader = evaluation["model_grader"]
    if grader["enabled"]:
        found.append(("models", grader["model"], grader.get("revision") or "main"))
    return found


def check_hub(config: Mapping, runs: Sequence[str], results: str | Path, seconds: float = 5) -> Check:
    """Can everything be downloaded, or is it downloaded already? One unreachable hub is one sentence, not twelve."""
    wanted = hub_repositories(config, runs)
    if not wanted:
        return Check("hub", OK, "nothing to download: model and data are generated")
    mirror = config["hub"]["mirror"]
    if mirror:
        missing = [hub_id for _, hub_id, _ in wanted if not (Path(mirror) / hub_id).is_dir()]
        if missing:
            return Check(
                "hub", FAILED, f"not in the mirror {mirror}: {', '.join(missing)}", "copy them to DIR/<hub id>/"
            )
        return Check("hub", OK, f"all {len(wanted)} repositories are in the mirror {mirror}")
    if _all_downloaded(config, runs, Path(results)):
        return Check("hub", OK, "models, training data and benchmarks are downloaded")
    if config["hub"]["offline"]:
        return Check(
            "hub", SKIPPED, "hub.offline is set: the cache of huggingface_hub must hold what is not downloaded yet"
        )
    return _ask_hub(wanted, seconds)


def _all_downloaded(config: Mapping, runs: Sequence[str], results: Path) -> bool:
    folders = [results / "models" / config["runs"][run]["model"] for run in runs]
    folders += [results / "data" / config["runs"][run]["dataset"] / "raw" for run in runs]
    folders += [results / "benchmarks" / name / "raw" for name in config["evaluation"]["benchmarks"]]
    if config["evaluation"]["model_grader"]["enabled"]:
        folders.append(results / "models" / "model_grader")
    return all(folder.is_dir() for folder in folders)


def _ask_hub(wanted: Sequence[tuple[str, str, str]], seconds: float) -> Check:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    remedy = (
        "check network and proxy (HTTPS_PROXY), set HF_ENDPOINT to another hub, set hub.mirror to a local copy, "
        "or run `snakemake data` on a machine with network; `snakemake --profile mini` needs no hub"
    )

    def ask(entry: tuple[str, str, str]) -> str | None:
        kind, hub_id, revision = entry
        request = urllib.request.Request(f"{endpoint}/api/{kind}/{hub_id}/revision/{revision}", method="HEAD")
        if os.environ.get("HF_TOKEN"):
            request.add_header("Authorization", f"Bearer {os.environ['HF_TOKEN']}")
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                return None
        except urllib.error.HTTPError as error:
            return f"{hub_id} at {revision}: HTTP {error.code}"

    try:
        # The first one alone: without network, the others would only wait for the same time-out.
        problems = [ask(wanted[0])]
        with ThreadPoolExecutor(8) as pool:
            problems += pool.map(ask, wanted[1:])
    except (urllib.error.URLError, OSError) as error:
        return Check("hub", FAILED, f"{endpoint} cannot be reached: {getattr(error, 'reason', error)}", remedy)
    problems = [problem for problem in problems if problem]
    if problems:
        return Check(
            "hub", FAILED, "; ".join(problems), "correct hub_id or revision in config.yaml (401: set HF_TOKEN)"
        )
    return Check("hub", OK, f"all {len(wanted)} repositories and revisions are at {endpoint}")


def check_model(folder: str | Path) -> Check:
    """Has the model folder a chat template, and a token that ends an answer?"""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return Check(
            "model", FAILED, f"{folder} holds no config.json", f"delete {folder} and let Snakemake make it again"
        )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.chat_template:
        return Check(
            "model", FAILED, f"{folder}: no chat template", "training needs a chat model; use another base model"
        )
    question = "What is 2 + 3?"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    if question not in text:
        return Check(
            "model", FAILED, f"{folder}: the chat template drops the question: {text!r}", "repair the template"
        )
    generation = folder / "generation_config.json"
    stops = read_json(generation).get("eos_token_id") if generation.is_file() else None
    stops = stops if isinstance(stops, list) else [stops] if stops is not None else []
    if tokenizer.eos_token_id is None and not stops:
        return Check("model", FAILED, f"{folder}: no stop token", "set eos_token in tokenizer_config.json")
    names = sorted(
        {str(tokenizer.convert_ids_to_tokens(stop)) for stop in [*stops, tokenizer.eos_token_id] if stop is not None}
    )
    return Check("model", OK, f"chat template ends {text[-24:]!r}; stops at {', '.join(names)}")


def check_prompts(train_file: str | Path, model: str | Path, recipe: Mapping) -> Check:
    """Does every training prompt fit, and prompt and response together the model?"""
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    if not Path(train_file).is_file():
        raise UserError(f"{train_file}: no training data; `snakemake data` makes it")
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    prompts = pq.read_table(train_file, columns=["prompt"])["prompt"].to_pylist()
    if not prompts:
        return Check("prompts", FAILED, f"{train_file} holds no rows", "delete it and let Snakemake make it again")
    texts = [tokenizer.apply_chat_template(p, tokenize=False, add_generation_prompt=True) for p in prompts]
    longest = max(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
    limit, response = recipe["max_prompt_length"], recipe["max_response_length"]
    context = read_json(Path(model) / "config.json").get("max_position_embeddings", limit + response)
    found = f"{len(prompts):,} prompts, the longest {longest} of {limit} tokens; with {response:,} more of {context:,}"
    if longest > limit:
        return Check("prompts", FAILED, found, f"delete {train_file}: it was filtered for another max_prompt_length")
    if limit + response > context:
        return Check("prompts", FAILED, found, "lower max_response_length to what the model can attend to")
    if len(prompts) < recipe["prompts_per_step"]:
        return Check("prompts", FAILED, found, f"one step needs {recipe['prompts_per_step']} of them")
    return Check("prompts", OK, found)


def check_reward(name: str) -> Check:
    """Does the configured reward mark ten known answers as it must?"""
    from justrl.verifiers import get_reward

    reward = get_reward(name)
    wrong = [
        f"{completion!r} against {gold!r} got {reward(completion, gold)}"
        for completion, gold, right in KNOWN_ANSWERS
        if (reward(completion, gold) > 0) != right
    ]
    if wrong:
        return Check(
            "reward", FAILED, f"{name}: {'; '.join(wrong)}", "do not train: run `make test` on this installation"
        )
    return Check("reward", OK, f"{name}: all {len(KNOWN_ANSWERS)} known answers marked right")


def check_run_file(run_file: Mapping) -> Check:
    """State what is about to be trained, in the words that a reader of the log will look for."""
    recipe = run_file["recipe"]
    summary = {key: recipe[key] for key in ("prompts_per_step", "rollouts_per_prompt", "learning_rate", "reward")}
    return Check(
        "run", OK, f"{run_file['run']} by {run_file['engine']}, seed {run_file['seed']}, {json.dumps(summary)}"
    )
