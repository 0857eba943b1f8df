"""Alarms: when they are raised and when not, how a run is marked, and how somebody lets it go on."""

import math
import subprocess
import sys

import pytest

from justrl.cli.main import main as justrl
from justrl.config import Alarms, load
from justrl.errors import UserError
from justrl.io import read_json, write_json
from justrl.training import alarms
from justrl.training.alarms import AlarmRaised, Answer, Watch, raised

LIMITS = Alarms()
HEALTHY = {
    "rollouts": 2048, "rollout_probs_diff_mean": 0.004, "score_highest": 1.0, "score_lowest": -1.0,
    "response_clip_ratio": 0.2,
}  # fmt: skip
ALL_WRONG = {"score_highest": -1.0, "score_lowest": -1.0}


def run(*changes):
    """Metrics of a run, one row for each of `changes` to a healthy step."""
    return [{"step": step, **HEALTHY, **change} for step, change in enumerate(changes, 1)]


def names(rows, limits=LIMITS):
    return [alarm.name for alarm in raised(rows, limits)]


def first(rows, limits=LIMITS):
    """The step that raises an alarm, and which; None for a run without."""
    for row in rows:
        if found := names(rows[: row["step"]], limits):
            return row["step"], *found
    return None


RAISED = {
    "stale weights": (
        run(*[{"rollout_probs_diff_mean": value} for value in (0.0, 0.06, 0.07)]),
        (3, "probs_difference"),
    ),
    "not a number": (run(*[{"rollout_probs_diff_mean": math.nan}] * 3), (2, "probs_difference")),
    "null, as JSON has it": (run({}, *[{"rollout_probs_diff_mean": None}] * 3), (3, "probs_difference")),
    "infinite, then large": (
        run({"rollout_probs_diff_mean": math.inf}, {"rollout_probs_diff_mean": 0.3}),
        (2, "probs_difference"),
    ),
    "never right": (run(*[ALL_WRONG] * 4), (3, "least_reward")),
    "never right, few answers a step": (run(*[{**ALL_WRONG, "rollouts": 256}] * 5), (4, "least_reward")),
    "right until step 2": (run({}, {}, *[ALL_WRONG] * 4), (5, "least_reward")),
    "a reward of one's own that begins at 0": (
        run(*[{"score_highest": 0.0, "score_lowest": 0.0}] * 4),
        (3, "least_reward"),
    ),
    "all cut off": (run(*[{"response_clip_ratio": 1.0}] * 4), (3, "truncated")),
    "more and more": (run(*[{"response_clip_ratio": share} for share in (0.8, 0.91, 0.95, 0.99)]), (4, "truncated")),
    "two at once": (run(*[{**ALL_WRONG, "response_clip_ratio": 1.0}] * 3), (3, "least_reward", "truncated")),
}
SILENT = {
    "healthy": run(*[{}] * 40),
    "one slip": run({}, {"rollout_probs_diff_mean": 0.2}, {}, {"rollout_probs_diff_mean": math.nan}, {}),
    "just at the limit": run(*[{"rollout_probs_diff_mean": 0.05, "response_clip_ratio": 0.9}] * 40),
    "a hard start: one of 2,048 in every third step": run(*[ALL_WRONG, ALL_WRONG, {}] * 10),
    "a third is cut off": run(*[{"response_clip_ratio": 1 / 3}] * 40),
    "never right, fewer than 1,000 answers": run(*[{**ALL_WRONG, "rollouts": 32}] * 31),
    "all right": run(*[{"score_highest": 1.0, "score_lowest": 1.0}] * 40),
    "some wrong answers earn more than others": run(*[{"score_highest": -0.5, "score_lowest": -1.0}] * 40),
    "metrics of an earlier version": [{"step": step, "reward_mean": -1.0, "accuracy": 0.0} for step in range(1, 9)],
}


@pytest.mark.parametrize("name", RAISED)
def test_it_is_raised_at_the_first_step_that_tells(name):
    rows, expected = RAISED[name]
    assert first(rows) == expected


@pytest.mark.parametrize("name", SILENT)
def test_a_run_that_may_be_right_goes_on(name):
    assert first(SILENT[name]) is None


def test_steps_that_are_missing_between_break_the_row():
    rows = [row for row in run(*[ALL_WRONG] * 4) if row["step"] != 2]
    assert names(rows) == []


@pytest.mark.parametrize(
    ("off", "rows"),
    [
        ({"probs_difference": None}, run(*[{"rollout_probs_diff_mean": math.nan}] * 9)),
        ({"least_reward_steps": None}, run(*[ALL_WRONG] * 9)),
        ({"truncated": None}, run(*[{"response_clip_ratio": 1.0}] * 9)),
        ({"answers": 10**6}, run(*[{**ALL_WRONG, "response_clip_ratio": 1.0}] * 9)),
    ],
)
def test_every_limit_is_a_key(off, rows):
    assert first(rows) is not None and first(rows, Alarms(**off)) is None


def test_the_papers_limits_are_those_of_the_configuration_and_a_canary_ends_in_a_verdict_instead():
    experiment = load()
    assert experiment.recipe.alarms == LIMITS
    silent = experiment.with_canaries().runs["canary_deepseek"].recipe.alarms
    assert silent == Alarms(probs_difference=None, least_reward_steps=None, truncated=None)


def watched(work, rows, before=(), limits=LIMITS):
    watch = Watch(work, limits, before)
    for row in rows:
        watch.look(row, lambda: Answer("x" * 500 + r"so \boxed{43}", "42"))


def test_the_sentence_shows_an_answer_next_to_its_gold_and_the_way_out(tmp_path):
    work = tmp_path / "a run" / "work"
    with pytest.raises(AlarmRaised) as caught:
        watched(work, run(*[ALL_WRONG] * 4))
    said = str(caught.value)
    assert "none of the 6,144 answers of steps 1 to 3 earns more than the lowest reward, -1" in said
    assert r"boxed{43}', its gold is '42'" in said and "xxx" in said and len(said) < 1000
    assert f"`justrl train resume '{tmp_path / 'a run'}' --accept least_reward`" in said
    (entry,) = read_json(work / "alarms.json")
    assert entry["alarm"] == "least_reward" and entry["step"] == 3 and entry["accepted"] is None


def test_a_start_goes_on_counting_where_the_one_before_ended(tmp_path):
    rows = run(*[ALL_WRONG] * 3)
    with pytest.raises(AlarmRaised):
        watched(tmp_path, rows[2:], before=rows[:2])


def test_marked_it_is_refused_until_accepted_and_says_so_from_then_on(tmp_path, capsys):
    work, rows = tmp_path / "results/runs/mine/work", run(*[{**ALL_WRONG, "response_clip_ratio": 1.0}] * 6)
    with pytest.raises(AlarmRaised) as caught:
        watched(work, rows)
    with pytest.raises(UserError) as refused:
        alarms.refuse_marked(work)
    assert str(refused.value) == str(caught.value)
    resume = ["train", "resume", "mine", "--results", str(tmp_path / "results")]
    with pytest.raises(UserError, match=r"no alarm probs_difference .* least_reward, truncated did"):
        justrl([*resume, "--accept", "probs_difference"])
    justrl([*resume, "--accept", "least_reward"])
    assert "alarm truncated of step 3 still stops every start" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^alarm truncated: ") as refused:
        alarms.refuse_marked(work)
    assert "least_reward" not in str(refused.value)
    justrl(["train", "resume", str(work.parent), "--accept", "truncated"])
    alarms.refuse_marked(work)
    watched(work, rows[2:], before=rows[:2])  # silent now
    marked = alarms.with_accepted(rows, work)
    assert [row.get("accepted_alarms") for row in marked] == [None, None, *["least_reward, truncated"] * 4]
    assert alarms.accepted_in(marked) == {"least_reward": 3, "truncated": 3}
    with pytest.raises(UserError, match=r"truncated has ended .* none did"):
        justrl([*resume, "--accept", "truncated"])


def test_an_accepted_alarm_leaves_the_others_on(tmp_path):
    rows = run(*[{**ALL_WRONG, "response_clip_ratio": 1.0}] * 3, *[{**ALL_WRONG, "rollout_probs_diff_mean": 1.0}] * 9)
    limits = Alarms(truncated=None)
    with pytest.raises(AlarmRaised):
        watched(tmp_path, rows, limits=limits)
    alarms.accept(tmp_path, ["least_reward"])
    with pytest.raises(AlarmRaised, match=r"^alarm probs_difference: .* is 1, 1 in steps 4 to 5 "):
        watched(tmp_path, rows[2:], before=rows[:2], limits=limits)
    assert [entry["alarm"] for entry in alarms.read(tmp_path)] == ["least_reward", "probs_difference"]


def test_a_damaged_mark_is_a_sentence(tmp_path):
    for content in ({"alarm": "x"}, [{"alarm": "truncated"}], ["truncated"]):
        write_json(tmp_path / "alarms.json", content)
        with pytest.raises(UserError, match=r"alarms\.json is not a list of alarms"):
            alarms.refuse_marked(tmp_path)


@pytest.mark.parametrize("run_name", ["nobody", "results"])
def test_a_run_that_is_not_there_is_named(tmp_path, monkeypatch, run_name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match=f"no trained run in {run_name} or results/runs/{run_name}"):
        justrl(["train", "resume", run_name, "--accept", "truncated"])


def test_each_start_of_a_marked_run_ends_before_torch_is_imported(tmp_path, root):
    """Twice, as a queue tries again; the very command of the workflow's job."""
    work = tmp_path / "runs/mine/work"
    with pytest.raises(AlarmRaised) as caught:
        watched(work, run(*[ALL_WRONG] * 3))
    write_json(tmp_path / "run.json", load().described("deepseek").as_dict() | {"run": "mine"})
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "model/config.json", {})
    (tmp_path / "train.parquet").touch()
    words = ["train", "segment", "--run-file", "run.json", "--model", "model", "--data", "train.parquet"]
    words += ["--start-step", "0", "--to-step", "60", "--work-dir", str(work)]
    words += ["--model-out", "out/model", "--metrics-out", "out/metrics.jsonl"]
    code = (
        "import sys\n"
        "from justrl.cli.main import main\n"
        "from justrl.errors import UserError\n"
        "try:\n"
        f"    main({words})\n"
        "except UserError as error:\n"
        "    print(error)\n"
        "assert not {'torch', 'verl', 'ray', 'vllm'} & set(sys.modules)\n"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(caught.value)
    assert not (tmp_path / "out").exists() and not (work / "attempts.jsonl").exists()
