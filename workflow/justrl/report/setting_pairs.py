"""A/B comparison of two settings on the same questions: second minus first, over seeds and questions, with curves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from justrl import io
from justrl.errors import UserError
from justrl.evaluation.seeds import TWO_SEEDS, SeedMean, difference_over_seeds, mean_over_seeds, seed_table
from justrl.report import figure_style as style
from justrl.report.html_tables import Section, Text, interval, percent, points, write_tables
from justrl.report.metrics import Rows, read_metrics, run_of, series
from justrl.report.results import Result, benchmark_label, experiment_of, load_results, ordered_benchmarks
from justrl.report.training_figures import moving_mean, smoothing_window

ONE_SEED = "With one seed, the variation between seeds is unknown."


@dataclass(frozen=True)
class Setting:
    """One side of a comparison: its name and its trainings, which differ only in their seed."""

    name: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """One benchmark: both means and second minus first; `verdict` is higher, lower or within noise."""

    benchmark: str
    label: str
    grader: str
    first: SeedMean
    second: SeedMean
    difference: SeedMean
    verdict: str


def compare_settings(results: Sequence[Result], first: Setting, second: Setting, paired: bool) -> list[Compared]:
    """Compare two settings on every benchmark that all their trainings share, under the primary grader.

    With `paired`, the trainings at the same position of both sides have the same seed.

    Raises UserError if a result keeps no scores, questions differ, or no benchmark is shared.
    """
    last = {(r.run, r.benchmark): r for r in sorted(results, key=lambda r: r.step or 0)}
    compared = []
    for benchmark in ordered_benchmarks(results):
        sides = [[last.get((run, benchmark)) for run in side.runs] for side in (first, second)]
        found = [[result for result in side if result is not None] for side in sides]
        if found != sides:
            continue
        if len({tuple(result.question_ids()) for side in found for result in side}) != 1:
            raise UserError(
                f"{benchmark}: {first.name} and {second.name} have results on different questions; "
                "evaluate both on the same benchmark file"
            )
        a, b = (_table(side) for side in found)
        difference = difference_over_seeds(a, b, paired)
        verdict = "higher" if difference.ci_low > 0 else "lower" if difference.ci_high < 0 else "within noise"
        shown = found[0][0]
        means = (mean_over_seeds(a), mean_over_seeds(b))
        compared.append(Compared(benchmark, benchmark_label(shown), shown.headline, *means, difference, verdict))
    if not compared:
        raise UserError(
            f"{first.name} and {second.name} have no benchmark on which all their trainings were "
            "evaluated; evaluate them on the same one"
        )
    return compared


def _table(results: Sequence[Result]) -> np.ndarray:
    scores = [result.scores() for result in results]
    for result, each in zip(results, scores, strict=True):
        if each is None:
            raise UserError(f"{result.benchmark} of {result.run} keeps no scores, so it cannot be compared")
    return seed_table([each for each in scores if each is not None])


def pair_section(compared: Sequence[Compared], first: Setting, second: Setting, paired: bool) -> Section:
    """The table of a comparison."""
    rows = []
    for each in compared:
        difference = each.difference
        means = (Text(percent(mean.value), interval(mean)) for mean in (each.first, each.second))
        change = Text(points(difference.value), interval(difference), ((each.verdict, each.verdict),))
        errors = Text(_error(difference.seed_error), f"questions {_error(difference.question_error)}")
        rows.append([Text(each.label, f"{difference.questions} questions"), *means, change, errors])
    seeds = " and ".join(f"{len(side.runs)} of {side.name}" for side in (first, second))
    lead = (
        f"The last checkpoints of {seeds} on the same questions, graded by {compared[0].grader}, in "
        "percent, with 95% confidence intervals over seeds and questions. The difference is in percentage points"
        + (", computed per seed." if paired else ".")
    )
    fewest = min(len(first.runs), len(second.runs))
    notes = {1: (ONE_SEED,), 2: (f"{TWO_SEEDS[0].upper()}{TWO_SEEDS[1:]}.",)}.get(fewest, ())
    columns = ["Benchmark", first.name, second.name, f"{second.name} − {first.name}", "Error over seeds"]
    return Section(f"Accuracy of {second.name} and {first.name}", columns, rows, lead, notes)


def _error(value: float | None) -> str:
    return "unknown" if value is None else f"± {100 * value:.1f}"


def plot_pair(
    compared: Sequence[Compared], runs: Mapping[str, Rows], first: Setting, second: Setting, experiment: str
) -> Figure:
    """Plot the rewards of both sides in training (mean, range over seeds), means on each benchmark, and the difference.

    Call inside `style.house_style()`.
    """
    figure, axes = style.panel_grid(3, (3.7, 2.9), 5.6, header=0.78)
    window = smoothing_window(runs)
    for index, side in enumerate((first, second)):
        curves = [series(runs[run], "reward_mean") for run in side.runs]
        shared = sorted(set.intersection(*(set(steps) for steps, _ in curves)))
        values = np.array([[dict(zip(*curve, strict=True))[step] for step in shared] for curve in curves])
        smooth = np.array([moving_mean(row, window) for row in values])
        color, dashes = style.COLORS[index], style.DASHES[index]
        axes[0].plot(shared, smooth.mean(0), color=color, linestyle=dashes, zorder=3)
        if len(side.runs) > 1:
            axes[0].fill_between(shared, smooth.min(0), smooth.max(0), color=color, alpha=0.18, linewidth=0)
        places = np.arange(len(compared)) + (index - 0.5) * 0.18
        means = [each.first if index == 0 else each.second for each in compared]
        axes[1].errorbar(**_bars(means), y=places, fmt=style.MARKERS[index], color=color, capsize=2.5)
    axes[0].set_title("Mean reward")
    axes[0].set_xlabel("Training step")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].set_title("Accuracy of the last checkpoint (%)")
    axes[1].set_yticks(range(len(compared)), [each.label for each in compared])
    axes[1].set_ylim(len(compared) - 0.5, -0.5)
    _draw_differences(axes[2], compared)
    axes[2].set_title(f"{second.name} − {first.name} (points)")
    style.add_header(figure, f"{second.name} against {first.name}", experiment, f"{len(runs)} trainings")
    looks = zip((first, second), style.COLORS, style.MARKERS, strict=False)
    handles = [Line2D([], [], color=color, marker=marker, label=side.name) for side, color, marker in looks]
    style.add_legend(figure, handles, top=0.52)
    footer = "Bars: 95% interval over questions."
    if max(len(first.runs), len(second.runs)) > 1:
        footer = "Band: range over seeds. Bars: 95% interval over seeds and questions."
    style.add_footer(figure, footer)
    return figure


def _bars(means: Sequence[SeedMean]) -> dict[str, Any]:
    """The places of means in percent and their intervals, for `errorbar`."""
    low, high = [100 * (m.value - m.ci_low) for m in means], [100 * (m.ci_high - m.value) for m in means]
    return {"x": [100 * m.value for m in means], "xerr": [low, high]}


def _draw_differences(axis: Axes, compared: Sequence[Compared]) -> None:
    """Draw second minus first on each benchmark, with a line at zero and the verdict above each point."""
    places = range(len(compared))
    axis.axvline(0, color=style.MUTED, linewidth=1)
    bars = _bars([each.difference for each in compared])
    axis.errorbar(**bars, y=places, fmt="D", color=style.INK, capsize=2.5)
    for place, each in enumerate(compared):
        axis.annotate(
            each.verdict,
            (bars["x"][place], place),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )
    axis.set_yticks(places, [""] * len(compared))
    axis.set_ylim(len(compared) - 0.5, -0.5)


def write_pair(
    outputs: Mapping[str, Path],
    first: str,
    second: str,
    results: Sequence[Path],
    metrics: Sequence[Path] = (),
    paired: bool = False,
    benchmark_labels: Sequence[str] = (),
    experiment: str | None = None,
) -> list[str]:
    """Compare two settings, each NAME=RUN,RUN, over seeds and questions; return a sentence for each benchmark."""
    loaded = load_results(results, benchmark_labels)
    stamp = experiment or experiment_of(loaded)
    one, other = _setting(first), _setting(second)
    paired = paired and len(one.runs) == len(other.runs)
    compared = compare_settings(loaded, one, other, paired)
    if ".json" in outputs:
        io.write_json(outputs[".json"], {"experiment": stamp, "benchmarks": [asdict(each) for each in compared]})
    title, section = f"{other.name} against {one.name}", pair_section(compared, one, other, paired)
    write_tables(outputs, title, [section], stamp)
    if {".svg", ".png"} & outputs.keys():
        runs = {str(run_of(path)["run"]): read_metrics(path) for path in metrics}
        if missing := [run for run in (*one.runs, *other.runs) if run not in runs]:
            raise UserError(f"--metrics lacks those of {missing[0]}, which the figure needs: add its metrics.jsonl")
        style.save_figures(outputs, lambda: plot_pair(compared, runs, one, other, stamp))
    return [
        f"{each.benchmark}: {100 * each.difference.value:+.1f} points [{100 * each.difference.ci_low:+.1f}, "
        f"{100 * each.difference.ci_high:+.1f}], {each.verdict}"
        for each in compared
    ]


def _setting(text: str) -> Setting:
    name, equals, runs = text.partition("=")
    if not (name and equals and runs):
        raise UserError(f"--first and --second take NAME=RUN or NAME=RUN,RUN, got {text!r}")
    return Setting(name, tuple(runs.split(",")))
