"""Rollouts: drawn from the model's own distribution, whatever the padding, the batch or the cache."""

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from justrl.models.sampling import Sampling
from justrl.training.reference.rollout import TransformersRollouts

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [8], [14, 15]]
SEEDS = [(1, 0, i) for i in range(len(PROMPTS))]
END = [3, 40, 41, 42, 43, 44]


WORDS = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, "w0")))


def backend(model, end_ids=END, length=20, temperature=1.0, batch_size=None):
    sampling = Sampling(temperature, 1.0, -1, length, tuple(end_ids), log_probs=True)
    return TransformersRollouts(model, WORDS, sampling, batch_size=batch_size)


def test_cached_log_probs_are_the_models_own_uncached_ones(tiny_qwen):
    for rollout, prompt in zip(backend(tiny_qwen).generate(PROMPTS, SEEDS), PROMPTS, strict=True):
        ids = torch.tensor([[*prompt, *rollout.token_ids]])
        with torch.no_grad():
            logits = tiny_qwen(ids).logits[0, len(prompt) - 1 : -1]
        expected = torch.log_softmax(logits, -1)[range(len(rollout.token_ids)), list(rollout.token_ids)]
        assert torch.allclose(torch.tensor(rollout.log_probs), expected, atol=1e-4)


def test_a_response_does_not_depend_on_its_batch(tiny_qwen):
    together = [r.token_ids for r in backend(tiny_qwen).generate(PROMPTS, SEEDS)]
    by_two = [r.token_ids for r in backend(tiny_qwen, batch_size=2).generate(PROMPTS, SEEDS)]
    alone = [r.token_ids for p, s in zip(PROMPTS, SEEDS, strict=True) for r in backend(tiny_qwen).generate([p], [s])]
    assert together == by_two == alone
    # Equal prompts, different seeds.
    assert together[1] != together[3]


def test_ends_at_an_end_token_or_at_the_length(tiny_qwen):
    rollouts = backend(tiny_qwen).generate(PROMPTS * 8, [(2, i) for i in range(40)])
    ended = [r for r in rollouts if r.token_ids[-1] in END]
    assert 0 < len(ended) < len(rollouts) or len({len(r.token_ids) for r in ended}) > 1
    for rollout in rollouts:
        assert len(rollout.token_ids) == len(rollout.log_probs)
        assert not set(rollout.token_ids[:-1]) & set(END)
        assert rollout.token_ids[-1] in END or len(rollout.token_ids) == 20


def test_longer_than_one_block_of_random_numbers(tiny_qwen):
    long = backend(tiny_qwen, end_ids=[], length=150).generate(PROMPTS[:2], SEEDS[:2])
    short = backend(tiny_qwen, end_ids=[], length=70).generate(PROMPTS[:2], SEEDS[:2])
    assert [len(r.token_ids) for r in long] == [150, 150]
    assert [r.token_ids[:70] for r in long] == [r.token_ids for r in short]


def test_frequencies_are_the_models_probabilities(tiny_qwen):
    count = 4000
    rollouts = backend(tiny_qwen, length=1, temperature=0.7).generate(
        [PROMPTS[0]] * count, [(7, i) for i in range(count)]
    )
    drawn = torch.bincount(torch.tensor([r.token_ids[0] for r in rollouts]), minlength=tiny_qwen.config.vocab_size)
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


def test_text_is_that_of_the_tokens(tiny_qwen):
    for rollout in backend(tiny_qwen).generate(PROMPTS, SEEDS):
        assert rollout.text.split() == [f"w{token}" for token in rollout.token_ids]
