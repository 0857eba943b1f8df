"""By simulation: 95% intervals cover 95% of the time, and p-values are uniform where there is no difference.

Each tolerance is four standard deviations of the simulation itself, so that a sound estimator fails once in 16,000.
"""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from justrl.evaluation import statistics
from justrl.evaluation.resampling import sign_flip_p_value

TRIALS = 600


@pytest.mark.parametrize(
    ("questions", "samples", "a", "b"),
    [(30, 32, 0.6, 0.6), (30, 8, 0.5, 1.5), (100, 4, 2.0, 0.5)],
    ids=["like AIME", "hard", "easy, four samples"],
)
def test_intervals_cover_the_truth(questions, samples, a, b):
    rng = np.random.default_rng(questions + samples)
    truth, bootstrap, analytic = a / (a + b), 0, 0
    for trial in range(TRIALS):
        chances = rng.beta(a, b, size=questions)
        scores = rng.random((questions, samples)) < chances[:, None]
        average = statistics.avg_at_k(scores, seed=trial, resamples=400)
        bootstrap += average.ci_low <= truth <= average.ci_high
        analytic += average.analytic_low <= truth <= average.analytic_high
    tolerance = 4 * sqrt(0.95 * 0.05 / TRIALS)
    assert bootstrap / TRIALS == pytest.approx(0.95, abs=tolerance)
    assert analytic / TRIALS == pytest.approx(0.95, abs=tolerance)


@pytest.mark.parametrize(("questions", "share"), [(10, 0.9), (30, 0.98), (30, 0.5), (5, 0.7), (100, 0.99), (3, 0.5)])
@pytest.mark.parametrize("samples", [1, 8])
def test_intervals_cover_the_truth_where_few_questions_are_unlike_the_others(questions, share, samples):
    """A question is solved by all samples or by none, or, in the rest, by half of them."""
    rng = np.random.default_rng(questions * samples)
    held = 0
    for trial in range(TRIALS):
        chances = np.where(rng.random(questions) < share, 1.0, 0.5)
        scores = rng.random((questions, samples)) < chances[:, None]
        average = statistics.avg_at_k(scores, seed=trial, resamples=200)
        held += average.ci_low <= share + (1 - share) / 2 <= average.ci_high
    assert held / TRIALS >= 0.95 - 4 * sqrt(0.95 * 0.05 / TRIALS)


def test_paired_intervals_cover_the_true_difference():
    rng = np.random.default_rng(11)
    covered = 0
    for trial in range(TRIALS):
        chances = rng.beta(0.6, 0.9, size=40)
        better = 0.7 * chances + 0.3
        paired = statistics.compare_paired(
            rng.random((40, 16)) < chances[:, None], rng.random((40, 16)) < better[:, None], seed=trial, resamples=400
        )
        # The mean of 0.3 (1 - p) over the distribution that questions come from.
        covered += paired.ci_low <= 0.3 * (1 - 0.6 / 1.5) <= paired.ci_high
    assert covered / TRIALS == pytest.approx(0.95, abs=4 * sqrt(0.95 * 0.05 / TRIALS))


def test_p_values_are_uniform_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(12)
    alike, apart = [], []
    for _ in range(TRIALS):
        chances = rng.beta(0.6, 0.9, size=60)
        first, second, third = (rng.binomial(256, p) / 256 for p in (chances, chances, 0.8 * chances + 0.2))
        alike.append(sign_flip_p_value(second - first))
        apart.append(sign_flip_p_value(third - first))
    # With 256 samples the steps of the exact test are finer than 600 values can tell from a continuous uniform.
    assert stats.kstest(alike, "uniform").pvalue > 1e-4
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(alike) <= level) == pytest.approx(level, abs=4 * sqrt(level * (1 - level) / TRIALS))
    assert np.median(apart) < 1e-4


def test_seed_standard_error_predicts_the_spread_over_seeds():
    rng = np.random.default_rng(13)
    chances = rng.beta(0.6, 0.9, size=40)
    draws = [rng.random((40, 8)) < chances[:, None] for _ in range(TRIALS)]
    observed = np.std([draw.mean() for draw in draws])
    predicted = np.mean([statistics.seed_standard_error(draw) for draw in draws])
    # A standard deviation from n draws is known to 1 / sqrt(2 n).
    assert predicted == pytest.approx(observed, rel=4 / sqrt(2 * TRIALS))
    spread = np.mean([statistics.seed_std(draw) for draw in draws])
    assert spread == pytest.approx(observed * sqrt(8), rel=4 / sqrt(2 * TRIALS) + 0.04)
