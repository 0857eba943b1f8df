"""Rollouts: drawn from the model's own distribution, whatever the padding, the batch or the cache."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from justrl.errors import UserError
from justrl.grpo.rollout import Sampling, TransformersRollouts, filter_probabilities, sample_tokens

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [8], [14, 15]]
SEEDS = [(1, 0, i) for i in range(len(PROMPTS))]
END = [3, 40, 41, 42, 43, 44]


def backend(model, end_ids=END, length=20, temperature=1.0, batch_size=None):
    return TransformersRollouts(model, Sampling(length, temperature, 1.0, -1), end_ids, pad_id=0, batch_size=batch_size)


def test_cached_log_probs_are_the_models_own_uncached_ones(tiny_qwen):
    for rollout, prompt in zip(backend(tiny_qwen).generate(PROMPTS, SEEDS), PROMPTS, strict=True):
        ids = torch.tensor([[*prompt, *rollout.response]])
        with torch.no_grad():
            logits = tiny_qwen(ids).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1)[range(len(rollout.response)), rollout.response]
        assert torch.allclose(torch.tensor(rollout.log_probs), expected, atol=1e-4)


def test_a_response_does_not_depend_on_its_batch(tiny_qwen):
    together = [r.response for r in backend(tiny_qwen).generate(PROMPTS, SEEDS)]
    by_two = [r.response for r in backend(tiny_qwen, batch_size=2).generate(PROMPTS, SEEDS)]
    alone = [r.response for p, s in zip(PROMPTS, SEEDS, strict=True) for r in backend(tiny_qwen).generate([p], [s])]
    assert together == by_two == alone
    # Equal prompts, different seeds.
    assert together[1] != together[3]


def test_ends_at_an_end_token_or_at_the_length(tiny_qwen):
    rollouts = backend(tiny_qwen).generate(PROMPTS * 8, [(2, i) for i in range(40)])
    ended = [r for r in rollouts if r.response[-1] in END]
    assert 0 < len(ended) < len(rollouts) or len({len(r.response) for r in ended}) > 1
    for rollout in rollouts:
        assert len(rollout.response) == len(rollout.log_probs)
        assert not set(rollout.response[:-1]) & set(END)
        assert rollout.response[-1] in END or len(rollout.response) == 20


def test_longer_than_one_block_of_random_numbers(tiny_qwen):
    long = backend(tiny_qwen, end_ids=[], length=150).generate(PROMPTS[:2], SEEDS[:2])
    short = backend(tiny_qwen, end_ids=[], length=70).generate(PROMPTS[:2], SEEDS[:2])
    assert [len(r.response) for r in long] == [150, 150]
    assert [r.response[:70] for r in long] == [r.response for r in short]


def test_frequencies_are_the_models_probabilities(tiny_qwen):
    count = 4000
    rollouts = backend(tiny_qwen, length=1, temperature=0.7).generate(
        [PROMPTS[0]] * count, [(7, i) for i in range(count)]
    )
    drawn = torch.bincount(torch.tensor([r.response[0] for r in rollouts]), minlength=tiny_qwen.config.vocab_size)
    with torch.no_grad():
        expected = torch.softmax(tiny_qwen(torch.tensor([PROMPTS[0]])).logits[0, -1] / 0.7, -1) * count
    likely = expected > 5
    chi_square = ((drawn - expected) ** 2 / expected)[likely].sum().item()
    freedom = int(likely.sum()) - 1
    # Five standard deviations above the mean of the chi-square distribution.
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_training_mode_is_as_before(tiny_qwen):
    for mode in (True, False):
        tiny_qwen.train(mode)
        backend(tiny_qwen, length=1).generate(PROMPTS, SEEDS)
        assert tiny_qwen.training is mode


def test_sampling_inverts_the_cumulative_distribution():
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).repeat(7, 1)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999, 1 - 2**-24])
    assert sample_tokens(probabilities, uniforms).tolist() == [1, 1, 3, 3, 4, 4, 4]


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=12), st.floats(0.01, 1), st.integers(-1, 12))
def test_filtering_against_a_loop(weights, top_p, top_k):
    probabilities = torch.tensor([weights], dtype=torch.float64)
    probabilities = probabilities / probabilities.sum()
    kept = (filter_probabilities(probabilities, top_p, top_k)[0] > 0).tolist()
    values = probabilities[0].tolist()
    ordered = sorted(range(len(values)), key=lambda i: (-values[i], i))
    if top_k > 0:
        smallest = values[ordered[min(top_k, len(values)) - 1]]
        ordered = [i for i in ordered if values[i] >= smallest]
    allowed, mass, total = set(), 0.0, sum(values[i] for i in ordered)
    margin = 1.0
    for i in ordered:
        margin = min(margin, abs(mass - top_p))
        if mass < top_p or top_p == 1:
            allowed.add(i)
        mass += values[i] / total
    if margin > 1e-9:  # otherwise rounding decides whether top_p was reached
        assert {i for i, keep in enumerate(kept) if keep} == allowed


def test_refuses_a_temperature_without_exploration():
    with pytest.raises(UserError, match="temperature must be above 0"):
        Sampling(10, 0.0, 1.0, -1)
