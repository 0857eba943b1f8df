"""Resampling of one value per question: bootstrap intervals and the sign-flip test."""

from collections.abc import Iterable
from math import sqrt

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

LEVEL = 0.95
RESAMPLES = 10_000
# Numbers held at once while resampling (16 MB), and additions beyond which the sign-flip test is simulated (a second).
MAX_HELD = 2_000_000
MAX_EXACT_OPERATIONS = 500_000_000


def bootstrap_interval(
    values: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, float]:
    """Bootstrap interval of the mean of `values` (one per question), the same for the same seed.

    The percentiles are those of a normal at the half-width t * sqrt(n / (n - 1)), which undoes the two ways in which
    the plain percentile interval is too narrow: the plug-in variance divides by n, and it uses z where t is due.
    """
    values = np.asarray(values, dtype=float)
    n = values.size
    if n < 2 or values.min() == values.max():
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

    Exact when the differences are multiples of a common fraction, as with any fixed number of samples per question;
    otherwise from `resamples` random flips, the observed one counted among them, so that it is never 0.
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


def wilson_interval(value: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion `value` of `n`; of positive width also at 0 and 1."""
    z2 = float(ndtri(0.5 + level / 2)) ** 2
    centre = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * (value * (1 - value) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def t_quantile(level: float, degrees: int) -> float:
    """Half-width, in standard errors, of the two-sided Student interval with `degrees` degrees of freedom."""
    return float(stdtrit(degrees, 0.5 + level / 2))


def _common_units(sizes: np.ndarray) -> np.ndarray | None:
    """The sizes as whole multiples of a common fraction 1/d, or None if there is no small d."""
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
    """Sizes that add up to `total`, none above `size`: bounds the memory of vectorised resampling."""
    while total > 0:
        yield min(size, total)
        total -= size
