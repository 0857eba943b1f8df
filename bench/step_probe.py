"""What one training step costs its process; shared by both sides, so that it imports nothing of either."""

import ctypes
import os
import time
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


class Probe:
    """Of each step: processor seconds (of all threads), elapsed seconds, most memory over that at its start (bytes)."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.elapsed: list[float] = []
        self.memory: list[int] = []

    def start(self) -> None:
        """Before a step: what was freed before is given back, and the kernel's peak begins anew."""
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        self._began, self._clock = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """After the step."""
        self.seconds.append(time.process_time() - self._began)
        self.elapsed.append(time.perf_counter() - self._clock)
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
        self.memory.append(peak - self._resident)

    def measured(self) -> dict[str, list]:
        """What each step cost."""
        return {"seconds": self.seconds, "elapsed": self.elapsed, "memory": self.memory}


def reward(tokens: list[int]) -> float:
    """A made-up reward which every group has both values of, nearly always: whether the ids' sum is even."""
    return 1.0 if sum(tokens) % 2 == 0 else -1.0
