"""How the runs are going, read from their files while they train; nothing is asked of the trainer."""

import json
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

from justrl.analysis.health import COLLAPSE_FACTOR, EXPLOSION_FACTOR, summarize_run
from justrl.analysis.metrics import series

BARS = "▁▂▃▄▅▆▇█"
CHARTED = (("reward_mean", "reward"), ("entropy", "entropy"), ("response_length_mean", "length"))
# Later than this many steps' time without a new line, something is wrong.
STALLED_STEPS = 3
STALLED_SECONDS = 600
ENTROPY_WINDOW = 20


@dataclass(frozen=True)
class RunProgress:
    """One run: its metrics rows by step, where it should end, when it last wrote, and who is training it."""

    name: str
    experiment: str
    rows: list[dict]
    total: int | None = None
    updated: float | None = None
    owner: Mapping = field(default_factory=dict)

    @property
    def step(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def finished(self) -> bool:
        return self.total is not None and self.step >= self.total

    def recent(self, metric: str, last: int = 10) -> float | None:
        """Mean of the last values of a metric, or None where there are none."""
        _, values = series(self.rows[-last:], metric)
        finite = [value for value in values if math.isfinite(value)]
        return fmean(finite) if finite else None

    @property
    def step_seconds(self) -> float | None:
        _, values = series(self.rows[-50:], "step_seconds")
        return median(values) if values else None

    @property
    def seconds_left(self) -> float | None:
        if self.total is None or self.step_seconds is None:
            return None
        return max(0, self.total - self.step) * self.step_seconds


def find_runs(results: str | Path) -> list[Path]:
    """Folders of runs under a results folder or one level below it (`results/mini`)."""
    results = Path(results)
    found = {path.parent for pattern in ("runs/*/run.json", "*/runs/*/run.json") for path in results.glob(pattern)}
    return sorted(found)


def read_run(folder: str | Path, total: int | None = None) -> RunProgress:
    """Read a run's published and live metrics; a step that is in both counts once, a torn last line not at all."""
    folder = Path(folder)
    described = _read_json(folder / "run.json")
    published = sorted((folder / "segments").glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    live = sorted((folder / "work").glob("**/metrics*.jsonl"), key=lambda path: path.stat().st_mtime)
    rows: dict[int, dict] = {}
    for path in [*live, *published]:
        rows.update({row["step"]: row for row in _rows(path)})
    newest = max((path.stat().st_mtime for path in [*published, *live]), default=None)
    return RunProgress(
        folder.name,
        described.get("experiment", "?"),
        [rows[step] for step in sorted(rows)],
        total,
        newest,
        _read_json(folder / "work" / "LOCK"),
    )


def _rows(path: Path) -> list[dict]:
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def findings(run: RunProgress, now: float | None = None) -> list[str]:
    """What is wrong with a run, one sentence each; an empty list is a healthy run."""
    if not run.rows:
        return []
    found = [f["sentence"] for f in summarize_run(run.rows, run.experiment)["findings"] if f["name"] != "missing"]
    # The last tenth of a long run hides a collapse for weeks, so the newest steps are looked at as well.
    recent = run.recent("entropy", ENTROPY_WINDOW)
    _, entropies = series(run.rows[:ENTROPY_WINDOW], "entropy")
    if recent is not None and entropies and not any("entropy" in sentence for sentence in found):
        first = fmean(entropies)
        if recent < first * COLLAPSE_FACTOR or recent > first * EXPLOSION_FACTOR:
            what = "collapsed" if recent < first else "ran away"
            found.append(
                f"entropy {what} in the last {ENTROPY_WINDOW} steps: {first:.3g} at the start, {recent:.3g} now"
            )
    found += _non_finite(run)
    silence = (now or time.time()) - (run.updated or 0)
    patience = max(STALLED_SECONDS, STALLED_STEPS * (run.step_seconds or 0))
    if not run.finished and silence > patience:
        found.insert(0, f"no step for {duration(silence)}, {owner_state(run.owner)}: look at the log of train_segment")
    return found


def _non_finite(run: RunProgress) -> list[str]:
    for row in run.rows:
        bad = [
            name
            for name in ("reward_mean", "entropy", "grad_norm")
            if name in row and not (isinstance(row[name], int | float) and math.isfinite(row[name]))
        ]
        if bad:
            return [f"{', '.join(bad)} not finite since step {row['step']}"]
    return []


def owner_state(owner: Mapping) -> str:
    """Who holds the run's lock, and whether they can be alive, as far as this machine can tell."""
    if not owner:
        return "nobody is training"
    host, pid, job = owner.get("host"), owner.get("pid"), owner.get("slurm_job_id")
    who = f"held by {f'Slurm job {job}' if job else f'process {pid}'} on {host}"
    if host == socket.gethostname() and isinstance(pid, int):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return f"{who}, which is dead"
        except PermissionError:
            pass
    return who


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """A chart of one line: the values averaged into `width` columns, lowest to highest."""
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return ""
    columns = min(width, len(values))
    edges = [round(index * len(values) / columns) for index in range(columns + 1)]
    means = [fmean(values[start:end]) for start, end in pairwise(edges)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int((mean - low) / span * len(BARS)))] for mean in means)


def duration(seconds: float) -> str:
    """A time span as one would say it: 45 s, 12 min, 7.5 h, 23 days."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def render(runs: Sequence[RunProgress], width: int = 60, now: float | None = None) -> str:
    """All runs as text: a line of figures, a chart of reward, entropy and length, and what is wrong."""
    if not runs:
        return "no run has started yet"
    return "\n\n".join(_render_run(run, width, now) for run in runs)


def _render_run(run: RunProgress, width: int, now: float | None) -> str:
    of = f" of {run.total:,}" if run.total else ""
    if not run.rows:
        return f"{run.name} ({run.experiment})  step 0{of}, {owner_state(run.owner)}"
    parts = [f"step {run.step:,}{of}"]
    if run.total:
        parts[0] += f" ({run.step / run.total:.0%})"
    if run.step_seconds is not None:
        parts.append(f"{run.step_seconds:,.1f} s/step")
    speed = run.recent("tokens_per_second")
    if speed is not None:
        parts.append(f"{speed:,.0f} tokens/s")
    if run.finished:
        parts.append("finished")
    elif run.seconds_left is not None:
        parts.append(f"{duration(run.seconds_left)} left")
    lines = [f"{run.name} ({run.experiment})  " + "  ".join(parts)]
    for metric, label in CHARTED:
        _, values = series(run.rows, metric)
        if values:
            lines.append(f"  {label:<8}{run.recent(metric):>9.4g}  {sparkline(values, width)}  from {values[0]:.4g}")
    truncated = run.recent("response_clip_ratio")
    if truncated is not None:
        lines.append(f"  {'cut off':<8}{truncated:>9.1%}  of the responses reach the length limit")
    wrong = findings(run, now)
    lines += [f"  health  {sentence}" for sentence in wrong] or ["  health  good"]
    return "\n".join(lines)
