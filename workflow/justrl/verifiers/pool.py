"""Worker processes with hard limits: a computation that hangs is killed, and nobody waits for it.

Threads cannot be stopped and signal handlers do not run inside C code, so graders that compute with SymPy do it here.
Each worker is a fresh Python interpreter (`python -m justrl.verifiers.pool MODULE:FUNCTION`), so nothing is forked
from a process that holds threads or a GPU, and the caller's main module is not imported again. Parent and worker speak
JSON lines. Three limits hold for each item:

- processor time, by the kernel: SIGPROF ends the worker, also where its parent is gone;
- wall-clock time, by the parent, which kills the worker; it is four times as long, so that a busy machine does not
  change verdicts;
- address space, by the kernel: an allocation beyond it raises MemoryError in the worker.

The worker that died is replaced, and the items that waited behind the bad one are given to others.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

WALL_FACTOR = 4.0
START_SECONDS = 180.0
MAX_FAILED_STARTS = 3
# What may lie in a worker's pipe at once: well under the 64 KiB that Linux lets a writer put in without waiting.
QUEUE_ITEMS = 16
QUEUE_BYTES = 32_768
MAX_ITEM_BYTES = 60_000


class GaveUp:
    """Stands for the result of an item that ran into a limit; `reason` says which."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"GaveUp({self.reason!r})"


class _Worker:
    """One interpreter, the items it has been sent, and the moment at which the first of them is overdue."""

    def __init__(self, target: str, cpu_seconds: float, memory_mb: int) -> None:
        package_root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker, closed in kill()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "justrl.verifiers.pool", target, str(cpu_seconds), str(memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        )
        self.ready = False
        self.deadline = time.monotonic() + START_SECONDS
        self.sent: deque[tuple[int, int]] = deque()
        self.buffer = b""

    def send(self, index: int, line: bytes) -> None:
        self.process.stdin.write(line)
        self.process.stdin.flush()
        self.sent.append((index, len(line)))

    def has_room(self) -> bool:
        return not self.sent or (len(self.sent) < QUEUE_ITEMS and sum(size for _, size in self.sent) < QUEUE_BYTES / 2)

    def read_lines(self) -> list[bytes] | None:
        """Lines that have arrived, or None once the worker is gone."""
        chunk = os.read(self.process.stdout.fileno(), 65_536)
        if not chunk:
            return None
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        return lines

    def error_text(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode("utf-8", "replace")[-2000:].strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            # What was still buffered has nowhere to go.
            with suppress(OSError):
                stream.close()


def _kill_all(workers: list[_Worker], owner: int) -> None:
    # A forked child holds the same list but not the same children.
    if os.getpid() == owner:
        while workers:
            workers.pop().kill()


class WorkerPool:
    """Runs `target` ("package.module:function", JSON in, JSON out) on items, each within hard limits.

    Args:
        target: a function of one JSON value; a `warm_up` function in its module is called before the first item.
        workers: most processes at once, started when needed; default: the processors at hand, at most 8.
        cpu_seconds: processor time one item may take.
        memory_mb: address space of one worker.
    """

    def __init__(
        self, target: str, workers: int | None = None, cpu_seconds: float = 5.0, memory_mb: int = 3072
    ) -> None:
        self.target = target
        self.limit = workers or min(8, len(os.sched_getaffinity(0)))
        self.cpu_seconds = cpu_seconds
        self.memory_mb = memory_mb
        self._lock = threading.RLock()
        self._adopt()

    def _adopt(self) -> None:
        self._owner = os.getpid()
        self._workers: list[_Worker] = []
        self._finalizer = weakref.finalize(self, _kill_all, self._workers, self._owner)

    def map(self, items: Sequence[Any]) -> list[Any]:
        """Results in the order of `items`; a GaveUp where a limit was met. RuntimeError if workers cannot start."""
        with self._lock:
            if os.getpid() != self._owner:
                self._adopt()
            try:
                return _Run(self, items).results()
            except BaseException:
                # Interrupted half-way: answers to old questions must not be taken for answers to the next.
                self.close()
                raise

    def close(self) -> None:
        """End all workers. The pool can be used again."""
        with self._lock:
            _kill_all(self._workers, self._owner)


class _Run:
    """One call of `WorkerPool.map`: hands out items, collects results, replaces the dead."""

    def __init__(self, pool: WorkerPool, items: Sequence[Any]) -> None:
        self.pool = pool
        self.lines = [(json.dumps(item) + "\n").encode("ascii") for item in items]
        self.done: list[Any] = [None] * len(items)
        self.failed_starts = 0
        self.waiting: deque[int] = deque()
        for index, line in enumerate(self.lines):
            if len(line) > MAX_ITEM_BYTES:
                self.done[index] = GaveUp("too long")
            else:
                self.waiting.append(index)

    def results(self) -> list[Any]:
        workers = self.pool._workers
        with selectors.DefaultSelector() as selector:
            for worker in workers:
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            while self.waiting or any(worker.sent for worker in workers):
                self._staff(selector)
                for worker in list(workers):
                    self._feed(worker, selector)
                busy = [worker.deadline for worker in workers if worker.sent or not worker.ready]
                pause = max(0.0, min(busy, default=0.0) - time.monotonic())
                for key, _ in selector.select(pause):
                    self._collect(key.data, selector)
                now = time.monotonic()
                for worker in list(workers):
                    if (worker.sent or not worker.ready) and worker.deadline <= now:
                        self._bury(worker, selector, "wall-clock time")
        return self.done

    def _staff(self, selector: selectors.BaseSelector) -> None:
        pool = self.pool
        wanted = min(pool.limit, len(self.waiting) + sum(bool(worker.sent) for worker in pool._workers))
        while len(pool._workers) < wanted:
            worker = _Worker(pool.target, pool.cpu_seconds, pool.memory_mb)
            pool._workers.append(worker)
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

    def _feed(self, worker: _Worker, selector: selectors.BaseSelector) -> None:
        while worker.ready and self.waiting and worker.has_room():
            if not worker.sent:
                worker.deadline = time.monotonic() + WALL_FACTOR * self.pool.cpu_seconds
            index = self.waiting.popleft()
            try:
                worker.send(index, self.lines[index])
            except OSError:
                self.waiting.appendleft(index)
                self._bury(worker, selector, "worker died")

    def _collect(self, worker: _Worker, selector: selectors.BaseSelector) -> None:
        if worker not in self.pool._workers:
            return
        lines = worker.read_lines()
        if lines is None:
            self._bury(worker, selector, "processor time or memory")
            return
        for line in lines:
            if not worker.ready:
                worker.ready = True
                self.failed_starts = 0
                continue
            answer = json.loads(line)
            index, _ = worker.sent.popleft()
            self.done[index] = answer["result"] if "result" in answer else GaveUp(answer["error"])
            worker.deadline = time.monotonic() + WALL_FACTOR * self.pool.cpu_seconds

    def _bury(self, worker: _Worker, selector: selectors.BaseSelector, reason: str) -> None:
        selector.unregister(worker.process.stdout)
        self.pool._workers.remove(worker)
        if not worker.ready:
            self.failed_starts += 1
        elif worker.sent:
            index, _ = worker.sent.popleft()
            self.done[index] = GaveUp(reason)
            self.waiting.extendleft(index for index, _ in reversed(worker.sent))
        errors = worker.error_text()
        worker.kill()
        if self.failed_starts >= MAX_FAILED_STARTS:
            raise RuntimeError(f"workers for {self.pool.target} do not start: {errors or reason}")


def _limit_memory(memory_mb: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(function: Callable[[Any], Any], item: Any) -> dict[str, Any]:
    try:
        return {"result": function(item)}
    except (MemoryError, RecursionError) as error:
        return {"error": type(error).__name__}


def serve(target: str, cpu_seconds: float, memory_mb: int) -> None:
    """Be a worker: read JSON lines from standard input until it ends, write one JSON line for each."""
    # Libraries may print; what they print must not be taken for an answer.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _limit_memory(memory_mb)
    module_name, _, attribute = target.partition(":")
    module = import_module(module_name)
    if hasattr(module, "warm_up"):
        module.warm_up()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies.write(b"ready\n")
    for line in sys.stdin.buffer:
        item = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        answer = _answer(getattr(module, attribute), item)
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write((json.dumps(answer) + "\n").encode("ascii"))


if __name__ == "__main__":
    serve(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
