"""Metrics files: written step by step, merged from segments, and read for the ways a run goes wrong."""

import json
import subprocess
import sys

import numpy as np
import pytest
from analysis_examples import metrics_rows

from justrl.errors import UserError
from justrl.io import read_json, read_jsonl, write_jsonl
from justrl.report.health import summarize_run
from justrl.report.metrics import METRICS, append_metrics, merge_metrics, read_metrics, series


def test_log_appends_rows_that_read_back(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    for row in metrics_rows(5):
        append_metrics(row, row["step"], path)
    assert read_metrics(path) == metrics_rows(5)


def test_log_takes_scalars_of_numpy_and_writes_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "metrics.jsonl"
    row = append_metrics({"entropy": np.float32(0.5), "grad_norm": float("inf"), "engine": "verl"}, 1, path)
    assert row == {"step": 1, "entropy": 0.5, "grad_norm": None, "engine": "verl"}
    assert read_metrics(path) == [row]
    assert series(read_metrics(path), "grad_norm") == ([], [])


def test_log_after_a_resume_leaves_the_file_of_an_uninterrupted_run(tmp_path):
    rows = metrics_rows(6)
    straight, resumed = tmp_path / "straight.jsonl", tmp_path / "resumed.jsonl"
    for row in rows:
        append_metrics(row, row["step"], straight)
    for row in rows[:5]:
        append_metrics({**row, "reward_mean": 9.0} if row["step"] > 3 else row, row["step"], resumed)
    with resumed.open("a") as handle:
        handle.write('{"step": 6, "rewa')
    for row in rows[3:]:
        append_metrics(row, row["step"], resumed)
    assert resumed.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize(("metrics", "step"), [({}, 0), ({}, 1.5), ({}, True), ({"x": [1]}, 1)])
def test_log_refuses_what_is_no_metric(tmp_path, metrics, step):
    with pytest.raises(UserError):
        append_metrics(metrics, step, tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"step": 1}\n{"step": 1}\n', "line 2: step 1 is there twice"),
        ('{"step": 1}\n{"step": 3}\n', "line 2: step 3 follows step 1"),
        ('{"step": 1}\n{"ste', "line 2: not JSON"),
        ('{"reward": 1}\n', "whole number 'step'"),
    ],
)
def test_read_names_file_and_line(tmp_path, text, message):
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_metrics(path)
    assert str(path) in str(caught.value)


def segments(folder, *spans):
    """One file for each (first, last) span of steps."""
    rows = metrics_rows(30)
    paths = []
    for first, last in spans:
        paths.append(folder / f"{first:06}.jsonl")
        write_jsonl(paths[-1], rows[first - 1 : last])
    return paths


def test_merge_joins_segments_in_any_order(tmp_path):
    paths = segments(tmp_path, (1, 10), (11, 20), (21, 30))
    assert merge_metrics(paths[::-1]) == metrics_rows(30)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(1, 10), (12, 20)], "000012.jsonl starts at step 12, but .*000001.jsonl leaves off before step 11"),
        ([(1, 10), (10, 20)], "000010.jsonl starts at step 10, which .*000001.jsonl already covers"),
        ([(2, 10)], "000002.jsonl starts at step 2, but the start of the run"),
    ],
    ids=["gap", "overlap", "late start"],
)
def test_merge_names_the_segment_that_does_not_fit(tmp_path, spans, message):
    with pytest.raises(UserError, match=message):
        merge_metrics(segments(tmp_path, *spans))


def run(*arguments):
    """Run a command of the package as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "justrl", "report", *map(str, arguments)], capture_output=True, text=True
    )


def test_command_line_merges_and_summarises(tmp_path):
    paths = segments(tmp_path, (1, 15), (16, 30))
    done = run("metrics", "--output", tmp_path / "all.jsonl", *paths)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_jsonl(tmp_path / "all.jsonl") == metrics_rows(30)
    done = run(
        *("health", "--metrics", tmp_path / "all.jsonl", "--experiment", "mini", "--output", tmp_path / "health.json")
    )
    assert done.returncode == 0
    assert read_json(tmp_path / "health.json")["last_step"] == 30


def test_command_line_reports_a_gap_in_one_line(tmp_path):
    paths = segments(tmp_path, (1, 10), (12, 20))
    done = run("metrics", "--output", tmp_path / "all.jsonl", *paths)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "all.jsonl").exists()


def names(rows, experiment="paper"):
    """Names of what is wrong with a run."""
    return [finding["name"] for finding in summarize_run(rows, experiment)["findings"]]


def changed(**functions):
    """Metrics of a healthy run, some of them replaced by functions of progress in 0..1."""
    rows = metrics_rows(200)
    return [{**row, **{name: f(row["step"] / 200) for name, f in functions.items()}} for row in rows]


def test_a_healthy_run_has_no_findings():
    assert names(metrics_rows(200)) == []
    report = summarize_run(metrics_rows(200), "paper")
    assert set(report["metrics"]) == set(METRICS)
    json.dumps(report, allow_nan=False)


def test_each_failure_is_found():
    # The paper's bound is one of the entropy that its authors' code logged, about two thirds of the true one.
    assert names(changed(entropy_as_published=lambda progress: 1.3 - 0.8 * progress)) == ["entropy_collapse"]
    assert names(changed(entropy_as_published=lambda progress: 1.3 - 0.8 * progress), "mini") == []
    assert names(changed(entropy=lambda progress: 1.3 - 0.8 * progress)) == []
    assert names(changed(entropy=lambda progress: 1.3 * (1 - 0.99 * progress)), "mini") == ["entropy_collapse"]
    assert names(changed(entropy=lambda progress: 1.3 + 4 * progress)) == ["entropy_explosion"]
    assert names(changed(reward_mean=lambda progress: -0.9)) == ["reward_flat"]
    assert names(changed(response_clip_ratio=lambda progress: 0.9 * progress)) == ["truncation"]
    assert names(changed(grad_norm=lambda progress: None)) == ["non_finite", "missing"]
