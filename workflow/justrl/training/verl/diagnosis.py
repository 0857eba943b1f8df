"""Diagnosis of a run that makes no progress: stacks of its processes, last metrics, memory."""

import contextlib
import os
import socket
import time
from pathlib import Path

from justrl.hardware import machine
from justrl.training.verl.guard import descendants
from justrl.training.verl.plugin import stack_file
from justrl.training.watchdog import DUMP_SECONDS, STACK_SIGNAL


def diagnose(root: int, stacks: Path, progress: dict, last_metrics: dict | None, idle_seconds: float) -> str:
    """Describe the stuck processes of an attempt on this host: descendants of `root` and processes started by srun."""
    pids = list(dict.fromkeys([*descendants(root), *answering(stacks)]))
    parts = [
        f"no progress for {idle_seconds:.0f} s; last report: {progress or 'none'}",
        f"last metrics: {last_metrics or 'none'}",
        "GPU memory:\n" + gpu_memory(),
        "processes:\n" + processes(pids),
        dump_stacks(stacks),
    ]
    return "\n\n".join(parts) + "\n"


def gpu_memory() -> str:
    """Return the used and total memory and the load of each GPU of this node, or why they are unknown."""
    try:
        found = machine.gpus()
    except machine.NoDriver as error:
        return str(error)
    lines = (f"{gpu.index}: {gpu.memory_used} of {gpu.memory} MiB used, load {gpu.load} %" for gpu in found)
    return "\n".join(lines)


def answering(stacks: Path) -> list[int]:
    """Return the processes on this host that handle STACK_SIGNAL, which would kill any other.

    They are the processes that have their stack file open.
    """
    prefix = f"{socket.gethostname()}-"
    found = []
    for file in stacks.resolve().glob(f"{prefix}*.txt"):
        process = Path("/proc", file.stem.removeprefix(prefix))
        with contextlib.suppress(OSError):
            if any(link.readlink() == file for link in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def processes(pids: list[int]) -> str:
    """Return pid, state, memory and title of each process."""
    lines = []
    for pid in pids:
        with contextlib.suppress(OSError, StopIteration):
            status = dict(
                line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
            )
            memory = status.get("VmRSS", "").strip()
            lines.append(f"{pid:>8} {status['State'].split()[0]} {memory:>12}  {_title(pid)}")
    return "\n".join(lines)


def dump_stacks(stacks: Path) -> str:
    """Return the stacks of all threads of the attempt's processes on this host that handle STACK_SIGNAL."""
    asked = answering(stacks)
    for pid in asked:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, STACK_SIGNAL)
    time.sleep(DUMP_SECONDS)
    parts = []
    for pid in asked:
        text = stack_file(stacks, socket.gethostname(), pid).read_text()
        parts.append(f"stacks of process {pid} ({_title(pid)}):\n{text}")
    return "\n".join(parts) or "no process could be asked for its stack"


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:100]
    return "gone"
