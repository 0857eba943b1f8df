"""How far a job is, from the files that jobs write."""

import json
import os

import pytest

from justrl.status import jobs


def log(tmp_path, text):
    (tmp_path / "job.log").write_text(text)
    return tmp_path / "job.log"


@pytest.mark.parametrize(
    ("text", "done", "total", "left"),
    [
        (
            "sums 1/1: 5%|5 | 10/200 [00:01<00:19, 9.8/s]\rsums 1/1: 50%|5 | 100/200 [01:03<01:02, 2s]",
            100,
            200,
            60,
        ),
        ("reading: 25%|## | 1.00k/4.00k [00:00<00:07, 62.0k rows/s]\n", 1000, 4000, 180),
        ("sums:  0%| | 0/200 [00:00<?, ?answer/s]\n", 0, 200, None),
        ("step 120/300: loss 0.4, 41 s\nLoading weights: 100%|#| 1/1 [00:00<00:00, 99it/s]\n", 120, 300, 90),
        ("mini: step 10/20, reward +0.5, accuracy 0.75\n", 10, 20, 60),
    ],
)
def test_the_last_line_of_progress_in_a_log_counts(tmp_path, text, done, total, left):
    far = jobs.log_progress(log(tmp_path, text), 60)
    assert (far.done, far.total, far.seconds_left) == (done, total, left)


def test_how_far_a_job_is_stands_in_a_sentence(tmp_path):
    far = jobs.log_progress(log(tmp_path, "mini: step 1000/2000, reward +0.5\n"), 60)
    assert far.sentence() == "step 1,000 of 2,000, reward +0.5, about 60 s left"


def test_a_log_without_progress_says_nothing(tmp_path):
    assert jobs.log_progress(log(tmp_path, "4000 rows in 1/2 hours\n"), 60) is None
    assert jobs.log_progress(tmp_path / "none.log", 60) is None


def segment(run, step):
    (run / "segments" / str(step)).mkdir(parents=True)
    return run / "segments" / str(step) / "metrics.jsonl"


def test_a_segment_of_training_is_as_far_as_its_live_metrics(tmp_path, monkeypatch):
    segment(tmp_path, 20)
    metrics = segment(tmp_path, 40)
    assert jobs.training_progress(metrics, 40, 0) is None
    live = tmp_path / "work" / "metrics.jsonl"
    live.parent.mkdir()
    rows = [{"step": step, "reward_mean": step / 100, "step_seconds": 2.0} for step in range(1, 26)]
    lines = [json.dumps(row) + "\n" for row in rows]
    live.write_text("".join(lines[:20]))
    assert jobs.training_progress(metrics, 40, 0) is None  # those are of the segment before
    live.write_text("".join(lines) + '{"step": 26, "rew')
    os.utime(live, (1000, 1000))
    far = jobs.training_progress(metrics, 40, 1000)
    assert (far.done, far.total, far.says, far.seconds_left) == (25, 40, "reward +0.250", 30.0)
    # Of thousands of steps only the end is read.
    monkeypatch.setattr(jobs, "METRICS_TAIL", 200)
    live.write_text("x" * 10**6 + "\n" + "".join(lines))
    os.utime(live, (1000, 1000))
    assert jobs.training_progress(metrics, 40, 1000) == far
    # A step that takes long leaves less, and one that is stuck nothing.
    assert [jobs.training_progress(metrics, 40, now).seconds_left for now in (1020, 2000)] == [10.0, 0.0]
