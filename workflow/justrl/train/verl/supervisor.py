"""Watch a guarded trainer: pass on requests to stop, end it when it makes no progress, say how it ended."""

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from justrl.errors import UserError
from justrl.io import read_whole_lines
from justrl.train.segment import stop_signals
from justrl.train.verl import guard
from justrl.train.verl.diagnosis import diagnose
from justrl.train.verl.progress import STARTING, Progress
from justrl.train.watch import START_SECONDS

# After SIGTERM the trainer has this long to save: Slurm kills 30 s after it (KillWait).
TERM_GRACE_SECONDS = 22.0
POLL_SECONDS = 1.0
# For the guard to find and end a few dozen processes on a busy machine.
CLEANING_SECONDS = 60.0
# Nodes whose trainer has ended have this long to clean up; srun would wait minutes for one that is lost.
ENDING_SECONDS = 30.0
LINES_SHOWN, LINES_SEARCHED = 25, 1000
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# "(WorkerDict pid=12, ip=10.0.0.1) torch.OutOfMemoryError: ..."
_ERROR = re.compile(r"(?:\([^()]*\) ?)?((?:\w+\.)*\w*(?:Error|Exception)(?:: .*)?)$")


class Supervisor:
    """One attempt to train a segment.

    Args:
        attempt: its folder; launch.log, progress.json, stacks/ and, after a hang, hang.txt go there.
        command: starts the trainer under guard.
        variables: the environment of all its processes.
        idle_seconds: how long the trainer may go without reporting progress; before its first step, START_SECONDS if
            that is longer.
        on_metrics: called after each step that verl logged.
        on_look: called at each look at the trainer: this process itself is alive.
        log: verl's own log of metrics.
        is_done: whether the segment's last step is saved and logged; how the processes end does not matter then.
    """

    def __init__(
        self,
        attempt: Path,
        command: list[str],
        variables: dict[str, str],
        idle_seconds: float,
        on_metrics: Callable[[], None],
        log: Path,
        is_done: Callable[[], bool],
        on_look: Callable[[], None] = lambda: None,
    ):
        self.attempt, self.command, self.variables = attempt, command, variables
        self.idle_seconds, self.on_metrics, self.log = idle_seconds, on_metrics, log
        self.is_done, self.on_look = is_done, on_look
        self.progress = Progress(attempt)
        self.output = attempt / "launch.log"
        self.kill_at: float | None = None
        self.stopping = False

    def run(self) -> bool:
        """Run the trainer to its end; return whether it was told to stop.

        Raises UserError: it failed, or made no progress for too long.
        """
        with self.output.open("wb") as output, stop_signals(self._on_stop):
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.variables,
                # Its own session: a signal to our process group (Ctrl-C, scancel) is ours to pass on.
                start_new_session=True,
            )
            try:
                hang = self._watch(process)
            finally:
                self._end(process)
        # Whoever hangs after the last step takes nothing from it.
        if hang and not self.is_done():
            raise UserError(hang)
        # Slurm's warning reaches job steps only: on more than one node they ask to stop; this process hears nothing.
        if self.stopping or self.progress.stop_requested():
            return True
        if problem := self.progress.problem():
            raise UserError(problem)
        # A node that is lost after the last step takes nothing from it.
        if process.returncode != 0 and not self.is_done():
            raise UserError(f"verl ended with status {process.returncode}: {last_words(self.output)}")
        return False

    def _on_stop(self, number: int, _frame) -> None:
        self.stopping = True
        self.progress.ask_to_stop()
        if number == signal.SIGTERM:
            self.kill_at = time.monotonic() + TERM_GRACE_SECONDS

    def _watch(self, process: subprocess.Popen) -> str | None:
        """Wait for the end of the trainer; return what to say if it hung."""
        seen = (None, 0)
        # In looks, not by the clock: a job that is suspended whole, this process with it, has not hung.
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
            if self.progress.ended():
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
        (self.attempt / "hang.txt").write_text(report)
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
            # Stopped, it could neither see that nor be told.
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(timeout=guard.GRACE_SECONDS + CLEANING_SECONDS)
            except subprocess.TimeoutExpired:
                # A guard that does not get to it in time must not leave them running without it.
                left = guard.descendants(process.pid)
                process.kill()
                process.wait()
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def last_words(log: Path) -> str:
    """What a log ends with: on the first line its last error, which is all that a summary shows; then the last lines.

    Ray ends with lines about its workers, and marks whose line is whose: the error stands above those.
    """
    with log.open(errors="replace") as output:
        said = (_COLOURS.sub("", line).rstrip() for line in output)
        lines = collections.deque(filter(None, said), maxlen=LINES_SEARCHED)
    if not lines:
        return f"it wrote nothing to {log}"
    errors = [match[1] for line in lines if (match := _ERROR.match(line))]
    # Ray's own errors tell that a worker has died, of which another tells why.
    errors = [error for error in errors if not error.startswith("ray.exceptions.")] or errors
    shown = "\n".join([*lines][-LINES_SHOWN:])
    return f"{errors[-1] if errors else lines[-1]}; the end of {log}:\n{shown}"
