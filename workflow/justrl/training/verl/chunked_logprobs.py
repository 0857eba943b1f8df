"""Log-probabilities of half-precision logits without flash-attn, whose kernel verl uses for them.

Without flash-attn, verl 0.9.1 goes row by row (`logprobs_from_logits_v2`). This takes a few kernels for each of 32,768
tokens, and a float32 copy of all logits, 19 GB, which is kept for the backward pass.
"""

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

ROWS = 1024


def _chunk(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return -cross_entropy(logits.float(), labels, reduction="none")


def logprobs(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the float32 log-probabilities of `labels` (...) under `logits` (..., vocabulary), ROWS at a time.

    The backward pass, too, processes ROWS at a time.
    """
    rows = zip(logits.flatten(0, -2).split(ROWS), labels.flatten().split(ROWS), strict=True)
    return torch.cat([checkpoint(_chunk, *row, use_reentrant=False) for row in rows]).view(labels.shape)


def install() -> None:
    """Replace verl's function by this one, except for float32 logits."""
    from verl.utils import torch_functional

    original = torch_functional.logprobs_from_logits_v2

    def choose(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return original(logits, labels) if logits.dtype == torch.float32 else logprobs(logits, labels)

    torch_functional.logprobs_from_logits_v2 = choose
