"""Figures of accuracy: against the training step, and beside the published figures."""

from collections.abc import Sequence
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from justrl.analysis import style
from justrl.analysis.published import BENCHMARKS, LABELS, select_published
from justrl.analysis.results import Result, benchmark_label, ordered_benchmarks
from justrl.analysis.tables import grader_label, model_label
from justrl.errors import UserError

INTERVAL = "Bars: 95% interval over questions (bootstrap, clustered by question)."


def plot_checkpoints(
    results: Sequence[Result], experiment: str, family: str | None = None, grader: str | None = None, title: str = ""
) -> Figure:
    """Accuracy against checkpoint step, one panel per benchmark, one line per run; the base model is step 0.

    With `experiment` "paper", the published figures of `family` stand as open diamonds at their steps.
    """
    results = [result for result in results if result.step is not None]
    if not results:
        raise UserError("no result has a checkpoint step: the figure needs results of a run, e.g. deepseek@1000")
    benchmarks = ordered_benchmarks(results)
    runs = list(dict.fromkeys(result.run for result in results))
    columns = min(3, len(benchmarks))
    lines = ceil(len(benchmarks) / columns)
    width = max(3.5 * columns, 5.6)
    header, footer = 0.95, 0.3
    figure = style.new_figure(width, 2.5 * lines + header + footer, header, footer)
    axes = list(figure.subplots(lines, columns, squeeze=False, sharex=True).flat)
    published = family is not None and experiment == "paper"
    for axis, benchmark in zip(axes, benchmarks, strict=False):
        for index, run in enumerate(runs):
            points = sorted(
                (r for r in results if r.benchmark == benchmark and r.run == run), key=lambda result: result.step
            )
            _draw_line(axis, points, grader, index, len(runs))
        drawn = _draw_published_steps(axis, family, benchmark) if published else False
        labels = [benchmark_label(result) for result in results if result.benchmark == benchmark]
        axis.set_title(f"{labels[0]} (%)")
        axis.margins(x=0.04, y=0.1)
        axis.tick_params(labelbottom=True)
        style.thousands(axis.xaxis)
        published = published or drawn
    style.hide_unused(axes, len(benchmarks))
    for axis in axes[max(0, len(benchmarks) - columns) : len(benchmarks)]:
        axis.set_xlabel("Training step (0: base model)")
    samples = sorted({int(result.data["samples_per_question"]) for result in results})
    shown = grader or results[0].headline
    subtitle = f"avg@{'/'.join(map(str, samples))}, grader: {grader_label(shown)}"
    style.add_header(figure, title or f"Accuracy of {' and '.join(runs)}", experiment, subtitle)
    entries = [(run, style.COLORS[i % 7], style.MARKERS[i % 7], True) for i, run in enumerate(runs)]
    if published:
        entries.append(("published (JustRL paper)", style.INK, "D", False))
    _legend(figure, entries)
    style.add_footer(figure, INTERVAL)
    return figure


def _draw_line(axis: Axes, points: Sequence[Result], grader: str | None, index: int, count: int) -> None:
    if not points:
        return
    averages = [point.average(grader) for point in points]
    steps = [point.step for point in points]
    # Runs side by side are set apart by a hundredth of the axis, so that their bars can be told from one another.
    shift = (index - (count - 1) / 2) * 0.012 * max(1, max(steps))
    values = [100 * average["value"] for average in averages]
    below = [value - 100 * average["ci_low"] for value, average in zip(values, averages, strict=True)]
    above = [100 * average["ci_high"] - value for value, average in zip(values, averages, strict=True)]
    color = style.COLORS[index % 7]
    axis.errorbar(
        [step + shift for step in steps],
        values,
        yerr=[[max(0.0, v) for v in below], [max(0.0, v) for v in above]],
        color=color,
        linestyle=style.DASHES[index % 7],
        linewidth=1.4,
        elinewidth=1.0,
        marker=style.MARKERS[index % 7],
        markersize=4.5,
        zorder=3,
    )


def _draw_published_steps(axis: Axes, family: str, benchmark: str) -> bool:
    figures = [
        figure
        for kind in ("base", "justrl")
        for figure in select_published(family, benchmark, kind, reevaluation=False)
    ]
    axis.plot(
        [figure.step or 0 for figure in figures],
        [100 * figure.accuracy for figure in figures],
        linestyle="",
        marker="D",
        markersize=5,
        markerfacecolor="white",
        markeredgecolor=style.INK,
        markeredgewidth=1.1,
        zorder=4,
    )
    return bool(figures)


def plot_comparison(cells: Sequence, family: str, experiment: str, title: str = "") -> Figure:
    """Each benchmark a row: published figures as open marks, ours per model (headline grader) or per grader as filled.

    With one model of ours, every grader is drawn; with several, the headline grader of each.
    """
    models = sorted({(c.run, c.step) for c in cells}, key=lambda m: (m[1] is None, m[1] or 0, m[0]))
    trained = [model for model in models if model[1] != 0]
    series = _ours_series(cells, models, trained)
    names = [name for name in (*BENCHMARKS, "average") if any(c.benchmark == name for c in cells)]
    names += [c.benchmark for c in cells if c.benchmark not in names and c.benchmark not in (*BENCHMARKS, "average")]
    names = list(dict.fromkeys(names))
    published = _published_series(cells, experiment)
    row = 0.24 + 0.135 * (len(series) + len(published))
    header, footer = 0.62 + 0.2 * ceil((len(series) + len(published)) / 2), 0.3
    figure = style.new_figure(7.4, max(1.6, row * len(names) + 0.45) + header + footer, header, footer)
    axis = figure.subplots()
    everything = [*published, *series]
    for position, name in enumerate(names):
        if position % 2 == 0:
            axis.axhspan(position - 0.5, position + 0.5, color="#F5F5F5", linewidth=0, zorder=0)
        for place, (_, style_of, points) in enumerate(everything):
            if name in points:
                offset = (place - (len(everything) - 1) / 2) * 0.78 / max(1, len(everything))
                _draw_mark(axis, points[name], position + offset, style_of)
    labels = {c.benchmark: LABELS.get(c.benchmark, c.benchmark.replace("_", " ")) for c in cells}
    axis.set_yticks(range(len(names)), [labels[name] for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("Accuracy, avg@k (%)")
    axis.margins(x=0.03)
    style.add_header(figure, title or f"{family}: ours and published", experiment)
    _legend(figure, [(label, *style_of) for label, style_of, _ in everything], columns=2, top=0.42)
    note = f"{INTERVAL} Open squares: ± 1 standard deviation." if published else INTERVAL
    style.add_footer(figure, note)
    return figure


def _ours_series(cells: Sequence, models: Sequence, trained: Sequence) -> list[tuple]:
    """(label, (color, marker, filled), {benchmark: (value, low, high)}) for each of our series."""
    series = []
    graders = list(dict.fromkeys(c.grader for c in cells))
    wanted = [(model, None) for model in models]
    if len(trained) == 1 and len(graders) > 1:
        wanted = [(model, None) for model in models if model[1] == 0] + [(trained[0], grader) for grader in graders]
    for index, (model, grader) in enumerate(wanted):
        mine = [
            c
            for c in cells
            if (c.run, c.step) == model and c.reference == "paper" and (c.grader == grader if grader else c.headline)
        ]
        label = f"ours: {model_label(*model)}" + (f" ({grader_label(grader)})" if grader else "")
        points = {c.benchmark: (c.value, c.ci_low, c.ci_high) for c in mine}
        series.append((label, (style.COLORS[index % 7], style.MARKERS[index % 7], True), points))
    return series


def _published_series(cells: Sequence, experiment: str) -> list[tuple]:
    if experiment != "paper":
        return []
    series = []
    looks = {
        ("paper", True): ("paper: base model", (style.MUTED, "D", False)),
        ("reevaluation", True): ("re-evaluation: base model", (style.MUTED, "s", False)),
        ("paper", False): ("paper: JustRL", (style.INK, "D", False)),
        ("reevaluation", False): ("re-evaluation: JustRL", (style.INK, "s", False)),
    }
    for (reference, base), (label, look) in looks.items():
        points = {}
        for cell in cells:
            if cell.reference == reference and (cell.step == 0) == base and cell.published is not None:
                spread = cell.published_error if reference == "reevaluation" else 0.0
                points[cell.benchmark] = (cell.published, cell.published - spread, cell.published + spread)
        if points:
            series.append((label, look, points))
    return series


def _draw_mark(axis: Axes, point: tuple[float, float, float], position: float, look: tuple[str, str, bool]) -> None:
    value, low, high = (100 * part for part in point)
    color, marker, filled = look
    axis.plot([low, high], [position, position], color=color, linewidth=1.2, solid_capstyle="butt", zorder=2)
    axis.plot(
        [value],
        [position],
        linestyle="",
        marker=marker,
        markersize=5,
        color=color,
        markerfacecolor=color if filled else "white",
        markeredgewidth=1.1,
        zorder=3,
    )


def _legend(figure: Figure, entries: Sequence[tuple], columns: int = 4, top: float = 0.55) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=color,
            marker=marker,
            linestyle="",
            markersize=5,
            markerfacecolor=color if filled else "white",
            markeredgewidth=1.1,
            label=label,
        )
        for label, color, marker, filled in entries
    ]
    width, height = figure.get_size_inches()
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.04 / width, 1 - top / height),
        ncols=min(columns, len(entries)),
        borderaxespad=0,
        fontsize=8.5,
        handletextpad=0.2,
        columnspacing=1.6,
    )
