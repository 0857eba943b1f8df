"""Forecast of a metric: a saturating curve fitted to a run so far, and its value at the planned end with an interval.

The curve is the sigmoid in the logarithm of compute of "The Art of Scaling Reinforcement Learning Compute for LLMs"
(arXiv 2510.13786): y(C) = base + (A - base) / (1 + (C_mid / C)^B). If the series is too short, flat, straight, falling
or of another shape, the result is a reason instead of a number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import f as f_distribution

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


def compute_of(rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, str]:
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
