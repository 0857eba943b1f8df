"""Group-relative advantages of GRPO."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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
