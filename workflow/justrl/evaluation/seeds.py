"""Means and differences over training seeds *and* questions, with an interval that covers both.

Scores become a table [seeds, questions] of means over samples. Its mean has two sources of variation: other questions
(the variance of the column means) and other seeds (the variance of the row means, which includes the sampling of
answers). The two variances are added. The residual variance is in both, so their sum is never too small. Student's t
uses the degrees of freedom of Welch and Satterthwaite, which are few if the seeds dominate. The interval is never
narrower than the one over questions alone (resampling.mean_interval), and stays within the possible range of a mean or
a difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from justrl.errors import UserError
from justrl.evaluation.resampling import LEVEL, mean_interval, t_quantile
from justrl.evaluation.statistics import Scores, question_means

# Note in reports on an interval over two seeds.
TWO_SEEDS = "two seeds: t interval with one degree of freedom; use three or more"


@dataclass(frozen=True)
class SeedMean:
    """A mean, or a difference of means, over seeds and questions; fractions.

    `seed_error` and `question_error` are its standard errors over seeds and over questions. `seed_error` is None if
    there is only one seed; the interval then covers questions only.
    """

    value: float
    ci_low: float
    ci_high: float
    seed_error: float | None
    question_error: float
    seeds: int
    questions: int


def seed_table(scores: Sequence[Scores]) -> np.ndarray:
    """Build a [seeds, questions] table of means over samples, from one table of scores per seed.

    Raises UserError: the seeds have different numbers of questions.
    """
    rows = [question_means(each) for each in scores]
    if len({row.size for row in rows}) != 1:
        raise UserError(f"every seed must answer the same questions, got {', '.join(str(row.size) for row in rows)}")
    return np.stack(rows)


def mean_over_seeds(table: np.ndarray, level: float = LEVEL, lowest: float = 0.0) -> SeedMean:
    """The mean of a table [seeds, questions] with its interval; `lowest` is -1 for differences."""
    return average_over_seeds([table], level, lowest)


def average_over_seeds(tables: Sequence[np.ndarray], level: float = LEVEL, lowest: float = 0.0) -> SeedMean:
    """The unweighted mean of several benchmarks' means, from tables [seeds, questions] with the same seeds as rows.

    Raises UserError: the benchmarks have different numbers of seeds.
    """
    if len({table.shape[0] for table in tables}) != 1:
        raise UserError(f"every benchmark needs each seed, got {', '.join(str(table.shape[0]) for table in tables)}")
    by_seed = np.mean([table.mean(1) for table in tables], axis=0)
    by_question = [table.mean(0) for table in tables]
    return _interval(by_seed.mean(), [_over_seeds(by_seed)], by_question, len(by_seed), level, lowest)


def difference_over_seeds(first: np.ndarray, second: np.ndarray, paired: bool, level: float = LEVEL) -> SeedMean:
    """The difference second minus first on the same questions.

    Args:
        first, second: [seeds, questions]; with `paired`, rows of the same seed have the same index.
        paired: trainings with the same seed share the order of questions, so their difference is the repeated quantity.
    """
    if first.shape[1] != second.shape[1]:
        raise UserError(f"a comparison needs the same questions: {first.shape[1]} against {second.shape[1]}")
    if paired:
        return mean_over_seeds(second - first, level, lowest=-1.0)
    parts = [_over_seeds(first.mean(1)), _over_seeds(second.mean(1))]
    by_question = second.mean(0) - first.mean(0)
    return _interval(second.mean() - first.mean(), parts, [by_question], min(len(first), len(second)), level, -1.0)


def _over_seeds(by_seed: np.ndarray) -> tuple[float, int]:
    """Variance of the mean over seeds, and its degrees of freedom (0 for one seed, whose variance is unknown)."""
    seeds = by_seed.size
    return (float(np.var(by_seed, ddof=1)) / seeds, seeds - 1) if seeds > 1 else (0.0, 0)


def _over_questions(by_question: np.ndarray, tables: int) -> tuple[float, int]:
    """Sampling variance of one of `tables` means, scaled by its weight in their average, and degrees of freedom."""
    questions = by_question.size
    spread = float(np.var(by_question, ddof=1)) / questions if questions > 1 else 0.25
    return spread / tables**2, max(1, questions - 1)


def _interval(
    value: float,
    over_seeds: Sequence[tuple[float, int]],
    by_question: Sequence[np.ndarray],
    seeds: int,
    level: float,
    lowest: float,
) -> SeedMean:
    over_questions = [_over_questions(each, len(by_question)) for each in by_question]
    questions, spread = sum(each.size for each in by_question), sum(variance for variance, _ in over_questions)
    parts = [*over_seeds, *over_questions]
    total = sum(variance for variance, _ in parts)
    scale = sum(variance**2 / freedom for variance, freedom in parts if freedom)
    half = t_quantile(level, max(1, int(total**2 / scale))) * sqrt(total) if scale else 0.0
    known = all(freedom for _, freedom in over_seeds)
    seed_error = sqrt(sum(variance for variance, _ in over_seeds)) if known else None
    # For a mean of several benchmarks: the distances to their interval ends, added in quadrature (Zou and Donner 2008).
    ends = [mean_interval(each, lowest, level=level) for each in by_question]
    below = sqrt(sum((each.mean() - low) ** 2 for each, (low, _) in zip(by_question, ends, strict=True)))
    above = sqrt(sum((high - each.mean()) ** 2 for each, (_, high) in zip(by_question, ends, strict=True)))
    low = max(lowest, value - max(half, below / len(ends)))
    high = min(1.0, value + max(half, above / len(ends)))
    return SeedMean(float(value), float(low), float(high), seed_error, sqrt(spread), seeds, questions)
