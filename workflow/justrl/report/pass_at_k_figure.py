"""pass@k against k: does training find answers that the base model never sampled, or only sample them more often?"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from justrl.errors import UserError
from justrl.evaluation.statistics import pass_at_k_interval
from justrl.report import figure_style as style
from justrl.report.accuracy_figures import add_legend
from justrl.report.html_tables import model_label
from justrl.report.results import Result, benchmark_label, experiment_of, load_results, ordered_benchmarks


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
        for index, model in enumerate(models):
            for result in drawable:
                if result.benchmark == benchmark and (result.run, result.step) == model:
                    _draw_curve(axis, result, grader, index, len(models))
        shown = next(result for result in drawable if result.benchmark == benchmark)
        _finish(axis, benchmark_label(shown), [r for r in drawable if r.benchmark == benchmark], grader)
    runs = style.joined(list(dict.fromkeys(result.run for result in drawable)))
    subtitle = f"grader: {grader or drawable[0].headline}"
    style.add_header(figure, title or f"pass@k of {runs}", experiment, subtitle)
    entries = [(model_label(*model), style.COLORS[i % 7], style.MARKERS[i % 7], True) for i, model in enumerate(models)]
    add_legend(figure, entries)
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
    color, dashes = style.COLORS[index % 7], style.DASHES[index % 7]
    powers = [position for position, k in enumerate(curve) if k & (k - 1) == 0]
    axis.plot(
        ks, values, color=color, linestyle=dashes, marker=style.MARKERS[index % 7], markersize=4.5, markevery=powers
    )
    scores = result.scores(grader)
    if scores:
        ends = [pass_at_k_interval(scores, list(curve)[position]) for position in powers]
        low, high = ([100 * end for end in side] for side in zip(*ends, strict=True))
        axis.vlines([ks[position] for position in powers], low, high, color=color, linewidth=1.0)


def _finish(axis: Axes, label: str, results: Sequence[Result], grader: str | None) -> None:
    largest = max(max(_curve(result, grader)) for result in results)
    ticks = [2**power for power in range(largest.bit_length()) if 2**power <= largest]
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axis.set_title(f"{label}, pass@k (%)")
    axis.set_xlabel("k")
    axis.margins(x=0.04, y=0.1)
    style.from_zero(axis)


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
