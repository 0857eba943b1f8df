"""On the PYTHONPATH of the fault tests: each training step is noted, and lasts as long as the test says.

Tiny steps take milliseconds, and a fault has to land between two of them. So after a trainer has logged a step, it
waits here; what it computes and saves is untouched.

JUSTRL_TEST_TRACE   file that gets one line for each computed step. Beside it, `pause` holds the seconds a step lasts
                    longer, read again and again, so that a test can let a run go on; `signals` gets the name of each
                    stop signal that the trainer takes.
"""

import os
import signal
import sys
import time
from pathlib import Path

TRACE = os.environ.get("JUSTRL_TEST_TRACE")
LOGGER = "justrl.training.reference.loop"


def pause_seconds() -> float:
    """How long the test wants a step to last beyond itself, now."""
    try:
        return float((Path(TRACE).parent / "pause").read_text())
    except (OSError, ValueError):
        return 0.0


def note_signals() -> None:
    """Note the stop signals that the trainer handles, before it does."""
    for number in (signal.SIGURG, signal.SIGTERM):
        handler = signal.getsignal(number)
        if callable(handler) and not hasattr(handler, "noted"):

            def noted(received, frame, handler=handler):
                with (Path(TRACE).parent / "signals").open("a") as signals:
                    signals.write(f"{signal.Signals(received).name}\n")
                handler(received, frame)

            noted.noted = True
            signal.signal(number, noted)


def note_and_wait() -> None:
    """Note one computed step, and wait."""
    note_signals()
    with Path(TRACE).open("a") as trace:
        trace.write(f"{os.environ.get('SLURM_JOB_ID')} {os.getpid()} {time.time():.3f}\n")
    start = time.monotonic()
    while time.monotonic() - start < pause_seconds():
        time.sleep(0.05)


def wait_after_each_line(module) -> None:
    """Wrap the method that logs a step."""
    report = module.Reporter.report

    def report_and_wait(reporter, row):
        report(reporter, row)
        note_and_wait()

    module.Reporter.report = report_and_wait


if TRACE:
    sys.path.append(str(Path(__file__).parents[1]))
    from when_imported import WhenImported

    sys.meta_path.insert(0, WhenImported(LOGGER, wait_after_each_line))
