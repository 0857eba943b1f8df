"""The status of an experiment: as text for a terminal, and as one page that a browser loads again by itself."""

import html
import math
import shlex
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from justrl import paper
from justrl.analysis.health import verdict
from justrl.analysis.html_tables import STYLESHEET
from justrl.analysis.metrics import series
from justrl.io import atomic_write
from justrl.operations.planning import duration
from justrl.operations.run_status import CHARTED, RunProgress, findings, headline, render
from justrl.operations.started import Started

# A curve of the page, in pixels, and the most points that it is drawn with.
WIDTH, HEIGHT, POINTS = 340, 120, 300

STYLE = """
body { max-width: 72rem; } h2 { overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
figcaption { font-size: .9rem; } svg { background: #fafafa; border: 1px solid #e6e6e6; max-width: 100%; }
polyline { fill: none; stroke: #0072b2; stroke-width: 1.5; } small { color: #6b6b6b; }
.wrong { color: #a34700; } code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere; }
"""


def text(shown: Started, others: Sequence[Started] = (), width: int = 80, now: float | None = None) -> str:
    """The status as text: which experiment, its runs with charts, its evaluations, and where else to look."""
    lines = [f"experiment {shown.name} in {shown.results}, {state(shown, now)}"]
    lines += [f"  {shown.problem}"] if shown.problem else []
    if shown.runs:
        lines += ["", render(shown.runs, width, now), ""]
    lines += [f"not started: {', '.join(shown.waiting)}"] if shown.waiting else []
    lines += [evaluations(shown)] if shown.evaluations else []
    lines += [f"curves:      {tensorboard(shown)}"] if shown.runs else []
    for other in others:
        lines.append(
            f"also here:   {other.name}, {state(other, now)}: justrl status --results {_quoted(other.results)}"
        )
    return "\n".join(lines)


def state(started: Started, now: float | None = None) -> str:
    """Whether an experiment is being trained, else when something of it last changed."""
    now = time.time() if now is None else now
    if started.running(now):
        return "running"
    return f"last changed {duration(max(0.0, now - started.touched))} ago"


def evaluations(started: Started) -> str:
    """How many results are there, of the whole experiment and of its other targets."""
    parts = [f"{done} of {total} {target}" for target, (done, total) in started.evaluations.items()]
    return "evaluations: " + ", ".join(parts).replace(" all", "", 1)


def tensorboard(started: Started) -> str:
    """The command that shows the curves of all its runs in TensorBoard."""
    return f"tensorboard --logdir {_quoted(started.results / 'runs')}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def write(path: Path, shown: Started, refresh: float, now: float | None = None) -> None:
    """Write the status as one HTML page that needs nothing from elsewhere and is loaded again every `refresh` s."""
    now = time.time() if now is None else now
    title = html.escape(f"{shown.name}: {state(shown, now)}")
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="refresh" content="{max(1, round(refresh))}">',
        f"<title>{title}</title>\n<style>{STYLESHEET}{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>",
    ]
    stamps = [shown.name, *(run.experiment for run in shown.runs)]
    if stamp := paper.mark(paper.together(stamps) or shown.name):
        parts.append(f'<p class="stamp">{html.escape(stamp)}</p>')
    written = datetime.fromtimestamp(now, UTC).isoformat(sep=" ", timespec="seconds")
    parts.append(f'<p class="lead">{html.escape(str(shown.results))}, as of {written}</p>')
    parts += [f'<p class="wrong">{html.escape(shown.problem)}</p>'] if shown.problem else []
    parts += [_run(run, now) for run in shown.runs]
    if shown.waiting:
        parts.append(f"<p>not started: {html.escape(', '.join(shown.waiting))}</p>")
    if shown.evaluations:
        parts.append(f"<p>{html.escape(evaluations(shown))}</p>")
    parts.append(f"<p>curves: <code>{html.escape(tensorboard(shown))}</code></p>\n</body>\n</html>")
    with atomic_write(path) as handle:
        handle.write("\n".join(parts) + "\n")


def _run(run: RunProgress, now: float) -> str:
    wrong = findings(run, now)
    sentences = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in wrong)
    health = (
        f'<ul class="wrong">{sentences}</ul>'
        if wrong
        else f"<p>health: {verdict(run.rows, [])}</p>"
        if run.rows
        else ""
    )
    charts = "".join(_curve(run, metric, label) for metric, label in CHARTED)
    return f'<h2>{html.escape(headline(run))}</h2>\n<div class="charts">{charts}</div>\n{health}'


def _curve(run: RunProgress, metric: str, label: str) -> str:
    """One curve: the values against the step, the newest above it and both ranges below."""
    steps, values = series(run.rows, metric)
    points = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    if not points:
        return ""
    points = points[:: math.ceil(len(points) / POINTS)] + points[-1:]
    (first, last), low, high = (points[0][0], points[-1][0]), min(v for _, v in points), max(v for _, v in points)
    across, up = (last - first) or 1, (high - low) or 1.0
    line = " ".join(
        f"{4 + (step - first) / across * (WIDTH - 8):.1f},{4 + (high - value) / up * (HEIGHT - 8):.1f}"
        for step, value in points
    )
    return (
        f"<figure><figcaption><b>{label}</b> {run.recent(metric) or points[-1][1]:.4g}</figcaption>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'<polyline points="{line}"/></svg><br>'
        f"<small>{low:.4g} to {high:.4g}, steps {first:,} to {last:,}</small></figure>"
    )
