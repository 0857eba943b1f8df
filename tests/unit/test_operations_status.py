"""The status of a run, from files in every state a run can leave them in."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from justrl import config
from justrl.config import files as config_files
from justrl.config.layout import Layout
from justrl.io import write_json
from justrl.status import run_status as progress
from justrl.training.run_lock import Owner
from justrl.workflow import config_snapshots, start_checks


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
    assert "step 14 of 20 (70%)" in text and "60 s left" in text and "health  too early to judge" in text
    assert "  reward -0.405 (-0.49 to -0.36)  entropy 1.311 (1.3 to 1.32)  length 5000 (5000 to 5000)\n" in text


def test_a_run_without_a_step_is_shown(tmp_path):
    run = progress.read_run(write_run(tmp_path / "run"), total=20)
    assert "step 0 of 20, no trainer is running" in progress.render([run])


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


def owned(now, **changes):
    """An owner on another machine that took the lock at that time."""
    since = datetime.fromtimestamp(now, UTC).isoformat(sep=" ", timespec="seconds")
    return {"host": "node-77", "pid": 7, "slurm_job_id": "77", "since": since, **changes}


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
@pytest.mark.parametrize("written", ["2026-11-30 05:00:00+00:00", "2026-11-30 14:00:00+09:00", None])
def test_the_start_of_a_trainer_is_the_same_in_every_zone(monkeypatch, zone, written):
    """A time without a zone, which older locks hold, is this machine's own."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        moment = datetime(2026, 11, 30, 5, tzinfo=UTC).timestamp()
        since = written or time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
        assert progress._since({"since": since}) == moment
        mine = datetime.fromisoformat(Owner.me().since)
        assert mine.tzinfo is not None and abs(mine.timestamp() - time.time()) < 5
    finally:
        monkeypatch.undo()
        time.tzset()


def write_hang_timeout(folder, minutes):
    """Give the run at results/runs/NAME the files that its trainer gets."""
    paper = config.load()
    (folder / "run.json").write_text(json.dumps(paper.described("deepseek").as_dict()))
    hardware = paper.hardware.as_dict() | {"hang_timeout_minutes": minutes}
    (folder.parents[1] / "hardware.json").write_text(json.dumps(hardware))


@pytest.mark.parametrize(("minutes", "alarm"), [(1, False), (3, True)])
def test_no_step_for_longer_than_the_hang_timeout_is_a_finding(tmp_path, minutes, alarm):
    now = time.time()
    folder = write_run(tmp_path / "runs" / "deepseek", [row(s) for s in range(1, 11)], owner=owned(now))
    write_hang_timeout(folder, 2)
    found = progress.findings(progress.read_run(folder, total=20), now=now + 60 * minutes)
    assert bool(found) is alarm
    assert not alarm or "no step for 3 min, longer than its hang timeout of 2 min" in found[0]


@pytest.mark.parametrize(("minutes", "alarm"), [(14, False), (16, True)])
def test_a_run_that_never_makes_its_first_step_is_a_finding(tmp_path, minutes, alarm):
    now = time.time()
    folder = write_run(tmp_path / "runs" / "deepseek", owner=owned(now))
    (folder / "work" / "metrics.jsonl").unlink()
    write_hang_timeout(folder, 2)
    run = progress.read_run(folder, total=20)
    assert ("no step for" in progress.render([run], now=now + 60 * minutes)) is alarm


def test_after_hours_in_the_queue_a_trainer_has_its_time(tmp_path):
    now = time.time()
    folder = write_run(tmp_path / "run", [row(s) for s in range(1, 11)], owner=owned(now + 36000))
    assert progress.findings(progress.read_run(folder, total=20), now=now + 36060) == []


def test_a_stopped_trainer_is_a_finding_at_once_and_a_silent_one_is_called_so(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        owner = {"host": socket.gethostname(), "pid": process.pid}
        folder = write_run(tmp_path / "run", [row(s) for s in range(1, 11)], owner=owner)
        found = "".join(progress.findings(progress.read_run(folder, total=20)))
        process.kill()
    assert "is stopped (SIGSTOP)" in found and f"kill -CONT {process.pid}" in found
    assert "no sign of life for 60 min" in progress.owner_state(owned(time.time()), 3600)


def test_a_finished_run_and_five_steps_raise_no_alarm(tmp_path):
    folder = write_run(tmp_path / "run", [row(s) for s in range(1, 61)])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row(s)) + "\n" for s in range(1, 61)))
    run = progress.read_run(folder)  # of an experiment that the command was not told of
    assert run.finished and progress.findings(run, now=time.time() + 1e6) == []
    five = progress.read_run(write_run(tmp_path / "five", [row(s, reward_mean=-0.5) for s in range(1, 6)]), total=20)
    assert progress.findings(five) == []


def make_unreadable(path, text):
    if path.is_file():
        path.unlink()
    if text is None:
        path.mkdir()
    elif text == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(text)


TORN = {
    "folder": None,
    "pipe": "pipe",
    "empty": b"",
    "cut": b'{"host": ',
    "list": b"[1]",
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
}
FILES = ("run.json", "work/LOCK", "work/metrics.jsonl", "metrics.jsonl", "hardware.json")


@pytest.mark.parametrize("text", TORN.values(), ids=TORN)
@pytest.mark.parametrize("name", FILES)
def test_a_torn_or_foreign_file_is_a_sentence_at_most(tmp_path, name, text):
    folder = write_run(tmp_path / "runs" / "run", [row(s) for s in range(1, 11)])
    write_hang_timeout(folder, 2)
    file = (tmp_path if name == "hardware.json" else folder) / name
    make_unreadable(file, text)
    shown = progress.render([progress.read_run(folder, total=20)])
    assert "step 10 of 20" in shown
    assert not name.endswith(".json") or f"{file}" in shown


def test_a_run_that_an_alarm_ended_is_shown_first_with_the_way_out_and_said_when_it_would_start(tmp_path):
    layout = Layout(config.load(), str(tmp_path))
    folder = write_run(tmp_path / "runs/deepseek", live=[row(s) for s in range(1, 4)])
    entry = {"alarm": "truncated", "step": 4, "sentence": "all are cut off", "raised": "2026", "accepted": None}
    write_json(folder / "work/alarms.json", [entry])
    first = progress.findings(progress.read_run(folder))[0]
    assert first.startswith("alarm truncated: all are cut off. ") and "--accept truncated`" in first
    (line,) = start_checks.marked([("deepseek", 60), ("nemotron", 40)], layout)
    assert line == f"deepseek: {first}"
    write_json(folder / "work/alarms.json", [entry | {"accepted": "2026"}])
    assert not list(start_checks.marked([("deepseek", 60)], layout))
    write_json(folder / "work/alarms.json", {"torn": 1})
    assert "not a list of alarms" in progress.findings(progress.read_run(folder))[0]


def test_a_work_folder_that_is_a_file_is_shown(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "work").write_text("foreign")
    assert "step 0" in progress.render([progress.read_run(tmp_path / "run", total=20)])


def test_a_live_owner_is_not_called_dead():
    assert "dead" not in progress.owner_state({"host": socket.gethostname(), "pid": os.getpid()})


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45 s"), (720, "12 min"), (27000, "7.5 h"), (60 * 86400, "60.0 days")]
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def freeze(results, **changes):
    """Leave what a start under the mini experiment's configuration leaves: the frozen configuration."""
    content = config_files.merge(config_files.read(["mini/experiment.yaml"]), changes)
    config_snapshots.write({"config": content, "segment_ends": {}}, results / "experiments" / "0001.json")
    return results


def status(*arguments, cwd=None, code=0):
    command = [sys.executable, "-m", "justrl", "status", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == code, done.stderr
    return done.stdout or done.stderr


def set_times(folder, when):
    for path in folder.rglob("*"):
        os.utime(path, (when, when))


def test_the_newest_experiment_is_found_from_anywhere_in_a_checkout_and_the_others_are_named(tmp_path):
    for name in ("mini", "other"):
        results = freeze(tmp_path / "results" / name, experiment=name)
        write_run(results / "runs" / "mini", [row(s) for s in range(1, 11)])
    (results / "sums_heldout_mini@base.json").write_text("{}")
    set_times(tmp_path / "results" / "mini", time.time() - 7200)
    (tmp_path / "docs").mkdir()
    shown = status(cwd=tmp_path / "docs")
    assert f"experiment other in {tmp_path}/results/other, last changed" in shown.splitlines()[0]
    steps = config.load(["mini/experiment.yaml"]).runs["mini"].steps
    assert f"step 10 of {steps:,}" in shown and f"tensorboard --logdir {tmp_path}/results/other/runs" in shown
    assert "evaluations: 1 of " in shown
    assert "mini, last changed 2.0 h ago: justrl status --results " in shown
    assert "experiment mini in results/mini" in status("--results", "results/mini", cwd=tmp_path)
    listed = json.loads(status("--results", "results/mini", "--json", cwd=tmp_path))
    assert len(listed[0]["rows"]) == 10


def test_an_experiment_that_is_being_trained_comes_before_a_newer_one(tmp_path):
    write_run(freeze(tmp_path / "mini") / "runs" / "mini", [row(1)], owner=owned(time.time()))
    write_run(freeze(tmp_path / "later", experiment="later") / "runs" / "mini", [row(1)])
    set_times(tmp_path / "later", time.time() + 60)
    shown = status("--results", tmp_path)
    assert "experiment mini in " in shown and "running" in shown.splitlines()[0]
    assert "also here:   later" in shown


def test_without_training_the_evaluations_of_a_target_are_counted(tmp_path):
    paper = {"config": config_files.read(), "segment_ends": {}}
    config_snapshots.write(paper, tmp_path / "experiments" / "0001.json")
    layout = Layout(config.load().with_canaries(), str(tmp_path))
    (tmp_path / "canary").mkdir()
    for file in (layout.golden_evaluations()[-1], layout.canary_evaluations()[0]):
        (tmp_path / file).write_text("{}")
    shown = status("--results", tmp_path)
    assert "not started: deepseek, nemotron" in shown
    assert re.search(r"evaluations: 0 of \d+, 1 of 2 canary, 1 of \d+ golden\n", shown), shown


def test_what_cannot_be_shown_is_one_sentence(tmp_path):
    assert "no experiment has been started in" in status("--results", tmp_path)
    assert "no folder" in status("--results", tmp_path / "none", code=2)
    (tmp_path / "mini" / "experiments").mkdir(parents=True)
    (tmp_path / "mini" / "experiments" / "0001.json").write_text("{")
    write_run(tmp_path / "mini" / "runs" / "mini", [row(1)])
    assert "0001.json cannot be read" in status("--results", tmp_path)
    assert "no such run has been started" in status("--results", tmp_path, "--run", "minni", code=2)


def test_a_run_that_the_paper_does_not_have_is_marked(tmp_path):
    results = tmp_path / "results"
    config_snapshots.write({"config": config_files.read([]), "segment_ends": {}}, results / "experiments" / "0001.json")
    for run in ("deepseek", "mine"):
        write_run(results / "runs" / run, [row(1)])
    assert "mine (mine: not the paper's run – not a paper result)  step 1" in (shown := status("--results", results))
    assert "deepseek (paper)  step 1" in shown and shown.startswith("experiment paper in")
