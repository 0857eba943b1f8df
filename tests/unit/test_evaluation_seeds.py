"""Means over seeds and questions: by hand, and how often the interval holds the truth."""

import numpy as np
import pytest

from justrl.errors import UserError
from justrl.evaluation.seeds import difference_over_seeds, mean_over_seeds, seed_table


def test_a_small_table_by_hand():
    table = np.array([[0.0, 0.5, 1.0], [0.2, 0.7, 1.2]])
    mean = mean_over_seeds(table)
    assert mean.value == pytest.approx(0.6) and (mean.seeds, mean.questions) == (2, 3)
    assert mean.seed_error == pytest.approx(0.1)  # rows' means 0.5 and 0.7: deviation 0.1414, over sqrt 2
    assert mean.question_error == pytest.approx(0.5 / 3**0.5)
    alone = mean_over_seeds(table[:1])
    assert alone.seed_error is None and alone.value == pytest.approx(0.5)


def test_what_every_seed_shares_is_no_error_of_a_paired_difference():
    rng = np.random.default_rng(0)
    first = rng.random((3, 50))
    second = first + 0.1
    paired = difference_over_seeds(first, second, paired=True)
    assert paired.value == pytest.approx(0.1) and paired.seed_error == pytest.approx(0)
    # What is left: of other questions a few may differ in another way.
    assert 0 < paired.ci_low < 0.1 < paired.ci_high < 0.2
    unpaired = difference_over_seeds(first, second, paired=False)
    assert unpaired.value == pytest.approx(0.1) and unpaired.ci_high - unpaired.ci_low > 0.01


@pytest.mark.parametrize(("seeds", "questions"), [(3, 30), (3, 200), (5, 40)])
@pytest.mark.parametrize("luck", [0.0, 0.03])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds, questions, luck):
    rng = np.random.default_rng(seeds * questions)
    held = 0
    for _ in range(400):
        difficulty = rng.normal(0, 0.2, questions)
        effect = rng.normal(0.05, 0.1, questions)  # the second setting helps some questions more than others
        first, second = (
            np.stack([difficulty + shift + rng.normal(0, luck) + rng.normal(0, 0.1, questions) for _ in range(seeds)])
            for shift in (0.0, effect)
        )
        found = difference_over_seeds(first, second, paired=False)
        held += found.ci_low <= 0.05 <= found.ci_high
    assert held / 400 >= 0.93


def test_other_questions_are_refused():
    with pytest.raises(UserError, match="same questions"):
        seed_table([[[1, 0]], [[1, 0], [0, 1]]])
    with pytest.raises(UserError, match="same questions"):
        difference_over_seeds(np.zeros((2, 3)), np.zeros((2, 4)), paired=False)
