"""Who is told of each training step: TensorBoard, W&B and Trackio, on this machine alone."""

import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from justrl.config import Hardware, load
from justrl.config.files import ROOT
from justrl.errors import UserError
from justrl.io import read_jsonl
from justrl.training import trackers
from justrl.training.reference.loop import Reporter
from justrl.training.segment import Execution, SegmentRequest, WorkDir
from justrl.training.verl.engine import Segment
from justrl.training.verl.step_log import NAMES, REQUIRED


def row(step, reward=0.5):
    return {
        "step": step,
        "reward_mean": reward,
        "accuracy": 0.75,
        "entropy": 1.2,
        "response_length_mean": 20.0,
        "grad_norm": None,
    }


def request(folder: Path, *names: str) -> SegmentRequest:
    """A segment of a run whose work folder is `folder`."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "train.parquet").touch()
    experiment = load(["mini/experiment.yaml"])
    return SegmentRequest(
        run="mini",
        engine="reference",
        recipe=experiment.runs["mini"].recipe,
        seed=1,
        model_dir=folder / "model",
        train_file=folder / "train.parquet",
        start_step=0,
        to_step=30,
        work_dir=folder,
        model_out=folder / "out",
        metrics_out=folder / "out.jsonl",
        hardware=Hardware.model_validate(experiment.hardware.as_dict()),
        execution=Execution(trackers=names),
    )


def scalars(folder, name="reward_mean"):
    """The steps and values that TensorBoard shows of a metric."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return [(event.step, pytest.approx(event.value)) for event in board.Scalars(name)]


def test_metrics_go_to_their_file_and_tensorboard_and_repeated_steps_count_once(tmp_path):
    reporter = Reporter(request(tmp_path), [])
    for step in (1, 2, 3):
        reporter.report(row(step, reward=step / 10))
    reporter.close()
    # Killed after step 3, resumed from the state of step 1.
    reporter = Reporter(request(tmp_path), [row(1, reward=0.1)])
    reporter.report(row(2, reward=0.7))
    reporter.close()
    assert [(r["step"], r["reward_mean"]) for r in read_jsonl(tmp_path / "metrics.jsonl")] == [(1, 0.1), (2, 0.7)]
    assert scalars(tmp_path) == [(1, 0.1), (2, 0.7)]


def write_attempt(folder, number, rewards):
    """The log of one attempt, as verl writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"attempt_{number:04d}.jsonl"
    lines = [{"step": step, "data": {NAMES[name]: value for name in REQUIRED}} for step, value in rewards.items()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_verls_steps_are_told_as_they_are_logged_those_of_the_last_attempt_over_earlier_ones(tmp_path):
    segment = Segment(request(tmp_path), WorkDir(tmp_path), lambda *_: None)
    first = trackers.Trackers(segment.request, 0)
    segment._tell(first, write_attempt(segment.logs, 1, {1: 0.1}))
    segment._tell(first, write_attempt(segment.logs, 1, {1: 0.1, 2: 0.2, 3: 0.3}))
    first.close()
    second = trackers.Trackers(segment.request, 1)
    segment._tell(second, write_attempt(segment.logs, 2, {}))
    segment._tell(second, write_attempt(segment.logs, 2, {2: 0.7}))
    second.close()
    assert scalars(tmp_path) == [(1, 0.1), (2, 0.7)]


def test_wandb_gets_each_step_under_one_name_through_all_attempts(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed here (it is in the environment of verl)")
    monkeypatch.setenv("WANDB_MODE", "offline")
    identities = set()
    for done, steps in ((0, (1, 2)), (1, (2, 3))):
        told = trackers.Trackers(request(tmp_path, "wandb"), done)
        told.tell([row(step) for step in steps])
        identities.add(wandb.run.id)
        assert wandb.run.summary["step"] == steps[-1] and wandb.run.summary["reward_mean"] == 0.5
        assert wandb.run.config["recipe"]["learning_rate"] > 0
        told.close()
        assert wandb.run is None
    assert len(identities) == 1
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))


def test_wandb_without_a_key_is_one_sentence_before_the_first_step(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed here (it is in the environment of verl)")
    keyless = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    # A service of nobody's: where it is asked all the same, nothing leaves this machine.
    keyless |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    start = (
        "import sys; sys.path[:] = sys.argv[2:]; from pathlib import Path; from test_train_trackers import request;"
        "from justrl.training.trackers import Trackers; Trackers(request(Path(sys.argv[1]), 'wandb'), 0)"
    )
    places = [str(Path(__file__).parent), *sys.path]
    command = [sys.executable, "-c", start, str(tmp_path), *places]
    done = subprocess.run(command, env=keyless, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    *_, last = done.stderr.strip().splitlines()
    assert re.match(r"justrl\.errors\.UserError: trackers: wandb does not start \(.*WANDB_MODE=offline", last), (
        done.stderr
    )


TWO_ATTEMPTS = """
import sys; sys.path += sys.argv[2:]
from pathlib import Path
from test_train_trackers import request, row
from justrl.training.trackers import Trackers
for done, steps in ((0, (1, 2)), (1, (2, 3))):
    told = Trackers(request(Path(sys.argv[1]), "trackio"), done)
    told.tell([row(step) for step in steps])
    told.close()
"""


def test_trackio_gets_each_step_under_one_name_through_all_attempts(tmp_path):
    # The environment of what only tests need: this one's own packages go before those of it.
    places = [str(path) for path in ROOT.glob(".venv-trackio/lib/python*/site-packages")]
    if not places and not importlib.util.find_spec("trackio"):
        pytest.skip("trackio is not installed here: make .venv-trackio/.ready")
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
    places = [str(Path(__file__).parent), *sys.path, *places]
    command = [sys.executable, "-c", TWO_ATTEMPTS, str(tmp_path), *places]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "trackio" / "justrl.db") as kept:
        rows = kept.execute("select run_name, step from metrics order by id").fetchall()
    assert len({name for name, _ in rows}) == 1
    assert [step for _, step in rows] == [1, 2, 2, 3]


def test_a_tracker_that_is_not_there_is_refused_with_the_way_to_get_it():
    with pytest.raises(UserError, match=r"the package no_such is not installed here; `pip install"):
        trackers.check_installed(["no_such"])


def test_trackers_change_nothing_that_determines_a_training():
    plain, told = load(["mini/experiment.yaml"]), load(["mini/experiment.yaml"], ["trackers=[wandb]"])
    assert plain.trackers == [] and told.trackers == ["wandb"]
    assert plain.described("mini") == told.described("mini") and plain.hardware == told.hardware
