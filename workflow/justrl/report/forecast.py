"""Forecast of a metric: a saturating curve fitted to a run so far, and its value at the planned end with an interval.

The curve is the sigmoid in the logarithm of compute of "The Art of Scaling Reinforcement Learning Compute for LLMs"
(arXiv 2510.13786): y(C) = base + (A - base) / (1 + (C_mid / C)^B). If the series is too short, flat, straight, falling
or of another shape, the result is a reason instead of a number. The figure shows the data, the fit, the forecast with
its band, and the end held out from the fit.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import f as f_distribution

from justrl.errors import UserError
from justrl.io import write_json
from justrl.report import figure_style as style
from justrl.report.metrics import Rows, merge_metrics, run_of
from justrl.report.metrics import series as logged
from justrl.report.results import Result, benchmark_label, load_results, ordered_benchmarks
from justrl.report.training_figures import PANELS, moving_mean

FEWEST = 8
BLOCKS = 40
RESAMPLES = 500
EXPONENTS = (0.4, 5.0)
# The curve counts as saturating if it is better than a straight line at this level (F test) ...
SIGNIFICANT = 0.01
# ... and its slope at the end of the data is at most this fraction of its steepest slope.
SLOWED = 0.5
# A fall, or a deviation from the curve, counts if it exceeds this many standard errors and this fraction of the range.
SIGMAS, PART = 4.0, 0.1
# The bootstrap's interval covers the end of simulated curves in 91 to 95 of 100 cases (five kinds, 100 seeds each).
# Widened by this factor on both sides of the value, it is a 95% interval.
WIDER = 1.15


def compute_of(rows: Rows) -> tuple[np.ndarray, str]:
    """Cumulative compute at steps 0, 1, ... of metrics that begin at step 1, and its unit.

    The unit is tokens (prompts and responses, summed over steps) if every row has them, else steps.
    """
    names = ("prompt_tokens", "response_tokens")
    if all(isinstance(row.get(name), int | float) for row in rows for name in names):
        return np.cumsum([0.0, *(float(sum(row[name] for name in names)) for row in rows)]), "tokens"
    return np.arange(len(rows) + 1.0), "steps"


def compute_at(steps: Sequence[float] | np.ndarray, spent: np.ndarray) -> np.ndarray:
    """Compute at the given steps; each step beyond the last one seen costs the mean of the last tenth."""
    last, tenth = len(spent) - 1, max(1, (len(spent) - 1) // 10)
    beyond = np.maximum(0.0, np.asarray(steps, dtype=float) - last)
    return np.interp(steps, np.arange(last + 1), spent) + beyond * (spent[-1] - spent[-1 - tenth]) / tenth


def forecast(
    steps: Sequence[int], values: Sequence[float], horizon: int, spent: np.ndarray, ceiling: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    """Fit the curve to `values` at rising `steps` and predict the value at step `horizon`.

    Args:
        spent: compute at steps 0, 1, ... (`compute_of`).
        ceiling: the largest possible value, at which predictions are cut off.

    Returns:
        `verdict`: "forecast", or why there is none: "too_few", "fell", "flat", "straight", "misfit";
        `reason`: the same as a clause. With a forecast also `last_step`; `now`, `end` and `gain`, each as
        [value, low, high] with its 95% interval (bootstrap of block residuals); the parameters `asymptote`, `base`,
        `midpoint` (of compute) and `exponent`; and `curve`, rows [step, value, low, high].
    """
    if len(steps) < FEWEST:
        return _none("too_few", f"{len(steps)} points are too few (at least {FEWEST} are needed)")
    blocks = np.linspace(0, len(steps), min(len(steps), BLOCKS) + 1).astype(int)[:-1]
    y, x = _means(np.array(values, dtype=float), blocks), compute_at(steps, spent)
    reach = compute_at([max(horizon, steps[-1])], spent)[0]
    coarse = _grid((max(x[x > 0][0], reach / 1000), 3 * reach), EXPONENTS, 36, 14)
    grid = _finer(coarse, _means(_sigmoid(x, coarse), blocks), y)
    sigmoids = _means(_sigmoid(x, grid), blocks)
    best, base, rise = _fit(sigmoids, y[None])
    fitted = base + rise * sigmoids[best[0]]
    if reason := _refused(steps, y, fitted, _means(x, blocks), blocks):
        return reason
    drawn = np.unique([*np.linspace(0, max(horizon, steps[-1]), 121).round().astype(int).tolist(), steps[-1], horizon])
    at = compute_at(drawn, spent)
    resampled = fitted + _resampled(y - fitted, seed)
    choice, bases, rises = _fit(sigmoids, np.concatenate([y[None], resampled]))
    curves = np.minimum(ceiling, bases[:, None] + rises[:, None] * _sigmoid(at, grid[choice]))
    now, end = curves[:, drawn == steps[-1]][:, 0], curves[:, drawn == horizon][:, 0]
    low, high = _bounds(curves)
    return {
        "verdict": "forecast",
        "reason": "",
        "last_step": int(steps[-1]),
        "now": _interval(now),
        "end": _interval(end),
        "gain": _interval(end - now),
        "asymptote": float(base[0] + rise[0]),
        "base": float(base[0]),
        "midpoint": float(grid[best[0], 0]),
        "exponent": float(grid[best[0], 1]),
        "curve": np.column_stack([drawn, curves[0], low, np.minimum(ceiling, high)]).tolist(),
    }


def _sigmoid(x: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """The curve from 0 to 1 at compute `x` [n] for each (midpoint, exponent) of `shapes` [g, 2]: [g, n]."""
    powers = np.exp(shapes[:, 1:] * np.log(np.maximum(x, 1e-9)[None] / shapes[:, :1]))
    return powers / (1 + powers)


def _grid(midpoints: tuple[float, float], exponents: tuple[float, float], wide: int, high: int) -> np.ndarray:
    columns = np.geomspace(midpoints[0], midpoints[1], wide), np.geomspace(exponents[0], exponents[1], high)
    return np.array([(mid, exponent) for mid in columns[0] for exponent in columns[1]])


def _finer(coarse: np.ndarray, sigmoids: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A finer grid over the shapes that fit the data.

    On the coarse grid all bootstrap resamples could choose the same node.
    """
    centred = sigmoids - sigmoids.mean(axis=1, keepdims=True)
    rises = np.maximum(0.0, centred @ y) / np.maximum((centred**2).sum(axis=1), 1e-12)
    left = ((y - y.mean() - rises[:, None] * centred) ** 2).sum(axis=1)
    kept = coarse[left <= left.min() * (1 + 25 / (len(y) - 4))]
    nodes = [np.unique(coarse[:, axis]) for axis in (0, 1)]
    lows = [node[max(0, np.searchsorted(node, kept[:, axis].min()) - 1)] for axis, node in enumerate(nodes)]
    tops = [node[min(len(node) - 1, np.searchsorted(node, kept[:, axis].max()) + 1)] for axis, node in enumerate(nodes)]
    return _grid((lows[0], tops[0]), (lows[1], tops[1]), 40, 30)


def _means(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Means, along the last axis, of the blocks that begin at `starts`."""
    return np.add.reduceat(values, starts, axis=-1) / np.diff(np.append(starts, values.shape[-1]))


def _fit(sigmoids: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least-squares fit of each series of `ys` [r, n] to every shape [g, n]: the best shape, its base and rise >= 0."""
    centred = sigmoids - sigmoids.mean(axis=1, keepdims=True)
    norms = np.maximum((centred**2).sum(axis=1), 1e-12)
    rises = np.maximum(0.0, ys @ centred.T / norms)
    best = (rises**2 * norms).argmax(axis=1)
    rise = rises[np.arange(len(ys)), best]
    return best, ys.mean(axis=1) - rise * sigmoids[best].mean(axis=1), rise


def _resampled(residuals: np.ndarray, seed: int) -> np.ndarray:
    """Bootstrap series of block residuals [RESAMPLES, n], scaled up for the curve's four parameters.

    Each block's residual is drawn independently. A fit removes slow waves from its residuals, so runs of consecutive
    residuals would vary too little.
    """
    size = len(residuals)
    index = np.random.default_rng(seed).integers(0, size, (RESAMPLES, size))
    return (residuals - residuals.mean())[index] * np.sqrt(size / (size - 4))


def _refused(
    steps: Sequence[int], y: np.ndarray, fitted: np.ndarray, x: np.ndarray, blocks: np.ndarray
) -> dict[str, Any] | None:
    """Why the fit does not allow a forecast, from the block means and the fit there; None if it does."""
    window = max(1, len(y) // 10)
    smooth = np.convolve(y, np.ones(window) / window, "valid")
    # Noise from differences of neighbours, which neither a trend nor a single jump inflates.
    error = 1.4826 * np.median(np.abs(np.diff(y))) / np.sqrt(2 * window)
    limit = max(SIGMAS * error * np.sqrt(2), PART * np.ptp(smooth))
    if smooth.max() - smooth[-1] > limit:
        step = steps[blocks[smooth.argmax() + window // 2]]
        return _none("fell", "it fell", top=float(smooth.max()), top_step=int(step), last=float(smooth[-1]))
    line = np.polyval(np.polyfit(x, y, 1), x)
    if _p_value(y, np.full_like(y, y.mean()), fitted, 3) > SIGNIFICANT / 10:
        return _none("flat", "it has not risen above its noise")
    slopes = np.diff(fitted) / np.diff(x)
    if _p_value(y, line, fitted, 2) > SIGNIFICANT or slopes[-1] > SLOWED * slopes.max():
        return _none("straight", "it does not level off yet")
    off = np.abs(np.convolve(y - fitted, np.ones(window) / window, "valid"))
    if off.max() > max(SIGMAS * error, PART * np.ptp(fitted)):
        step = steps[blocks[off.argmax() + window // 2]]
        return _none("misfit", f"it does not follow the curve (largest deviation near step {step:,})")
    return None


def _p_value(y: np.ndarray, simple: np.ndarray, fitted: np.ndarray, more: int) -> float:
    """P-value of the F test of the curve against a fit with `more` fewer parameters."""
    left, free = max(float(((y - fitted) ** 2).sum()), 1e-15), len(y) - 4
    gained = max(0.0, float(((y - simple) ** 2).sum()) - left)
    return float(f_distribution.sf(gained / more / (left / free), more, free))


def _none(verdict: str, reason: str, **more: float) -> dict[str, Any]:
    return {"verdict": verdict, "reason": reason, **more}


def _bounds(values: np.ndarray) -> np.ndarray:
    """The 95% bounds around the first of `values` [1 + resamples, ...]."""
    return values[0] + WIDER * (np.quantile(values[1:], [0.025, 0.975], axis=0) - values[0])


def _interval(values: np.ndarray) -> list[float]:
    return [float(values[0]), *_bounds(values).tolist()]


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
    own = sorted((r for r in results if r.run == run and r.step is not None), key=lambda result: result.step or 0)
    for benchmark in ordered_benchmarks(results):
        if points := [result for result in own if result.benchmark == benchmark]:
            values = [point.average()["value"] for point in points]
            found.append(Series(benchmark_label(points[0]), [point.step or 0 for point in points], values, True))
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
        fall = f"from {series.text(found['top'])} about step {found['top_step']:,} to {series.text(found['last'])}"
        return f"{series.name}: no forecast: it fell {fall} at step {last:,}"
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
    place: dict[str, Any] = {"xy": (0.98, 0.04), "xycoords": "axes fraction", "va": "bottom"}
    text = f"no forecast: {found['reason']}"
    if found["verdict"] == "forecast":
        at, curve, low, high = np.array(found["curve"]).T * [[1], [scale], [scale], [scale]]
        axis.fill_between(at, low, high, where=at >= found["last_step"], color=style.COLORS[1], alpha=0.2, linewidth=0)
        for chosen, dashes in ((at <= found["last_step"], "-"), (at >= found["last_step"], style.DASHES[1])):
            axis.plot(at[chosen], curve[chosen], color=style.COLORS[1], linestyle=dashes, linewidth=1.8, zorder=4)
        offset = {"xytext": (0, -6), "textcoords": "offset points"}
        place = {"xy": (horizon, scale * found["end"][1]), "va": "top", **offset}
        text = series.interval(found["end"])
    axis.annotate(text, **place, ha="right", fontsize=7.5, path_effects=style.halo(), zorder=5)
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
