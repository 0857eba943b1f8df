"""Rewards: the verifier's score, and the price on length of the ablations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl.config import load
from justrl.errors import UserError
from justrl.training.reward import RewardFunction, overlong_penalty


def recipe(enabled: bool = True):
    """The paper's recipe, by default with the penalty of its ablations."""
    paper = load().recipe
    penalty = paper.overlong_penalty.model_copy(update={"enabled": enabled})
    return paper.model_copy(update={"overlong_penalty": penalty})


@pytest.mark.parametrize(("length", "penalty"), [(0, 0), (11264, 0), (11265, -1 / 4096), (13312, -0.5), (15360, -1.0)])
def test_overlong_penalty_of_the_papers_ablation(length, penalty):
    assert overlong_penalty(length, 15360, 4096, 1.0) == pytest.approx(penalty)


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0, 5))
def test_overlong_penalty_falls_from_zero_to_the_factor(longest, buffer, factor):
    buffer = min(buffer, longest)
    penalties = [overlong_penalty(n, longest, buffer, factor) for n in range(longest + 1)]
    assert penalties == sorted(penalties, reverse=True)
    assert penalties[longest - buffer] == 0
    assert penalties[longest] == pytest.approx(-factor)


@pytest.mark.parametrize("buffer", [0, -1, 15361])
def test_overlong_penalty_refuses_a_buffer_that_does_not_fit(buffer):
    with pytest.raises(UserError, match=r"overlong_penalty\.buffer"):
        overlong_penalty(1, 15360, buffer, 1.0)


def test_reward_is_score_plus_penalty():
    rewards = RewardFunction(recipe())([r"so \boxed{7}", r"so \boxed{8}"], ["7", "7"], [13312, 10])
    assert rewards.scores == [1.0, -1.0]
    assert rewards.totals == [0.5, -1.0]
    assert rewards.correct == [True, False]


def test_no_penalty_unless_enabled():
    assert RewardFunction(recipe(enabled=False))([r"\boxed{7}"], ["7"], [15360]).totals == [1.0]


def test_a_penalised_right_answer_is_still_counted_as_right():
    rewards = RewardFunction(recipe())([r"\boxed{7}"], ["7"], [15360])
    assert rewards.totals == [0.0]
    assert rewards.correct == [True]
