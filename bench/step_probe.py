"""Cost of one training step for its process; used by both sides, so it imports code of neither."""

import ctypes
import os
import time
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


class Probe:
    """Per step: processor seconds of all threads, elapsed seconds, and peak memory above its start in bytes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.elapsed: list[float] = []
        self.memory: list[int] = []

    def start(self) -> None:
        """Begin a step: release freed memory, and reset the kernel's peak."""
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self._resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        self._began, self._clock = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """End a step."""
        self.seconds.append(time.process_time() - self._began)
        self.elapsed.append(time.perf_counter() - self._clock)
        status = Path("/proc/self/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
        self.memory.append(peak - self._resident)

    def measured(self) -> dict[str, list]:
        """The cost of each step."""
        return {"seconds": self.seconds, "elapsed": self.elapsed, "memory": self.memory}


def reward(tokens: list[int]) -> float:
    """An artificial reward, by the parity of the sum of ids; nearly every group has both values."""
    return 1.0 if sum(tokens) % 2 == 0 else -1.0
