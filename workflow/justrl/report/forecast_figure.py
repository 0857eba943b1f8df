"""The figure of a forecast: the data, the fit, the extrapolation with its band, and the held-out end."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from justrl.errors import UserError
from justrl.io import write_json
from justrl.report import figure_style as style
from justrl.report.forecast import compute_of, forecast
from justrl.report.metrics import merge_metrics, run_of
from justrl.report.metrics import series as logged
from justrl.report.results import Result, benchmark_label, load_results, ordered_benchmarks
from justrl.report.training_figures import PANELS, Rows, moving_mean


@dataclass(frozen=True)
class Series:
    """Values of one metric at rising steps; fractions if `percent`."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    percent: bool = False

    def text(self, value: float, sign: bool = False) -> str:
        """Format a value, or a difference of two, for readers."""
        written = f"{100 * value:{'+' if sign else ''}.1f}" if self.percent else f"{value:+.2f}"
        return written.replace("-", "−") + ("" if sign or not self.percent else "%")

    def interval(self, values: Sequence[float], sign: bool = False) -> str:
        """Format a value and its interval."""
        value, low, high = (self.text(each, sign) for each in values)
        return f"{value} [{low}, {high}]"


def forecasted(rows: Rows, metric: str, results: Sequence[Result], run: str) -> list[Series]:
    """The series of a run to forecast: a panel of the training figure, and each benchmark of its checkpoints."""
    panel = PANELS[metric]
    steps, values = logged(rows, panel.metric)
    if not values:
        raise UserError(f"the metrics of {run} have no {panel.metric}; choose another --metric")
    found = [Series(panel.title.removesuffix(" (%)"), steps, values, panel.percent)]
    for benchmark in ordered_benchmarks(results):
        points = [r for r in results if (r.run, r.benchmark) == (run, benchmark) and r.step is not None]
        points.sort(key=lambda result: result.step or 0)
        if points:
            values = [point.average()["value"] for point in points]
            found.append(
                Series(benchmark_label(points[0]), [point.step or 0 for point in points], values, percent=True)
            )
    return found


def forecast_series(series: Series, until: int, horizon: int, spent: np.ndarray) -> dict[str, Any]:
    """Forecast a series from its steps up to `until`.

    Returns the forecast, its summary (`sentence`) and, if the end was held out, the mean of the last tenth (`actual`).
    """
    seen = sum(step <= until for step in series.steps)
    found = forecast(series.steps[:seen], series.values[:seen], horizon, spent)
    found["sentence"] = _sentence(series, found, series.steps[seen - 1] if seen else 0, horizon)
    held_out = [value for step, value in zip(series.steps, series.values, strict=True) if until < step <= horizon]
    if held_out and series.steps[-1] >= horizon and found["verdict"] == "forecast":
        actual = float(np.mean(held_out[-max(1, len(series.steps) // 10) :]))
        found["actual"] = actual
        inside = found["end"][1] <= actual <= found["end"][2]
        found["sentence"] += (
            f". The measured value is {series.text(actual)}, {'inside' if inside else 'outside'} the interval"
        )
    return found


def _sentence(series: Series, found: dict[str, Any], last: int, horizon: int) -> str:
    if found["verdict"] == "fell":
        top, now = series.text(found["top"]), series.text(found["last"])
        return (
            f"{series.name}: no forecast: it fell from {top} about step {found['top_step']:,} to {now} at step {last:,}"
        )
    if found["verdict"] != "forecast":
        return f"{series.name}: no forecast: {found['reason']} (up to step {last:,})"
    points = " points" if series.percent else ""
    return (
        f"{series.name}: at step {last:,} the fit is at {series.text(found['now'][0])}; forecast "
        f"{series.interval(found['end'])} at step {horizon:,}: another {horizon - last:,} steps would bring "
        f"{series.interval(found['gain'], sign=True)}{points}"
    )


def plot_forecast(
    run: str, found: Sequence[tuple[Series, dict[str, Any]]], until: int, horizon: int, experiment: str, title: str = ""
) -> Figure:
    """Plot one panel per series with its forecast (`forecast_series`). Call inside `style.house_style()`."""
    width = max(3.6 * min(3, len(found)), 6.4)
    lines = [line for _, each in found for line in textwrap.wrap(each["sentence"], int(width * 15.5))]
    figure, axes = style.panel_grid(len(found), (3.6, 2.75), 6.4, header=0.5 + 0.16 * len(lines))
    for axis, (series, each) in zip(axes, found, strict=True):
        _draw(axis, series, each, until, horizon)
    style.add_header(figure, title or f"Forecast of {run} for more steps", experiment, "\n".join(lines))
    style.add_footer(figure, "Solid: fit. Dashed and band: forecast with 95% interval. Grey: held out from the fit.")
    return figure


def _draw(axis: Axes, series: Series, found: dict[str, Any], until: int, horizon: int) -> None:
    scale, color = 100 if series.percent else 1, style.COLORS[0]
    steps, values = np.array(series.steps), scale * np.array(series.values)
    for chosen, ink in ((steps <= until, color), (steps > until, style.MUTED)):
        if len(steps) < 40:
            axis.plot(steps[chosen], values[chosen], linestyle="", marker="o", markersize=4, color=ink, alpha=0.7)
        elif chosen.any():
            axis.plot(steps[chosen], values[chosen], color=ink, linewidth=0.6, alpha=0.3)
            axis.plot(steps[chosen], moving_mean(values[chosen], len(steps) // 40), color=ink, linewidth=1, alpha=0.7)
    if found["verdict"] == "forecast":
        at, curve, low, high = np.array(found["curve"]).T * [[1], [scale], [scale], [scale]]
        axis.fill_between(at, low, high, where=at >= found["last_step"], color=style.COLORS[1], alpha=0.2, linewidth=0)
        for chosen, dashes in ((at <= found["last_step"], "-"), (at >= found["last_step"], style.DASHES[1])):
            axis.plot(at[chosen], curve[chosen], color=style.COLORS[1], linestyle=dashes, linewidth=1.8, zorder=4)
        place: dict[str, Any] = {
            "xy": (horizon, scale * found["end"][1]),
            "xytext": (0, -6),
            "textcoords": "offset points",
        }
        text = series.interval(found["end"])
    else:
        place = {"xy": (0.98, 0.04), "xycoords": "axes fraction"}
        text = f"no forecast: {found['reason']}"
    va = "top" if found["verdict"] == "forecast" else "bottom"
    axis.annotate(text, **place, ha="right", va=va, fontsize=7.5, path_effects=style.halo(), zorder=5)
    axis.set_title(series.name + (" (%)" if series.percent else ""))
    axis.set_xlabel("Training step")
    axis.set_xlim(0, 1.02 * max(horizon, steps[-1] if len(steps) else 0))
    axis.margins(y=0.08)
    style.thousands(axis.xaxis)


def write_forecast(
    outputs: Mapping[str, Path],
    metrics: Sequence[Path],
    steps: int,
    results: Sequence[Path] = (),
    benchmark_labels: Sequence[str] = (),
    until: int | None = None,
    metric: str = "reward",
    experiment: str | None = None,
    title: str = "",
) -> list[str]:
    """Forecast the metrics of a run, or of its finished segments, at a later step; return a sentence for each."""
    rows = merge_metrics(metrics)
    path = metrics[0].absolute()
    described = run_of(path.parents[2] / "metrics.jsonl" if path.parents[1].name == "segments" else path)
    run, stamp = str(described["run"]), str(experiment or described["experiment"])
    last = rows[-1]["step"]
    until = min(last, until or (last if last < steps else steps // 2))
    if not 1 <= until < steps:
        raise UserError(f"--steps {steps} must lie beyond the last step to fit, which is {until} (--until)")
    spent, unit = compute_of([row for row in rows if row["step"] <= until])
    series = forecasted(rows, metric, load_results(results, benchmark_labels), run)
    found = [(each, forecast_series(each, until, steps, spent)) for each in series]
    if ".json" in outputs:
        head = {"run": run, "experiment": stamp, "steps": steps, "until": until, "compute": unit}
        write_json(outputs[".json"], {**head, "forecasts": {each.name: one for each, one in found}})
    # Leave out panels with too few points, which show nothing else.
    drawn = [pair for pair in found if pair[1]["verdict"] != "too_few"] or found[:1]
    style.save_figures(outputs, lambda: plot_forecast(run, drawn, until, steps, stamp, title))
    return [one["sentence"] for _, one in found]
