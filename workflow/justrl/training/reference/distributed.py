"""Data-parallel training under torchrun: rank, world size and the collective operations in use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from justrl.errors import UserError

# Process groups that have ended, kept until Python exits. Otherwise the reducer of DDP could hold the last reference.
# It would then join the group's threads while holding the GIL, for which such a thread may be waiting to release a
# tensor: a deadlock in a process that has finished its work (pytorch/pytorch#56297).
_ended_groups: list = []


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together; a single one if torchrun did not start this process."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.rank == 0

    def share(self, items: int, what: str) -> slice:
        """Return the slice of `items` for this process; all processes get equally many.

        Raises UserError: if `items` is not a multiple of the number of processes.
        """
        if items % self.size:
            raise UserError(f"{what} ({items}) must be a multiple of the {self.size} processes of torchrun")
        part = items // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def sum(self, values: list[float]) -> list[float]:
        """Sum each value over all processes."""
        if self.size == 1:
            return values
        import torch

        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return total.tolist()

    def gather(self, value: list) -> list:
        """Concatenate the lists of all processes, in order of rank."""
        if self.size == 1:
            return value
        import torch

        parts: list = [None] * self.size
        torch.distributed.all_gather_object(parts, value)
        return [item for part in parts for item in part]

    def in_order(self, value: list, part: int) -> list:
        """Concatenate lists that hold `part` items of each mini-batch, in order of mini-batch, then of rank."""
        joined, own = self.gather(value), len(value)
        starts = range(0, own, part)
        return [
            item
            for start in starts
            for rank in range(self.size)
            for item in joined[rank * own + start : rank * own + min(start + part, own)]
        ]

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in any process."""
        return self.sum([float(flag)])[0] > 0

    def from_main(self, value):
        """Return the value of the main process."""
        if self.size == 1:
            return value
        import torch

        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def join_processes(device: str | None = None) -> Iterator[ProcessGroup]:
    """Read this process's rank from torchrun's environment and connect to the other processes.

    Args:
        device: "cpu", "cuda", or None to use the GPU if there is one.

    Raises UserError: if a GPU is requested and torch finds none.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu or a machine with one")
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if device == "cuda":
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
        torch.cuda.set_device(device)
    if size == 1:
        yield ProcessGroup(device=device)
        return
    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield ProcessGroup(rank, size, device)
    finally:
        _ended_groups.append(torch.distributed.group.WORLD)
        torch.distributed.destroy_process_group()
