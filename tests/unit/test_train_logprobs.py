"""Log-probabilities in chunks: equal to the naive computation, forwards and backwards, and never large."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from justrl.training.reference import logprobs
from justrl.training.reference.logprobs import PolicyLogProbs, chunked_log_probs, pack_sequences
from justrl.training.verl import plugin

WIDTH, VOCABULARY, TOKENS = 6, 37, 50


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False).double()
    hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, requires_grad=True)
    return hidden, head, torch.randint(VOCABULARY, (TOKENS,))


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any tensor with a vocabulary axis has had."""

    def __init__(self):
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # The head's own weight and its gradient aside, whatever has that axis is logits.
            if isinstance(leaf, torch.Tensor) and leaf.ndim == 2 and leaf.shape[1] == VOCABULARY != leaf.shape[0]:
                self.rows = max(self.rows, 0 if leaf.shape[0] == WIDTH else leaf.shape[0])
        return result


@pytest.mark.parametrize("chunk", [1, 7, 25, 50, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_equals_the_naive_computation(inputs, chunk, temperature):
    hidden, head, targets = inputs
    naive = torch.log_softmax(head(hidden).float() / temperature, dim=-1)
    naive_chosen = naive.gather(-1, targets[:, None]).squeeze(-1)
    got, entropy = chunked_log_probs(
        hidden, head, targets, temperature=temperature, chunk_tokens=chunk, with_entropy=True
    )
    assert torch.allclose(got, naive_chosen, atol=1e-6)
    assert torch.allclose(entropy, -(naive.exp() * naive).sum(-1), atol=1e-6)
    assert not entropy.requires_grad
    weights = torch.randn(TOKENS)
    wanted = torch.autograd.grad((naive_chosen * weights).sum(), [hidden, head.weight])
    gradients = torch.autograd.grad((got * weights).sum(), [hidden, head.weight])
    for a, b in zip(gradients, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_never_holds_more_logits_than_a_chunk(inputs, with_entropy, gradients):
    hidden, head, targets = inputs
    with LargestTensor() as largest, torch.set_grad_enabled(gradients):
        log_probs, _ = chunked_log_probs(hidden, head, targets, chunk_tokens=8, with_entropy=with_entropy)
        if gradients:
            log_probs.sum().backward()
    assert 0 < largest.rows <= 8
    # The naive computation is noticed by the same means.
    with LargestTensor() as largest:
        torch.log_softmax(head(hidden), dim=-1)
    assert largest.rows == TOKENS


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_vocabulary(inputs):
    hidden, head, targets = inputs
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        chunked_log_probs(hidden, head, targets, chunk_tokens=8)
    assert not [shape for shape in saved if shape and shape[-1] == VOCABULARY]


@pytest.mark.parametrize("chunk", [16, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_plain_linear_layer_gives_the_bits_of_any_other(monkeypatch, chunk, temperature):
    """What autograd would compute through checkpoints; of several chunks, the products for the weight are summed up
    within one another, so only their last bits are others."""
    torch.manual_seed(0)
    head, hidden = nn.Linear(WIDTH, VOCABULARY, bias=False), torch.randn(TOKENS, WIDTH, requires_grad=True)
    targets, weights = torch.randint(VOCABULARY, (TOKENS,)), torch.randn(TOKENS)
    found = []
    for plain in (True, False):
        monkeypatch.setattr(logprobs, "_is_plain_linear", lambda head, plain=plain: plain)
        options = {"temperature": temperature, "chunk_tokens": chunk, "with_entropy": True}
        log_probs, entropy = chunked_log_probs(hidden, head, targets, **options)
        gradients = torch.autograd.grad((log_probs * weights).sum(), [hidden, head.weight])
        found.append((log_probs, entropy, *gradients))
    same = [torch.equal(one, other) for one, other in zip(*found, strict=True)]
    assert all(same) if chunk >= TOKENS else all(same[:3])
    assert torch.allclose(found[0][3], found[1][3], rtol=1e-5, atol=1e-6)


def test_a_layer_with_a_bias_or_a_hook_is_called_as_it_is(inputs):
    hidden, _, targets = inputs
    biased = nn.Linear(WIDTH, VOCABULARY).double()
    hooked = nn.Linear(WIDTH, VOCABULARY, bias=False).double()
    hooked.register_forward_hook(lambda module, given, logits: 2 * logits)
    for layer in (biased, hooked):
        expected = torch.log_softmax(layer(hidden).float(), dim=-1).gather(-1, targets[:, None]).squeeze(-1)
        assert torch.allclose(chunked_log_probs(hidden, layer, targets, chunk_tokens=8)[0], expected, atol=1e-6)


class Work(TorchDispatchMode):
    """Counts matrix products, and the elements of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.products, self.largest = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.products += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_)
        self.largest = max([self.largest, *(leaf.numel() for leaf in tree_leaves(result) if torch.is_tensor(leaf))])
        return result


def test_four_products_a_chunk_and_nothing_larger_than_the_weight_or_a_chunk(inputs):
    """Four, where keeping all logits takes three: the floor of this computation."""
    hidden, head, targets = inputs
    with Work() as work:
        log_probs, _ = chunked_log_probs(hidden, head, targets, chunk_tokens=10)
        log_probs.sum().backward()
    assert work.products == 4 * TOKENS // 10
    assert work.largest == 10 * VOCABULARY


def test_no_tokens_at_all(inputs):
    hidden, head, targets = inputs
    log_probs, entropy = chunked_log_probs(hidden[:0], head, targets[:0], with_entropy=True)
    assert log_probs.shape == entropy.shape == (0,)


def test_each_sequence_has_a_row_padded_on_the_right():
    rows = pack_sequences([[5, 6], [7]], [[8], [9, 10, 11]], "cpu")
    assert rows.input_ids.tolist() == [[5, 6, 8, 0], [7, 9, 10, 11]]
    assert rows.targets.tolist() == [2, 5, 6, 7] and rows.states.tolist() == [1, 4, 5, 6]
    assert rows.position_ids is rows.attention_mask is None


def test_responses_to_one_prompt_share_its_row_and_do_not_see_each_other():
    prompts, responses = [[5, 6], [5, 6], [7]], [[8], [9, 10], [11]]
    rows = pack_sequences(prompts, responses, "cpu", share_prompts=True)
    assert rows.input_ids.tolist() == [[5, 6, 8, 9, 10], [7, 11, 0, 0, 0]]
    assert rows.targets.tolist() == [2, 3, 4, 6] and rows.states.tolist() == [1, 1, 3, 5]
    assert rows.position_ids[0].tolist() == [0, 1, 2, 2, 3]
    assert [row.nonzero().flatten().tolist() for row in rows.attention_mask[0, 0]] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 3], [0, 1, 3, 4]
    ]  # fmt: skip


def test_a_row_that_would_be_too_long_is_not_shared(monkeypatch):
    monkeypatch.setattr(logprobs, "LONGEST_SHARED", 4)
    rows = pack_sequences([[5, 6], [5, 6]], [[8], [9, 10]], "cpu", share_prompts=True)
    assert rows.input_ids.tolist() == [[5, 6, 8, 0], [5, 6, 9, 10]] and rows.attention_mask is None


@pytest.mark.parametrize("shared", [False, True])
def test_each_token_is_predicted_from_the_one_before_whatever_else_is_in_the_batch(tiny_qwen, shared):
    prompts, responses = [[5, 6, 7], [5, 6, 7], [8]], [[9, 10], [11, 9], [11, 12, 13, 14]]
    policy = PolicyLogProbs(tiny_qwen, chunk_tokens=3)
    with torch.no_grad():
        got, entropy = policy(pack_sequences(prompts, responses, "cpu", shared), with_entropy=True)
        expected, entropies = [], []
        for prompt, response in zip(prompts, responses, strict=True):
            for position, token in enumerate(response):
                context = torch.tensor([[*prompt, *response[:position]]])
                distribution = torch.log_softmax(tiny_qwen(context).logits[0, -1], dim=-1)
                expected.append(distribution[token])
                entropies.append(-(distribution.exp() * distribution).sum())
    assert torch.allclose(got, torch.stack(expected), atol=1e-5)
    assert torch.allclose(entropy, torch.stack(entropies), atol=1e-5)


@pytest.mark.parametrize("shape", [(TOKENS,), (1, TOKENS), (5, 10)])
def test_log_probabilities_without_flash_attention(shape, monkeypatch):
    """bfloat16 logits: float32 log-probabilities and the gradient as of one whole softmax, in chunks both ways."""
    monkeypatch.setattr(plugin, "ROWS", 8)
    torch.manual_seed(0)
    logits = torch.randn(*shape, VOCABULARY, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.randint(VOCABULARY, shape)
    weights = torch.randn(shape)
    whole = torch.log_softmax(logits.float(), dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    (expected,) = torch.autograd.grad((whole * weights).sum(), logits)
    with LargestTensor() as largest:
        found = plugin.logprobs(logits, labels)
    assert found.shape == shape and found.dtype == torch.float32
    # The logits themselves, seen as rows, are nothing new.
    assert len(shape) > 1 or largest.rows <= 8
    assert torch.equal(found, whole)
    (gradient,) = torch.autograd.grad((found * weights).sum(), logits)
    assert torch.equal(gradient, expected)
