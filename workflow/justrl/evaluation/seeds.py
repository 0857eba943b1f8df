"""Means and differences over training seeds *and* questions, with an interval that knows of both.

Scores become a table [seeds, questions] of means over samples. Its mean would move with other questions (the spread of
the columns' means) and with other seeds (the spread of the rows' means, which holds the sampling of answers, too). The
variances of the two are added, which counts what is left over twice and so never too little; Student's t takes the
degrees of freedom of Welch and Satterthwaite, few where the seeds decide. It is never narrower than the interval over
questions alone (resampling.mean_interval), nor does it leave what a mean, or a difference, can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from justrl.errors import UserError
from justrl.evaluation.resampling import LEVEL, mean_interval, t_quantile
from justrl.evaluation.statistics import Scores, question_means

# What a page says of an interval over as many seeds.
TWO_SEEDS = "two seeds: t interval with one degree of freedom; use three or more"


@dataclass(frozen=True)
class SeedMean:
    """A mean, or a difference of means, over seeds and questions; fractions.

    `seed_error` and `question_error` are its standard errors over either; None over seeds where there is but one, in
    which case the interval knows of questions alone.
    """

    value: float
    ci_low: float
    ci_high: float
    seed_error: float | None
    question_error: float
    seeds: int
    questions: int


def seed_table(scores: Sequence[Scores]) -> np.ndarray:
    """[seeds, questions] means over samples, of one table of scores for each seed.

    Raises UserError: the seeds were not asked the same number of questions.
    """
    rows = [question_means(each) for each in scores]
    if len({row.size for row in rows}) != 1:
        raise UserError(f"every seed must answer the same questions, got {', '.join(str(row.size) for row in rows)}")
    return np.stack(rows)


def mean_over_seeds(table: np.ndarray, level: float = LEVEL, lowest: float = 0.0) -> SeedMean:
    """The mean of a table [seeds, questions] with its interval; `lowest` is -1 of differences."""
    return average_over_seeds([table], level, lowest)


def average_over_seeds(tables: Sequence[np.ndarray], level: float = LEVEL, lowest: float = 0.0) -> SeedMean:
    """The unweighted mean of several benchmarks' means, of tables [seeds, questions] whose rows are the same seeds.

    Raises UserError: the benchmarks were not answered by the same number of seeds.
    """
    if len({table.shape[0] for table in tables}) != 1:
        raise UserError(f"every benchmark needs each seed, got {', '.join(str(table.shape[0]) for table in tables)}")
    by_seed = np.mean([table.mean(1) for table in tables], axis=0)
    by_question = [table.mean(0) for table in tables]
    return _interval(by_seed.mean(), [_over_seeds(by_seed)], by_question, len(by_seed), level, lowest)


def difference_over_seeds(first: np.ndarray, second: np.ndarray, paired: bool, level: float = LEVEL) -> SeedMean:
    """Second minus first on the same questions.

    Args:
        first, second: [seeds, questions]; with `paired`, rows of one seed stand at the same place.
        paired: the trainings of one seed share the order of questions, so that their difference is what is repeated.
    """
    if first.shape[1] != second.shape[1]:
        raise UserError(f"a comparison needs the same questions: {first.shape[1]} against {second.shape[1]}")
    if paired:
        return mean_over_seeds(second - first, level, lowest=-1.0)
    parts = [_over_seeds(first.mean(1)), _over_seeds(second.mean(1))]
    by_question = second.mean(0) - first.mean(0)
    return _interval(second.mean() - first.mean(), parts, [by_question], min(len(first), len(second)), level, -1.0)


def _over_seeds(by_seed: np.ndarray) -> tuple[float, int]:
    """Variance of the mean over seeds, and its degrees of freedom (0: one seed, of which nothing is known)."""
    seeds = by_seed.size
    return (float(np.var(by_seed, ddof=1)) / seeds, seeds - 1) if seeds > 1 else (0.0, 0)


def _over_questions(by_question: np.ndarray, tables: int) -> tuple[float, int]:
    """Variance of a benchmark's mean over its questions, as its share in a mean of so many, and degrees of freedom."""
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
    # Of a mean of several benchmarks: their distances to the ends, added as errors are (Zou and Donner 2008).
    ends = [mean_interval(each, lowest, level=level) for each in by_question]
    below = sqrt(sum((each.mean() - low) ** 2 for each, (low, _) in zip(by_question, ends, strict=True)))
    above = sqrt(sum((high - each.mean()) ** 2 for each, (_, high) in zip(by_question, ends, strict=True)))
    low = max(lowest, value - max(half, below / len(ends)))
    high = min(1.0, value + max(half, above / len(ends)))
    return SeedMean(float(value), float(low), float(high), seed_error, sqrt(spread), seeds, questions)
