"""The losses: by hand, against verl's formula written as a loop, and their gradients."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from justrl.config import AGGREGATION, load
from justrl.training.reference.loss import clipped_policy_loss, policy_loss

CLIP = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 10.0}
LOSSES = sorted(AGGREGATION)
PAPER = load().recipe
EXAMPLES = settings(deadline=None)


def recipe(loss):
    """The paper's recipe with another loss, and a short response to divide by."""
    return PAPER.model_copy(update={"loss": loss, "max_response_length": 8})


def loss_of(ratios, advantages, mask=None, **options):
    """The loss and sums for given ratios, as float64."""
    log_probs = torch.tensor([math.log(ratio) for ratio in ratios], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor(advantages, dtype=torch.float64)
    mask = torch.ones(len(ratios)) if mask is None else torch.tensor(mask)
    loss, sums = clipped_policy_loss(log_probs, torch.zeros_like(log_probs), advantages, mask, **CLIP | options)
    return loss, {name: float(value) for name, value in sums.items()}, log_probs


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped", "lower"),
    [
        # Inside the range: -A w, gradient -A w.
        (1.0, 2.0, -2.0, -2.0, 0, 0),
        (1.2, 1.0, -1.2, -1.2, 0, 0),
        # Good token, already 30% likelier: held at 1.28.
        (1.3, 1.0, -1.28, 0.0, 1, 0),
        # Good token that has become less likely: no lower clip for it.
        (0.5, 1.0, -0.5, -0.5, 0, 0),
        # Bad token, already 30% less likely: held at 0.8.
        (0.7, -1.0, 0.8, 0.0, 1, 0),
        # Bad token that has become likelier: pushed back with full weight, no upper clip.
        (3.0, -1.0, 3.0, 3.0, 0, 0),
        # ... but not with more than 10 times it: the dual clip.
        (12.0, -1.0, 10.0, 0.0, 0, 1),
        (12.0, 1.0, -1.28, 0.0, 1, 0),
        # Nothing to learn from.
        (0.5, 0.0, 0.0, 0.0, 0, 0),
    ],
)
def test_one_token_by_hand(ratio, advantage, loss, gradient, clipped, lower):
    got, sums, log_probs = loss_of([ratio], [advantage])
    assert got.item() == pytest.approx(loss)
    got.backward()
    assert log_probs.grad.item() == pytest.approx(gradient)
    assert (sums["clipped"], sums["clipped_lower"]) == (clipped, lower)
    assert sums["kl"] == pytest.approx(-math.log(ratio))


def naive(log_probs, old, advantages, mask):
    """verl 0.9.1, `compute_policy_loss_vanilla` and `agg_loss("token-mean")`, token by token."""
    total = tokens = clipped = lower = kl = 0.0
    for row in range(len(log_probs)):
        for column in range(len(log_probs[row])):
            if not mask[row][column]:
                continue
            tokens += 1
            difference = min(20.0, max(-20.0, log_probs[row][column] - old[row][column]))
            ratio, advantage = math.exp(difference), advantages[row][column]
            first = -advantage * ratio
            second = -advantage * min(1.28, max(0.8, ratio))
            worst = max(first, second)
            clipped += second > first
            kl -= difference
            if advantage < 0:
                bound = -advantage * 10.0
                lower += worst > bound
                worst = min(bound, worst)
            total += worst
    return total / tokens, clipped / tokens, lower / tokens, kl / tokens


TOKEN = st.tuples(st.floats(-30, 0), st.floats(-30, 0), st.floats(-3, 3), st.booleans())
BATCH = (
    st.integers(1, 6)
    .flatmap(lambda width: st.lists(st.lists(TOKEN, min_size=width, max_size=width), min_size=1, max_size=4))
    .filter(lambda batch: any(token[3] for row in batch for token in row))
)


@EXAMPLES
@given(BATCH)
def test_equals_verls_formula_written_as_a_loop(batch):
    columns = [[[token[i] for token in row] for row in batch] for i in range(4)]
    log_probs, old, advantages, mask = (torch.tensor(column, dtype=torch.float64) for column in columns)
    loss, sums = clipped_policy_loss(log_probs, old, advantages, mask, **CLIP)
    tokens = float(sums["tokens"])
    got = [float(loss), *(float(sums[name]) / tokens for name in ("clipped", "clipped_lower", "kl"))]
    assert got == pytest.approx(naive(*columns), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@EXAMPLES
@given(batch=BATCH, noise=st.floats(-5, 5))
def test_masked_tokens_are_never_read(loss, batch, noise):
    columns = [torch.tensor([[token[i] for token in row] for row in batch], dtype=torch.float64) for i in range(4)]
    log_probs, old, advantages, mask = columns
    results = []
    for filler in (0.0, noise, torch.nan, torch.inf):
        filled = [torch.where(mask.bool(), t, filler) for t in (log_probs, old, advantages)]
        filled[0].requires_grad_()
        value, _ = policy_loss(recipe(loss), *filled, mask)
        results.append((value.detach(), *torch.autograd.grad(value, filled[0])))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_parts_of_a_mini_batch_add_up_to_the_whole(loss):
    generator = torch.Generator().manual_seed(0)
    log_probs, old, advantages = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = torch.rand(7, 5, generator=generator) < 0.6
    assert mask.any(dim=1).all()
    whole, whole_sums = policy_loss(recipe(loss), log_probs, old, advantages, mask)
    total = {"tokens": mask.sum(), "sequences": 7}
    parts = [
        policy_loss(recipe(loss), *(t[rows] for t in (log_probs, old, advantages, mask)), **total)
        for rows in ([0], [1, 2, 3], [4, 5, 6])
    ]
    assert float(sum(part for part, _ in parts)) == pytest.approx(float(whole), abs=1e-12)
    for name, value in whole_sums.items():
        assert float(sum(sums[name] for _, sums in parts)) == pytest.approx(float(value))


def test_long_responses_weigh_by_their_tokens_not_by_their_number():
    # Token mean: responses of 3 tokens and of 1 count 3 to 1, where a mean over sequences would count them alike.
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    advantages = torch.tensor([[1.0] * 3, [-1.0] * 3])
    zeros = torch.zeros(2, 3)
    loss, _ = clipped_policy_loss(zeros, zeros, advantages, mask, **CLIP)
    assert loss.item() == pytest.approx(-(3 - 1) / 4)


# Responses of 3 tokens and of 1, an empty third; the ratio of each token.
RATIOS = [[2.0, 0.5, 1.331], [1.5, 7.0, 7.0], [7.0, 7.0, 7.0]]
MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
BY_HAND = {
    # Held at 1.28, no lower clip, held at 1.28; the bad token with full weight: over 4 tokens.
    "vanilla": (-(1.28 + 0.5 + 1.28) + 1.5) / 4,
    # The same sum, over 2 sequences of 8 tokens at most.
    "dr_grpo": (-(1.28 + 0.5 + 1.28) + 1.5) / (2 * 8),
    # One ratio for the first response, (2 x 0.5 x 1.331)^(1/3) = 1.1, inside the range: over 2 sequences.
    "gspo": (-1.1 + 1.5) / 2,
}
GRADIENTS = {
    "vanilla": [[0.0, -0.5 / 4, 0.0], [1.5 / 4, 0.0, 0.0]],
    "dr_grpo": [[0.0, -0.5 / 16, 0.0], [1.5 / 16, 0.0, 0.0]],
    "gspo": [[-1.1 / 6] * 3, [1.5 / 2, 0.0, 0.0]],
}


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_by_hand(loss):
    log_probs = torch.tensor(RATIOS, dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64).expand(3, 3)
    value, sums = policy_loss(recipe(loss), log_probs, torch.zeros_like(log_probs), advantages, MASK)
    assert value.item() == pytest.approx(BY_HAND[loss])
    value.backward()
    assert log_probs.grad[:2].flatten().tolist() == pytest.approx([*GRADIENTS[loss][0], *GRADIENTS[loss][1]])
    assert not log_probs.grad[2].any()
    assert (sums["tokens"], sums["clipped"]) == (4, 0 if loss == "gspo" else 2)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.2, 1.0, -1.2, -1.2, 0),
        (1.3, 1.0, -1.28, 0.0, 1),
        (0.7, -1.0, 0.8, 0.0, 1),
        (3.0, -1.0, 3.0, 3.0, 0),
        # No dual clip at 10 times, as in verl; the ratio itself ends at e^10.
        (12.0, -1.0, 12.0, 12.0, 0),
        (math.exp(11), -1.0, math.exp(10), 0.0, 0),
    ],
)
def test_a_sequence_is_clipped_as_a_whole(ratio, advantage, loss, gradient, clipped):
    """Two tokens whose geometric mean is the ratio: the tokens' own ratios decide nothing."""
    log_probs = torch.tensor([[math.log(ratio) + 1, math.log(ratio) - 1]], dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros_like(log_probs)
    value, sums = policy_loss(recipe("gspo"), log_probs, zeros, zeros + advantage, torch.ones(1, 2))
    value.backward()
    assert value.item() == pytest.approx(loss)
    assert log_probs.grad.tolist()[0] == pytest.approx([gradient / 2] * 2)
    assert (sums["clipped"], sums["clipped_lower"]) == (2 * clipped, 0)


@pytest.mark.parametrize(("loss", "total"), [("gspo", {"sequences": 2}), ("gspo", {}), ("dr_grpo", {})])
def test_flat_tensors_do_not_say_what_is_a_sequence(loss, total):
    with pytest.raises(ValueError, match=r"tensors must be \[sequences, tokens\], got \(4,\)"):
        policy_loss(recipe(loss), *[torch.ones(4)] * 4, **total)


def test_equals_verl():
    core_algos = pytest.importorskip("verl.trainer.ppo.core_algos", reason="verl is not installed here")
    config = pytest.importorskip("verl.workers.config").ActorConfig(
        strategy="fsdp2",
        rollout_n=8,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
        clip_ratio_c=10.0,
    )
    log_probs, old, advantages = (torch.randn(9, 11) * 2 for _ in range(3))
    mask = (torch.rand(9, 11) < 0.7).float()
    theirs, metrics = core_algos.compute_policy_loss_vanilla(old, log_probs, advantages, mask, "token-mean", config)
    loss, sums = clipped_policy_loss(log_probs, old, advantages, mask, **CLIP)
    ours = SimpleNamespace(**{name: float(value / sums["tokens"]) for name, value in sums.items()})
    assert float(loss) == pytest.approx(float(theirs), abs=1e-6)
    assert ours.clipped == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6)
    assert ours.clipped_lower == pytest.approx(metrics["actor/pg_clipfrac_lower"], abs=1e-6)
    assert ours.kl == pytest.approx(metrics["actor/ppo_kl"], abs=1e-5)
