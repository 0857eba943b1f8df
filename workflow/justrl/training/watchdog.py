"""Watchdog: a second process that kills a trainer that makes no progress because it is stuck or stopped.

A process that is stopped (SIGSTOP), swapped out or blocked in a driver cannot notice this itself. Each trainer
therefore starts a watcher, `python -m justrl.training.watchdog`. The trainer reports through a pipe what it does next
and how long that may take, and is killed if it takes longer. Only time in which the watcher itself runs counts, so that
a suspended job is not considered stuck.
"""

import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A process with a handler for this signal prints the stacks of its threads.
STACK_SIGNAL = signal.SIGUSR2
# Time for a process to print its stacks.
DUMP_SECONDS = 3.0
# Before its first step, a trainer imports and loads models for minutes without reporting; verl also starts Ray.
START_SECONDS = 900.0
POLL_SECONDS = 1.0

# Reports the next activity, as the end of "no progress for 90 s ...", and how many seconds it may take.
Progress = Callable[[str, float], None]


@contextmanager
def watched(name: str, hang_seconds: float) -> Iterator[Progress]:
    """Watch this process while the block runs; yields the function that reports its progress."""
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "justrl.training.watchdog", name, str(os.getpid())]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths})
    assert watcher.stdin
    pipe = watcher.stdin.fileno()
    # A watcher that is stopped or gone must not block the trainer.
    os.set_blocking(pipe, False)

    def report(doing: str, seconds: float) -> None:
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(pipe, f"{seconds} {doing}\n".encode())

    faulthandler.register(STACK_SIGNAL, file=2, all_threads=True)
    report("before the first step", max(hang_seconds, START_SECONDS))
    try:
        yield report
    finally:
        faulthandler.unregister(STACK_SIGNAL)
        watcher.kill()
        watcher.wait()
        watcher.stdin.close()


def watch(name: str, pid: int) -> str | None:
    """Watch our parent process `pid` until it ends or must be killed; return the reason for a kill as a sentence."""
    doing, patience, idle = "before its first word", START_SECONDS, 0.0
    while os.getppid() == pid:
        if not select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            idle += POLL_SECONDS
        elif words := os.read(sys.stdin.fileno(), 1 << 16):
            seconds, _, doing = words.decode().splitlines()[-1].partition(" ")
            patience, idle = float(seconds), 0.0
        else:
            return None
        if idle > patience:
            return (
                f"{name}: no progress for {idle:.0f} s {doing}; process {pid} {state_of(pid)} and is "
                "killed. The next start resumes from its last save. If a phase really takes that long, raise "
                "hardware.hang_timeout_minutes"
            )
    return None


def state_of(pid: int) -> str:
    """Describe the state of a process according to the kernel, as a verb phrase."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        letter = "X"
    states = {
        "T": "is stopped (SIGSTOP)",
        "t": "is stopped by a debugger",
        "D": "waits for a disk, a file server or a driver",
        "R": "computes",
        "S": "waits",
    }
    return states.get(letter, "is gone")


def main() -> None:
    """Watch this process's parent."""
    # Signals that ask the job to save and stop are for the trainer, which ends this process when it is done.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    name, pid = sys.argv[1], int(sys.argv[2])
    if sentence := watch(name, pid):
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        if "stopped" not in state_of(pid):
            os.kill(pid, STACK_SIGNAL)
            time.sleep(DUMP_SECONDS)
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
