"""One recipe, two engines: on the same batch our functions and verl's give the same numbers, to 1e-6 in float32."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("verl")
from verl.trainer.ppo import core_algos
from verl.utils.torch_functional import (
    entropy_from_logits,
    entropy_from_logits_with_chunking,
    get_constant_schedule_with_warmup,
    logprobs_from_logits,
)
from verl.workers.config import FSDPActorConfig

from justrl.config import AGGREGATION, load
from justrl.training.reference.logprobs import chunked_log_probs
from justrl.training.reference.loop import warmup_schedule
from justrl.training.reference.loss import clipped_policy_loss, compute_group_advantages, policy_loss
from justrl.training.verl.step_log import learning_rate

pytestmark = pytest.mark.verl

LOW, HIGH, DUAL = 0.2, 0.28, 10.0
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
EXAMPLES = settings(max_examples=60)


def verl_actor_config(mini_batch: int = 4) -> FSDPActorConfig:
    """verl's actor with the recipe's clip range."""
    return FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=8,
        ppo_mini_batch_size=mini_batch,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=LOW,
        clip_ratio_high=HIGH,
        clip_ratio_c=DUAL,
        loss_agg_mode="token-mean",
    )


@st.composite
def batches(draw):
    """A random batch: ragged lengths, groups with equal rewards among them, ratios on each side of each clip."""
    groups = draw(st.integers(1, 4))
    group_size = draw(st.integers(2, 8))
    longest = draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows = groups * group_size
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    mask = (torch.arange(longest) < lengths[:, None]).float()
    rewards = torch.where(torch.rand(groups, group_size, generator=generator) < 0.4, 1.0, -1.0)
    if draw(st.booleans()):
        # With the overlong penalty no two are quite the same.
        rewards = rewards - torch.rand(groups, group_size, generator=generator)
    if draw(st.booleans()):
        rewards[0] = draw(st.sampled_from([1.0, -1.0, 0.0]))
    old = -3 * torch.rand(rows, longest, generator=generator)
    # Ratios from far below 0.8 to far above 10, the edges themselves among them.
    ratios = torch.tensor([0.01, 0.5, 0.79, 0.81, 1.0, 1.27, 1.29, 3.0, 9.9, 10.1, 50.0])
    chosen = ratios[torch.randint(0, len(ratios), (rows, longest), generator=generator)]
    return {"mask": mask, "rewards": rewards, "old": old, "new": old + chosen.log()}


def verl_advantages(batch, scale: bool = True) -> torch.Tensor:
    """verl's advantages, [rows, longest]; the reward stands on each response's last token."""
    mask, rewards = batch["mask"], batch["rewards"]
    token_rewards = torch.zeros_like(mask)
    last = mask.sum(1).long() - 1
    token_rewards[torch.arange(len(mask)), last] = rewards.flatten()
    index = np.repeat(np.arange(rewards.shape[0]), rewards.shape[1])
    advantages, _ = core_algos.compute_grpo_outcome_advantage(token_rewards, mask, index, norm_adv_by_std_in_grpo=scale)
    return advantages


def our_advantages(batch, scale: bool = True) -> torch.Tensor:
    return compute_group_advantages(batch["rewards"], scale=scale).flatten()[:, None] * batch["mask"]


@EXAMPLES
@given(batches())
def test_advantages_are_verls(batch):
    torch.testing.assert_close(our_advantages(batch), verl_advantages(batch), **TOLERANCE)


def test_a_group_of_equal_rewards_has_no_advantage_in_either():
    """0.1 has no exact mean of 7 in float32: verl's is a rounding error over 1e-6, ours exactly nothing.

    Rewards of +1 and -1 average exactly, so this never happens in the paper's recipe.
    """
    batch = {"mask": torch.ones(7, 1), "rewards": torch.full((1, 7), 0.1)}
    assert our_advantages(batch).abs().max() == 0
    assert verl_advantages(batch).abs().max() < 0.01


@EXAMPLES
@given(batches())
def test_loss_clip_fractions_and_gradient_are_verls(batch):
    advantages = verl_advantages(batch)
    ours = batch["new"].clone().requires_grad_()
    theirs = batch["new"].clone().requires_grad_()
    options = {"clip_ratio_low": LOW, "clip_ratio_high": HIGH, "clip_ratio_c": DUAL}
    our_loss, sums = clipped_policy_loss(ours, batch["old"], advantages, batch["mask"], **options)
    verl_loss, metrics = core_algos.compute_policy_loss_vanilla(
        batch["old"], theirs, advantages, batch["mask"], config=verl_actor_config()
    )
    torch.testing.assert_close(our_loss, verl_loss, **TOLERANCE)
    tokens = float(sums["tokens"])
    assert math.isclose(float(sums["clipped"]) / tokens, metrics["actor/pg_clipfrac"], abs_tol=1e-6)
    assert math.isclose(float(sums["clipped_lower"]) / tokens, metrics["actor/pg_clipfrac_lower"], abs_tol=1e-6)
    assert math.isclose(float(sums["kl"]) / tokens, metrics["actor/ppo_kl"], rel_tol=1e-5, abs_tol=1e-5)
    our_loss.backward()
    verl_loss.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, **TOLERANCE)


@EXAMPLES
@given(batches())
def test_each_tokens_loss_is_verls(batch):
    """The loss of a mask with a single token is that token's loss."""
    advantages = verl_advantages(batch)
    options = {"clip_ratio_low": LOW, "clip_ratio_high": HIGH, "clip_ratio_c": DUAL}
    for row, column in batch["mask"].nonzero()[:6].tolist():
        one = torch.zeros_like(batch["mask"])
        one[row, column] = 1.0
        ours, _ = clipped_policy_loss(batch["new"], batch["old"], advantages, one, **options)
        theirs, _ = core_algos.compute_policy_loss_vanilla(
            batch["old"], batch["new"], advantages, one, config=verl_actor_config()
        )
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("ratio", [0.1, 0.799, 0.8, 0.801, 1.0, 1.279, 1.28, 1.281, 9.99, 10.0, 10.01, 100.0])
def test_every_side_of_every_clip(ratio, advantage):
    old, mask = torch.zeros(1, 1), torch.ones(1, 1)
    ours = torch.full((1, 1), math.log(ratio), requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    advantages = torch.full((1, 1), advantage)
    options = {"clip_ratio_low": LOW, "clip_ratio_high": HIGH, "clip_ratio_c": DUAL}
    our_loss, _ = clipped_policy_loss(ours, old, advantages, mask, **options)
    verl_loss, _ = core_algos.compute_policy_loss_vanilla(old, theirs, advantages, mask, config=verl_actor_config())
    our_loss.backward()
    verl_loss.backward()
    torch.testing.assert_close(our_loss, verl_loss, **TOLERANCE)
    torch.testing.assert_close(ours.grad, theirs.grad, **TOLERANCE)


@EXAMPLES
@given(batches(), st.integers(1, 5))
def test_micro_batches_add_up_to_the_mini_batch_in_both(batch, cuts):
    """token-mean is over the mini-batch, however it is cut: verl divides by the tokens of all parts, as we do."""
    advantages = verl_advantages(batch)
    options = {"clip_ratio_low": LOW, "clip_ratio_high": HIGH, "clip_ratio_c": DUAL}
    total = batch["mask"].sum()
    ours = theirs = torch.zeros(())
    config = verl_actor_config()
    config.global_batch_info.update(dp_size=1, batch_num_tokens=total, global_batch_size=len(batch["mask"]))
    for rows in torch.arange(len(batch["mask"])).chunk(cuts):
        part = {key: batch[key][rows] for key in ("new", "old", "mask")}
        ours = ours + clipped_policy_loss(
            part["new"], part["old"], advantages[rows], part["mask"], divisor=total, **options
        )[0]  # fmt: skip
        theirs = theirs + core_algos.compute_policy_loss_vanilla(
            part["old"], part["new"], advantages[rows], part["mask"], config=config
        )[0]  # fmt: skip
    whole, _ = clipped_policy_loss(batch["new"], batch["old"], advantages, batch["mask"], **options)
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5)


RECIPE = load().recipe.model_copy(update={"max_response_length": 12})
VERLS = {
    "vanilla": core_algos.compute_policy_loss_vanilla,
    "dr_grpo": core_algos.compute_policy_loss_vanilla,
    "gspo": core_algos.compute_policy_loss_gspo,
}


@pytest.mark.parametrize("loss", sorted(AGGREGATION))
@EXAMPLES
@given(batches(), st.integers(1, 5), st.integers(1, 2))
def test_each_loss_is_verls_however_it_is_cut(loss, batch, cuts, ranks):
    """Advantages, loss, gradient and metrics over ragged micro-batches of several ranks; verl's are times the ranks."""
    recipe = RECIPE.model_copy(update={"loss": loss})
    mask, scale = batch["mask"], loss != "dr_grpo"
    advantages = verl_advantages(batch, scale)
    torch.testing.assert_close(our_advantages(batch, scale), advantages, **TOLERANCE)
    total = {"tokens": mask.sum(), "sequences": len(mask)}
    config = verl_actor_config()
    constant = recipe.max_response_length if loss == "dr_grpo" else None
    # What verl's ppo_loss fills in from the mini-batch, before it calls the loss that its configuration names.
    config.global_batch_info.update(
        dp_size=ranks, batch_num_tokens=mask.sum(), global_batch_size=len(mask), loss_scale_factor=constant
    )
    new, verls = (batch["new"].clone().requires_grad_() for _ in range(2))
    ours = theirs = torch.zeros(())
    for rows in torch.arange(len(mask)).chunk(cuts):
        part = (new[rows], batch["old"][rows], advantages[rows], mask[rows])
        own, sums = policy_loss(recipe, *part, **total)
        verl_loss, metrics = VERLS[loss](
            part[1], verls[rows], part[2], part[3], loss_agg_mode=AGGREGATION[loss], config=config
        )
        ours, theirs = ours + own, theirs + verl_loss / ranks
        for name, verl_name in (("clipped", "pg_clipfrac"), ("clipped_lower", "pg_clipfrac_lower"), ("kl", "ppo_kl")):
            mean = float(sums[name]) / float(sums["tokens"])
            assert math.isclose(mean, metrics[f"actor/{verl_name}"], rel_tol=1e-5, abs_tol=1e-5), name
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    whole, _ = policy_loss(recipe, batch["new"], batch["old"], advantages, mask)
    torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(new.grad, verls.grad, **TOLERANCE)


@pytest.mark.parametrize("warmup", [0, 1, 2, 10])
def test_learning_rate_of_every_step_is_verls(warmup):
    def rates(schedule):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-6)
        scheduler = schedule(optimizer)
        for _ in range(15):
            yield optimizer.param_groups[0]["lr"]
            optimizer.step()
            scheduler.step()

    verls = list(rates(lambda optimizer: get_constant_schedule_with_warmup(optimizer, num_warmup_steps=warmup)))
    ours = list(rates(lambda optimizer: warmup_schedule(optimizer, warmup)))
    recipe = SimpleNamespace(learning_rate=1e-6, warmup_steps=warmup)  # what is read of a Recipe
    assert ours == pytest.approx(verls, rel=1e-12)
    assert [learning_rate(recipe, step) for step in range(1, 16)] == pytest.approx(verls, rel=1e-12)


def test_log_probabilities_and_entropy_are_verls():
    """Our output layer runs in chunks; verl's sees all logits."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(21, 16, generator=generator)
    head = torch.nn.Linear(16, 50, bias=False)
    labels = torch.randint(0, 50, (21,), generator=generator)
    with torch.no_grad():
        ours, entropies = chunked_log_probs(hidden, head, labels, chunk_tokens=4, with_entropy=True)
        logits = head(hidden)
        torch.testing.assert_close(ours, logprobs_from_logits(logits, labels), **TOLERANCE)
        torch.testing.assert_close(entropies, entropy_from_logits(logits), **TOLERANCE)
        torch.testing.assert_close(entropies, entropy_from_logits_with_chunking(logits), **TOLERANCE)
