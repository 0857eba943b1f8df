"""Training metrics: JSONL, TensorBoard, optionally W&B, and a progress bar or line."""

import json
import sys
import time
import zlib
from pathlib import Path

from justrl.errors import UserError
from justrl.io import write_jsonl
from justrl.train.segment import SegmentRequest


class MetricsLog:
    """Writes each step's metrics where people look for them; a resumed training takes back the steps it repeats.

    Args:
        folder: gets `metrics.jsonl` and `tensorboard/`.
        rows: the metrics of the steps that are already done.
        wandb: {"project", "name", "config"} to log to Weights & Biases too, or None.
    """

    def __init__(self, folder: Path, rows: list[dict], wandb: dict | None = None):
        from torch.utils.tensorboard import SummaryWriter

        write_jsonl(folder / "metrics.jsonl", rows)
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=len(rows) + 1)
        self._wandb = start_wandb(wandb, folder) if wandb else None

    def write(self, row: dict) -> None:
        """Add one step."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        values = {name: value for name, value in row.items() if name != "step"}
        for name, value in values.items():
            self._board.add_scalar(name, value, row["step"])
        if self._wandb:
            self._wandb.log(values, step=row["step"])

    def close(self) -> None:
        """Finish all files."""
        self._file.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish()


def start_wandb(settings: dict, folder: Path):
    """Start or go on with the Weights & Biases run of a training.

    Raises UserError: wandb is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UserError(
            "--wandb: the package wandb is not installed here; `pip install wandb`, or leave it out"
        ) from None
    identifier = f"{settings['name']}-{zlib.crc32(str(folder.resolve()).encode()):x}"
    return wandb.init(dir=str(folder), id=identifier, resume="allow", **settings)


class Progress:
    """Shows step, reward and time left: a bar on a terminal, a line every `every` steps in a log file."""

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
    """Tells of a segment: metrics to files, progress to the terminal; for the one process that does.

    Args:
        rows: the metrics of the steps that are already done.
    """

    def __init__(self, request: SegmentRequest, rows: list[dict]):
        execution, done = request.execution, rows[-1]["step"] if rows else 0
        self._log = MetricsLog(request.work_dir, rows, execution.wandb)
        self._progress = Progress(request.run, done, request.to_step, execution.log_every)

    def report(self, row: dict) -> None:
        """Tell of one more step."""
        self._log.write(row)
        self._progress.update(row)

    def close(self) -> None:
        """Finish all files."""
        self._progress.close()
        self._log.close()
