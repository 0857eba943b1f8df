"""The trainer's command line, used without Snakemake."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch
from reference_run import Run, make_materials

from justrl.cli.main import parse
from justrl.cli.train import run_request
from justrl.errors import UserError
from justrl.io import read_jsonl

SMALL = [
    "prompts_per_step=4",
    "mini_batch_prompts=2",
    "recipe.rollouts_per_prompt=2",
    "max_prompt_length=32",
    "max_response_length=24",
    "overlong_penalty.buffer=8",
    "dtype=float32",
    "gradient_checkpointing=false",
    "learning_rate=1e-3",
    "seed=3",
]


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    return make_materials(tmp_path_factory.mktemp("materials"))


def request_for(*overrides, run="deepseek"):
    """What `justrl train run` would train; model and data are not looked at yet."""
    args = parse(["train", "run", run, "--model", "tests", "--data", "tests", "--output", "out", *overrides])
    return run_request(args)


def test_help_says_what_there_is_without_importing_torch():
    done = subprocess.run(
        [sys.executable, "-m", "justrl", "train", "--help"], capture_output=True, text=True, check=True
    )
    assert "segment" in done.stdout and "torchrun" in done.stdout
    script = "import sys, justrl.cli.train; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_trains_a_run_of_the_configuration_with_overrides_and_resumes(materials, tmp_path):
    run = Run(materials, tmp_path)
    arguments = [
        *("run", "--run", "deepseek", "--engine", "reference", "--device", "cpu", "--threads", "1"),
        *(
            "--model",
            str(materials / "base"),
            "--data",
            str(materials / "train.parquet"),
            "--output",
            str(tmp_path / "o"),
        ),
        *SMALL,
    ]
    two_steps = ["runs.deepseek.steps=2", "runs.deepseek.segment_steps=2", "runs.deepseek.evaluate_every=2"]
    assert run.finish(*arguments, *two_steps) == 0, run.output
    rows = read_jsonl(tmp_path / "o" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    # The rest of the recipe is the paper's: ten steps of warm-up.
    assert rows[1]["lr"] == pytest.approx(1e-4)
    four_steps = [o.replace("=2", "=4") for o in two_steps]
    assert run.finish(*arguments, *four_steps) == 0, run.output
    assert "resuming from the state of step 2" in run.output
    assert [row["step"] for row in read_jsonl(tmp_path / "o" / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.learning_rat=1", "did you mean learning_rate"),
        ("recip.learning_rate=1", "did you mean recipe"),
        ("learning_rate", "dotted.key=value"),
        ("recipe.learning_rate=fast", "learning_rate"),
        ("kl_coefficient=0.1", "2512.16649"),
        ("kl_coef=0.1", "2512.16649"),
        ("clip_range_high=1.28", "give the distance from a ratio of 1"),
        ("n_rollouts=1", "rollouts_per_prompt"),
        ("mini_batch_prompts=100", "must divide prompts_per_step"),
        ("max_response_length=999999", "context_length"),
    ],
)
def test_overrides_are_checked(override, message):
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        request_for(override)


def test_overrides_may_have_other_names(materials):
    arguments = ["--model", str(materials / "base"), "--data", str(materials / "train.parquet"), "--output", "out"]
    others = ["n_rollouts=4", "clip_range_high=0.3", "lr=1e-5", "runs.deepseek.seed=5"]
    request = run_request(parse(["train", "run", "--run", "deepseek", *arguments, *others]))
    assert (request.recipe.rollouts_per_prompt, request.recipe.clip_ratio_high) == (4, 0.3)
    assert (request.recipe.learning_rate, request.seed) == (1e-5, 5)


def test_an_unknown_run_is_named():
    with pytest.raises(UserError, match=r"deepsek.*did you mean deepseek"):
        request_for(run="deepsek")


def test_an_override_wins_over_the_runs_own_recipe(materials):
    arguments = ["--model", str(materials / "base"), "--data", str(materials / "train.parquet"), "--output", "out"]
    for override in ("recipe.overlong_penalty.enabled=false", "overlong_penalty.enabled=false"):
        args = parse(["train", "run", "--run", "deepseek_overlong", *arguments, override])
        assert run_request(args).recipe.overlong_penalty.enabled is False


def test_what_is_missing_is_said_in_a_sentence(materials, tmp_path):
    run = Run(materials, tmp_path)
    assert run.finish(*run.arguments(), "--data", "nowhere.parquet") == 2
    assert "error: run tiny: no training data at nowhere.parquet" in run.output
    assert run.finish(*run.arguments(), "--model", str(tmp_path)) == 2
    assert "no Hugging Face model in" in run.output
    if not torch.cuda.is_available():
        assert run.finish(*run.arguments(), "--device", "cuda") == 2
        assert "torch sees no GPU here" in run.output
    described = json.loads((materials / "run.json").read_text()) | {"engine": "verll"}
    (tmp_path / "run.json").write_text(json.dumps(described))
    assert run.finish(*run.arguments(), "--run-file", str(tmp_path / "run.json")) == 2
    assert f"{tmp_path}/run.json: engine: " in run.output and "verll" in run.output
    assert "Traceback" not in run.output


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_asks_to_be_installed(materials, tmp_path, name):
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed here")
    run = Run(materials, tmp_path)
    assert run.finish(*run.arguments(), "--tracker", name) == 2
    assert f"the package {name} is not installed here; `pip install -e '.[{name}]'`" in run.output
