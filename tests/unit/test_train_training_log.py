"""What a training tells while it runs."""

import io

from justrl.training.reference.loop import ProgressBar


def row(step, reward=0.5):
    return {"step": step, "reward_mean": reward, "accuracy": 0.75, "entropy": 1.2, "response_length_mean": 20.0}


def test_a_log_file_gets_a_line_every_few_steps_and_one_at_the_end(capsys):
    progress = ProgressBar("mini", first=0, last=7, every=3)
    for step in range(1, 8):
        progress.update(row(step))
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["mini: step 3/7", "mini: step 6/7", "mini: step 7/7"]
    assert "reward +0.500, accuracy 0.750, entropy 1.200, 20 tokens" in lines[0] and lines[2].endswith(" 0 s left")


def test_a_terminal_gets_a_bar_with_reward_and_time_left(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = ProgressBar("mini", first=4, last=8, every=100)
    for step in range(5, 9):
        progress.update(row(step))
    progress.close()
    assert "mini: 100%" in terminal.getvalue() and "8/8" in terminal.getvalue()
    assert "reward +0.500" in terminal.getvalue() and "00:00<00:00" in terminal.getvalue()
