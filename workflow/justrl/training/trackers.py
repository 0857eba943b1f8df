"""Logs each step's metrics: to TensorBoard always, to W&B and Trackio on request; the metrics file is separate.

Both engines log the same names. A run has the same identity in all its segments and attempts. Keys and tokens are left
to each service (`wandb login`, WANDB_API_KEY); they are neither read nor written here.
"""

import importlib.util
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from justrl.errors import UserError
from justrl.training.segment import SegmentRequest

# The workflow passes trackers by this variable: with an option or a param, Snakemake would consider the jobs changed.
VARIABLE = "JUSTRL_TRACKERS"

# A started tracker: the function that logs a step's values, and the function that finishes it.
Started = tuple[Callable[[dict[str, Any], int], Any], Callable[[], Any]]


def check_installed(names: Iterable[str]) -> None:
    """Raise UserError if a requested tracker is not installed in this environment."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"trackers: the package {name} is not installed here; `pip install -e '.[{name}]'` installs the "
                "version that is tested, or take it out of `trackers`"
            )


class Trackers:
    """Logs each step to the trackers.

    Args:
        request: the segment of the run; TensorBoard and W&B write their files to its work directory.
        done: the last valid step; TensorBoard discards later steps, which were logged before a kill.

    Raises UserError: a tracker is not installed, or does not start.
    """

    def __init__(self, request: SegmentRequest, done: int):
        check_installed(request.execution.trackers)
        from torch.utils.tensorboard import SummaryWriter

        self._told = done
        self._board = SummaryWriter(str(request.work_dir / "tensorboard"), purge_step=done + 1)
        starts = {"wandb": _start_wandb, "trackio": _start_trackio}
        self._runs = [starts[name](request) for name in request.execution.trackers]

    def tell(self, rows: Sequence[dict[str, Any]]) -> None:
        """Log those of these steps, in order, that were not logged before."""
        for row in rows:
            if row["step"] <= self._told:
                continue
            self._told = row["step"]
            values = {name: value for name, value in row.items() if name != "step" and value is not None}
            for name, value in values.items():
                self._board.add_scalar(name, value, row["step"])
            for log, _ in self._runs:
                log(values, row["step"])
        self._board.flush()

    def close(self) -> None:
        """Finish all trackers."""
        self._board.close()
        for _, finish in self._runs:
            finish()


def _start_wandb(request: SegmentRequest) -> Started:
    import wandb

    try:
        run = wandb.init(
            dir=str(request.work_dir),
            id=f"{request.run}-{zlib.crc32(str(request.work_dir.resolve()).encode()):x}",
            name=request.run,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT", "justrl"),
            config={"recipe": request.recipe.as_dict(), "seed": request.seed, "engine": request.engine},
        )
    except (wandb.errors.Error, OSError, ValueError) as error:
        raise UserError(
            f"trackers: wandb does not start ({' '.join(str(error).split())[:300]}): log in with `wandb "
            "login`, or set WANDB_MODE=offline and upload later with `wandb sync`"
        ) from None
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    # Logged as a metric: W&B rejects a step that it has seen, and after a kill some steps are repeated.
    return lambda values, step: run.log({**values, "step": step}), run.finish


def _start_trackio(request: SegmentRequest) -> Started:
    import trackio

    name = f"{request.run}-{zlib.crc32(str(request.work_dir.resolve()).encode()):x}"
    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", "justrl"),
        name=name,
        resume="allow",
        config={"recipe": request.recipe.as_dict(), "seed": request.seed, "engine": request.engine},
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    return lambda values, step: run.log(values, step=step), run.finish
