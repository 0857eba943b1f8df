"""How far a job of the workflow is and how long it will take, from the files that it writes while it works."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from justrl.io import whole_lines

# A line of tqdm: "sums 1/1:  45%|████▌     | 90/200 [00:03<00:04, 25.1answer/s, 600 tokens/s]".
BAR = re.compile(r"([\d.]+[kMG]?)/([\d.]+[kMG]?) \[[\d:]+<([\d:]+|\?), *(.*?)\]\s*$")
# What our own loops say every few steps: "mini: step 10/20, reward +0.5, ...", "step 100/300: loss 0.4, 20 s".
STEP = re.compile(r"^(?:\S+: )?step (\d+)/(\d+)[,:] (.*)")
THOUSANDS = {"k": 1e3, "M": 1e6, "G": 1e9}
# Of a log and of metrics, the last so many bytes: more than a line of progress, and some dozens of steps. Both are read
# twice a second, for weeks.
TAIL, METRICS_TAIL = 4096, 65536


@dataclass(frozen=True)
class HowFar:
    """A job's progress: `done` of `total` units, what else there is to say, and the seconds left if they are known."""

    done: int
    total: int
    unit: str = ""
    says: str = ""
    seconds_left: float | None = None


def of_training(metrics: Path, to_step: int, now: float) -> HowFar | None:
    """How far a segment of training is: `metrics` is where its steps shall be published, beside the run's work folder.

    None before its first step. `now`, in seconds of the clock, is held against the last step's: one that takes long
    leaves less, and in the end nothing that could be said.
    """
    first = _previous_end(metrics, to_step)
    live = metrics.parents[2] / "work" / "metrics.jsonl"
    rows = [row for row in whole_lines(_end_of(live, METRICS_TAIL)) if isinstance(row.get("step"), int)]
    rows = [row for row in rows if row["step"] <= to_step]
    if not rows or rows[-1]["step"] <= first:
        return None
    step, reward = rows[-1]["step"], rows[-1].get("reward_mean")
    seconds = [row["step_seconds"] for row in rows if isinstance(row.get("step_seconds"), int | float)]
    says = f"reward {reward:+.3f}" if isinstance(reward, int | float) else ""
    since = max(0.0, now - live.stat().st_mtime)
    left = max(0.0, (to_step - step) * median(seconds) - since) if seconds else None
    return HowFar(step, to_step, "step", says, left)


def _previous_end(metrics: Path, to_step: int) -> int:
    """The step that the segment before this one ended with."""
    ends = [int(path.name) for path in metrics.parents[1].glob("*") if path.name.isdigit()]
    return max((end for end in ends if end < to_step), default=0)


def of_log(log: Path) -> HowFar | None:
    """How far a job is by the last line of progress in its log; None where there is none."""
    for line in reversed(re.split(r"[\r\n]", _end_of(log, TAIL))):
        if (found := BAR.search(line)) and _number(found[2]) > 1:
            return HowFar(_number(found[1]), _number(found[2]), says=found[4], seconds_left=_seconds(found[3]))
        if found := STEP.match(line):
            return HowFar(int(found[1]), int(found[2]), "step", found[3])
    return None


def _end_of(path: Path, size: int) -> str:
    """The last `size` bytes of a file as text; nothing where it is not there yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _number(text: str) -> int:
    """A number of tqdm, which may be "4.00k"."""
    return int(float(text.rstrip("kMG")) * THOUSANDS.get(text[-1], 1))


def _seconds(clock: str) -> float | None:
    """Seconds of tqdm's "1:02:03"."""
    if "?" in clock:
        return None
    total = 0
    for part in clock.split(":"):
        total = 60 * total + int(part)
    return float(total)


def earlier_seconds(timing: Path) -> list[float]:
    """How long jobs of the same rule took, from the timings that Snakemake has left beside this job's own."""
    found = []
    for path in timing.parent.glob("*.tsv"):
        try:
            found += [float(line.split("\t")[0]) for line in path.read_text().splitlines()[1:2]]
        except (OSError, ValueError):
            continue
    return found


@dataclass
class LogReader:
    """What a job says in its log, as it says it: whole lines without those that only tell its progress."""

    log: Path
    _at: int = field(default=0)

    def lines(self) -> Iterator[str]:
        """The lines that were written since the last call."""
        try:
            with self.log.open("rb") as file:
                if file.seek(0, 2) < self._at:
                    self._at = 0
                file.seek(self._at)
                new = file.read()
        except OSError:
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._at += len(whole)
        yield from _said(whole.decode(errors="replace").split("\n"))


def _said(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        # What tqdm has overwritten ends in a carriage return.
        last = line.rstrip("\r").rsplit("\r", 1)[-1]
        if last.strip() and not BAR.search(last) and not STEP.match(last):
            yield last
