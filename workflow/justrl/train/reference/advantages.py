"""Group-relative advantages of GRPO."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def compute_group_advantages(rewards: "Tensor", eps: float = 1e-6, scale: bool = True) -> "Tensor":
    """Centre and scale each reward by its group: `(r - mean) / (std + eps)`; without `scale`, centre it only.

    The standard deviation is the unbiased one, as in verl's `compute_grpo_outcome_advantage`; a group of equal rewards
    has nothing to say and gets zeros.

    Args:
        rewards: [batch, group], one row per prompt, one column per rollout.
        eps: added to the standard deviation.
        scale: whether to divide by it; Dr. GRPO (arXiv 2503.20783) does not.

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
    # Equal rewards that float arithmetic cannot average exactly (0.1, say) must not be blown up by a tiny deviation.
    constant = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    advantages = centred / (rewards.std(dim=1, keepdim=True) + eps) if scale else centred
    return advantages.masked_fill(constant, 0.0)
