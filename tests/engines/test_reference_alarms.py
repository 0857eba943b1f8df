"""Alarms in the reference engine: real trainings with a fault put into them, and trainings that only look odd."""

import pytest
from reference_run import RECIPE, Run, make_materials

from justrl.cli.main import main as justrl
from justrl.io import read_json, read_jsonl, write_json
from justrl.training.reference.checkpoint import list_states
from tiny_model import MADE_HERE

# 256 answers a step, so that four of them are enough for every alarm; right or wrong, without a penalty.
RECIPE_HERE = RECIPE | {
    "prompts_per_step": 32,
    "rollouts_per_prompt": 8,
    "mini_batch_prompts": 16,
    "micro_batch_per_gpu": 64,
    "overlong_penalty": {"enabled": False, "buffer": 24, "factor": 1.0},
}
NEVER_RIGHT = "def score(completion, gold, row):\n    return -1.0\n"


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    folder = make_materials(tmp_path_factory.mktemp("materials"), steps=150)
    data = ["--rows", "64", "--digits", "1", "--seed", "5", "--output", str(folder / "train.parquet")]
    justrl(["data", "arithmetic", "train", "--formatted", *data])
    return folder


@pytest.fixture
def make_run(materials, tmp_path):
    """A function that makes a training of a recipe that differs from RECIPE_HERE."""
    for name in ("base", "train.parquet"):
        (tmp_path / name).symlink_to(materials / name)

    def make(**changes) -> Run:
        recipe = RECIPE_HERE | changes
        write_json(
            tmp_path / "run.json", MADE_HERE | {"run": "tiny", "engine": "reference", "seed": 11, "recipe": recipe}
        )
        return Run(tmp_path, tmp_path / "out")

    return make


def never_right(folder):
    (folder / "reward.py").write_text(NEVER_RIGHT)
    return {"file": str(folder / "reward.py")}


def test_a_reward_that_is_always_the_least_ends_it_until_accepted(make_run, tmp_path):
    run = make_run(reward=never_right(tmp_path))
    assert run.finish(*run.arguments(to=6)) == 2
    ((alarm, step, accepted),) = marks(run)
    assert (alarm, step, accepted) == ("least_reward", 4, None)
    said = run.output.splitlines()[-1]
    assert "none of the 1,024 answers of steps 1 to 4 earns more than the lowest reward, -1" in said
    assert "its gold is '" in said and "--accept least_reward`" in said
    # Kept: the state of the step before, which no save was due at, and answers of this one to be read.
    assert [path.name for path in list_states(run.work / "checkpoints")] == ["step_000002", "step_000003"]
    assert (run.work / "rollouts/step_000004.parquet").is_file()
    assert [row["step"] for row in read_jsonl(run.work / "metrics.jsonl")] == [1, 2, 3]

    # A queue's retry: the same sentence, no attempt, nothing trained.
    attempts = (run.work / "attempts.jsonl").read_text()
    assert run.finish(*run.arguments(to=6)) == 2
    assert run.output.splitlines()[-1] == said
    assert (run.work / "attempts.jsonl").read_text() == attempts

    justrl(["train", "resume", str(run.folder), "--accept", "least_reward"])
    assert run.finish(*run.arguments(to=6)) == 0, run.output
    assert "resuming from the state of step 3" in run.output
    assert [row.get("accepted_alarms") for row in run.metrics(to=6)] == [*[None] * 3, *["least_reward"] * 3]
    justrl(["report", "health", "--metrics", str(run.metrics_file(to=6)), "--output", str(tmp_path / "health.json")])
    assert "alarm least_reward ended the training before step 4" in read_json(tmp_path / "health.json")["health"]


def marks(run: Run) -> list[tuple[str, int, str | None]]:
    return [(entry["alarm"], entry["step"], entry["accepted"]) for entry in read_json(run.work / "alarms.json")]


@pytest.mark.parametrize(
    ("fault", "alarm", "by_step"),
    # The rate rises over two steps from 0; the weights of the start are those that step 2 trains, too.
    [("temperature", "probs_difference", 2), ("stale", "probs_difference", 6), ("stops", "truncated", 4)],
)
def test_a_sampler_that_is_another_than_what_is_trained_ends_it(make_run, fault, alarm, by_step):
    run = make_run(learning_rate=3e-3)
    assert run.finish(sampler_fault=fault) == 2
    ((name, step, _),) = marks(run)
    assert name == alarm and step <= by_step, run.output


def test_accepted_it_ends_as_if_no_alarm_had_been_on(make_run):
    """The step that raised it had trained nothing, so that the weights are the same to the bit."""
    run = make_run()
    assert run.finish(*run.arguments(to=4), sampler_fault="temperature") == 2
    justrl(["train", "resume", str(run.folder), "--accept", "probs_difference"])
    assert run.finish(*run.arguments(to=4), sampler_fault="temperature") == 0, run.output
    silent = Run(make_run(alarms={"probs_difference": None}).materials, run.folder / "silent")
    assert silent.finish(*silent.arguments(to=4), sampler_fault="temperature") == 0, silent.output
    assert silent.weights(to=4) == run.weights(to=4)


@pytest.mark.parametrize("limit", [24, 17], ids=["few answers are right", "a third is cut off, too"])
def test_a_hard_start_goes_on(make_run, limit):
    run = make_run(max_response_length=limit)
    assert run.finish(*run.arguments(to=5)) == 0, run.output
    assert not (run.work / "alarms.json").exists()
    rows = run.metrics(to=5)
    assert min(row["accuracy"] for row in rows) > 0 and rows[0]["accuracy"] < 0.1
    assert 0.25 < rows[0]["response_clip_ratio"] < 0.6 or limit == 24
    assert max(row["rollout_probs_diff_mean"] for row in rows) < 1e-6
