"""How far a job is, from the files that jobs write."""

import json
import os

import pytest

from justrl.operations import job_progress


def log(tmp_path, text):
    (tmp_path / "job.log").write_text(text)
    return tmp_path / "job.log"


@pytest.mark.parametrize(
    ("text", "done", "total", "seconds"),
    [
        (
            "sums 1/1:   5%|5 | 10/200 [00:01<00:19, 9.8answer/s]\rsums 1/1: 45%|4 | 90/200 [01:03<01:02:04, 2s]",
            90,
            200,
            3724,
        ),
        ("reading: 50%|## | 2.00k/4.00k [00:00<00:07, 62.0k rows/s]\n", 2000, 4000, 7),
        ("sums:  0%| | 0/200 [00:00<?, ?answer/s]\n", 0, 200, None),
        ("step 120/300: loss 0.4, 41 s\nLoading weights: 100%|#| 1/1 [00:00<00:00, 99it/s]\n", 120, 300, None),
        ("mini: step 10/20, reward +0.5, accuracy 0.75\n", 10, 20, None),
    ],
)
def test_the_last_line_of_progress_in_a_log_counts(tmp_path, text, done, total, seconds):
    far = job_progress.of_log(log(tmp_path, text))
    assert (far.done, far.total, far.seconds_left) == (done, total, seconds)


def test_a_log_without_progress_says_nothing(tmp_path):
    assert job_progress.of_log(log(tmp_path, "4000 rows in 1/2 hours\n")) is None
    assert job_progress.of_log(tmp_path / "none.log") is None


def segment(run, step):
    (run / "segments" / str(step)).mkdir(parents=True)
    return run / "segments" / str(step) / "metrics.jsonl"


def test_a_segment_of_training_is_as_far_as_its_live_metrics(tmp_path, monkeypatch):
    segment(tmp_path, 20)
    metrics = segment(tmp_path, 40)
    assert job_progress.of_training(metrics, 40, 0) is None
    live = tmp_path / "work" / "metrics.jsonl"
    live.parent.mkdir()
    rows = [{"step": step, "reward_mean": step / 100, "step_seconds": 2.0} for step in range(1, 26)]
    lines = [json.dumps(row) + "\n" for row in rows]
    live.write_text("".join(lines[:20]))
    assert job_progress.of_training(metrics, 40, 0) is None  # those are of the segment before
    live.write_text("".join(lines) + '{"step": 26, "rew')
    os.utime(live, (1000, 1000))
    far = job_progress.of_training(metrics, 40, 1000)
    assert (far.done, far.total, far.says, far.seconds_left) == (25, 40, "reward +0.250", 30.0)
    # Of thousands of steps only the end is read.
    monkeypatch.setattr(job_progress, "METRICS_TAIL", 200)
    live.write_text("x" * 10**6 + "\n" + "".join(lines))
    os.utime(live, (1000, 1000))
    assert job_progress.of_training(metrics, 40, 1000) == far
    # A step that takes long leaves less, and one that is stuck nothing.
    assert [job_progress.of_training(metrics, 40, now).seconds_left for now in (1020, 2000)] == [10.0, 0.0]


def test_what_a_job_says_is_read_once_and_without_its_progress(tmp_path):
    file = log(tmp_path, "a: 1%|1 | 1/99 [00:01<00:19, 9s]\ra: 2%|1 | 2/99 [00:02<00:19, 9s]\nwarning: one\nunfini")
    reader = job_progress.LogReader(file)
    assert list(reader.lines()) == ["warning: one"] and list(reader.lines()) == []
    file.write_text(file.read_text() + "shed\nmini: step 10/20, reward +0.5\n")
    assert list(reader.lines()) == ["unfinished"]
    file.write_text("anew\n")
    assert list(reader.lines()) == ["anew"]


def test_a_job_takes_as_long_as_others_of_its_rule(tmp_path):
    (tmp_path / "a.tsv").write_text("s\th:m:s\n12.5\t0:00:12\n")
    (tmp_path / "b.tsv").write_text("")
    assert job_progress.earlier_seconds(tmp_path / "mine.tsv") == [12.5]
