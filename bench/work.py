"""What a row of `make bench` is, and how it is measured."""

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
    """What a side made, where it measured itself: processor seconds, and the most extra memory in bytes (0: unknown).

    `elapsed` is by the clock, in seconds (0: unknown). For work in a process of its own, whose start is no part of it.
    """

    result: Any
    seconds: float
    memory: int = 0
    elapsed: float = 0.0


@dataclass(frozen=True)
class Work:
    """Two ways to one result, each returning what it made (or a `Timed` of that).

    `agree` compares what they returned; `floor` says what neither can go below; `target` is the ratio that is wanted.
    At most `rounds` rounds are measured, where one takes long. `library` gives the share of our time that is spent in a
    library which both sides use, where that, and no count, is the floor.
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
    """Peer and ours in turns; what the first turn made is compared.

    Raises UserError: the two results differ.
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
    """What a call made, and its processor seconds: of all threads, and of the processes that it started and awaited."""
    start = _processor_seconds()
    made = call()
    return made if isinstance(made, Timed) else Timed(made, _processor_seconds() - start)


def engine_replies() -> TextIO:
    """Where a script with an engine answers line by line: the standard output that the process began with.

    vLLM and its bars may print; from here on they do so to the standard error, and nothing is taken for an answer. Room
    for keys and values is set, and the tests' tiny model can be imported.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    sys.path.insert(0, str(ROOT / "tests"))
    return replies


def share_within(profile: Path, inside: Callable[[str, str], bool]) -> float:
    """The share of a profile's time in calls of functions that are `inside` (of file and name) by ones that are not.

    A call of `inside` by way of others counts twice, so this is at most too large.
    """
    stats: Any = pstats.Stats(str(profile))  # `stats` and `total_tt` are not declared
    entered = (
        cumulative
        for (file, _, name), (_, _, _, _, callers) in stats.stats.items()
        if inside(file, name)
        for (caller, _, called), (_, _, _, cumulative) in callers.items()
        if not inside(caller, called)
    )
    return sum(entered) / stats.total_tt


def with_memory(call: Callable[[], Any]) -> Timed:
    """`timed`, and the most resident memory that the call added to this process (Linux alone can say)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (proc(5))
    before = _status("VmRSS")
    made = timed(call)
    return Timed(made.result, made.seconds, max(1, _status("VmHWM") - before))


def _status(field: str) -> int:
    """A size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


def _processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
