"""Group-relative advantages, and the policy loss: PPO's clipped objective with an asymmetric range and a dual clip.

Both follow verl 0.9 (`verl/trainer/ppo/core_algos.py`): the advantages `compute_grpo_outcome_advantage`, the loss
`compute_policy_loss_vanilla` with `token-mean` aggregation. The paper's Table 2 gives the range [0.8, 1.28]; the
constant of the dual clip is in the authors' script.

`recipe.loss` selects another loss. `dr_grpo` (arXiv 2503.20783) divides the same sum by the number of sequences times
the maximum response length. `gspo` (arXiv 2507.18071) clips one ratio per sequence, as verl's
`compute_policy_loss_gspo`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from justrl.config import Recipe

# verl clamps the log-ratio before taking its exponential.
MAX_LOG_RATIO = 20.0
MAX_SEQUENCE_LOG_RATIO = 10.0


def compute_group_advantages(rewards: "Tensor", eps: float = 1e-6, scale: bool = True) -> "Tensor":
    """Centre and scale each reward by its group: `(r - mean) / (std + eps)`; without `scale`, only centre it.

    The standard deviation is the unbiased one, as in verl's `compute_grpo_outcome_advantage`. A group of equal rewards
    carries no information and gets zeros.

    Args:
        rewards: [batch, group], one row per prompt, one column per rollout.
        eps: added to the standard deviation.
        scale: whether to divide by the standard deviation; Dr. GRPO (arXiv 2503.20783) does not.

    Returns:
        advantages, float32 (float64 stays float64), [batch, group], detached.

    Raises ValueError: if `rewards` is not two-dimensional or a group has fewer than two rollouts.
    """
    import torch

    rewards = torch.as_tensor(rewards).detach()
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be [batch, group] with at least 2 rollouts a group, got {tuple(rewards.shape)}")
    if rewards.dtype != torch.float64:
        rewards = rewards.float()
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    # The mean of equal rewards may be inexact in floating point (0.1, say); dividing by the tiny std would amplify it.
    constant = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    advantages = centred / (rewards.std(dim=1, keepdim=True) + eps) if scale else centred
    return advantages.masked_fill(constant, 0.0)


def policy_loss(
    recipe: "Recipe",
    log_probs: "Tensor",
    old_log_probs: "Tensor",
    advantages: "Tensor",
    mask: "Tensor",
    *,
    tokens: "Tensor | float | None" = None,
    sequences: "Tensor | float | None" = None,
) -> tuple["Tensor", dict[str, "Tensor"]]:
    """Return the loss named by `recipe.loss`, with the recipe's clip range; formulas are in the two functions below.

    Args:
        log_probs, old_log_probs, advantages, mask: tensors of the same shape, mask 1 on response tokens:
            [sequences, tokens], or flat if the loss is per token and `sequences` is given.
        tokens, sequences: counts of the whole mini-batch if this is a part of one; by default those of `mask`.

    Returns:
        the loss, and sums over the tokens: see `clipped_policy_loss`.

    Raises ValueError: the tensors are flat, but the loss needs the sequences.
    """
    clip = {"clip_ratio_low": recipe.clip_ratio_low, "clip_ratio_high": recipe.clip_ratio_high}
    columns = (log_probs, old_log_probs, advantages, mask)
    divisor = tokens
    if recipe.loss != "vanilla":
        if mask.ndim != 2 and (sequences is None or recipe.loss == "gspo"):
            raise ValueError(f"loss {recipe.loss}: tensors must be [sequences, tokens], got {tuple(mask.shape)}")
        if sequences is None:
            sequences = mask.bool().any(dim=-1).sum().clamp(min=1)
        divisor = sequences * (recipe.max_response_length if recipe.loss == "dr_grpo" else 1)
    if recipe.loss == "gspo":
        return sequence_policy_loss(*columns, divisor=divisor, **clip)
    return clipped_policy_loss(*columns, clip_ratio_c=recipe.clip_ratio_c, divisor=divisor, **clip)


def clipped_policy_loss(
    log_probs: "Tensor",
    old_log_probs: "Tensor",
    advantages: "Tensor",
    mask: "Tensor",
    *,
    clip_ratio_low: float,
    clip_ratio_high: float,
    clip_ratio_c: float,
    divisor: "Tensor | float | None" = None,
) -> tuple["Tensor", dict[str, "Tensor"]]:
    """Return the sum of the response tokens' clipped losses, divided by `divisor` (default: the number of tokens).

    For each token with ratio `w = exp(log_prob - old_log_prob)` and advantage `A`:
    `max(-A w, -A clip(w, 1 - low, 1 + high))`, and where `A < 0` at most `-A c`.

    Args:
        log_probs, old_log_probs, advantages, mask: tensors of the same shape, mask 1 on response tokens and 0
            elsewhere. Values at masked positions are ignored, even NaN.
        divisor: of the sum; by default the tokens of `mask`. Give the tokens of the whole mini-batch if this is a part.

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
    return losses.sum() / (tokens.clamp(min=1) if divisor is None else divisor), sums


def sequence_policy_loss(
    log_probs: "Tensor",
    old_log_probs: "Tensor",
    advantages: "Tensor",
    mask: "Tensor",
    *,
    clip_ratio_low: float,
    clip_ratio_high: float,
    divisor: "Tensor | float",
) -> tuple["Tensor", dict[str, "Tensor"]]:
    """Return the sum of the sequences' clipped losses, divided by `divisor`, the mini-batch's number of sequences.

    For a sequence of n tokens, `s = exp(sum(log_prob - old_log_prob) / n)` is the geometric mean of its tokens' ratios.
    Its loss is `max(-A s, -A clip(s, 1 - low, 1 + high))`; there is no dual clip. Advantages may differ within a
    sequence: its loss is the mean over its tokens, and each token's gradient uses its own advantage (GSPO-token).

    Args and returns: as `clipped_policy_loss`, all [sequences, tokens].
    """
    import torch

    mask = mask.bool()
    zero = torch.zeros((), dtype=log_probs.dtype, device=log_probs.device)
    log_probs = torch.where(mask, log_probs, zero)
    log_ratio = (log_probs - torch.where(mask, old_log_probs, zero)).detach()
    advantages = torch.where(mask, advantages, zero)
    lengths = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    # The value is the sequence's; the gradient flows through each of its tokens.
    mean = log_ratio.sum(dim=-1, keepdim=True) / lengths + log_probs - log_probs.detach()
    ratio = mean.clamp(max=MAX_SEQUENCE_LOG_RATIO).exp()
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_ratio_low, 1 + clip_ratio_high)
    losses = torch.maximum(unclipped, clipped)
    sums = {
        "clipped": (mask & (clipped > unclipped)).sum(),
        "clipped_lower": torch.zeros_like(mask.sum()),
        "kl": -log_ratio.sum(),
        "tokens": mask.sum(),
    }
    return (losses / lengths).sum() / divisor, sums
