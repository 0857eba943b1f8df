"""The status of a run, from files in every state a run can leave them in."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from justrl.operations import progress


def row(step, **changes):
    values = {"reward_mean": -0.5 + step / 100, "entropy": 1.3 + 0.01 * (step % 3), "response_length_mean": 5000.0}
    values |= {"response_clip_ratio": 0.05, "grad_norm": 0.1, "step_seconds": 10.0, "tokens_per_second": 900.0}
    return {"step": step, **values, **changes}


def write_run(folder, published=(), live=(), tail="", owner=None):
    (folder / "work").mkdir(parents=True)
    (folder / "segments" / "10").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"experiment": "paper", "run": folder.name}))
    if published:
        lines = "".join(json.dumps(r) + "\n" for r in published)
        (folder / "segments" / "10" / "metrics.jsonl").write_text(lines)
    (folder / "work" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in live) + tail)
    if owner:
        (folder / "work" / "LOCK").write_text(json.dumps(owner))
    return folder


def test_published_and_live_steps_are_joined_each_once(tmp_path):
    folder = write_run(
        tmp_path / "run", [row(s) for s in range(1, 11)], [row(s) for s in range(9, 15)], '{"step": 15, "re'
    )
    run = progress.read_run(folder, total=20)
    assert [r["step"] for r in run.rows] == list(range(1, 15))
    assert run.seconds_left == pytest.approx(60)
    assert progress.findings(run) == []
    text = progress.render([run])
    assert "step 14 of 20 (70%)" in text and "60 s left" in text and "health  good" in text


def test_a_run_without_a_step_is_shown(tmp_path):
    run = progress.read_run(write_run(tmp_path / "run"), total=20)
    assert "step 0 of 20, nobody is training" in progress.render([run])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"entropy": 0.1}, "entropy"),
        ({"entropy": 9.0}, "entropy"),
        ({"response_clip_ratio": 0.6}, "length limit"),
        ({"grad_norm": None}, "grad_norm not finite since step 61"),
        ({"reward_mean": -0.5}, "reward went from"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path, changes, sentence):
    rows = [row(s) for s in range(1, 61)] + [row(s, **changes) for s in range(61, 101)]
    if "reward_mean" in changes:
        rows = [row(s, **changes) for s in range(1, 101)]
    run = progress.read_run(write_run(tmp_path / "run", rows), total=200)
    assert any(sentence in found for found in progress.findings(run))


def test_a_fresh_collapse_shows_before_a_tenth_of_the_run_has_it(tmp_path):
    rows = [row(s) for s in range(1, 1981)] + [row(s, entropy=0.05) for s in range(1981, 2001)]
    run = progress.read_run(write_run(tmp_path / "run", rows), total=4000)
    assert any("entropy collapsed in the last 20 steps" in found for found in progress.findings(run))


def test_silence_is_a_finding_until_the_run_has_finished(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    owner = {"host": socket.gethostname(), "pid": dead.pid, "slurm_job_id": "77"}
    folder = write_run(tmp_path / "run", [row(s) for s in range(1, 11)], owner=owner)
    later = time.time() + 3600
    found = progress.findings(progress.read_run(folder, total=20), now=later)
    assert "no step for 60 min" in found[0] and "Slurm job 77" in found[0] and "dead" in found[0]
    assert progress.findings(progress.read_run(folder, total=10), now=later) == []


def test_a_live_owner_is_not_called_dead():
    assert "dead" not in progress.owner_state({"host": socket.gethostname(), "pid": os.getpid()})


def test_sparkline():
    assert progress.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == progress.BARS
    assert progress.sparkline([2.0, 2.0, float("nan")]) == "▁▁"
    assert progress.sparkline([]) == ""
    assert len(progress.sparkline(list(range(1000)), width=40)) == 40


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (720, "12 min"), (27000, "7.5 h"), (60 * 86400, "60.0 days")]
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_the_command_finds_runs_one_level_down(tmp_path):
    write_run(tmp_path / "mini" / "runs" / "deepseek", [row(s) for s in range(1, 11)])
    command = [sys.executable, "-m", "justrl.status", "--results", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "deepseek (paper)  step 10 of 4,380" in shown
    listed = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert len(listed[0]["rows"]) == 10
