"""What "the paper" is: each value that a configuration must not change, and what it may."""

import subprocess
import sys

import pytest

from justrl.config import Experiment, Recipe, paper
from justrl.config import files as config_files
from justrl.errors import UserError
from justrl.io import file_sha256, write_json
from justrl.report.metrics import run_of
from justrl.workflow import paper_check


def started(change, name="paper"):
    """The experiment that an overlay makes, as Snakemake starts it."""
    return Experiment.from_mapping(config_files.merge(config_files.read(), {"experiment": name, **change}))


OTHER_RUN = {"like": "deepseek", "recipe": {"learning_rate": 1e-5, "loss": "gspo"}, "enabled": True}
REFUSED = [
    ({"recipe": {"learning_rate": 1e-5}}, "recipe.learning_rate", "1e-05", "1e-06"),
    ({"recipe": {"loss": "dr_grpo"}}, "recipe.loss", "dr_grpo", "vanilla"),
    ({"recipe": {"max_response_length": 2048}, "canary": {}}, "recipe.max_response_length", "2048", "15360"),
    ({"recipe": {"reward": "robust"}}, "recipe.reward", "robust", "paper"),
    (
        {"recipe": {"reward": {"file": "examples/my_reward.py"}}},
        "recipe.reward",
        "examples/my_reward.py:score",
        "paper",
    ),
    ({"recipe": {"adam_betas": [0.9, 0.95]}}, "recipe.adam_betas", "[0.9, 0.95]", "[0.9, 0.999]"),
    ({"recipe": {"overlong_penalty": {"factor": 0.5}}}, "recipe.overlong_penalty.factor", "0.5", "1.0"),
    ({"recipe": {"dtype": "float32"}}, "recipe.dtype", "float32", "bfloat16"),
    ({"recipe": {"prompt_suffix": "Go."}}, "recipe.prompt_suffix", "Go.", "Please reason"),
    ({"runs": {"nemotron": {"recipe": {"temperature": 0.6}}}}, "runs.nemotron.recipe.temperature", "0.6", "1.0"),
    ({"runs": {"deepseek": {"model": "nemotron"}}}, "runs.deepseek.model", "nemotron", "deepseek"),
    ({"runs": {"deepseek": {"dataset": "dapo_as_released"}}}, "runs.deepseek.dataset", "dapo_as_released", "dapo"),
    ({"runs": {"deepseek": {"engine": "reference"}}}, "runs.deepseek.engine", "reference", "verl"),
    ({"runs": {"deepseek": {"family": "nemotron"}}}, "runs.deepseek.family", "nemotron", "deepseek"),
    ({"runs": {"deepseek": {"steps": 6000}}}, "runs.deepseek.steps", "6000", "4380"),
    ({"runs": {"nemotron": {"like": "deepseek", "model": "deepseek"}}}, "runs.nemotron.model", "deepseek", "nemotron"),
    (
        {"runs": {"deepseek": {"seeds": [1, 2], "recipe": {"top_k": 20}}}},
        "runs.deepseek.recipe.top_k",
        "20",
        "-1",
    ),
    # Off, and still asked for by name.
    (
        {"runs": {"deepseek_overlong": {"recipe": {"overlong_penalty": {"buffer": 1024}}}}},
        "runs.deepseek_overlong.recipe.overlong_penalty.buffer",
        "1024",
        "4096",
    ),
    ({"runs": {"deepseek_async": {"recipe": {"staleness": 0}}}}, "runs.deepseek_async.recipe.staleness", "0", "1"),
    (
        {"models": {"deepseek": {"hub_id": "Qwen/Qwen2.5-1.5B"}}},
        "models.deepseek.hub_id",
        "Qwen/Qwen2.5-1.5B",
        "Distill",
    ),
    ({"datasets": {"dapo": {"hub_id": "me/other"}}}, "datasets.dapo.hub_id", "me/other", "BytedTsinghua-SIA"),
    ({"datasets": {"dapo": {"remove_duplicates": False}}}, "datasets.dapo.remove_duplicates", "false", "true"),
    ({"datasets": {"dapo": {"split": "test"}}}, "datasets.dapo.split", "test", "train"),
    ({"datasets": {"dapo": {"revision": None}}}, "datasets.dapo.revision", "null", "65877096"),
    ({"protocols": {"paper": {"temperature": 0.6}}}, "protocols.paper.temperature", "0.6", "0.7"),
    ({"protocols": {"paper": {"max_tokens": 4096}}}, "protocols.paper.max_tokens", "4096", "31744"),
    ({"protocols": {"paper": {"samples": 8}}}, "protocols.paper.samples", "8", "per_benchmark"),
    ({"protocols": {"paper": {"prompt_separator": "\n\n"}}}, "protocols.paper.prompt_separator", "\\n\\n", "' '"),
    ({"benchmarks": {"aime": {"samples": 4}}}, "benchmarks.aime.samples", "4", "32"),
    ({"benchmarks": {"math500": {"rows": 100}}}, "benchmarks.math500.rows", "100", "500"),
    (
        {"benchmarks": {"olympiad": {"hub_config": None}}},
        "benchmarks.olympiad.hub_config",
        "null",
        "OE_TO_maths_en_COMP",
    ),
    (
        {"benchmarks": {"hmmt25": {"answer_column": "solution"}}},
        "benchmarks.hmmt25.answer_column",
        "solution",
        "answer",
    ),
    ({"evaluation": {"headline_grader": "symbolic"}}, "evaluation.headline_grader", "symbolic", "paper_rules+model"),
    ({"evaluation": {"protocol": "greedy"}}, "evaluation.protocol", "greedy", "paper"),
    ({"evaluation": {"dtype": "float16"}}, "evaluation.dtype", "float16", "bfloat16"),
    (
        {"evaluation": {"model_grader": {"model": "me/judge"}}},
        "evaluation.model_grader.model",
        "me/judge",
        "opencompass",
    ),
    (
        {"evaluation": {"model_grader": {"fill_question": False}}},
        "evaluation.model_grader.fill_question",
        "false",
        "true",
    ),
    ({"external": {"justrl_deepseek": {"model": "me/m"}}}, "external.justrl_deepseek.model", "me/m", "hbx/JustRL"),
]


@pytest.mark.parametrize(("change", "key", "here", "there"), REFUSED, ids=[row[1] for row in REFUSED])
def test_a_value_that_is_not_the_papers_is_refused(change, key, here, there):
    with pytest.raises(UserError) as refused:
        paper_check.check_paper(started(change))
    (sentence,) = str(refused.value).splitlines()
    said, _, rest = sentence.partition(" in the paper")
    found, _, values = said.partition(" is ")
    ours, _, theirs = values.rpartition(" here and ")
    assert found == f"config: {key}" and here in ours and there in theirs
    assert "give the experiment a name of its own" in rest
    # Under a name of its own it is nobody's business.
    paper_check.check_paper(started(change, name="mine"))


FREE = {
    "hardware": {"hardware": {"gpu": "H100-80GB", "nodes": 4, "save_every": 20, "engine": {"cuda_graphs": False}}},
    "label": {"benchmarks": {"aime": {"label": "AIME I and II"}}},
    "seed": {"seed": 7, "runs": {"deepseek": {"seed": 3}, "nemotron": {"recipe": {"data_seed": 1}}}},
    "seeds": {"runs": {"deepseek": {"seeds": [1, 2, 3]}}},
    "fewer steps": {"runs": {"deepseek": {"steps": 600}}},
    "the last checkpoint that the paper reports": {"runs": {"deepseek": {"steps": 4860}}},
    "other jobs": {"runs": {"deepseek": {"segment_steps": 20, "evaluate_every": 100, "steps": 300}}},
    "fewer runs": {"runs": {"nemotron": {"enabled": False}}, "figures": {"models": []}},
    "no evaluation": {"runs": {"nemotron": {"evaluate": False}}},
    "an ablation": {"runs": {"deepseek_overlong": {"enabled": True}}},
    "fewer benchmarks": {"evaluation": {"benchmarks": ["aime"], "validation_benchmarks": ["aime"]}},
    "newer benchmarks": {"evaluation": {"benchmarks": ["aime", "aime26"]}},
    "revisions": {
        "models": {"deepseek": {"revision": "a" * 40}},
        "benchmarks": {"aime": {"revision": "b" * 40}},
        "external": {"justrl_deepseek": {"revision": "c" * 40, "enabled": True}},
        "evaluation": {"model_grader": {"revision": "d" * 40}},
    },
    "mirror": {"hub": {"mirror": "/somewhere", "offline": True}},
    "trackers": {"trackers": ["wandb"]},
    "exports": {"keep_checkpoints": "evaluated"},
    "shards": {"evaluation": {"shards": 4, "together": True}},
    "own grader beside the others": {
        "evaluation": {"custom_graders": {"anywhere": {"file": "examples/my_grader.py", "function": "grade"}}}
    },
    "another protocol by its name": {"protocols": {"greedy": {"max_tokens": 99}}},
    "folder": {"pathvars": {"results": "results/elsewhere"}},
    "canary": {"canary": {"steps": 4, "segment_steps": 2, "max_response_length": 512}},
    "a run of its own name": {"runs": {"mine": OTHER_RUN}},
    "a model of its own name": {
        "models": {"other": {"source": "hub", "hub_id": "me/other", "context_length": 32768}},
        "runs": {"mine": {**OTHER_RUN, "model": "other", "family": "other"}},
    },
    "figures and pairs": {"figures": {"two": ["deepseek"]}, "compare": {"two": ["deepseek", "nemotron"]}},
}


@pytest.mark.parametrize("name", FREE)
def test_what_is_free_is_accepted(name):
    paper_check.check_paper(started(FREE[name]))


def test_the_file_is_what_config_yaml_says():
    """Complete, too: each entry of it has the keys of the configuration's, and no run of config.yaml is forgotten."""
    given = started({})
    assert list(paper_check.differences_from_paper(given)) == []
    values = paper.values()
    assert values["runs"].keys() == given.runs.keys() and values["models"].keys() == given.models.keys()
    assert values["datasets"].keys() == given.datasets.keys() and values["external"].keys() == given.external.keys()
    assert set(values["benchmarks"]) == set(given.evaluation.benchmarks)
    assert {name for name, run in values["runs"].items() if run["steps"] != given.runs[name].steps} == set()


OTHER = {
    "advantage_epsilon": 1e-5, "prompts_per_step": 512, "rollouts_per_prompt": 16, "mini_batch_prompts": 128,
    "micro_batch_per_gpu": 2, "clip_ratio_low": 0.1, "clip_ratio_high": 0.2, "clip_ratio_c": 3.0, "loss": "gspo",
    "loss_aggregation": None, "learning_rate": 2e-6, "warmup_steps": 0, "weight_decay": 0.0, "adam_betas": [0.8, 0.999],
    "gradient_clip": 0.5, "max_prompt_length": 512, "max_response_length": 8192, "temperature": 0.6, "top_p": 0.95,
    "top_k": 50, "reward": "strict", "overlong_penalty": {"enabled": True}, "prompt_separator": " ",
    "prompt_suffix": "Box it.", "staleness": 1, "data_seed": 5, "dtype": "float32", "gradient_checkpointing": False,
    "alarms": {"truncated": None},
}  # fmt: skip
ONE_VALUE = {"algorithm", "kl_coefficient", "entropy_coefficient"}


def test_every_key_of_the_recipe_is_bound_but_the_seed_of_the_order_and_what_ends_a_run():
    """A new key of the recipe needs a row here, and is compared without being listed anywhere else."""
    assert OTHER.keys() == Recipe.model_fields.keys() - ONE_VALUE
    free = {key for key, value in OTHER.items() if not list(paper_check.differences_from_paper(changed(key, value)))}
    # The aggregation is that of the loss, so null and the paper's are the same.
    assert free == {"data_seed", "loss_aggregation", "alarms"}


def changed(key, value):
    return started({"recipe": {key: value}})


@pytest.mark.parametrize("group", ["benchmarks", "datasets"])
def test_local_files_are_the_papers_if_the_lock_has_their_hashes(tmp_path, monkeypatch, group):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "questions.csv"
    file.write_text("problem,answer\nWhat is 1 + 1?,2\n")
    name = {"benchmarks": "aime", "datasets": "dapo"}[group]
    before = config_files.read()[group][name]
    kept = {key: value for key, value in before.items() if key not in ("hub_id", "hub_config", "revision", "split")}
    plain = config_files.read()
    plain[group][name] = {**kept, "source": "local", "path": "questions.csv"}
    local = Experiment.from_mapping(plain)

    def lock(sha256):
        files = {"data/train.parquet": sha256, "README.md": "0" * 64}
        entry = {"hub_id": before["hub_id"], "revision": "e" * 40, "files": files}
        write_json(tmp_path / "data.lock.json", {"sources": {f"dataset:{before['hub_id']}": entry}})

    write_json(tmp_path / "data.lock.json", {"sources": {}})
    with pytest.raises(UserError, match=rf"{group}.{name}.path is questions.csv here .* has no hashes of it"):
        paper_check.check_paper(local)
    lock("f" * 64)
    with pytest.raises(UserError, match=r"with other hashes in data\.lock\.json"):
        paper_check.check_paper(local)
    lock(file_sha256(file))
    paper_check.check_paper(local)
    plain[group][name]["answer_column"] = "problem"
    with pytest.raises(UserError, match=rf"{group}.{name}.answer_column is problem here"):
        paper_check.check_paper(Experiment.from_mapping(plain))


@pytest.mark.parametrize(
    "command", ["plan", "preflight --offline", "train run deepseek --model . --data . --output out"]
)
def test_each_command_that_starts_something_refuses(command, tmp_path, root):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("experiment: paper\nprotocols: {paper: {top_p: 0.95}}\n")
    words = [sys.executable, "-m", "justrl", *command.split(), "--config", str(overlay)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=root)
    assert done.returncode != 0 and "protocols.paper.top_p is 0.95 here and 0.9 in the paper" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize("overlay", ["mini/experiment.yaml", "mini/ab.yaml", "mini/verl.yaml", "one_gpu/24gb.yaml"])
def test_the_small_experiments_have_names_of_their_own(overlay):
    paper_check.check_paper(Experiment.from_mapping(config_files.read([overlay])))


@pytest.mark.parametrize(
    ("described", "stamp"),
    [
        ({"run": "deepseek"}, "paper"),
        ({"run": "deepseek_s3", "seed": 3}, "paper"),
        ({"run": "mine"}, "paper/mine"),
        ({"run": "deepseek", "recipe": {"learning_rate": 1e-5}}, "paper/deepseek"),
        ({"run": "deepseek", "engine": "reference"}, "paper/deepseek"),
        ({"run": "deepseek", "model": {"hub_id": "me/other"}}, "paper/deepseek"),
        ({"run": "deepseek_async", "recipe": {"staleness": 1}}, "paper/deepseek_async"),
        ({"run": "mini", "experiment": "mini"}, "mini"),
    ],
)
def test_a_run_is_the_papers_by_the_values_of_its_run_json(tmp_path, described, stamp):
    whole = config_files.merge(started({}).described("deepseek").as_dict(), described)
    write_json(tmp_path / "run.json", whole)
    assert run_of(tmp_path / "metrics.jsonl")["experiment"] == stamp
    marked = {"paper": "", "mini": "mini experiment – not a paper result"}
    own = f"{described['run']}: not the paper's run – not a paper result"
    assert paper.mark(stamp) == marked.get(stamp, own)


def test_the_stamp_of_several_names_each_that_is_not_the_papers():
    assert paper.together(["paper", "paper"]) == "paper"
    assert paper.together(["paper", "paper/b", "paper/a", "paper/a, b"]) == "paper/a, b"
    assert paper.together(["paper", "mini"]) is None
