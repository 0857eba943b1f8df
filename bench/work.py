"""Benchmark rows of `make bench`, and how they are measured."""

import os
import pstats
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from justrl.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Timed:
    """The result of a side that measures itself: processor seconds, and peak extra memory in bytes (0: unknown).

    `elapsed` is in seconds (0: unknown). For work in a separate process, whose start is not included.
    """

    result: Any
    seconds: float
    memory: int = 0
    elapsed: float = 0.0


@dataclass(frozen=True)
class Work:
    """Two ways to get one result; each returns it, or a `Timed` with it.

    `agree` compares the two results. `floor` describes the work that neither way can avoid. `target` is the ratio to
    reach. At most `rounds` rounds are measured, fewer for slow work. `library` returns the share of our time in a
    library that both sides use, if that is the floor.
    """

    name: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agree: Callable[[Any, Any], bool]
    floor: str
    target: float
    rounds: int = 7
    library: Callable[[], float] | None = None


def measure(work: Work, rounds: int) -> dict[str, Any]:
    """Measure the peer and ours in turns; the results of the first turn are compared.

    Raises UserError if the two results differ.
    """
    pairs: list[tuple[float, float]] = []
    memory, elapsed = [], []
    for number in range(min(rounds, work.rounds)):
        theirs, ours = timed(work.theirs), timed(work.ours)
        if not number and not work.agree(ours.result, theirs.result):
            raise UserError(f"{work.name}: ours and {work.peer} made different results, so their times say nothing")
        pairs.append((theirs.seconds, ours.seconds))
        memory += [theirs.memory / ours.memory] if ours.memory else []
        elapsed += [theirs.elapsed / ours.elapsed] if ours.elapsed else []
    ratios = [theirs / ours for theirs, ours in pairs]
    return {
        "peer_seconds": statistics.median(theirs for theirs, _ in pairs),
        "our_seconds": statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "greatest": max(ratios),
        "memory_ratio": statistics.median(memory) if memory else None,
        "elapsed_ratio": statistics.median(elapsed) if elapsed else None,
        "library_share": work.library() if work.library else None,
    }


def timed(call: Callable[[], Any]) -> Timed:
    """The result of a call and its processor seconds, including all threads and its finished child processes."""
    start = _processor_seconds()
    made = call()
    return made if isinstance(made, Timed) else Timed(made, _processor_seconds() - start)


def engine_replies() -> TextIO:
    """The stream on which a script with an engine answers line by line: the process's original standard output.

    From here on, output of vLLM and its progress bars goes to standard error, so that it cannot be taken for an answer.
    Also sets the size of the key-value cache, and makes the tests' tiny model importable.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    sys.path.insert(0, str(ROOT / "tests"))
    return replies


def share_within(profile: Path, inside: Callable[[str, str], bool]) -> float:
    """The share of a profile's time in functions for which `inside(file, name)` is true, called from other functions.

    Nested calls through other functions count twice, so the share may be too large, never too small.
    """
    stats: Any = pstats.Stats(str(profile))  # typeshed does not declare `stats` and `total_tt`
    entered = (
        cumulative
        for (file, _, name), (_, _, _, _, callers) in stats.stats.items()
        if inside(file, name)
        for (caller, _, called), (_, _, _, cumulative) in callers.items()
        if not inside(caller, called)
    )
    return sum(entered) / stats.total_tt


def with_memory(call: Callable[[], Any]) -> Timed:
    """Like `timed`, with the peak resident memory that the call added to this process (Linux only)."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak (proc(5))
    before = _status("VmRSS")
    made = timed(call)
    return Timed(made.result, made.seconds, max(1, _status("VmHWM") - before))


def _status(field: str) -> int:
    """A memory size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


def _processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
