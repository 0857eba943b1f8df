"""Health: what a run that learns nothing shows, from when on, and when a run may be called good."""

import json

import pytest
from analysis_examples import metrics_rows

from justrl.config import load
from justrl.report.health import LEAST_STEPS, STUCK_STEPS, summarize_run
from justrl.status.run_status import RunProgress, findings, render
from justrl.training.verl.step_log import NAMES, REQUIRED, translate

REFERENCE = {"solve_none": 0.25, "solve_all": 0.25}
ALL_WRONG = {"reward_mean": -1.0, "accuracy": 0.0, "solve_none": 1.0, "solve_all": 0.0, "grad_norm": 0.0}
SPLIT = {"solve_none": 0.75, "solve_all": 0.25, "accuracy": 0.25, "reward_mean": -0.5}


def rows_with(steps, first, last, changes):
    """Metrics of a healthy run, with some values replaced from one step to another, both included."""
    return [
        row | REFERENCE | (changes if first <= row["step"] <= last else {}) for row in metrics_rows(steps, scale="mini")
    ]


def found(rows):
    return {finding["name"]: finding for finding in summarize_run(rows, "mini")["findings"]}


STUCK = {
    "never moved": (12, 1, 12, ALL_WRONG, {"no_difference", "zero_gradient", "least_reward"}),
    "five steps are enough": (5, 1, 5, ALL_WRONG, {"no_difference", "zero_gradient", "least_reward"}),
    "from the middle on": (60, 31, 60, ALL_WRONG, {"no_difference", "zero_gradient", "least_reward"}),
    "it recovered": (60, 11, 15, ALL_WRONG, {"no_difference", "zero_gradient", "least_reward"}),
    "all right": (40, 21, 40, {"solve_all": 1.0, "solve_none": 0.0, "accuracy": 1.0}, {"no_difference"}),
    "some groups all right, the others all wrong": (40, 21, 40, SPLIT, {"no_difference"}),
    "gradient alone": (40, 21, 40, {"grad_norm": 0.0}, {"zero_gradient"}),
    "reward with a penalty on top": (
        40,
        21,
        40,
        ALL_WRONG | {"reward_mean": -1.2, "overlong_penalty_mean": -0.2, "grad_norm": 0.1},
        {"least_reward"},
    ),
    "verl: all advantages are zero": (
        40,
        21,
        40,
        {"solve_none": None, "advantage_highest": 0.0, "advantage_lowest": 0.0},
        {"no_difference"},
    ),
    "an older log of verl": (
        40,
        21,
        40,
        {"solve_none": None, "solve_all": None, "accuracy": 0.0, "reward_mean": -1.0},
        {"no_difference", "least_reward"},
    ),
}


@pytest.mark.parametrize("case", STUCK)
def test_a_run_that_learns_nothing_is_found_with_its_first_step(case):
    steps, first, last, changes, names = STUCK[case]
    stuck = {name: it for name, it in found(rows_with(steps, first, last, changes)).items() if "now" in it}
    assert set(stuck) == names
    for finding in stuck.values():
        assert (finding["first_step"], finding["last_step"], finding["steps"]) == (first, last, last - first + 1)
        assert finding["now"] is (last == steps)
        assert f"from step {first} to {last} ({last - first + 1} steps)" in finding["sentence"]
        assert (f"no longer after step {last}" in finding["sentence"]) is (last < steps)


def test_a_second_stretch_is_counted_and_the_first_one_named():
    rows = rows_with(60, 11, 16, {"grad_norm": 0.0})
    finding = found(rows[:40] + rows_with(60, 41, 60, {"grad_norm": 0.0})[40:])["zero_gradient"]
    assert (finding["first_step"], finding["last_step"], finding["steps"], finding["now"]) == (11, 16, 26, True)
    assert "from step 11 to 16 (6 steps) and in 20 later steps" in finding["sentence"]


@pytest.mark.parametrize(
    "changes",
    [
        {"grad_norm": 1e-7},
        {"solve_none": 0.7, "solve_all": 0.299},
        {"reward_mean": -0.99, "accuracy": 0.005},
        {"advantage_highest": 0.5, "advantage_lowest": -0.5, "solve_none": None},
        {"advantage_highest": 0.0, "advantage_lowest": -0.5, "solve_none": None},
    ],
)
def test_a_run_that_learns_little_is_not_called_stuck(changes):
    assert not any("now" in it for it in found(rows_with(40, 1, 40, changes)).values())


def test_fewer_steps_in_a_row_are_no_finding():
    changes = rows_with(60, 1, 60, ALL_WRONG)
    rows = [a if a["step"] % STUCK_STEPS else b for a, b in zip(changes, rows_with(60, 0, 0, {}), strict=True)]
    assert not any("now" in it for it in found(rows).values())


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["reward_mean", "accuracy", "entropy", "grad_norm"])
def test_values_that_are_not_finite_are_found(name, value):
    report = summarize_run(rows_with(40, 33, 36, {name: value}), "mini")
    finding = next(it for it in report["findings"] if it["name"] == "non_finite")
    assert (finding["first_step"], finding["steps"], finding["metrics"]) == (33, 4, [name])
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(("steps", "word"), [(1, "too early"), (LEAST_STEPS - 1, "too early"), (LEAST_STEPS, "good")])
def test_good_is_said_from_enough_steps_on(steps, word):
    rows = rows_with(steps, 0, 0, {}) if steps < LEAST_STEPS else rows_with(60, 0, 0, {})
    report = summarize_run(rows, "mini")
    assert report["health"].startswith(word)
    assert f"health  {word}" in render([RunProgress("mini", "mini", rows, total=100)])
    if word == "too early":
        assert f"{steps} of {LEAST_STEPS} steps" in report["health"]


def test_health_says_everything_that_is_wrong_in_one_line_and_status_does_as_well():
    rows = rows_with(12, 1, 12, ALL_WRONG)
    health = summarize_run(rows, "mini")["health"]
    for sentence in (
        "all answers of each group have the same reward",
        "the gradient is zero",
        "all rewards are the lowest possible",
    ):
        assert sentence in health
        assert any(sentence in finding for finding in findings(RunProgress("mini", "mini", rows)))
    assert "good" not in render([RunProgress("mini", "mini", rows)])


def test_verls_own_names_are_read():
    logged = dict.fromkeys((NAMES[name] for name in REQUIRED), 0.1)
    logged |= {"critic/advantages/max": 0.0, "critic/advantages/min": 0.0, "actor/grad_norm": 0.0}
    rows = [translate({"step": step, "data": logged}, load().recipe) for step in range(1, 7)]
    assert {"no_difference", "zero_gradient"} <= found(rows).keys()
    logged |= {"critic/advantages/max": 1.1, "critic/advantages/min": -0.4}
    assert "no_difference" not in found([translate({"step": s, "data": logged}, load().recipe) for s in range(1, 7)])


def test_a_sampler_that_is_not_what_is_trained_and_an_accepted_alarm_are_found():
    changes = {"rollout_probs_diff_mean": 0.5, "accepted_alarms": "probs_difference"}
    named = found(rows_with(100, 31, 100, changes))
    assert named["probs_difference"]["first_step"] == 31 and named["probs_difference"]["steps"] == 70
    assert named["accepted_alarm"]["sentence"].startswith("alarm probs_difference ended the training before step 31")
    assert not found(rows_with(100, 1, 100, {"rollout_probs_diff_mean": 0.01})).keys() & {"probs_difference"}
    assert "probs_difference" in found(rows_with(9, 1, 9, {"rollout_probs_diff_mean": None}))
