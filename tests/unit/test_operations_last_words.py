"""The sentences of failed jobs, found in their logs."""

import os

from justrl.status.jobs import messages, queue_logs


def test_each_sentence_once_and_a_last_line_where_there_is_none(tmp_path):
    logs = {
        "train": "step 3\nerror: no room for a state\n",
        "queue": "error: no room for a state\nslurmstepd: error: *** JOB 8 CANCELLED DUE TO TIME LIMIT ***",
        "score": "Traceback (most recent call last):\n\nKeyError: 'gold'\n\n",
        "a": "error: the hub cannot be reached",
        "b": "error: the hub cannot be reached",
    }
    path = {name: tmp_path / name for name in [*logs, "nowhere"]}
    for name, text in logs.items():
        path[name].write_text(text)
    failed = [("train_segment", ["train", "queue"]), ("score", ["score"]), ("data", "a"), ("data", "b")]
    failed += [("figures", ["nowhere"]), ("all", [])]
    assert messages((rule, [path[name] for name in names]) for rule, names in failed) == [
        "train_segment: no room for a state",
        "train_segment: *** JOB 8 CANCELLED DUE TO TIME LIMIT ***",
        f"score: KeyError: 'gold' (see {path['score']})",
        "data: the hub cannot be reached",
        f"figures: failed (see {path['nowhere']})",
        "all: failed (it has no log)",
    ]


def test_of_a_queues_logs_the_last_attempts(tmp_path):
    folder = tmp_path / "rule_train_segment" / "mini_60"
    folder.mkdir(parents=True)
    for number, time in ((9, 1), (10, 2)):
        (folder / f"{number}.log").touch()
        os.utime(folder / f"{number}.log", (time, time))
    assert queue_logs(tmp_path, "train_segment", ["mini", "60"]) == [folder / "10.log"]
    assert queue_logs(tmp_path, "score", []) == queue_logs(None, "score", []) == []
