"""Resampling of one value per question: bootstrap intervals and the sign-flip test."""

from collections.abc import Iterable
from math import sqrt

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

LEVEL = 0.95
RESAMPLES = 10_000
# Numbers in memory at once while resampling (16 MB), and the number of additions above which the sign-flip test is
# simulated (about a second).
MAX_HELD = 2_000_000
MAX_EXACT_OPERATIONS = 500_000_000
# Values that differ by less count as equal.
SAME = 1e-12
# If fewer questions than this differ from the rest, resampling underestimates the variation between questions.
FEW = 5


def mean_interval(
    values: np.ndarray,
    lowest: float = 0.0,
    highest: float = 1.0,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Confidence interval of a mean over questions, from one value per question in [lowest, highest].

    The bootstrap alone would claim certainty if all questions have the same value, and it never leaves the range of the
    observed values. So if fewer than FEW questions differ from the most common value, the interval is widened. The
    widening is the share of questions that may differ, times their average distance from the common value. The share is
    the upper bound of Clopper and Pearson (1934), given the observed number of differing questions. The average
    includes one extra question at the end of the range. For scores that are all 0 or 1, this is exactly their interval.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        return lowest, highest
    low, high = bootstrap_interval(values, seed, resamples, level)
    distinct, counts = np.unique(np.round(values / SAME) * SAME, return_counts=True)
    unlike = int(values.size - counts.max())
    if unlike < FEW:
        share = float(betaincinv(unlike + 1, values.size - unlike, 0.5 + level / 2))
        # Several values may be the most common; the interval covers each of them.
        usual = distinct[counts == counts.max()]
        least, most = float(usual.min()), float(usual.max())
        below, above = values[values < least - SAME], values[values > most + SAME]
        far_below = float(np.mean([*(least - below), least - lowest]))
        far_above = float(np.mean([*(above - most), highest - most]))
        low, high = min(low, least - share * far_below), max(high, most + share * far_above)
    return max(lowest, low), min(highest, high)


def bounded_by_test(interval: tuple[float, float], value: float, p_value: float, level: float) -> tuple[float, float]:
    """Adjust the interval of a difference so that it contains 0 if and only if the test does not reject 0.

    If the two disagree, the end next to 0 is that of the test-based interval (Miettinen 1976): `value` (1 - z / z_p).
    """
    low, high = interval
    if value == 0 or (low <= 0 <= high) == (p_value > 1 - level):
        return interval
    end = value * (1 - float(ndtri(0.5 + level / 2)) / max(-float(ndtri(p_value / 2)), 1e-3))
    return (max(end, -1.0), high) if value > 0 else (low, min(end, 1.0))


def bootstrap_interval(
    values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `values` (one per question); reproducible by `seed`.

    Its percentiles are those of a normal distribution at the half-width t * sqrt(n / (n - 1)). This corrects the two
    reasons why the plain percentile interval is too narrow: the plug-in variance divides by n, and it uses z instead of
    t.
    """
    values = np.asarray(values, dtype=float)
    n = values.size
    if n < 2 or np.ptp(values) < SAME:
        return float(values.mean()), float(values.mean())
    tail = float(ndtr(-sqrt(n / (n - 1)) * t_quantile(level, n - 1)))
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(n, size=(size, n))].mean(axis=1) for size in _chunks(resamples, max(1, MAX_HELD // n))]
    )
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def sign_flip_p_value(differences: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value of the sign-flip test that the mean of `differences` is 0.

    Exact if the differences are multiples of a common fraction, as with any fixed number of samples per question.
    Otherwise from `resamples` random flips plus the observed one, so that it is never 0.
    """
    differences = np.asarray(differences, dtype=float)
    sizes = np.abs(differences)
    units = _common_units(sizes)
    if units is not None:
        observed = abs(int((units * np.sign(differences)).sum()))
        return _exact_flip_probability(units[units > 0], observed)
    observed = abs(float(differences.sum())) - 1e-12 * sizes.sum()
    rng = np.random.default_rng(seed)
    extreme = 0
    for size in _chunks(resamples, max(1, MAX_HELD // sizes.size)):
        flips = rng.integers(2, size=(size, sizes.size)) * 2 - 1
        extreme += int((np.abs(flips @ sizes) >= observed).sum())
    return (extreme + 1) / (resamples + 1)


def t_quantile(level: float, degrees: int) -> float:
    """Half-width, in standard errors, of the two-sided Student interval with `degrees` degrees of freedom."""
    return float(stdtrit(degrees, 0.5 + level / 2))


def _common_units(sizes: np.ndarray) -> np.ndarray | None:
    """Express the sizes as integer multiples of a common fraction 1/d; None if there is no small d."""
    for denominator in (*range(1, 129), 256, 512, 1024):
        units = np.round(sizes * denominator)
        if np.abs(sizes * denominator - units).max() < 1e-9:
            whole = units.astype(np.int64)
            return whole if int(whole.sum()) * whole.size <= MAX_EXACT_OPERATIONS else None
    return None


def _exact_flip_probability(units: np.ndarray, observed: int) -> float:
    """P(|sum of randomly signed units| >= observed), by convolving the two-point distributions."""
    total = int(units.sum())
    # Index i holds the probability that the units flipped to plus sum to i; the signed sum is then 2 i - total.
    mass = np.zeros(total + 1)
    mass[0] = 1.0
    reach = 0
    for unit in units:
        shifted = np.zeros_like(mass)
        shifted[unit : reach + unit + 1] = mass[: reach + 1]
        mass = 0.5 * (mass + shifted)
        reach += int(unit)
    sums = np.abs(2 * np.arange(total + 1) - total)
    return float(min(1.0, mass[sums >= observed].sum()))


def _chunks(total: int, size: int) -> Iterable[int]:
    """Yield chunk sizes of at most `size` that add up to `total`, to limit the memory of vectorised resampling."""
    while total > 0:
        yield min(size, total)
        total -= size
