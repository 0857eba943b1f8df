"""The reference engine: the whole recipe in one process, PyTorch and transformers, on a CPU or one GPU.

Under torchrun, several processes divide every mini-batch among them.
"""

from contextlib import nullcontext

from justrl.errors import UserError
from justrl.training.segment import SegmentRequest, WorkDir
from justrl.training.watchdog import watched


def train_segment(request: SegmentRequest) -> None:
    """Train a segment, or restore it if it was finished before; publish its model and metrics.

    Raises:
        SegmentInterrupted: a stop signal came; the state is saved, start again to resume.
        UserError: another trainer is running in the work directory, there is no state to resume from, the disk is
            full, the loss is not finite, an alarm was raised (`justrl.training.alarms`), or the recipe has staleness.
    """
    if request.recipe.staleness:
        raise UserError(
            f"run {request.run}: recipe.staleness = {request.recipe.staleness} is supported by verl only: "
            "set it to 0, or set `engine: verl`"
        )
    from justrl.training.reference.distributed import join_processes
    from justrl.training.reference.loop import train

    work = WorkDir(request.work_dir)
    joined = join_processes(request.execution.device)
    with joined as world, work.attempt(request) if world.is_main else nullcontext() as lock:
        if not world.from_main(work.has_archive(request) if world.is_main else None):
            with watched(f"run {request.run}", request.hardware.hang_seconds) as progress:
                loop = train(request, work, world, lock.check if lock else lambda: None, progress)
                if lock:
                    lock.check()
                    rows = [row for row in loop.rows if row["step"] > request.start_step]
                    work.archive(request, loop.export, rows)
        if world.is_main:
            work.publish(request)
