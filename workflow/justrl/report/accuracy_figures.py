"""Figures of accuracy: over the training steps, next to the published figures, and pass@k against k."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from justrl.config import paper
from justrl.config.published import select_published
from justrl.errors import UserError
from justrl.evaluation.statistics import pass_at_k_interval
from justrl.report import figure_style as style
from justrl.report.html_tables import model_label
from justrl.report.results import (
    Result,
    benchmark_label,
    experiment_of,
    graded_by_model,
    load_results,
    ordered_benchmarks,
)

LEGEND_SPACING = {"handletextpad": 0.2, "columnspacing": 1.6}


def plot_checkpoints(
    results: Sequence[Result], experiment: str, family: str | None = None, grader: str | None = None, title: str = ""
) -> Figure:
    """Plot accuracy over training steps, one panel per benchmark, one line per run; step 0 is the base model.

    If `experiment` is "paper" and the results use its protocol, the published figures of `family` are drawn as open
    diamonds at their steps. `family` defaults to the one that the results name.
    """
    results = [result for result in results if result.step is not None]
    if not results:
        raise UserError("no result has a checkpoint step: the figure needs results of a run, e.g. deepseek@1000")
    benchmarks = ordered_benchmarks(results)
    runs = list(dict.fromkeys(result.run for result in results))
    family = family or next((r.data["published"]["family"] for r in results if r.data.get("published")), None)
    alike = experiment == paper.PAPER and not any(list(paper.result_differences(result.data)) for result in results)
    published = alike and bool(family and select_published(family))
    entries = _entries(runs)
    if published:
        entries.append(("published (JustRL paper)", style.INK, "D", False))
    header = 0.78 if len(entries) > 1 else 0.56
    figure, axes = style.panel_grid(len(benchmarks), (3.5, 2.5), 5.6, header, sharex=True)
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        shown = sorted((r for r in results if r.benchmark == benchmark), key=lambda result: result.step or 0)
        for index, run in enumerate(runs):
            _draw_line(axis, [result for result in shown if result.run == run], grader, index, len(runs))
        if published and family:
            _draw_published_steps(axis, family, benchmark)
        axis.set_title(f"{benchmark_label(shown[0])}, avg@{shown[0].data['samples_per_question']} (%)")
        axis.margins(x=0.04, y=0.1)
        style.from_zero(axis)
        axis.tick_params(labelbottom=True)
        style.thousands(axis.xaxis)
    for axis in axes[-3:]:
        axis.set_xlabel("Training step (0: base model)")
    subtitle = f"grader: {grader or results[0].headline}"
    style.add_header(figure, title or f"Accuracy of {style.joined(runs)} over training", experiment, subtitle)
    if len(entries) > 1:
        _add_legend(figure, entries)
    style.add_footer(figure, "Bars: 95% interval over questions (bootstrap, clustered by question).")
    return figure


def _draw_line(axis: Axes, points: Sequence[Result], grader: str | None, index: int, count: int) -> None:
    if not points:
        return
    steps = np.array([point.step or 0 for point in points])
    averages = [point.average(grader) for point in points]
    values, low, high = (100 * np.array([each[key] for each in averages]) for key in ("value", "ci_low", "ci_high"))
    # Shift the runs by about a hundredth of the axis, so that their error bars do not overlap.
    shift = (index - (count - 1) / 2) * 0.012 * max(1, max(steps))
    bars = np.maximum(0.0, [values - low, high - values])
    sizes: dict[str, Any] = {"linewidth": 1.4, "elinewidth": 1.0, "markersize": 4.5}
    axis.errorbar(steps + shift, values, yerr=bars, zorder=3, **sizes, **style.look(index))


def _draw_published_steps(axis: Axes, family: str, benchmark: str) -> None:
    base, trained = (select_published(family, benchmark, kind, reevaluation=False) for kind in ("base", "justrl"))
    steps = [figure.step or 0 for figure in (*base, *trained)]
    values = [100 * figure.accuracy for figure in (*base, *trained)]
    edge: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": style.INK, "markeredgewidth": 1.0}
    axis.plot(steps, values, "D", markersize=4.5, zorder=4, **edge)


@dataclass(frozen=True)
class Lane:
    """One line of points in each row of the figure: one of our models under one grader."""

    label: str
    color: str
    marker: str
    cells: Sequence


def plot_comparison(cells: Sequence, family: str, experiment: str, title: str = "") -> Figure:
    """Plot one row per benchmark and one lane per model of ours, with the published figures as vertical bars.

    A lane shows the primary grader. Where the primary grader adds a judge model, a second lane shows the rules alone. A
    published figure crosses the lanes of the models that it is compared with: the base model, or the trained models.
    """
    cells = [c for c in cells if c.reference in ("paper", "reevaluation")]
    published = paper.experiment_of(experiment) == paper.PAPER and any(c.published is not None for c in cells)
    lanes = _lanes(cells, "ours: " if published else "")
    labels = {c.benchmark: c.label for c in cells}
    names = list(labels)
    legend_lines = ceil(len(lanes) / 2) + published
    header = 0.42 + 0.2 * legend_lines
    row = 0.17 + 0.17 * len(lanes)
    height = max(1.0, row * len(names)) + 0.5 + header + style.FOOTER
    figure = style.new_figure(7.2, height, header, style.FOOTER)
    axis = figure.subplots()
    pitch = 0.82 / len(lanes)
    for position, name in enumerate(names):
        if position % 2 == 0:
            axis.axhspan(position - 0.5, position + 0.5, color="#F4F4F4", linewidth=0, zorder=0)
        for place, lane in enumerate(lanes):
            height = position + (place - (len(lanes) - 1) / 2) * pitch
            found = [cell for cell in lane.cells if cell.benchmark == name]
            for cell in found:
                if published and cell.published is not None:
                    _draw_published(axis, cell, height, pitch)
            if found:
                _draw_ours(axis, found[0], height, lane)
    axis.set_yticks(range(len(names)), [labels[name] for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#DCDCDC")
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("Accuracy, avg@k (%)")
    axis.margins(x=0.03)
    what = "our scores and the published ones" if published else "accuracy before and after training"
    style.add_header(figure, title or f"{family}: {what}", experiment)
    _add_legend(figure, [(lane.label, lane.color, lane.marker, True) for lane in lanes], columns=2, top=0.40)
    if published:
        both = ((style.INK, "JustRL paper"), (style.COLORS[3], "re-evaluation, ± 1 standard deviation"))
        line: dict[str, Any] = {"marker": "|", "linestyle": "", "markersize": 9, "markeredgewidth": 2}
        handles = [Line2D([], [], color=color, label=label, **line) for color, label in both]
        style.add_legend(figure, handles, 0.40 + 0.2 * ceil(len(lanes) / 2), columns=2, **LEGEND_SPACING)
    style.add_footer(figure, "Lines: 95% interval over questions (bootstrap, clustered by question).")
    return figure


def _lanes(cells: Sequence, whose: str) -> list[Lane]:
    models = sorted({(c.run, c.step) for c in cells}, key=lambda m: (m[1] is None, m[1] or 0, m[0]))
    lanes: list[Lane] = []
    for run, step in models:
        mine = [c for c in cells if (c.run, c.step) == (run, step)]
        graders = list(dict.fromkeys(c.grader for c in mine if c.headline))
        if step != 0 and all(map(graded_by_model, graders)) and any(c.grader == "paper_rules" for c in mine):
            graders.append("paper_rules")
        for grader in graders:
            label = f"{whose}{model_label(run, step)}" + (f" ({grader})" if len(graders) > 1 else "")
            index = len([lane for lane in lanes if lane.color != style.MUTED])
            color, marker = (style.MUTED, "o") if step == 0 else (style.COLORS[index % 7], style.MARKERS[1 + index % 6])
            lanes.append(Lane(label, color, marker, [cell for cell in mine if cell.grader == grader]))
    return lanes


def _draw_published(axis: Axes, cell, height: float, pitch: float) -> None:
    value, ends = 100 * cell.published, [height - 0.5 * pitch, height + 0.5 * pitch]
    color = style.INK if cell.reference == "paper" else style.COLORS[3]
    axis.plot([value] * 2, ends, color=color, linewidth=2.0, solid_capstyle="butt", zorder=2)
    if cell.reference != "paper":
        spread = 100 * cell.published_error
        axis.fill_betweenx(ends, value - spread, value + spread, color=color, alpha=0.3, linewidth=0)


def _draw_ours(axis: Axes, cell, height: float, lane: Lane) -> None:
    low, high = 100 * cell.ci_low, 100 * cell.ci_high
    axis.plot([low, high], [height, height], color=lane.color, linewidth=1.3, solid_capstyle="butt", zorder=3)
    edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    axis.plot([100 * cell.value], [height], lane.marker, markersize=6, color=lane.color, zorder=4, **edge)


def _entries(labels: Iterable[str]) -> list[tuple]:
    """The legend's entry of each series."""
    return [(label, style.COLORS[i % 7], style.MARKERS[i % 7], True) for i, label in enumerate(labels)]


def _add_legend(figure: Figure, entries: Sequence[tuple], columns: int = 4, top: float = 0.56) -> None:
    """Add a legend of markers below the header: entries are (label, color, marker, filled); `top` is in inches."""
    shape: dict[str, Any] = {"linestyle": "", "markersize": 5, "markeredgewidth": 1.1}
    handles = [
        Line2D([], [], color=color, marker=marker, markerfacecolor=color if filled else "white", label=label, **shape)
        for label, color, marker, filled in entries
    ]
    style.add_legend(figure, handles, top, columns, **LEGEND_SPACING)


def plot_pass_at_k(results: Sequence[Result], experiment: str, grader: str | None = None, title: str = "") -> Figure:
    """Plot unbiased pass@k for every k, one panel per benchmark, one line per model; k on a logarithmic axis.

    Raises UserError if no result has pass@k for more than one k.
    """
    drawable = [result for result in results if len(_curve(result, grader)) > 1]
    if not drawable:
        raise UserError("no result has pass@k beyond k = 1: sample more than one answer per question")
    benchmarks = ordered_benchmarks(drawable)
    models = sorted({(r.run, r.step) for r in drawable}, key=lambda m: (m[1] is None, m[1] or 0, m[0]))
    figure, axes = style.panel_grid(len(benchmarks), (3.5, 2.5), 5.6, header=0.78)
    for axis, benchmark in zip(axes, benchmarks, strict=True):
        shown = sorted((r for r in drawable if r.benchmark == benchmark), key=lambda r: models.index((r.run, r.step)))
        for result in shown:
            _draw_curve(axis, result, grader, models.index((result.run, result.step)), len(models))
        _finish(axis, shown, grader)
    runs = style.joined(list(dict.fromkeys(result.run for result in drawable)))
    subtitle = f"grader: {grader or drawable[0].headline}"
    style.add_header(figure, title or f"pass@k of {runs}", experiment, subtitle)
    _add_legend(figure, _entries(model_label(*model) for model in models))
    note = "Share of questions solved by at least one of k answers (unbiased estimate)."
    if any(result.scores(grader) for result in drawable):
        note += " Bars: 95% interval over questions."
    style.add_footer(figure, note)
    return figure


def _curve(result: Result, grader: str | None) -> dict[int, float]:
    values = result.data["graders"].get(grader or result.headline, {}).get("pass_at_k") or {}
    return {int(k): value for k, value in sorted(values.items(), key=lambda item: int(item[0]))}


def _draw_curve(axis: Axes, result: Result, grader: str | None, index: int, count: int) -> None:
    curve = _curve(result, grader)
    # Shift the lines by a few hundredths of a doubling of k, so that their error bars do not overlap.
    shift = 2 ** ((index - (count - 1) / 2) * 0.06)
    ks, values = [k * shift for k in curve], [100 * value for value in curve.values()]
    powers = [position for position, k in enumerate(curve) if k & (k - 1) == 0]
    axis.plot(ks, values, markersize=4.5, markevery=powers, **style.look(index))
    scores = result.scores(grader)
    if scores:
        ends = [pass_at_k_interval(scores, list(curve)[position]) for position in powers]
        low, high = ([100 * end for end in side] for side in zip(*ends, strict=True))
        axis.vlines([ks[position] for position in powers], low, high, color=style.look(index)["color"], linewidth=1.0)


def _finish(axis: Axes, results: Sequence[Result], grader: str | None) -> None:
    largest = max(max(_curve(result, grader)) for result in results)
    ticks = [2**power for power in range(largest.bit_length()) if 2**power <= largest]
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axis.set_title(f"{benchmark_label(results[0])}, pass@k (%)")
    axis.set_xlabel("k")
    axis.margins(x=0.04, y=0.1)
    style.from_zero(axis)


def write_checkpoints(
    outputs: Mapping[str, Path],
    results: Sequence[Path],
    benchmark_labels: Sequence[str] = (),
    family: str | None = None,
    grader: str | None = None,
    experiment: str | None = None,
    title: str = "",
) -> None:
    """Plot accuracy against the step of the checkpoint."""
    loaded = load_results(results, benchmark_labels)
    stamp = experiment or experiment_of(loaded)
    style.save_figures(outputs, lambda: plot_checkpoints(loaded, stamp, family, grader, title))


def write_pass_at_k(
    outputs: Mapping[str, Path],
    results: Sequence[Path],
    benchmark_labels: Sequence[str] = (),
    grader: str | None = None,
    experiment: str | None = None,
    title: str = "",
) -> None:
    """Plot pass@k against k, for base and trained models."""
    loaded = load_results(results, benchmark_labels)
    stamp = experiment or experiment_of(loaded)
    style.save_figures(outputs, lambda: plot_pass_at_k(loaded, stamp, grader, title))
