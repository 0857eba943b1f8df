"""Supervise a guarded trainer: forward requests to stop, end it if it makes no progress, report how it ended.

The report on a trainer without progress has the stacks of its processes, its last metrics and its memory.
"""

import collections
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from justrl.errors import UserError
from justrl.hardware import machine
from justrl.io import read_whole_lines
from justrl.training.segment import stop_signals
from justrl.training.verl import guard
from justrl.training.verl.plugin import stack_file
from justrl.training.verl.progress import STARTING, Progress
from justrl.training.watchdog import DUMP_SECONDS, STACK_SIGNAL, START_SECONDS

# Time for the trainer to save after SIGTERM; Slurm kills it 30 s after SIGTERM (KillWait).
TERM_GRACE_SECONDS = 22.0
POLL_SECONDS = 1.0
# Time for the guard to find and end a few dozen processes on a busy machine.
CLEANING_SECONDS = 60.0
# Time for the nodes to clean up after the trainer has ended; srun would wait minutes for a lost node.
ENDING_SECONDS = 30.0
LINES_SHOWN, LINES_SEARCHED = 25, 1000
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# "(WorkerDict pid=12, ip=10.0.0.1) torch.OutOfMemoryError: ..."
_ERROR = re.compile(r"(?:\([^()]*\) ?)?((?:\w+\.)*\w*(?:Error|Exception)(?:: .*)?)$")


@dataclass
class Supervisor:
    """One attempt to train a segment.

    Args:
        attempt: its folder, for launch.log, progress.json, stacks/ and, after a hang, hang.txt.
        command: starts the trainer under guard.
        variables: the environment of all its processes.
        idle_seconds: how long the trainer may run without reporting progress; before its first step, at least
            START_SECONDS.
        on_metrics: called after each step that verl logged.
        on_look: called at each check of the trainer, to show that this process itself is alive.
        log: verl's own metrics log.
        is_done: returns whether the segment's last step is saved and logged; then it does not matter how the
            processes end.
    """

    attempt: Path
    command: list[str]
    variables: dict[str, str]
    idle_seconds: float
    on_metrics: Callable[[], None]
    log: Path
    is_done: Callable[[], bool]
    on_look: Callable[[], None] = lambda: None
    kill_at: float | None = field(default=None, init=False)
    stopping: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.progress, self.output = Progress(self.attempt), self.attempt / "launch.log"

    def run(self) -> bool:
        """Run the trainer to its end; return whether it was asked to stop.

        Raises UserError: it failed, or made no progress for too long.
        """
        with self.output.open("wb") as output, stop_signals(self._on_stop):
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.variables,
                # In its own session, so that signals to our process group (Ctrl-C, scancel) reach it only through us.
                start_new_session=True,
            )
            try:
                hang = self._watch(process)
            finally:
                self._end(process)
        # A hang after the last step loses nothing: ignore it.
        if hang and not self.is_done():
            raise UserError(hang)
        # Slurm's warning reaches only job steps: with more than one node, they request the stop, not this process.
        if self.stopping or self.progress.stop.exists():
            return True
        if problem := self.progress.problem():
            raise UserError(problem)
        # A node lost after the last step loses nothing: ignore it.
        if process.returncode != 0 and not self.is_done():
            raise UserError(f"verl ended with status {process.returncode}: {last_words(self.output)}")
        return False

    def _on_stop(self, number: int, _frame) -> None:
        self.stopping = True
        self.progress.stop.touch()
        if number == signal.SIGTERM:
            self.kill_at = time.monotonic() + TERM_GRACE_SECONDS

    def _watch(self, process: subprocess.Popen) -> str | None:
        """Wait for the end of the trainer; return an error message if it hung."""
        seen = (None, 0)
        # Counted in checks, not by the clock: a job that is suspended together with this process has not hung.
        idle = 0.0
        ended_at = None
        logged = 0
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            self.on_look()
            last = self.progress.last()
            now = (last.get("time"), self._log_size())
            idle = idle + POLL_SECONDS if now == seen else 0.0
            seen = now
            if now[1] != logged:
                logged = now[1]
                self.on_metrics()
            if self.kill_at is not None and time.monotonic() > self.kill_at:
                return None
            if self.progress.ended.exists():
                ended_at = ended_at or time.monotonic()
                if time.monotonic() - ended_at > ENDING_SECONDS:
                    return None
            stepping = last.get("phase", "start") not in STARTING
            if idle > (self.idle_seconds if stepping else max(self.idle_seconds, START_SECONDS)):
                return self._report_hang(process.pid, idle)
        return None

    def _log_size(self) -> int:
        try:
            return self.log.stat().st_size
        except FileNotFoundError:
            return 0

    def _report_hang(self, pid: int, idle: float) -> str:
        last = next(reversed(read_whole_lines(self.log)), None)
        progress = self.progress.last()
        report = diagnose(pid, self.attempt / "stacks", progress, last, idle)
        (self.attempt / "hang.txt").write_text(report, encoding="utf-8", errors="replace")
        print(report, file=sys.stderr, flush=True)
        where = f"in step {progress['step']}, phase {progress['phase']}" if progress else "before the first step"
        return (
            f"verl made no progress for {idle:.0f} s {where}, and was stopped; the next start resumes "
            f"from its last save. Stacks, memory and the last metrics are in {self.attempt / 'hang.txt'}. If "
            "steps really take that long, raise hardware.hang_timeout_minutes"
        )

    def _end(self, process: subprocess.Popen) -> None:
        """End the guard, and with it everything that it started."""
        if process.poll() is None:
            if process.stdin:
                process.stdin.close()
            # A stopped guard could not notice the closed pipe or handle a signal.
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(timeout=guard.GRACE_SECONDS + CLEANING_SECONDS)
            except subprocess.TimeoutExpired:
                # Processes of a guard that does not finish in time must not keep running without it.
                left = guard.descendants(process.pid)
                process.kill()
                process.wait()
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def last_words(log: Path) -> str:
    """Return the end of a log: the last error on the first line, which summaries show, and then the last lines.

    Ray ends with lines about its workers, after the error, and prefixes each line with its process.
    """
    with log.open(errors="replace") as output:
        said = (_COLOURS.sub("", line).rstrip() for line in output)
        lines = collections.deque(filter(None, said), maxlen=LINES_SEARCHED)
    if not lines:
        return f"it wrote nothing to {log}"
    errors = [match[1] for line in lines if (match := _ERROR.match(line))]
    # Ray's own errors report that a worker died; another error gives the reason.
    errors = [error for error in errors if not error.startswith("ray.exceptions.")] or errors
    shown = "\n".join([*lines][-LINES_SHOWN:])
    return f"{errors[-1] if errors else lines[-1]}; the end of {log}:\n{shown}"


def diagnose(root: int, stacks: Path, progress: dict, last_metrics: dict | None, idle_seconds: float) -> str:
    """Describe the stuck processes of an attempt on this host: descendants of `root` and processes started by srun."""
    pids = list(dict.fromkeys([*guard.descendants(root), *answering(stacks)]))
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
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            memory = f"{process.memory_info().rss // 2**10:,} kB"
            lines.append(f"{pid:>8} {process.status():<10} {memory:>16}  {_title(pid)}")
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
    with contextlib.suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline())[:100]
    return "gone"
