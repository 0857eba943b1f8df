"""Group advantages: by hand, against a loop, and what must hold for any rewards."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from justrl.training.reference.loss import compute_group_advantages

REWARD = st.floats(-10, 10, width=32)
GROUPS = st.integers(2, 9).flatmap(
    lambda size: st.lists(st.lists(REWARD, min_size=size, max_size=size), min_size=1, max_size=5)
)


def test_by_hand():
    # mean 0, unbiased variance (1 + 1 + 1 + 1) / 3
    advantages = compute_group_advantages(torch.tensor([[1.0, -1.0, 1.0, -1.0]]), eps=0.0)
    assert advantages.tolist()[0] == pytest.approx([math.sqrt(3) / 2 * sign for sign in (1, -1, 1, -1)])


def test_one_right_among_eight_outweighs_each_wrong_one():
    advantages = compute_group_advantages(torch.tensor([[1.0] + [-1.0] * 7]))[0]
    # mean -0.75, deviations 1.75 and -0.25, variance (1.75^2 + 7 x 0.25^2) / 7 = 0.5
    assert advantages.tolist() == pytest.approx([1.75 / 0.5**0.5] + [-0.25 / 0.5**0.5] * 7, abs=1e-5)


def test_centred_only():
    """Dr. GRPO: the one right among eight no longer weighs more than one among two."""
    advantages = compute_group_advantages(torch.tensor([[1.0] + [-1.0] * 7, [1.0, -1.0] * 4]), scale=False)
    assert advantages.tolist() == [[1.75] + [-0.25] * 7, [1.0, -1.0] * 4]


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("value", [1.0, -1.0, 0.0, 0.1, 1 / 3, 1e6])
def test_a_constant_group_has_no_advantage(value, scale):
    assert compute_group_advantages(torch.full((2, 7), value), scale=scale).tolist() == [[0.0] * 7] * 2


@given(GROUPS)
def test_equals_the_formula_written_as_a_loop(groups):
    got = compute_group_advantages(torch.tensor(groups, dtype=torch.float64), eps=1e-6)
    for row, advantages in zip(groups, got.tolist(), strict=True):
        if len(set(row)) == 1:
            assert advantages == [0.0] * len(row)
            continue
        mean, std = statistics.fmean(row), statistics.stdev(row)
        expected = [(reward - mean) / (std + 1e-6) for reward in row]
        assert advantages == pytest.approx(expected, abs=1e-6)


@given(GROUPS, st.permutations(range(9)))
def test_groups_do_not_influence_each_other_and_order_within_does_not_matter(groups, order):
    order = [i for i in order if i < len(groups[0])]
    rewards = torch.tensor(groups, dtype=torch.float64)
    whole = compute_group_advantages(rewards)
    for index in range(len(groups)):
        alone = compute_group_advantages(rewards[index : index + 1][:, order])
        assert torch.allclose(alone, whole[index : index + 1][:, order], atol=1e-9)


@pytest.mark.parametrize("shape", [(4,), (3, 1), (2, 2, 2)])
def test_refuses_rewards_that_are_not_groups(shape):
    with pytest.raises(ValueError, match="at least 2 rollouts"):
        compute_group_advantages(torch.zeros(shape))


def test_integer_rewards_and_no_gradient():
    rewards = torch.tensor([[1, 0, 0, 1]])
    assert compute_group_advantages(rewards).dtype == torch.float32
    assert not compute_group_advantages(rewards.float().requires_grad_()).requires_grad


def test_equals_verl():
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed here")
    rewards = torch.randn(6, 8)
    index = [i // 8 for i in range(48)]
    mask = torch.ones(48, 3)
    token_rewards = torch.zeros(48, 3)
    token_rewards[:, -1] = rewards.flatten()
    theirs, _ = core_algos.compute_grpo_outcome_advantage(token_rewards, mask, index, epsilon=1e-6)
    ours = compute_group_advantages(rewards, 1e-6).flatten()
    assert torch.allclose(theirs[:, 0], ours, atol=1e-6)
