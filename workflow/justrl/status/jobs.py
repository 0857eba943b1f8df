"""Jobs of the workflow, from the files that they write: progress, remaining time, and the messages of failed ones."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from justrl.io import whole_lines
from justrl.plan.planning import duration

# A line of tqdm: "sums 1/1:  45%|████▌     | 90/200 [00:03<00:04, 25.1answer/s, 600 tokens/s]".
BAR = re.compile(r"([\d.]+[kMG]?)/([\d.]+[kMG]?) \[[\d:]+<[\d:?]+, *(.*?)\]\s*$")
# Progress lines of our own loops: "mini: step 10/20, reward +0.5, ...", "step 100/300: loss 0.4, 20 s".
STEP = re.compile(r"^(?:\S+: )?step (\d+)/(\d+)[,:] (.*)")
# An error as `justrl` prints it, or Slurm: "slurmstepd: error: *** JOB 8 ... DUE TO TIME LIMIT ***".
_SENTENCE = re.compile(r"(?:\S+: )?error: (.*)")
# Bytes read from the end of a log and of metrics: more than one line of progress, and some dozens of steps.
TAIL, METRICS_TAIL = 4096, 65536


@dataclass(frozen=True)
class JobProgress:
    """A job's progress: `done` of `total` units, further details, and the seconds left if they are known."""

    done: int
    total: int
    unit: str = ""
    says: str = ""
    seconds_left: float | None = None

    def sentence(self) -> str:
        """The progress as a sentence."""
        left = f"about {duration(self.seconds_left)} left" if self.seconds_left else ""
        return ", ".join(filter(None, [f"{self.unit} {self.done:,} of {self.total:,}".lstrip(), self.says, left]))


def training_progress(metrics: Path, to_step: int, now: float) -> JobProgress | None:
    """Progress and remaining time of a training segment; None before its first step.

    `metrics` is the path where the segment's steps will be published, from which the run's work folder is found. `now`,
    in seconds since the epoch, is compared with the time of the last step: time spent in the current step is
    subtracted, and there is no estimate once that step is overdue.
    """
    ends = [int(path.name) for path in metrics.parents[1].glob("*") if path.name.isdigit()]
    first = max((end for end in ends if end < to_step), default=0)  # the last step of the previous segment
    live = metrics.parents[2] / "work" / "metrics.jsonl"
    rows = [row for row in whole_lines(_end_of(live, METRICS_TAIL)) if isinstance(row.get("step"), int)]
    rows = [row for row in rows if row["step"] <= to_step]
    if not rows or rows[-1]["step"] <= first:
        return None
    step, reward = rows[-1]["step"], rows[-1].get("reward_mean")
    seconds = [row["step_seconds"] for row in rows if isinstance(row.get("step_seconds"), int | float)]
    says = f"reward {reward:+.3f}" if isinstance(reward, int | float) else ""
    left = max(0.0, (to_step - step) * median(seconds) - max(0.0, now - live.stat().st_mtime)) if seconds else None
    return JobProgress(step, to_step, "step", says, left)


def log_progress(log: Path, seconds: float) -> JobProgress | None:
    """Progress of a job that began `seconds` ago, by the last line of progress in its log; None without one."""
    for line in reversed(re.split(r"[\r\n]", _end_of(log, TAIL))):
        found, unit = (bar, "") if (bar := BAR.search(line)) else (STEP.match(line), "step")
        if found and (total := _number(found[2])) > 1:
            done = _number(found[1])
            return JobProgress(done, total, unit, found[3], seconds / done * (total - done) if done else None)
    return None


def _end_of(path: Path, size: int) -> str:
    """The last `size` bytes of a file as text; empty if the file does not exist yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def _number(text: str) -> int:
    """Parse a number of tqdm, which may be "4.00k"."""
    return int(float(text.rstrip("kMG")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1))


def queue_logs(folder: str | Path | None, rule: str, wildcards: Iterable[str]) -> list[Path]:
    """The log of the last attempt at a job, in the log folder of the queue's executor."""
    attempts = Path(folder, f"rule_{rule}", "_".join(wildcards)).glob("*.log") if folder else []
    return sorted(attempts, key=lambda path: path.stat().st_mtime)[-1:]


def messages(failed: Iterable[tuple[str, Sequence[str | Path]]]) -> list[str]:
    """The distinct error messages of failed jobs, given by rule and logs; without any, a job's last line and logs."""
    said: dict[str, None] = {}
    for rule, logs in failed:
        lines = [line for log in logs for line in _text(log).splitlines() if line.strip()]
        # A queued job prints the same message in the rule's log and in the queue's.
        found = [match[1] for line in lines if (match := _SENTENCE.match(line))]
        where = f"see {' and '.join(map(str, logs))}" if logs else "it has no log"
        for words in found or [f"{lines[-1] if lines else 'failed'} ({where})"]:
            said[f"{rule}: {words}"] = None
    return list(said)


def _text(file: str | Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
