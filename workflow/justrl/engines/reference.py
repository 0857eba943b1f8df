"""The reference engine: the whole recipe in one process, PyTorch and transformers, on a CPU or one GPU.

Under torchrun it is as many processes as asked for, which split every mini-batch between them.
"""

from contextlib import nullcontext

from justrl.engines.base import SegmentRequest, WorkDir


def train_segment(request: SegmentRequest) -> None:
    """Train a segment, or restore it if it was finished before; publish its model and metrics.

    Raises:
        SegmentInterrupted: a stop signal came; state saved, start again to go on.
        UserError: a live trainer is at work in the folder, nothing to resume from, a full disk, a non-finite loss.
    """
    from justrl.grpo.distributed import join_world
    from justrl.grpo.loop import train

    work = WorkDir(request.work_dir)
    with join_world(request.hardware.get("device")) as world:
        wait = request.hardware.get("wait_for_owner_minutes", 0)
        with work.hold(wait) if world.is_main else nullcontext() as lock:
            if not world.from_main(work.has_archive(request) if world.is_main else None):
                loop = train(request, work, world, lock.check if lock else lambda: None)
                if world.is_main:
                    lock.check()
                    rows = [row for row in loop.rows if row["step"] > request.start_step]
                    work.archive(request, loop.export, rows)
            if world.is_main:
                work.publish(request)
