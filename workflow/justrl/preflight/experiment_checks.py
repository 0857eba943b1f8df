"""Preflight checks of an experiment at the terminal, and of one run in its job.

Those of this file are of the hub, the model folder, prompts, reward and engine.
"""

import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from justrl.config import Experiment, Hardware, OwnFunction, Recipe, RunDescription
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.hardware import checks
from justrl.hardware.checks import FAILED, OK, SKIPPED, WARNING, Check, guarded
from justrl.io import read_json, read_json_object
from justrl.models.chat_template import ChatTokenizer
from justrl.models.folder import check_model_folder, check_weights
from justrl.models.sampling import (
    chat_prompt,
    check_tokenizer_of_verl,
    load_tokenizer,
    stop_token_ids,
    stop_tokens_by_source,
)
from justrl.models.shape import shape_of
from justrl.plan import costs, planning
from justrl.preflight import queue_checks

# Number of training questions on whose answers a user's reward is tried.
KNOWN_ROWS = 4
# (completion, reference answer, is it correct?): every reward of this project must agree on these.
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


def check_experiment(experiment: Experiment, runs: Sequence[str], results: str | Path) -> list[Check]:
    """All checks of the named runs, in the order in which failures would occur.

    They take seconds on a login node and write nothing.
    """
    results = Path(results)
    done = [guarded("hub", lambda: check_hub(experiment, runs, results))]
    done.append(guarded("disk", lambda: checks.check_disk(results, _planned_gb(experiment, runs))))
    done.append(guarded("gpus", lambda: checks.check_gpus(experiment.hardware)))
    for engine in sorted({experiment.runs[run].engine for run in runs}):
        done.append(guarded("cores", partial(checks.check_cores, experiment.hardware, engine)))
        done.append(guarded("packages", partial(checks.check_packages, engine)))
        done += checks.check_card(experiment.hardware, engine)
    rewards = {experiment.runs[run].recipe.reward: Layout(experiment, str(results)).training_data(run) for run in runs}
    for reward, data in sorted(rewards.items(), key=str):
        there = data if Path(data).is_file() else None
        done.append(guarded("reward", partial(check_reward, reward, there)))
    done.append(guarded("golden", lambda: check_golden(experiment, results)))
    for run in runs:
        done += [replace(check, found=f"{run}: {check.found}") for check in _check_run(experiment, run, results)]
    resources = queue_checks.profile_resources()
    try:
        done += queue_checks.check_queue(queue_checks.requests(experiment, runs, resources), resources)
    except UserError as error:
        done.append(Check("slurm", FAILED, str(error)))
    return done


def _check_run(experiment: Experiment, run: str, results: Path) -> list[Check]:
    recipe, engine, hardware = experiment.runs[run].recipe, experiment.runs[run].engine, experiment.hardware
    layout = Layout(experiment, str(results))
    folder, data = Path(layout.base_model(run)), Path(layout.training_data(run))
    shape = planning.known_shape(experiment, run)
    memory = guarded("memory", lambda: checks.check_memory(hardware, engine, recipe, shape))
    if not folder.is_dir() or not data.is_file():
        later = "not downloaded yet; `snakemake data` downloads it, and the preflight rule checks it"
        return [memory, Check("model, prompts", SKIPPED, later)]
    return [memory, *_check_inputs(folder, data, recipe, hardware, engine)]


def _check_inputs(model: str | Path, data: str | Path, recipe: Recipe, hardware: Hardware, engine: str) -> list[Check]:
    """The checks of a run's model folder and training data."""
    return [
        guarded("model", lambda: check_model(model, engine)),
        guarded("weight transfer", lambda: checks.check_weight_transfer(model, hardware, engine)),
        guarded("stop tokens", lambda: check_stops(model)),
        guarded("prompts", lambda: check_prompts(data, model, recipe)),
    ]


def check_job(
    run: RunDescription,
    model: str | Path,
    data: str | Path,
    hardware: Hardware,
    output: str | Path,
    engine_config: Path | None,
) -> list[Check]:
    """The checks of a job before training: without a GPU, on the files that the workflow has made."""
    recipe, engine = run.recipe, run.engine
    shape = shape_of(run.model, model)
    # The size of a model of unknown shape, from its weight files with two bytes per parameter.
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    parameters = shape.parameters if shape else weights // 2
    # The space that one segment adds to earlier ones.
    needed = planning.most_full_states() * costs.state_gb(parameters).value + 2 * costs.export_gb(parameters).value
    return [
        guarded("run", lambda: check_run_file(run)),
        guarded("cores", lambda: checks.check_cores(hardware, engine)),
        guarded("memory", lambda: checks.check_memory(hardware, engine, recipe, shape)),
        guarded("packages", lambda: checks.check_packages(engine)),
        guarded("disk", lambda: checks.check_disk(Path(output).parent, needed)),
        guarded("reward", lambda: check_reward(recipe.reward, data)),
        *_check_inputs(model, data, recipe, hardware, engine),
        guarded("engine", lambda: _check_engine(engine, engine_config)),
    ]


def check_node(hardware: Hardware, engine: str) -> list[Check]:
    """The checks of the node that trains, which only its own job can make: GPUs and compilers."""
    return [
        guarded("gpus", lambda: checks.check_gpus(hardware)),
        *checks.check_card(hardware, engine),
        guarded("compilers", lambda: checks.check_compilers(engine, hardware)),
    ]


def _check_engine(engine: str, resolved: Path | None) -> Check:
    if engine == "reference":
        return Check("engine", OK, "not relevant for the reference engine")
    if resolved is None or not resolved.is_file():
        raise UserError(
            "no resolved verl configuration; the rule resolve_verl_config writes it and checks that it composes"
        )
    groups = sorted(yaml.safe_load(resolved.read_text(encoding="utf-8")) or {})
    if not {"actor_rollout_ref", "algorithm", "data", "trainer"} <= set(groups):
        return Check(
            "engine",
            FAILED,
            f"{resolved} has only {', '.join(groups)}",
            f"delete {resolved} and run the preflight again",
        )
    return Check("engine", OK, f"verl: {resolved} composes ({len(groups)} groups)")


def _planned_gb(experiment: Experiment, runs: Sequence[str]) -> float:
    return sum(planning.plan_run(experiment, run, None)["disk at most"]["value"] for run in runs)


def hub_repositories(experiment: Experiment, runs: Sequence[str]) -> list[tuple[str, str, str]]:
    """(kind, hub id, revision) of everything that the runs and their evaluation download."""
    models = {experiment.runs[run].model for run in runs}
    datasets = {experiment.runs[run].dataset for run in runs}
    evaluation = experiment.evaluation
    entries: list[tuple[str, Any]] = [("model", experiment.models[name]) for name in sorted(models)]
    entries += [("dataset", experiment.datasets[name]) for name in sorted(datasets)]
    entries += [("dataset", experiment.benchmarks[name]) for name in evaluation.benchmarks]
    found = [(kind, e.hub_id, e.revision or "main") for kind, e in entries if e.source == "hub"]
    grader = evaluation.model_grader
    if grader.enabled:
        found.append(("model", grader.model, grader.revision or "main"))
    return found


def check_hub(experiment: Experiment, runs: Sequence[str], results: str | Path, seconds: float = 5) -> Check:
    """Check that everything is downloaded or can be; an unreachable hub is reported once, not for each repository."""
    wanted = hub_repositories(experiment, runs)
    if not wanted:
        return Check("hub", OK, "nothing to download: model and data are generated")
    mirror = experiment.hub.mirror
    if mirror:
        missing = [hub_id for _, hub_id, _ in wanted if not (Path(mirror) / hub_id).is_dir()]
        if missing:
            return Check(
                "hub", FAILED, f"not in the mirror {mirror}: {', '.join(missing)}", "copy them to DIR/<hub id>/"
            )
        return Check("hub", OK, f"all {len(wanted)} repositories are in the mirror {mirror}")
    if all(Path(folder).is_dir() for folder in Layout(experiment, str(results)).hub_folders(runs)):
        return Check("hub", OK, "models, training data and benchmarks are downloaded")
    if experiment.hub.offline:
        return Check(
            "hub", SKIPPED, "hub.offline is set: files that are not downloaded must be in the cache of huggingface_hub"
        )
    return _ask_hub(wanted, seconds)


def _ask_hub(wanted: Sequence[tuple[str, str, str]], seconds: float) -> Check:
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    remedy = (
        "check network and proxy (HTTPS_PROXY), set HF_ENDPOINT to another hub, set hub.mirror to a local copy, "
        "or run `snakemake data` on a machine with network; `snakemake --profile mini` needs no hub"
    )

    def ask(entry: tuple[str, str, str]) -> str | None:
        kind, hub_id, revision = entry
        try:
            hub.repo_info(hub_id, repo_type=kind, revision=revision, timeout=seconds)
        except HfHubHTTPError as error:
            return f"{hub_id} at {revision}: HTTP {error.response.status_code}"
        return None

    try:
        # Try only the first one: without a network, each of the others would wait for the same time-out.
        answers = [ask(wanted[0])]
        with ThreadPoolExecutor(8) as pool:
            answers += pool.map(ask, wanted[1:])
    except (httpx.HTTPError, OSError) as error:
        return Check("hub", FAILED, f"{hub.endpoint} cannot be reached: {str(error) or type(error).__name__}", remedy)
    problems = [answer for answer in answers if answer]
    if problems:
        return Check(
            "hub", FAILED, "; ".join(problems), "correct hub_id or revision in config.yaml (401: set HF_TOKEN)"
        )
    return Check("hub", OK, f"all {len(wanted)} repositories and revisions exist at {hub.endpoint}")


def check_model(folder: str | Path, engine: str) -> Check:
    """Check that the model folder has all its weights, a chat template, and token ids that the engine keeps."""
    try:
        tokenizer = load_tokenizer(folder)
        if engine == "verl":
            check_tokenizer_of_verl(folder)
        check_weights(folder)
    except UserError as error:
        return Check("model", FAILED, str(error), f"repair it, or delete {folder}; Snakemake creates it again")
    return Check("model", OK, f"chat template ends {chat_prompt(tokenizer, '?')[-24:]!r}")


def check_stops(folder: str | Path) -> Check:
    """List the stop tokens, and check whether the model's files agree on them.

    Sampler, trainer, evaluation and judge stop at every token that any of the files names.
    """
    tokenizer = load_tokenizer(folder)

    def named(tokens: Iterable[int]) -> str:
        return ", ".join(sorted(tokenizer.convert_ids_to_tokens(list(tokens)))) or "none"

    all_of_them, sources = stop_token_ids(folder, tokenizer), stop_tokens_by_source(folder, tokenizer)
    found = f"an answer ends at {named(all_of_them)}"
    speaking = {source: tokens for source, tokens in sources.items() if tokens}
    if all(tokens == set(all_of_them) for tokens in speaking.values()):
        return Check("stop tokens", OK, f"{found}, according to {', '.join(speaking)}")
    each = "; ".join(f"{source}: {named(tokens)}" for source, tokens in sources.items())
    return Check("stop tokens", OK, f"{found}, because the model's files disagree ({each})")


def check_prompts(train_file: str | Path, model: str | Path, recipe: Recipe) -> Check:
    """Check that every training prompt fits its limit, and prompt and response together the model's context."""
    import pyarrow.parquet as pq

    if not Path(train_file).is_file():
        raise UserError(f"{train_file}: no such training data; `snakemake data` creates it")
    prompts = pq.read_table(train_file, columns=["prompt"])["prompt"].to_pylist()
    if not prompts:
        return Check("prompts", FAILED, f"{train_file} has no rows", "delete it; Snakemake creates it again")
    check_model_folder(model)
    longest = max(ChatTokenizer(model).lengths(prompts))
    limit, response = recipe.max_prompt_length, recipe.max_response_length
    context = read_json(Path(model) / "config.json").get("max_position_embeddings", limit + response)
    found = (
        f"{len(prompts):,} prompts, the longest has {longest} of {limit} tokens; with {response:,} tokens of "
        f"response, {context:,} are allowed"
    )
    if longest > limit:
        return Check("prompts", FAILED, found, f"delete {train_file}: it was filtered for another max_prompt_length")
    if limit + response > context:
        return Check(
            "prompts", FAILED, found, "lower max_response_length, so that prompt and response fit the model's context"
        )
    if len(prompts) < recipe.prompts_per_step:
        return Check("prompts", FAILED, found, f"one step needs {recipe.prompts_per_step} of them")
    return Check("prompts", OK, found)


def check_reward(name: str | OwnFunction, data: str | Path | None = None) -> Check:
    """Check that the configured reward grades ten known answers correctly.

    A user's own reward must return a number for answers to the first questions of the training file `data`. Without
    `data`, the check is only that the function can be imported.
    """
    from justrl.verifiers import get_reward

    reward = get_reward(name)
    if isinstance(name, OwnFunction):
        if data is None:
            return Check("reward", OK, f"{name} is a function; it is called once the training data is there")
        marks = reward.mark(_first_answers(data))
        scores = [mark.score for mark in marks]
        found = f"{name}: {len(scores)} numbers for {len(scores)} answers, from {min(scores):g} to {max(scores):g}"
        return Check("reward", OK, f"{found}; test its correctness yourself")
    wrong = [
        f"{completion!r} against {gold!r} got {reward(completion, gold)}"
        for completion, gold, right in KNOWN_ANSWERS
        if (reward(completion, gold) > 0) != right
    ]
    if wrong:
        return Check(
            "reward", FAILED, f"{name}: {'; '.join(wrong)}", "do not train: run `make test` on this installation"
        )
    return Check("reward", OK, f"{name}: all {len(KNOWN_ANSWERS)} known answers graded correctly")


def _first_answers(data: str | Path) -> list[tuple[str, str, dict[str, Any]]]:
    """For the first questions of a training file: the correct answer in a box and as plain text, and no answer."""
    from pyarrow import parquet

    from justrl.training.reward import question_row

    columns = ["data_source", "reward_model", "extra_info"]
    batch = next(parquet.ParquetFile(data).iter_batches(batch_size=KNOWN_ROWS, columns=columns))
    answers = []
    for row in batch.to_pylist():
        gold, about = row["reward_model"]["ground_truth"], question_row(row["data_source"], row["extra_info"])
        answers += [(text, gold, about) for text in (f"So it is \\boxed{{{gold}}}.", gold, "I do not know.")]
    return answers


def check_run_file(run: RunDescription) -> Check:
    """State what is about to be trained, with the key values that a reader of the log looks for."""
    keys = ("prompts_per_step", "rollouts_per_prompt", "learning_rate", "reward")
    recipe = run.recipe.as_dict()
    summary = {key: recipe[key] for key in keys}
    return Check("run", OK, f"{run.run} by {run.engine}, seed {run.seed}, {json.dumps(summary)}")


def check_golden(experiment: Experiment, results: Path) -> Check:
    """Check that the released weights reproduced the published averages on this installation (`snakemake golden`)."""
    if experiment.experiment != "paper" or not Layout(experiment).released():
        return Check("golden", SKIPPED, "there are no published scores for this experiment")
    claims = (read_json_object(results / "golden/claims.json").get("claims")) or []
    averages = [claim for claim in claims if "on average over the nine benchmarks" in str(claim.get("claim"))]
    judged = [claim for claim in averages if claim.get("verdict") != "not run"]
    if not judged:
        found = "the released weights have not been evaluated here"
        return Check(
            "golden",
            WARNING,
            found,
            "run `snakemake golden` to check whether your installation reproduces their published scores",
        )
    found = "; ".join(f"{claim['claim'].partition(':')[0]} {claim['verdict']}, {claim['evidence']}" for claim in judged)
    if all(claim["verdict"] == "holds" for claim in judged):
        return Check("golden", OK, found)
    return Check("golden", WARNING, found, f"compare the graders in {results / 'golden'}/*.html before you train")
