"""avg@k, pass@k, maj@k, paired comparison and the rest, against hand-worked cases, closed forms and SciPy."""

from fractions import Fraction
from itertools import combinations, pairwise
from math import comb, sqrt
from statistics import stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from justrl.errors import UserError
from justrl.evaluation import resampling, seeds, statistics

SCORES = [[1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]]

binary_matrices = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(0, 1), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


def test_pass_at_k_has_the_interval_of_its_questions_values():
    at_two = [1 - comb(4 - sum(row), 2) / comb(4, 2) for row in SCORES]
    assert statistics.pass_at_k_interval(SCORES, 2) == resampling.mean_interval(np.array(at_two))
    first = statistics.avg_at_k(SCORES)
    assert statistics.pass_at_k_interval(SCORES, 1) == (first.ci_low, first.ci_high)
    assert statistics.pass_at_k_interval([[1, 1], [1, 0]], 2) == pytest.approx((0.025**0.5, 1.0))
    with pytest.raises(UserError, match="pass@5 needs 5 samples"):
        statistics.pass_at_k_interval(SCORES, 5)


def exact_pass_at_k(scores, k):
    """The definition: the share of k-subsets of a question's samples that hold a correct one."""
    shares = [Fraction(sum(any(subset) for subset in combinations(row, k)), comb(len(row), k)) for row in scores]
    return float(sum(shares) / len(shares))


def test_avg_at_k_by_hand():
    average = statistics.avg_at_k(SCORES)
    assert average.value == pytest.approx((0.75 + 0 + 1 + 0.25) / 4)
    assert average.standard_error == pytest.approx(stdev([0.75, 0, 1, 0.25]) / 2)
    # Samples 1 to 4 alone would score 2/4, 3/4, 1/4, 2/4.
    assert average.seed_std == pytest.approx(stdev([0.5, 0.75, 0.25, 0.5]))
    # Within-question variances 0.25, 0, 0, 0.25 over 4 samples and 4 questions.
    assert average.seed_standard_error == pytest.approx(sqrt(2 * 0.25 / 4) / 4)
    assert 0 <= average.ci_low <= average.value <= average.ci_high <= 1


def test_analytic_interval_is_the_t_interval_of_the_questions():
    scores = np.random.default_rng(0).integers(0, 2, size=(30, 16))
    average = statistics.avg_at_k(scores)
    expected = stats.ttest_1samp(scores.mean(axis=1), 0.5).confidence_interval(0.95)
    assert (average.analytic_low, average.analytic_high) == pytest.approx((expected.low, expected.high))


def test_bootstrap_agrees_with_scipy_on_many_questions():
    values = np.random.default_rng(1).beta(0.6, 0.9, size=400)
    ours = resampling.bootstrap_interval(values, seed=3)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=4).confidence_interval
    width = theirs.high - theirs.low
    assert ours[0] == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours[1] == pytest.approx(theirs.high, abs=0.05 * width)


def test_bootstrap_is_widened_for_few_questions():
    values = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 0.5])
    low, high = resampling.bootstrap_interval(values)
    plain = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    assert high - low > 1.15 * (plain.high - plain.low)


def test_bootstrap_is_the_same_for_the_same_seed_and_for_any_chunk(monkeypatch):
    values = np.random.default_rng(2).random(50)
    first = resampling.bootstrap_interval(values, seed=5)
    monkeypatch.setattr(resampling, "MAX_HELD", 5000)
    assert resampling.bootstrap_interval(values, seed=5) == first
    assert resampling.bootstrap_interval(values, seed=6) != first


@pytest.mark.parametrize("value", [0, 1])
def test_certainty_is_never_claimed_from_equal_questions(value):
    average = statistics.avg_at_k(np.full((30, 32), value))
    expected = stats.binomtest(30 * value, 30).proportion_ci(0.95, "exact")
    assert (average.ci_low, average.ci_high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_question_says_nothing_about_others():
    average = statistics.avg_at_k([[1, 0, 1]])
    assert (average.ci_low, average.ci_high, average.standard_error, average.analytic_low) == (0.0, 1.0, None, None)
    # One question, c of n correct: the standard error of a proportion with n - 1 in place of n.
    assert average.seed_standard_error == pytest.approx(sqrt((2 / 3) * (1 / 3) / 2))


def test_one_sample_has_no_spread_over_seeds():
    average = statistics.avg_at_k([[1], [0], [1]])
    assert average.seed_std is None and average.seed_standard_error is None


def test_ragged_scores_weigh_each_question_the_same():
    ragged = [[1, 1, 1, 1], [0, 1], [0, 0, 0]]
    average = statistics.avg_at_k(ragged)
    assert average.value == pytest.approx((1 + 0.5 + 0) / 3)
    assert average.seed_std == pytest.approx(stdev([1 / 3, 2 / 3]))
    assert list(statistics.pass_at_k_curve(ragged)) == [1, 2]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([], "no question"),
        ([[1], []], "question 1 of 2 has no samples"),
        ([[1, 2]], "outside"),
        ([[float("nan")]], "out"),
    ],
)
def test_bad_scores_are_refused(scores, message):
    with pytest.raises(UserError, match=message):
        statistics.avg_at_k(scores)


@pytest.mark.parametrize(
    ("n", "correct", "k", "expected"), [(4, 1, 2, 0.5), (4, 3, 2, 1.0), (32, 0, 32, 0.0), (5, 2, 1, 0.4)]
)
def test_pass_at_k_by_hand(n, correct, k, expected):
    assert statistics.pass_at_k_curve([[1] * correct + [0] * (n - correct)])[k] == pytest.approx(expected)


@given(binary_matrices)
@settings(max_examples=60)
def test_pass_at_k_equals_its_definition(scores):
    curve = statistics.pass_at_k_curve(scores)
    for k, value in curve.items():
        assert value == pytest.approx(exact_pass_at_k(scores, k))


@given(binary_matrices)
@settings(max_examples=60)
def test_pass_at_k_rises_from_the_average_to_the_best(scores):
    values = list(statistics.pass_at_k_curve(scores).values())
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(values))
    assert values[0] == pytest.approx(statistics.avg_at_k(scores, resamples=10).value)
    assert values[-1] == pytest.approx(np.mean([any(row) for row in scores]))


def test_pass_at_k_is_stable_where_factorials_overflow():
    n, correct, k = 5000, 1, 2500
    assert statistics.pass_at_k_curve([[1] * correct + [0] * (n - correct)])[k] == pytest.approx(k / n)


def test_pass_at_k_is_unbiased():
    rng = np.random.default_rng(3)
    chance, n, k = 0.2, 10, 4
    estimates = [statistics.pass_at_k_curve([(rng.random(n) < chance).astype(int)])[k] for _ in range(4000)]
    error = np.std(estimates) / sqrt(len(estimates))
    assert abs(np.mean(estimates) - (1 - (1 - chance) ** k)) < 4 * error


def test_pass_at_k_refuses_partial_credit():
    with pytest.raises(UserError, match="partial credit"):
        statistics.pass_at_k_curve([[0.5, 1]])


@pytest.mark.parametrize(
    ("answers", "scores", "expected"),
    [
        (["7", "7", "3"], [1, 1, 0], 1.0),
        (["7", "3", "3"], [1, 0, 0], 0.0),
        (["7", "3"], [1, 0], 0.5),
        (["7", "3", "5"], [1, 0, 0], 1 / 3),
        ([None, None, "7"], [0, 0, 1], 1.0),
        ([None, None], [0, 0], 0.0),
        (["x + 1", "x  + 1 ", "2"], [1, 1, 0], 1.0),
        (["7", "7"], [1, 0], 0.5),
    ],
    ids=[
        "majority",
        "outvoted",
        "tie of two",
        "tie of three",
        "no vote",
        "nothing read",
        "white space",
        "graded apart",
    ],
)
def test_maj_at_k_by_hand(answers, scores, expected):
    assert statistics.maj_at_k([answers], [scores]) == pytest.approx(expected)
    assert statistics.maj_at_k([answers[::-1]], [scores[::-1]]) == pytest.approx(expected)


def test_maj_at_k_refuses_other_shapes():
    with pytest.raises(UserError, match="shapes differ"):
        statistics.maj_at_k([["1"]], [[1, 0]])


def test_sign_flip_equals_scipys_exact_permutation_test():
    rng = np.random.default_rng(5)
    for samples in (1, 4, 32):
        differences = rng.integers(-samples, samples + 1, size=12) / samples
        expected = stats.permutation_test(
            (differences,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        ).pvalue
        assert resampling.sign_flip_p_value(differences) == pytest.approx(expected)


def test_simulated_sign_flip_agrees_with_the_exact_one(monkeypatch):
    differences = np.random.default_rng(6).integers(-3, 5, size=40) / 8
    exact = resampling.sign_flip_p_value(differences)
    monkeypatch.setattr(resampling, "MAX_EXACT_OPERATIONS", -1)
    simulated = resampling.sign_flip_p_value(differences, resamples=20_000)
    assert simulated == pytest.approx(exact, abs=4 * sqrt(exact * (1 - exact) / 20_000))


def test_sign_flip_of_no_difference_is_one():
    assert resampling.sign_flip_p_value(np.zeros(10)) == 1.0


def test_compare_paired_by_hand():
    before = [[0, 0], [0, 1], [1, 1], [0, 0]]
    after = [[1, 1], [1, 1], [1, 0], [0, 0]]
    paired = statistics.compare_paired(before, after)
    assert paired.difference == pytest.approx((1 + 0.5 - 0.5 + 0) / 4)
    assert (paired.better, paired.worse, paired.equal, paired.n_questions) == (2, 1, 1, 4)
    # Signs of 1, 1/2, 1/2: |sum| >= 1 in 6 of 8.
    assert paired.p_value == pytest.approx(6 / 8)
    assert paired.ci_low < paired.difference < paired.ci_high


def test_compare_paired_is_antisymmetric_and_needs_the_same_questions():
    rng = np.random.default_rng(7)
    one, two = rng.integers(0, 2, (20, 8)), rng.integers(0, 2, (20, 8))
    there, back = statistics.compare_paired(one, two), statistics.compare_paired(two, one)
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value)
    with pytest.raises(UserError, match="same questions"):
        statistics.compare_paired(one, two[:-1])


def test_lengths_truncation_and_solve_counts():
    assert statistics.length_summary([10, 20, 30, 40, 50]) == {"mean": 30, "p10": 14, "p50": 30, "p90": 46, "max": 50}
    assert statistics.truncated_fraction(["stop", "length", "stop", "length"]) == 0.5
    assert statistics.solve_counts(SCORES) == (1, 1)
    for empty in (statistics.length_summary, statistics.truncated_fraction):
        with pytest.raises(UserError, match="no completions"):
            empty([])


ALIKE = {
    "all solved": ([[1] * 4] * 30, "high"),
    "none solved": ([[0] * 4] * 30, "low"),
    "all half solved": ([[1, 0]] * 30, None),
    "one question": ([[1, 0, 0, 0]], None),
    "two equal questions": ([[1, 1], [1, 1]], "high"),
    "three nearly equal questions": ([[1] * 64, [1] * 63 + [0], [1] * 64], None),
    "one of thirty is not solved": ([[1]] * 29 + [[0]], None),
    "one answer of 960 is wrong": ([[1] * 32] * 29 + [[1] * 31 + [0]], None),
    "thirds, which are not exact": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 10, None),
}


@pytest.mark.parametrize(("scores", "end"), ALIKE.values(), ids=ALIKE)
def test_no_interval_is_of_width_0_or_leaves_what_can_be(scores, end):
    """By each of its callers: avg@k, pass@k, the paired comparison, means over seeds and their differences."""
    average = statistics.avg_at_k(scores)
    table = seeds.seed_table([scores] * 3)
    over = seeds.mean_over_seeds(table)
    found = [(average.ci_low, average.value, average.ci_high), (over.ci_low, over.value, over.ci_high)]
    solved = statistics.pass_at_k_curve(scores)[1]
    low, high = statistics.pass_at_k_interval(scores, 1)
    found.append((low, solved, high))
    for low, value, high in found:
        assert 0 <= low <= value <= high <= 1 and high - low > 0.02, (low, value, high)
        assert (low == 0 or high == 1) if end else True
    nothing = [[0] * len(row) for row in scores]
    pair = statistics.compare_paired(nothing, scores)
    difference = seeds.difference_over_seeds(seeds.seed_table([nothing] * 3), table, paired=True)
    for each in (pair, difference):
        assert -1 <= each.ci_low < each.ci_high <= 1 and each.ci_high - each.ci_low > 0.02
    assert (pair.ci_low <= 0 <= pair.ci_high) == (pair.p_value > 0.05)


def test_the_interval_of_few_unlike_questions_is_the_exact_one():
    for unlike in range(5):
        average = statistics.avg_at_k([[0]] * (40 - unlike) + [[1]] * unlike)
        exact = stats.binomtest(unlike, 40).proportion_ci(0.95, "exact")
        assert average.ci_low == 0 and average.ci_high == pytest.approx(exact.high)


@pytest.mark.parametrize("questions", [1, 2, 3, 5, 6, 8, 15, 30])
@pytest.mark.parametrize("samples", [1, 4])
def test_an_interval_of_a_difference_holds_0_just_if_its_test_does_not_reject_it(questions, samples):
    rng = np.random.default_rng(questions)
    for shift in (0.0, 0.1, 0.25, 0.5, 1.0):
        for kind in range(20):
            first = rng.random((questions, samples)) < 0.3
            second = first | (rng.random((questions, samples)) < shift)
            if kind == 0:
                first, second = np.zeros((questions, 4)), np.zeros((questions, 4))
                second[:, : round(4 * shift)] = 1
            pair = statistics.compare_paired(first, second, resamples=300)
            assert (pair.ci_low <= 0 <= pair.ci_high) == (pair.p_value > 0.05), pair
            assert -1 <= pair.ci_low <= pair.difference <= pair.ci_high <= 1 and pair.ci_high > pair.ci_low, pair


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (
            ["07", "7", "7.0", "7.", "+7", r"\frac{14}{2}", r"\dfrac{14}{2}", "14/2", " 7 ", "$7$"],
            ["-7", "70", "0.7", "7x"],
        ),
        ([r"\frac12", r"\frac{1}{2}", "0.5", "1/2", ".5", "0.50", r"\tfrac 1 2"], [r"\frac{2}{1}", r"-\frac12", "5"]),
        (["-3", "\N{MINUS SIGN}3", "-03.0", r"-\frac{6}{2}", r"\frac{-6}{2}"], ["3"]),
        (["(1, 2)", "(1,2)", r"\left( 1, \frac{4}{2} \right)", "(1.0,02)"], ["[1, 2]", "(2, 1)", "(1,2,2)", "12"]),
        (["1,2", "1, 2.0"], ["(1,2)", "1.2"]),
        (["x + 1", "x  + 1"], ["x+2", "x"]),
        (["1/0"], ["0", "1"]),
    ],
)
def test_majority_votes_go_by_value(same, other):
    """Every spelling votes for the same answer, which wins against two that agree on another."""
    for one in same:
        for two in same:
            assert statistics.maj_at_k([[one, two, other[0]]], [[1, 1, 0]]) == 1, (one, two)
        for two in other:
            assert statistics.maj_at_k([[one, one, two]], [[1, 1, 0]]) == 1
            assert statistics.maj_at_k([[one, two]], [[1, 0]]) == 0.5, (one, two)


def test_a_number_of_any_length_is_a_vote():
    assert statistics.maj_at_k([["9" * 5000, "9" * 5000, "1"]], [[1, 1, 0]]) == 1
