"""A GRPO step on a tiny real model: what it must not depend on, and what it must refuse."""

import copy
import dataclasses
import threading

import pytest
import torch

from justrl.config import AGGREGATION, load
from justrl.training.reference.policy import warmup_schedule
from justrl.training.reference.step import GRPOTrainer, NonFiniteError, RolloutBatch

SMALL = {
    "prompts_per_step": 4,
    "rollouts_per_prompt": 4,
    "mini_batch_prompts": 2,
    "micro_batch_per_gpu": 3,
    "dtype": "float32",
}
RECIPE = load().recipe.model_copy(update=SMALL)
LOSSES = sorted(AGGREGATION)


def make_batch(prompts=4, group=4, seed=0):
    """Random prompts and responses of all lengths, random rewards."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(most):
        length = int(torch.randint(1, most, (1,), generator=generator))
        return torch.randint(1, 60, (length,), generator=generator).tolist()

    heads = [tokens(6) for _ in range(prompts)]
    rewards = torch.randint(0, 2, (prompts, group), generator=generator).float() * 2 - 1
    rewards[:, 0], rewards[:, 1] = 1.0, -1.0
    return RolloutBatch(
        [head for head in heads for _ in range(group)], [tokens(9) for _ in range(prompts * group)], rewards
    )


def step(model, batch, learning_rate=1e-2, **changes):
    """One step of plain gradient descent on a copy of the model: the updated copy and the metrics."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    metrics = GRPOTrainer(model, optimizer, RECIPE.model_copy(update=changes)).train_step(batch)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), metrics


@pytest.mark.parametrize("loss", LOSSES)
def test_the_update_does_not_depend_on_micro_batching(tiny_qwen, loss):
    batch = make_batch()
    changes = {"loss": loss, "max_response_length": 9, "learning_rate": 0.1}
    whole, whole_metrics = step(tiny_qwen, batch, micro_batch_per_gpu=1000, **changes)
    for size in (1, 3):
        weights, metrics = step(tiny_qwen, batch, micro_batch_per_gpu=size, **changes)
        assert torch.allclose(weights, whole, atol=1e-6)
        assert metrics == pytest.approx(whole_metrics, abs=1e-5)
    start = torch.cat([p.detach().flatten() for p in tiny_qwen.parameters()])
    assert (whole - start).abs().max() > 1e-4


@pytest.fixture
def set_threads():
    """A function that sets torch's threads; they are as before after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("loss", LOSSES)
def test_as_many_micro_batches_at_once_as_there_are_threads_change_no_bit(tiny_qwen, loss, set_threads):
    batch = make_batch()
    changes = {"loss": loss, "max_response_length": 9, "learning_rate": 0.1, "micro_batch_per_gpu": 2}
    set_threads(1)
    expected, expected_metrics = step(tiny_qwen, batch, **changes)
    for threads in (2, 3):
        set_threads(threads)
        weights, metrics = step(tiny_qwen, batch, **changes)
        assert torch.equal(weights, expected) and metrics == expected_metrics
        assert torch.get_num_threads() == threads, "the threads of the process are no longer those that were set"


def test_micro_batches_are_worked_on_by_several_threads(tiny_qwen, set_threads):
    set_threads(2)
    trainer, seen = GRPOTrainer(tiny_qwen, None, RECIPE), set()
    # Each waits for another one: alone, none would go on.
    both = threading.Barrier(2, timeout=60)

    def meet(*_):
        both.wait()
        seen.add(threading.get_ident())

    hook = tiny_qwen.base_model.register_forward_pre_hook(meet)
    try:
        trainer.compute_old_log_probs(make_batch(prompts=3))
    finally:
        hook.remove()
    assert len(seen) == 2


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_the_formula_on_the_naive_logits(tiny_qwen, loss):
    batch = make_batch(prompts=2)
    changes = {"loss": loss, "max_response_length": 9}
    weights, metrics = step(tiny_qwen, batch, learning_rate=1.0, gradient_clip=1e9, **changes)
    model = copy.deepcopy(tiny_qwen)
    total = tokens = 0
    for row, (prompt, response) in enumerate(zip(batch.prompts, batch.responses, strict=True)):
        rewards = batch.rewards[row // 4]
        advantage = (rewards[row % 4] - rewards.mean()) / (1 if loss == "dr_grpo" else rewards.std() + 1e-6)
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        chosen = torch.log_softmax(logits, -1)[range(len(response)), response]
        # At the first update the ratio is 1 everywhere, so the clipped loss has the gradient of -A log p.
        total = total - (advantage * chosen).sum() / (len(response) if loss == "gspo" else 1)
        tokens += len(response)
    (total / {"vanilla": tokens, "dr_grpo": 8 * 9, "gspo": 8}[loss]).backward()
    expected = torch.cat([(p - p.grad).detach().flatten() for p in model.parameters()])
    assert torch.allclose(weights, expected, atol=1e-5)
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert metrics["clip_fraction"] == metrics["clip_fraction_lower"] == 0
    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-6)


def test_rewarded_responses_become_likelier(tiny_qwen):
    batch = make_batch(prompts=2)
    model = copy.deepcopy(tiny_qwen)
    trainer = GRPOTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), RECIPE)
    before, _ = trainer.compute_old_log_probs(batch)
    trainer.train_step(batch)
    after, _ = trainer.compute_old_log_probs(batch)
    gains = torch.stack([(b - a).sum() for a, b in zip(before, after, strict=True)])
    assert (gains * (batch.rewards - batch.rewards.mean(1, keepdim=True)).flatten()).sum() > 0


def test_both_entropies_are_logged_over_the_response_tokens(tiny_qwen):
    batch = make_batch()
    trainer = GRPOTrainer(tiny_qwen, None, RECIPE)
    _, entropies = trainer.compute_old_log_probs(batch)
    _, metrics = step(tiny_qwen, batch)
    assert metrics["entropy"] == pytest.approx(torch.cat(entropies).mean().item())
    # The authors' code takes a step as small as this at once, in which case it measures right.
    assert metrics["entropy_as_published"] == pytest.approx(metrics["entropy"])


def test_equal_rewards_teach_nothing(tiny_qwen):
    batch = dataclasses.replace(make_batch(), rewards=torch.ones(4, 4))
    weights, metrics = step(tiny_qwen, batch, learning_rate=1.0)
    assert torch.equal(weights, torch.cat([p.detach().flatten() for p in tiny_qwen.parameters()]))
    assert metrics["grad_norm"] == 0


def test_later_mini_batches_see_the_policy_move_away_from_the_old_one(tiny_qwen):
    batch = make_batch()
    _, metrics = step(tiny_qwen, batch, learning_rate=3.0, mini_batch_prompts=1)
    assert metrics["approx_kl"] != 0
    assert 0 < metrics["clip_fraction"] < 1


def test_gradients_are_clipped_to_the_recipes_norm(tiny_qwen):
    batch = make_batch(prompts=2)
    start = torch.cat([p.detach().flatten() for p in tiny_qwen.parameters()])
    weights, metrics = step(tiny_qwen, batch, learning_rate=1.0, gradient_clip=0.01)
    assert metrics["grad_norm"] > 0.01
    assert (weights - start).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_gradient_that_is_not_a_number_stops_before_the_update(tiny_qwen):
    model = copy.deepcopy(tiny_qwen)
    trainer = GRPOTrainer(model, torch.optim.SGD(model.parameters(), lr=1e-3), RECIPE)
    batch = make_batch()
    batch.rewards[2, 1] = torch.nan  # the third prompt: the second mini-batch of two prompts each
    with pytest.raises(NonFiniteError, match="the loss of mini-batch 2 is nan") as error:
        trainer.train_step(batch)
    assert error.value.mini_batch == 1
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_the_rate_warms_up_from_zero_as_in_verl():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-6)
    schedule = warmup_schedule(optimizer, 10)
    rates = []
    for _ in range(13):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([i / 10 * 1e-6 for i in range(10)] + [1e-6] * 3)


def test_without_warm_up_the_first_step_has_the_full_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    warmup_schedule(optimizer, 0)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_bfloat16_keeps_float32_parameters_and_stays_close(tiny_qwen):
    batch = make_batch(prompts=2)
    exact, _ = step(tiny_qwen, batch, learning_rate=0.1)
    rough, _ = step(tiny_qwen, batch, learning_rate=0.1, dtype="bfloat16")
    assert rough.dtype == torch.float32
    assert torch.allclose(rough, exact, atol=5e-3)
    assert not torch.equal(rough, exact)
