"""Collect the error messages of failed jobs from their logs, to print them again when Snakemake ends."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# An error as `justrl` prints it, or Slurm: "slurmstepd: error: *** JOB 8 ... DUE TO TIME LIMIT ***".
_SENTENCE = re.compile(r"(?:\S+: )?error: (.*)")


def queue_logs(folder: str | Path | None, rule: str, wildcards: Iterable[str]) -> list[Path]:
    """The log of the last attempt at a job, in the log folder of the queue's executor."""
    attempts = Path(folder, f"rule_{rule}", "_".join(wildcards)).glob("*.log") if folder else []
    return sorted(attempts, key=lambda path: path.stat().st_mtime)[-1:]


def sentences(failed: Iterable[tuple[str, Sequence[str | Path]]]) -> list[str]:
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
