"""The policy loss: PPO's clipped objective with an asymmetric range and a dual clip, averaged over tokens.

It is `compute_policy_loss_vanilla` of verl 0.9 (`verl/trainer/ppo/core_algos.py`) with `token-mean` aggregation. The
paper's Table 2 gives the range [0.8, 1.28]; the dual clip's constant is known from the authors' script.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# verl bounds the log-ratio before taking its exponential.
MAX_LOG_RATIO = 20.0


def clipped_policy_loss(
    log_probs: "Tensor",
    old_log_probs: "Tensor",
    advantages: "Tensor",
    mask: "Tensor",
    *,
    clip_ratio_low: float,
    clip_ratio_high: float,
    clip_ratio_c: float,
    total_tokens: "Tensor | float | None" = None,
) -> tuple["Tensor", dict[str, "Tensor"]]:
    """Sum the clipped losses of the response tokens and divide by the number of tokens of the whole mini-batch.

    For each token with ratio `w = exp(log_prob - old_log_prob)` and advantage `A`:
    `max(-A w, -A clip(w, 1 - low, 1 + high))`, and where `A < 0` no more than `-A c`.

    Args:
        log_probs, old_log_probs, advantages, mask: the same shape, mask 1 on response tokens and 0 elsewhere. What
            stands at masked places is never read, not even NaN.
        total_tokens: response tokens of the mini-batch, when this is a part of one; by default those of `mask`.

    Returns:
        the loss, and sums over the masked tokens (not means, so that parts can be added up): `clipped`,
        `clipped_lower`, `kl` and `tokens`.
    """
    import torch

    mask = mask.bool()
    zero = torch.zeros((), dtype=log_probs.dtype, device=log_probs.device)
    log_ratio = torch.where(mask, log_probs - old_log_probs, zero).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    advantages = torch.where(mask, advantages, zero)
    ratio = log_ratio.exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
    pessimistic = torch.maximum(unclipped, clipped)
    bound = -advantages * clip_ratio_c
    losses = torch.where(advantages < 0, torch.minimum(bound, pessimistic), pessimistic)
    tokens = mask.sum()
    sums = {
        "clipped": (mask & (clipped > unclipped)).sum(),
        "clipped_lower": (mask & (pessimistic > bound) & (advantages < 0)).sum(),
        "kl": -log_ratio.detach().sum(),
        "tokens": tokens,
    }
    return losses.sum() / (tokens.clamp(min=1) if total_tokens is None else total_tokens), sums
