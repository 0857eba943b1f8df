"""Process pool with hard limits per item: processor time, wall-clock time and memory.

Threads cannot be stopped, and signal handlers don't run inside C code, so graders that compute with SymPy do it here. A
worker is a fresh Python interpreter (`python -m justrl.verifiers.workers MODULE:FUNCTION ...`). So nothing is forked
from a process that holds threads or a GPU, and the caller's main module is not imported again. The worker loads the
function's modules once, then forks a child to do the work, and a new child when one dies. Caller and child exchange
JSON lines, one item at a time. The kernel enforces the child's limits, even if the caller has died:

- processor time per item (SIGPROF ends the child);
- wall-clock time per item (SIGALRM ends the child), much longer, so that a busy machine doesn't change outcomes;
- address space: an allocation beyond it raises MemoryError.

Processes that a child has started, such as a program that tests an answer, end with the child.

Starting a worker also takes processor time, a second or two if SymPy is loaded. So a pool begins with one worker, and
doubles their number once their work, done and expected, exceeds several start-up times (`_Run._more_are_worth_it`).

A pool may also have a budget: wall-clock seconds during which its workers have items, not counting their start-up. Once
it is spent, no further item starts, and waiting items get a GaveUp with NO_TIME_LEFT.

Why not `pebble.ProcessPool` 5.2? It limits only wall-clock time, so a busy machine would change outcomes. It also
replaces a worker that hit a limit by a new process that loads math-verify again. The next item then took 28 s (spawn)
or 5 s (forkserver), compared with 2 s here, measured on one busy machine. Both also import the caller's main module.
"""

import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from justrl.hardware.machine import granted_cores
from justrl.verifiers.outcome import Grade, Grader

START_SECONDS = 300.0
MAX_FAILED_STARTS = 3
MAX_REMEMBERED = 100_000
NO_TIME_LEFT = "no time left"
# Interval at which a run checks whether more workers are worth their start-up time.
LOOK_SECONDS = 0.5


class GaveUp:
    """The result of an item that exceeded a limit; `reason` is the limit."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"GaveUp({self.reason!r})"


class WorkerPool:
    """Runs `target` ("package.module:function", JSON in, JSON out) on items, each within hard limits.

    Args:
        target: a function of one JSON value; a `warm_up` function in its module is called before the first item.
        argument: if given, each child calls `target` with it before its first item, and `target` returns the function
            of one JSON value.
        workers: maximum number of processes, started when worth it; default: the cores of the job, at most 8.
        cpu_seconds: processor time per item.
        wall_seconds: wall-clock time per item; default: ten times the processor time plus 30 seconds.
        memory_mb: address space of one worker.

    `seconds_left` is None, that is without a budget, until the first `grant`.
    """

    def __init__(
        self,
        target: str,
        workers: int | None = None,
        cpu_seconds: float = 5.0,
        wall_seconds: float | None = None,
        memory_mb: int = 3072,
        argument: str | None = None,
    ) -> None:
        self.limit = workers or min(8, granted_cores())
        self.wall_seconds = wall_seconds or 10 * cpu_seconds + 30
        self.target = target
        self.command = [target, str(cpu_seconds), str(self.wall_seconds), str(memory_mb)]
        self.command += [argument] if argument is not None else []
        self._lock = threading.RLock()
        self._asked = 0
        self.seconds_left: float | None = None
        self._budget_lock = threading.Lock()
        self._adopt()

    def _adopt(self) -> None:
        self._owner = os.getpid()
        self._workers: list[_Worker] = []
        # Duration of a start, then the work done and the items finished since the last start.
        self._start_seconds = self._worked = 0.0
        self._finished = 0
        self._finalizer = weakref.finalize(self, _end_all, self._workers, self._owner)

    def map(self, items: Sequence[Any]) -> list[Any]:
        """Results in the order of `items`, a GaveUp for each that exceeded a limit.

        RuntimeError if workers cannot start.
        """
        with self._lock:
            if os.getpid() != self._owner:
                self._adopt()
            try:
                return _Run(self, items).results()
            except BaseException:
                # Interrupted midway: late answers to these items must not be taken for answers to the next call's.
                self.close()
                raise

    def grant(self, seconds: float, at_most: float) -> None:
        """Add seconds to the time budget, capped at `at_most` (also its initial value)."""
        with self._budget_lock:
            left = at_most if self.seconds_left is None else self.seconds_left
            self.seconds_left = min(at_most, left + seconds)

    def spend(self, seconds: float) -> None:
        """Subtract from the time budget, if there is one."""
        with self._budget_lock:
            if self.seconds_left is not None:
                self.seconds_left -= seconds

    def close(self) -> None:
        """End all workers. The pool can be used again afterwards."""
        with self._lock:
            _end_all(self._workers, self._owner)


class PooledGrader(Grader):
    """Base of graders that compare pairs of texts in workers and cache the results.

    A subclass sets `grade_many` and `target`, the function that workers run ("package.module:function").

    Args:
        processes: maximum number of worker processes (default: one per processor, at most 8).
        timeout: processor seconds per comparison in a worker.
    """

    target = ""

    def __init__(self, processes: int | None = None, timeout: float = 5.0) -> None:
        self._pool = WorkerPool(self.target, processes, timeout)
        # Samples of a question repeat each other's answers.
        self._results: dict[tuple[str, str], Any] = {}

    def grade(self, completion: str, gold: str) -> Grade:
        """Grade one completion."""
        return self.grade_many([(completion, gold)])[0]

    def compare(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        """Compare pairs in the worker pool, using cached results.

        A pair that exceeds a limit gets a GaveUp. Thread-safe.
        """
        memory = self._results
        known = {pair: memory[pair] for pair in pairs if pair in memory}
        if new := [pair for pair in dict.fromkeys(pairs) if pair not in known]:
            results = dict(zip(new, self._pool.map(new), strict=True))
            # A pair that never started because time ran out isn't cached, so it can be compared on the next call.
            begun = {
                pair: result
                for pair, result in results.items()
                if not (isinstance(result, GaveUp) and result.reason == NO_TIME_LEFT)
            }
            if len(memory) > MAX_REMEMBERED:
                self._results = {}
            self._results.update(begun)
            known |= results
        return known

    def grant(self, seconds: float, at_most: float) -> None:
        """Extend the time budget of all comparisons by `seconds` (WorkerPool.grant).

        Without a call there is no budget.
        """
        self._pool.grant(seconds, at_most)

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()


def _end_all(workers: list["_Worker"], owner: int) -> None:
    # A forked child holds the same list but not the same children.
    if os.getpid() == owner:
        while workers:
            workers.pop().end()


class _Worker:
    """A worker as seen by its caller: its pipes, its current item, and the deadline after which it counts as hung."""

    def __init__(self, command: list[str]) -> None:
        package_root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker, closed in kill()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "justrl.verifiers.workers", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
            # Its own process group: killed together with its child, and not reached by the terminal's Ctrl-C.
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.ready = False
        self.item: int | None = None
        self.started = time.monotonic()
        self.deadline = self.started + START_SECONDS
        self.buffer = self.unsent = b""
        # Long items don't fit into a pipe: write as much as fits, and the rest when there is room.
        os.set_blocking(self.stdin.fileno(), False)

    def send(self, item: int, line: bytes, deadline: float) -> None:
        self.item, self.deadline, self.unsent = item, deadline, line
        self.send_more()

    def send_more(self) -> None:
        with suppress(BlockingIOError):
            while self.unsent:
                self.unsent = self.unsent[os.write(self.stdin.fileno(), self.unsent) :]

    def read_lines(self) -> list[bytes] | None:
        """Complete lines received so far; None if the worker has ended."""
        chunk = os.read(self.stdout.fileno(), 65_536)
        if not chunk:
            return None
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        return lines

    def error_text(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")[-2000:].strip()

    def end(self) -> None:
        """End an idle worker by closing its pipe; kill a busy or unresponsive one."""
        if self.ready and self.item is None:
            with suppress(OSError, subprocess.TimeoutExpired):
                self.stdin.close()
                self.process.wait(timeout=5)
        self.kill()

    def kill(self) -> None:
        # Each child leads its own group. The worker's group is killed first, so that it starts no new child.
        pid = self.process.pid
        children = _children(pid) if self.process.poll() is None else []
        for group in (pid, *children):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        self.process.wait()
        for stream in (self.stdin, self.stdout, self.errors):
            # Buffered data can no longer be delivered.
            with suppress(OSError):
                stream.close()


class _Run:
    """One call of `WorkerPool.map`: hands out items, collects results, replaces workers that have died."""

    def __init__(self, pool: WorkerPool, items: Sequence[Any]) -> None:
        self.pool = pool
        self.workers = pool._workers
        # Numbering continues from call to call, so a late answer cannot be taken for another item's.
        self.first = pool._asked
        pool._asked += len(items)
        self.lines = [
            (json.dumps([number, item]) + "\n").encode("ascii") for number, item in enumerate(items, self.first)
        ]
        self.done: list[Any] = [None] * len(items)
        self.failed_starts = 0
        self.waiting = deque(range(len(items)))

    def results(self) -> list[Any]:
        with selectors.DefaultSelector() as self.selector:
            for worker in self.workers:
                self.selector.register(worker.stdout, selectors.EVENT_READ, worker)
            while self.waiting or any(worker.item is not None for worker in self.workers):
                if self.pool.seconds_left is not None and self.pool.seconds_left <= 0:
                    for item in self.waiting:
                        self.done[item] = GaveUp(NO_TIME_LEFT)
                    self.waiting.clear()
                self._staff()
                for worker in list(self.workers):
                    self._feed(worker)
                began, working = time.monotonic(), any(worker.item is not None for worker in self.workers)
                busy = [worker.deadline for worker in self.workers if worker.item is not None or not worker.ready]
                wait = min(LOOK_SECONDS, min(busy, default=0.0) - time.monotonic())
                for key, _ in self.selector.select(max(0.0, wait)):
                    if key.fileobj is key.data.stdout:
                        self._collect(key.data)
                    else:
                        self._send_more(key.data)
                now = time.monotonic()
                if working:
                    self.pool._worked += now - began
                    self.pool.spend(now - began)
                for worker in list(self.workers):
                    if (worker.item is not None or not worker.ready) and worker.deadline <= now:
                        self._bury(worker, "no answer")
        return self.done

    def _staff(self) -> None:
        wanted = len(self.waiting) + sum(worker.item is not None for worker in self.workers)
        room = min(self.pool.limit, wanted) - len(self.workers)
        if room <= 0 or not self._more_are_worth_it():
            return
        self.pool._worked, self.pool._finished = 0.0, 0
        for _ in range(min(room, max(1, len(self.workers)))):
            worker = _Worker(self.pool.command)
            self.workers.append(worker)
            self.selector.register(worker.stdout, selectors.EVENT_READ, worker)

    def _more_are_worth_it(self) -> bool:
        """True if the pool's work, done and expected, exceeds four worker start-up times, so that starting more pays.

        Decided once the workers have worked for one start-up time: first items take longest, and a hanging one is a
        reason for more workers. Earlier calls of `map` count, too.
        """
        if not self.workers:
            return True
        start, worked = self.pool._start_seconds, self.pool._worked
        if not all(worker.ready for worker in self.workers) or worked < start:
            return False
        return worked + len(self.waiting) * worked / max(1, self.pool._finished) > 4 * start

    def _feed(self, worker: _Worker) -> None:
        if not (worker.ready and worker.item is None and not worker.unsent and self.waiting):
            return
        item = self.waiting.popleft()
        try:
            # The worker's own timer comes first; this deadline is for a worker that the kernel cannot end.
            worker.send(item, self.lines[item], time.monotonic() + 2 * self.pool.wall_seconds)
        except OSError:
            worker.item = None
            self.waiting.appendleft(item)
            self._bury(worker, "worker died")
            return
        if worker.unsent:
            self.selector.register(worker.stdin, selectors.EVENT_WRITE, worker)

    def _send_more(self, worker: _Worker) -> None:
        if worker not in self.workers:
            return
        # A worker that has died is removed when its output ends.
        with suppress(OSError):
            worker.send_more()
        if not worker.unsent:
            self.selector.unregister(worker.stdin)

    def _collect(self, worker: _Worker) -> None:
        if worker not in self.workers:
            return
        lines = worker.read_lines()
        if lines is None:
            self._bury(worker, "worker died")
            return
        for line in lines:
            self._take(worker, line)

    def _take(self, worker: _Worker, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            # A line cut off by the child's death; the notice of its death follows.
            return
        if "ready" in message:
            worker.ready = True
            self.pool._start_seconds = time.monotonic() - worker.started
            self.failed_starts = 0
        elif worker.item is not None and message.get("item", self.first + worker.item) == self.first + worker.item:
            self.done[worker.item] = message["result"] if "result" in message else GaveUp(message["gave_up"])
            worker.item = None
            self.pool._finished += 1

    def _bury(self, worker: _Worker, reason: str) -> None:
        for stream in (worker.stdout, worker.stdin):
            with suppress(KeyError):
                self.selector.unregister(stream)
        self.workers.remove(worker)
        if worker.item is not None:
            self.done[worker.item] = GaveUp(reason)
        if not worker.ready:
            self.failed_starts += 1
        errors = worker.error_text()
        worker.kill()
        if self.failed_starts >= MAX_FAILED_STARTS:
            raise RuntimeError(f"workers for {self.pool.target} do not start: {errors or reason}")


def _limit_memory(memory_mb: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _children(pid: int) -> list[int]:
    """The running child processes of a process; empty if the system doesn't list them."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _work(
    function: Callable[[Any], Any],
    argument: str | None,
    cpu_seconds: float,
    wall_seconds: float,
    requests: BinaryIO,
    replies: int,
) -> None:
    """Process items in the child until there are no more."""
    os.setpgid(0, 0)
    for name in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(name, signal.SIG_DFL)
    answered = function if argument is None else None
    for line in requests:
        try:
            number, item = json.loads(line)
        except (ValueError, TypeError):
            # The rest of an item whose beginning was read by the previous child.
            continue
        if answered is None:
            # Only once there is an item, so that a child that dies here is attributed to that item.
            signal.setitimer(signal.ITIMER_REAL, wall_seconds)
            answered = function(argument)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        signal.setitimer(signal.ITIMER_REAL, wall_seconds)
        try:
            answer = {"result": answered(item)}
        except (MemoryError, RecursionError) as error:
            answer = {"gave_up": type(error).__name__}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.write(replies, (json.dumps({"item": number, **answer}) + "\n").encode("ascii"))


def serve(
    target: str, cpu_seconds: float, wall_seconds: float, memory_mb: int, argument: str | None = None
) -> NoReturn:
    """Run a worker: load `target`, then keep a child running until the caller closes the pipe."""
    # Libraries may print and read; neither must disturb the messages between caller and child.
    replies, requests = os.dup(1), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _limit_memory(memory_mb)
    module_name, _, attribute = target.partition(":")
    module = import_module(module_name)
    if hasattr(module, "warm_up"):
        module.warm_up()
    os.write(replies, b'{"ready": true}\n')
    while True:
        child = os.fork()
        if child == 0:
            _work(getattr(module, attribute), argument, cpu_seconds, wall_seconds, requests, replies)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        if status == 0:
            # An orderly shutdown of a large interpreter would only delay the caller.
            os._exit(0)
        ended = os.waitstatus_to_exitcode(status)
        reason = {-signal.SIGPROF: "processor time", -signal.SIGALRM: "wall-clock time"}.get(ended, f"exit {ended}")
        os.write(replies, f"\n{json.dumps({'gave_up': reason})}\n".encode("ascii"))


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
