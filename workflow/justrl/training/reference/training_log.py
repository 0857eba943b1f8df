"""Training metrics of the reference engine: metrics file, trackers, and a progress bar or line."""

import json
import sys
import time

from justrl.io import write_jsonl
from justrl.training.segment import SegmentRequest
from justrl.training.trackers import Trackers


class Progress:
    """Shows step, reward and remaining time: a bar on a terminal, in a log file one line per `every` steps."""

    def __init__(self, description: str, first: int, last: int, every: int):
        self._last, self._every = last, every
        self._began, self._first = time.monotonic(), first
        self._description = description
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=last, initial=first, desc=description, unit="step", dynamic_ncols=True)

    def update(self, row: dict) -> None:
        """Show one more step."""
        summary = f"reward {row['reward_mean']:+.3f}, accuracy {row['accuracy']:.3f}"
        if self._bar is not None:
            self._bar.set_postfix_str(summary)
            self._bar.update()
        elif row["step"] % self._every == 0 or row["step"] == self._last:
            per_step = (time.monotonic() - self._began) / (row["step"] - self._first)
            left = per_step * (self._last - row["step"])
            print(
                f"{self._description}: step {row['step']}/{self._last}, {summary}, entropy {row['entropy']:.3f}, "
                f"{row['response_length_mean']:.0f} tokens, {per_step:.2f} s/step, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class Reporter:
    """Writes a segment's metrics to file and trackers, and its progress to the terminal; for the main process only.

    When a training resumes, the rows of the steps that it repeats are removed.

    Args:
        rows: the metrics of the finished steps.
    """

    def __init__(self, request: SegmentRequest, rows: list[dict]):
        done = rows[-1]["step"] if rows else 0
        self._trackers = Trackers(request, done)
        file = request.work_dir / "metrics.jsonl"
        write_jsonl(file, rows)
        self._file = file.open("a", encoding="utf-8")
        self._progress = Progress(request.run, done, request.to_step, request.execution.log_every)

    def report(self, row: dict) -> None:
        """Report one more step."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._trackers.tell([row])
        self._progress.update(row)

    def close(self) -> None:
        """Close all files."""
        self._progress.close()
        self._file.close()
        self._trackers.close()
