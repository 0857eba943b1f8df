"""What is known of a run that makes no progress: where its processes are, its last metrics, its memory."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from justrl.engines.verl.guard import descendants
from justrl.engines.verl.plugin import STACK_SIGNAL, stack_file

# Time for the processes to write their stacks.
DUMP_SECONDS = 3.0


def diagnose(root: int, stacks: Path, progress: dict, last_metrics: dict | None, idle_seconds: float) -> str:
    """Describe the stuck processes under `root`, a supervised process of this host."""
    parts = [
        f"no progress for {idle_seconds:.0f} s; last report: {progress or 'none'}",
        f"last metrics: {last_metrics or 'none'}",
        "GPU memory:\n" + gpu_memory(),
        "processes:\n" + processes(root),
        dump_stacks(root, stacks),
    ]
    return "\n\n".join(parts) + "\n"


def gpu_memory() -> str:
    """Used and total memory and the load of each GPU of this node, or why that is not known."""
    if not shutil.which("nvidia-smi"):
        return "no nvidia-smi here"
    query = ["nvidia-smi", "--query-gpu=index,memory.used,memory.total,utilization.gpu", "--format=csv"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi failed: {error}"


def processes(root: int) -> str:
    """Pid, state, memory and title of each descendant of `root`."""
    lines = []
    for pid in descendants(root):
        with contextlib.suppress(OSError, StopIteration):
            status = dict(
                line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
            )
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            memory = status.get("VmRSS", "").strip()
            lines.append(f"{pid:>8} {status['State'].split()[0]} {memory:>12}  {title[:100]}")
    return "\n".join(lines)


def dump_stacks(root: int, stacks: Path) -> str:
    """The stacks of all threads of those descendants of `root` that answer STACK_SIGNAL."""
    asked = [pid for pid in descendants(root) if stack_file(stacks, socket.gethostname(), pid).is_file()]
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
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:80]
    return "gone"
