"""Log-probabilities of response tokens, without ever holding the logits of all of them.

At 16,384 tokens and a vocabulary of 151,936 the float32 logits alone are 9.3 GiB, and the loss needs several copies.
Here the output layer runs over a few tokens at a time, and again in the backward pass, so that only one chunk's logits
exist at any moment. That takes four matrix products for the three of whole logits, so at best three quarters of their
speed where the products are all.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def pack_sequences(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Lay prompt and response side by side, padded on the right.

    Returns:
        input_ids [batch, length] and response_mask [batch, length], true where a token belongs to a response.
    """
    length = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    input_ids = torch.full((len(prompts), length), pad_id)
    response_mask = torch.zeros((len(prompts), length), dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        input_ids[row, :end] = torch.tensor([*prompt, *response])
        response_mask[row, len(prompt) : end] = True
    return input_ids.to(device), response_mask.to(device)


def _chunk(hidden: Tensor, head: nn.Module, targets: Tensor, temperature: float, with_entropy: bool):
    """Log-probabilities [tokens] and, if asked, entropies [tokens] of one chunk of hidden states [tokens, width]."""
    logits = head(hidden).float()
    if temperature != 1.0:
        logits = logits / temperature
    log_probs, _, entropies = _of_logits(logits, targets, with_entropy)
    return log_probs, entropies


def _of_logits(logits: Tensor, targets: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log-probabilities, logarithms of the normaliser and, if asked, entropies; each [tokens]."""
    normaliser = logits.logsumexp(dim=-1)
    log_probs = logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser
    if not with_entropy:
        return log_probs, normaliser, None
    with torch.no_grad():
        expected = torch.einsum("tv,tv->t", torch.softmax(logits, dim=-1), logits)
    return log_probs, normaliser, normaliser.detach() - expected


class _LinearLogProbs(torch.autograd.Function):
    """`chunked_log_probs` for a linear output layer without bias.

    The products are the four that any way of not keeping logits needs: forward, once more, and two for the gradients.
    Beside one chunk of logits, which becomes its own gradient in place, there is one buffer for the weight's gradient.
    Temporaries are small: what is computed from logits takes ROWS of them at a time, and what is added to the weight's
    gradient in another precision BLOCK words of the vocabulary.
    """

    ROWS = 128
    BLOCK = 16_384

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, chunk_tokens, with_entropy, dtype):
        """Return log-probabilities [tokens] and entropies [tokens], the latter empty if not asked for."""
        ctx.settings = temperature, chunk_tokens, dtype
        parts = []
        for part, logits in _LinearLogProbs.chunks(hidden, weight, ctx.settings):
            rows = zip(logits.split(_LinearLogProbs.ROWS), targets[part].split(_LinearLogProbs.ROWS), strict=True)
            parts += [_of_logits(*row, with_entropy) for row in rows]
        log_probs, normalisers, entropies = zip(*parts, strict=True)
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalisers))
        entropy = torch.cat(entropies) if with_entropy else hidden.new_zeros(0, dtype=torch.float32)
        ctx.mark_non_differentiable(entropy)
        return torch.cat(log_probs), entropy

    @staticmethod
    def chunks(hidden, weight, settings, backwards=False):
        """Yield (rows of `hidden`, their float32 logits), one chunk after the other, in one buffer where it can be."""
        temperature, chunk_tokens, dtype = settings
        weight = weight.to(dtype)
        starts = range(0, len(hidden), chunk_tokens)
        buffer = hidden.new_empty(min(chunk_tokens, len(hidden)), len(weight), dtype=dtype)
        for start in reversed(starts) if backwards else starts:
            part = slice(start, min(start + chunk_tokens, len(hidden)))
            logits = torch.mm(hidden[part].to(dtype), weight.t(), out=buffer[: part.stop - start]).float()
            yield part, logits.div_(temperature) if temperature != 1.0 else logits

    @staticmethod
    def backward(ctx, gradient, _):
        """Gradients of hidden states and weight, from the logits computed again."""
        hidden, weight, targets, normalisers = ctx.saved_tensors
        temperature, _, dtype = ctx.settings
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight = None
        # As autograd does, the last chunk first.
        for part, logits in _LinearLogProbs.chunks(hidden, weight, ctx.settings, backwards=True):
            column = gradient[part, None]
            # d log p(target) / d logits = one-hot - softmax.
            logits.sub_(normalisers[part, None]).exp_().mul_(-column).scatter_add_(-1, targets[part, None], column)
            if temperature != 1.0:
                logits.div_(temperature)
            slope, inputs = logits.to(dtype), hidden[part].to(dtype)
            if for_hidden is not None:
                for_hidden[part] = torch.mm(slope, weight.to(dtype))
            if not ctx.needs_input_grad[1]:
                continue
            if for_weight is None:
                for_weight = torch.mm(slope.t(), inputs).to(weight.dtype)
                continue
            if weight.dtype == dtype:
                for_weight.addmm_(slope.t(), inputs)
                continue
            blocks = zip(
                for_weight.split(_LinearLogProbs.BLOCK), slope.split(_LinearLogProbs.BLOCK, dim=1), strict=True
            )
            for sums, block in blocks:
                sums += torch.mm(block.t(), inputs)
        return for_hidden, for_weight, None, None, None, None, None


def chunked_log_probs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 768,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each target token under `head(hidden) / temperature`, `chunk_tokens` rows of logits at a time.

    Args:
        hidden: [tokens, width], the state from which each target is predicted.
        head: the output layer, width -> vocabulary.
        targets: [tokens] token ids.
        with_entropy: also return the entropy of each distribution in nats (it carries no gradient).

    Returns:
        log-probabilities [tokens] float32, and entropies [tokens] or None.
    """
    if len(targets) and _is_plain_linear(head):
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
        everything = _LinearLogProbs.apply(hidden, head.weight, targets, temperature, chunk_tokens, with_entropy, dtype)
        return everything[0], everything[1] if with_entropy else None
    log_probs, entropies = [], []
    for start in range(0, len(targets), chunk_tokens):
        part = slice(start, start + chunk_tokens)
        arguments = (hidden[part], head, targets[part], temperature, with_entropy)
        if torch.is_grad_enabled():
            chunk_log_probs, chunk_entropy = checkpoint(_chunk, *arguments, use_reentrant=False)
        else:
            chunk_log_probs, chunk_entropy = _chunk(*arguments)
        log_probs.append(chunk_log_probs)
        entropies.append(chunk_entropy)
    if not log_probs:
        empty = hidden.new_zeros(0, dtype=torch.float32)
        return empty, empty if with_entropy else None
    return torch.cat(log_probs), torch.cat(entropies) if with_entropy else None


def _is_plain_linear(head: nn.Module) -> bool:
    """Whether calling `head` is one matrix product with its weight and nothing else."""
    return type(head) is nn.Linear and head.bias is None and not (head._forward_hooks or head._forward_pre_hooks)


class PolicyLogProbs(nn.Module):
    """A causal language model seen as a distribution over responses.

    A module of its own, so that data-parallel training can wrap the whole forward pass.
    """

    def __init__(self, model: "PreTrainedModel", temperature: float = 1.0, chunk_tokens: int = 768):
        super().__init__()
        self.model: PreTrainedModel = model
        self.temperature = temperature
        self.chunk_tokens = chunk_tokens

    def forward(
        self, input_ids: Tensor, response_mask: Tensor, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probability (and entropy) of every response token, one row of `input_ids` after the other.

        The token at position t is predicted from the state at t - 1: this is the only place where they are shifted.
        There is no attention mask, because under a causal model no token sees the padding that follows it.

        Returns:
            log-probabilities [response tokens] and entropies [response tokens] or None.
        """
        hidden = self.model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        predicted = response_mask[:, 1:]
        return chunked_log_probs(
            hidden[:, :-1][predicted],
            self.model.get_output_embeddings(),
            input_ids[:, 1:][predicted],
            temperature=self.temperature,
            chunk_tokens=self.chunk_tokens,
            with_entropy=with_entropy,
        )
