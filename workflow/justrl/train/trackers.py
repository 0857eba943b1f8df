"""Where each step's metrics are shown besides their file: TensorBoard always, W&B and Trackio where they are asked for.

Both engines tell the same names. A run goes on under one identity through all its segments and attempts. Keys and
tokens are each service's own affair (`wandb login`, WANDB_API_KEY): nothing of them is read or written here.
"""

import importlib.util
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from justrl.errors import UserError
from justrl.train.segment import SegmentRequest

# How the workflow tells its training jobs: an option or a param would make Snakemake take them for other jobs.
VARIABLE = "JUSTRL_TRACKERS"

# How a tracker that was started is told of a step's values, and how it is finished.
Started = tuple[Callable[[dict[str, Any], int], Any], Callable[[], Any]]


def check_installed(names: Iterable[str]) -> None:
    """Raise UserError if a tracker that is asked for is not installed in this environment."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"trackers: the package {name} is not installed here; `pip install -e '.[{name}]'` installs the "
                "version that is tested, or take it out of `trackers`"
            )


class Trackers:
    """Tells trackers of each step.

    Args:
        request: whose run it is; TensorBoard's files go to its work folder, and W&B's own.
        done: the last step that counts; TensorBoard takes back what it was told of later ones, before a kill.

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
        """Tell of the steps among these, in order, that have not been told of yet."""
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
        """Finish all of them."""
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
    # As a metric of our own: W&B refuses a step that it has seen, and a killed job repeats some.
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
