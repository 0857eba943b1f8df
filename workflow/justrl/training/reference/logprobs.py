"""Log-probabilities of response tokens, without storing the logits of all tokens at once.

At 16,384 tokens and a vocabulary of 151,936, the float32 logits alone are 9.3 GiB, and the loss needs several copies.
Here the output layer processes a few tokens at a time, and again in the backward pass, so that only one chunk's logits
exist at any moment. This takes four matrix products instead of three, so if the products dominate, the speed is at
best three quarters of that with all logits stored.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# Architectures in which every layer uses the given mask [batch, 1, queries, keys] and the given positions.
SHARE_PROMPTS = frozenset({"llama", "qwen2", "qwen3"})
# Maximum length of a row that several responses share: its attention is dense, and its mask grows quadratically.
LONGEST_SHARED = 2048


class PackedRows(NamedTuple):
    """Sequences in rows that are padded on the right, with the positions of their response tokens.

    Attributes:
        input_ids: [rows, length].
        targets: [response tokens], positions of these tokens in the flattened rows, sequence by sequence.
        states: [response tokens], positions from which they are predicted.
        position_ids: [rows, length], or None if each row is one sequence.
        attention_mask: [rows, 1, length, length], true where a token attends to another, or None if each row is one
            sequence: a causal model needs neither, because no token attends to the padding after it.
    """

    input_ids: Tensor
    targets: Tensor
    states: Tensor
    position_ids: Tensor | None = None
    attention_mask: Tensor | None = None


def pack_sequences(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    device: torch.device | str,
    share_prompts: bool = False,
) -> PackedRows:
    """Put each prompt and its response in a row; with `share_prompts`, adjacent responses to a prompt share one row.

    Responses in one row are masked from each other, and the positions of each continue those of the prompt. Their
    log-probabilities are therefore the same as in separate rows, and the prompt is computed once. Rows longer than
    LONGEST_SHARED are not shared.
    """
    groups = [[response] for response in responses]
    if share_prompts:
        pairs = [list(group) for _, group in groupby(zip(prompts, responses, strict=True), key=lambda pair: pair[0])]
        prompts, groups = [group[0][0] for group in pairs], [[response for _, response in group] for group in pairs]
    length = max(len(prompt) + sum(map(len, group)) for prompt, group in zip(prompts, groups, strict=True))
    if share_prompts and length > LONGEST_SHARED:
        repeated = [prompt for prompt, group in zip(prompts, groups, strict=True) for _ in group]
        return pack_sequences(repeated, [response for group in groups for response in group], device)
    input_ids = torch.zeros((len(prompts), length), dtype=torch.long)
    positions = torch.zeros_like(input_ids)
    owners = torch.full_like(input_ids, -1)  # per token: 0 for the prompt, else the number of its response
    targets, states = [], []
    for row, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        tokens = [*prompt, *(token for response in group for token in response)]
        input_ids[row, : len(tokens)] = torch.tensor(tokens)
        positions[row, : len(prompt)] = torch.arange(len(prompt))
        owners[row, : len(prompt)] = 0
        end = len(prompt)
        for number, response in enumerate(group, start=1):
            start, end = end, end + len(response)
            positions[row, start:end] = torch.arange(len(prompt), len(prompt) + len(response))
            owners[row, start:end] = number
            own = torch.arange(row * length + start, row * length + end)
            targets.append(own)
            # The first token is predicted from the end of the prompt, wherever the response is in the row.
            states.append(torch.cat([torch.tensor([row * length + len(prompt) - 1]), own[:-1]])[: len(own)])
    packed = PackedRows(input_ids, torch.cat(targets), torch.cat(states))
    if len(groups) < len(responses):
        seen = (owners[:, None, :] == 0) | (owners[:, None, :] == owners[:, :, None])
        seen &= torch.ones(length, length, dtype=torch.bool).tril()
        packed = packed._replace(position_ids=positions, attention_mask=seen[:, None])
    return PackedRows(*(tensor if tensor is None else tensor.to(device) for tensor in packed))


def can_share_prompts(model: "PreTrainedModel") -> bool:
    """Return whether responses may share a row; not on a GPU, where a mask rules out flash attention."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    cpu = next(model.parameters()).device.type == "cpu"
    return cpu and config.model_type in SHARE_PROMPTS and kinds == {"full_attention"}


def _chunk(hidden: Tensor, head: nn.Module, targets: Tensor, temperature: float, with_entropy: bool):
    """Return log-probabilities [tokens] and optional entropies [tokens] of a chunk of hidden states [tokens, width]."""
    logits = head(hidden).float()
    if temperature != 1.0:
        logits = logits / temperature
    log_probs, _, entropies = _of_logits(logits, targets, with_entropy)
    return log_probs, entropies


def _of_logits(logits: Tensor, targets: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return log-probabilities, logarithms of the normaliser and optional entropies; each [tokens]."""
    normaliser = logits.logsumexp(dim=-1)
    log_probs = logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser
    if not with_entropy:
        return log_probs, normaliser, None
    with torch.no_grad():
        expected = torch.einsum("tv,tv->t", torch.softmax(logits, dim=-1), logits)
    return log_probs, normaliser, normaliser.detach() - expected


class _LinearLogProbs(torch.autograd.Function):
    """`chunked_log_probs` for a linear output layer without bias.

    It needs four matrix products, like any method that does not store the logits: forward, recomputation, and two for
    the gradients. It allocates one chunk of logits, which is overwritten by its own gradient, and one buffer for the
    weight's gradient. Temporaries are small: functions of logits process ROWS rows at a time, and additions to the
    weight's gradient in another precision process BLOCK vocabulary entries at a time.
    """

    ROWS = 128
    BLOCK = 16_384

    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, chunk_tokens, with_entropy, dtype):
        """Return log-probabilities [tokens] and entropies [tokens], the latter empty if not requested."""
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
        """Yield (rows of `hidden`, their float32 logits) chunk by chunk, in one reused buffer where possible."""
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
        """Return the gradients of hidden states and weight, from recomputed logits."""
        hidden, weight, targets, normalisers = ctx.saved_tensors
        temperature, _, dtype = ctx.settings
        for_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for_weight = None
        # In autograd's order: the last chunk first.
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
    """Return the log-probability of each target token under `head(hidden) / temperature`.

    Only `chunk_tokens` rows of logits exist at a time.

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
    """Return whether `head` is exactly one matrix product with its weight."""
    return type(head) is nn.Linear and head.bias is None and not (head._forward_hooks or head._forward_pre_hooks)


class PolicyLogProbs(nn.Module):
    """Computes log-probabilities of responses with a causal language model.

    It is a module, so that data-parallel training can wrap the whole forward pass.
    """

    def __init__(self, model: "PreTrainedModel", temperature: float = 1.0, chunk_tokens: int = 768):
        super().__init__()
        self.model: PreTrainedModel = model
        self.temperature = temperature
        self.chunk_tokens = chunk_tokens

    def forward(self, rows: PackedRows, with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the log-probability (and entropy) of every response token, sequence by sequence.

        Returns:
            log-probabilities [response tokens] and entropies [response tokens] or None.
        """
        where = {"position_ids": rows.position_ids, "attention_mask": rows.attention_mask}
        hidden = self.model.base_model(
            input_ids=rows.input_ids, use_cache=False, **(where if rows.attention_mask is not None else {})
        ).last_hidden_state
        return chunked_log_probs(
            hidden.flatten(0, 1)[rows.states],
            self.model.get_output_embeddings(),
            rows.input_ids.flatten()[rows.targets],
            temperature=self.temperature,
            chunk_tokens=self.chunk_tokens,
            with_entropy=with_entropy,
        )
