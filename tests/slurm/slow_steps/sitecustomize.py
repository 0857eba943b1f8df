"""On the PYTHONPATH of the fault tests: each training step is noted, and lasts as long as the test says.

Tiny steps take milliseconds, and a fault has to land between two of them. Nothing of the package is replaced: Python
tells of each file that is opened, and the line of metrics that a trainer appends marks the end of a step.

JUSTRL_TEST_TRACE   file that gets one line for each computed step; beside it, `pause` holds the seconds a step lasts
                    longer, read again and again, so that a test can let a run go on
"""

import os
import sys
import time
from pathlib import Path

_TRACE = os.environ.get("JUSTRL_TEST_TRACE")


def _pause() -> float:
    try:
        return float((Path(_TRACE).parent / "pause").read_text())
    except (OSError, ValueError):
        return 0.0


def _on_open(event: str, arguments: tuple) -> None:
    if event != "open" or not str(arguments[0]).endswith("/work/metrics.jsonl") or "a" not in (arguments[1] or ""):
        return
    line = f"{os.environ.get('SLURM_JOB_ID')} {os.getpid()} {time.time():.3f}\n"
    descriptor = os.open(_TRACE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    start = time.monotonic()
    while time.monotonic() - start < _pause():
        time.sleep(0.05)


if _TRACE:
    sys.addaudithook(_on_open)
