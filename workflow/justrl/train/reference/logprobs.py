"""Log-probabilities of response tokens, without ever holding the logits of all of them.

At 16,384 tokens and a vocabulary of 151,936 the float32 logits alone are 9.3 GiB, and the loss needs several copies.
Here the output layer runs over a few tokens at a time, and again in the backward pass, so that only one chunk's logits
exist at any moment.
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
    normaliser = logits.logsumexp(dim=-1)
    log_probs = logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser
    if not with_entropy:
        return log_probs, None
    with torch.no_grad():
        expected = torch.einsum("tv,tv->t", torch.softmax(logits, dim=-1), logits)
    return log_probs, normaliser.detach() - expected


def chunked_log_probs(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int = 1024,
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


class PolicyLogProbs(nn.Module):
    """A causal language model seen as a distribution over responses.

    A module of its own, so that data-parallel training can wrap the whole forward pass.
    """

    def __init__(self, model: "PreTrainedModel", temperature: float = 1.0, chunk_tokens: int = 1024):
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
