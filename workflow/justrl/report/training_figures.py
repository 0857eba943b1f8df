"""Training curves: one panel per metric, each step as a thin line and its moving mean as a thick one."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from justrl.config import paper
from justrl.errors import UserError
from justrl.report import figure_style as style
from justrl.report.metrics import Rows, read_metrics, run_of, series

DYNAMICS_CSV = Path(__file__).parents[1] / "published_dynamics.csv"

# Two lines look like one if they differ by no more than this share of the axis: about a line's width.
HAIR = 0.01


@dataclass(frozen=True)
class Panel:
    """One metric and how to show it; `published` names the metric that the paper shows instead of it."""

    metric: str
    title: str
    percent: bool = False
    published: str = ""

    @property
    def bands(self) -> list[dict[str, str]]:
        """The values that the paper reports."""
        return [row for row in _dynamics() if row["metric"] == (self.published or self.metric)]

    @property
    def signed(self) -> bool:
        """True if its values can be negative."""
        return self.metric == "reward_mean"


PANELS = {
    "reward": Panel("reward_mean", "Mean reward"),
    "entropy": Panel("entropy", "Policy entropy (nats per token)", published="entropy_as_published"),
    "length": Panel("response_length_mean", "Response length (tokens)"),
    "accuracy": Panel("accuracy", "Rollout accuracy (%)", percent=True),
    "truncation": Panel("response_clip_ratio", "Truncated responses (%)", percent=True),
    "clip_fraction": Panel("clip_fraction", "Tokens with clipped ratio (%)", percent=True),
    "grad_norm": Panel("grad_norm", "Gradient norm before clipping"),
    "learning_rate": Panel("lr", "Learning rate"),
    "throughput": Panel("tokens_per_second", "Throughput (tokens per second)"),
    "step_time": Panel("step_seconds", "Time per step (s)"),
}


def plot_training(
    runs: Mapping[str, Rows], experiment: str, panels: Sequence[str] = ("reward", "entropy", "length"), title: str = ""
) -> Figure:
    """Plot the metrics of one run or several; with `experiment` "paper", the paper's values are in the background.

    Call inside `style.house_style()`. Raises UserError for an unknown panel, or a metric that no run logged.
    """
    unknown = [name for name in panels if name not in PANELS]
    if unknown:
        raise UserError(f"unknown panel {unknown[0]!r}: choose from {', '.join(PANELS)}")
    figure, axes = style.panel_grid(len(panels), (3.6, 2.75), 5.4, header=0.78 if len(runs) > 1 else 0.56)
    window = smoothing_window(runs)
    drawn = zip(axes, (PANELS[name] for name in panels), strict=True)
    dotted = [panel.metric for axis, panel in drawn if _draw_panel(axis, panel, runs, window, experiment)]
    steps = [row["step"] for rows in runs.values() for row in rows]
    subtitle = f"steps {min(steps):,} to {max(steps):,}"
    if experiment == paper.PAPER and (whole := paper.final_steps(paper.setting(next(iter(runs)))) or 0) > max(steps):
        subtitle = f"the paper's recipe, {max(steps):,} of {whole:,} steps"
    what = "Training" if "reward" in panels else "Diagnostics"
    style.add_header(figure, title or f"{what} of {style.joined(list(runs))}", experiment, subtitle)
    if len(runs) > 1:
        looks = [(style.COLORS[i % 7], style.DASHES[i % 7], label) for i, label in enumerate(runs)]
        lines = [Line2D([], [], color=color, linestyle=dashes, label=label) for color, dashes, label in looks]
        style.add_legend(figure, lines, top=0.52)
    footnote = "Each step" if window == 1 else f"Thin: each step. Thick: mean over {window} steps."
    for metric in dotted:
        footnote += f" Dotted: {metric} as the authors' code logs it."
    if experiment == "paper" and any(PANELS[name].bands for name in panels):
        footnote += " Grey: the JustRL paper (arXiv 2512.16649)."
    style.add_footer(figure, footnote)
    return figure


def smoothing_window(runs: Mapping[str, Rows]) -> int:
    """Width of the moving mean in steps: about an eightieth of the longest run; 1 for a run too short to smooth."""
    longest = max(len(rows) for rows in runs.values())
    return 1 if longest < 10 else max(5, 2 * round(longest / 160) + 1)


def moving_mean(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` values, over fewer at both ends; same length as `values`."""
    half, size = window // 2, len(values)
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=float))])
    index = np.arange(size)
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, size)
    return (sums[high] - sums[low]) / (high - low)


def _draw_panel(axis: Axes, panel: Panel, runs: Mapping[str, Rows], window: int, experiment: str) -> bool:
    """Draw a panel; returns whether the metric as the authors' code logs it differs visibly and is drawn dotted."""
    last = max(rows[-1]["step"] for rows in runs.values())
    if experiment == "paper":
        _draw_bands(axis, panel, last)
    as_published = []
    for index, rows in enumerate(runs.values()):
        steps, logged = series(rows, panel.metric)
        if not logged:
            continue
        values = np.array(logged) * (100 if panel.percent else 1)
        look = style.look(index) | {"marker": "o" if len(values) < 10 else None}
        color = look["color"]
        if window > 1:
            axis.plot(steps, values, color=color, linewidth=0.6, alpha=0.4 if len(runs) == 1 else 0.18)
        axis.plot(steps, moving_mean(values, window), markersize=3.5, zorder=3, **look)
        theirs = series(rows, panel.published)
        if theirs[1]:
            as_published.append((color, steps, moving_mean(values, window), theirs[0], moving_mean(theirs[1], window)))
    if not any(series(rows, panel.metric)[1] for rows in runs.values()):
        raise UserError(f"no run logged {panel.metric}: leave its panel out")
    low, high = axis.get_ylim()
    differs = any(
        own_steps != their_steps or np.abs(own - dots).max() > HAIR * (high - low)
        for _, own_steps, own, their_steps, dots in as_published
    )
    for color, _, _, their_steps, dots in as_published if differs else ():
        axis.plot(their_steps, dots, color=color, linestyle=(0, (1, 1.4)), linewidth=1.3, zorder=3)
    axis.set_title(panel.title)
    axis.set_xlabel("Training step")
    axis.set_xlim(0, last * 1.01)
    axis.margins(y=0.08)
    if not panel.signed:
        style.from_zero(axis)
    style.thousands(axis.xaxis)
    if panel.metric in ("response_length_mean", "tokens_per_second"):
        style.thousands(axis.yaxis)
    return differs


def _draw_bands(axis: Axes, panel: Panel, last_step: int) -> None:
    for band in panel.bands:
        low, high = float(band["low"]), float(band["high"])
        after = min(1.0, float(band["first_step"] or 0) / (1.01 * last_step))
        ends = {"whole": (0.0, 1.0), "start": (0.0, 0.3), "late": (0.6, 1.0), "from": (after, 1.0)}
        begin, end = ends[band["extent"]]
        if begin >= 1.0:
            continue
        if low == high:
            axis.axhline(low, begin, end, color=style.MUTED, linewidth=1.1, linestyle=(0, (2, 2)), zorder=1)
        else:
            axis.axhspan(low, high, begin, end, color=style.BAND, alpha=0.3, linewidth=0, zorder=0)
        if band["label"]:
            left = band["extent"] in ("start", "whole")
            below = low == high and left
            place: dict[str, Any] = {"xy": (begin if left else end, high), "xycoords": axis.get_yaxis_transform()}
            offset: dict[str, Any] = {"xytext": (3 if left else -1, -3 if below else 2), "textcoords": "offset points"}
            side: dict[str, Any] = {"ha": "left" if left else "right", "va": "top" if below else "bottom"}
            ink: dict[str, Any] = {"fontsize": 7.5, "color": "#4A4A4A", "path_effects": style.halo(), "zorder": 5}
            axis.annotate(band["label"], **place, **offset, **side, **ink)


@cache
def _dynamics() -> tuple[dict[str, str], ...]:
    return tuple(csv.DictReader(DYNAMICS_CSV.read_text(encoding="utf-8").splitlines()))


def write_training(
    outputs: Mapping[str, Path],
    metrics: Sequence[Path],
    labels: Sequence[str] = (),
    panels: Sequence[str] = ("reward", "entropy", "length"),
    experiment: str | None = None,
    title: str = "",
) -> None:
    """Plot the metrics of one or more runs; `labels` are their names in the figure."""
    described = [run_of(path) for path in metrics]
    names = labels or [str(run["run"]) for run in described]
    if len(names) != len(metrics):
        raise UserError(f"--labels gives {len(names)} names for {len(metrics)} metrics files")
    if len(set(names)) != len(names):
        raise UserError(f"--labels must differ, got {' '.join(names)}")
    stamps = [str(run["experiment"]) for run in described]
    stamp = experiment or paper.together(stamps) or stamps[0]
    runs = {name: read_metrics(path) for name, path in zip(names, metrics, strict=True)}
    style.save_figures(outputs, lambda: plot_training(runs, stamp, panels, title))
