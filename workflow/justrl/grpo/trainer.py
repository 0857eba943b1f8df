"""One step of GRPO, in the fewest clear lines: rewards in, a better policy out.

Each step takes the rollouts of a batch of prompts through group advantages, the log-probabilities of the policy that
drew them, and several clipped updates, one per mini-batch. Names, order and numbers follow verl 0.9, which trains the
paper's runs; from the same batch both make the same losses and gradients. Where this differs, on purpose:

1. Clip fractions and KL are means over the tokens of a mini-batch; verl averages the means of its micro-batches.
2. A loss or gradient that is not finite ends the training; verl skips that update and goes on.
3. A group of equal rewards has advantage 0 exactly; verl leaves a rounding error divided by epsilon.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from justrl.errors import UserError
from justrl.grpo.advantages import compute_group_advantages
from justrl.grpo.distributed import World
from justrl.grpo.logprobs import PolicyLogProbs, pack_sequences
from justrl.grpo.loss import clipped_policy_loss


class NonFiniteError(UserError):
    """The loss or the gradient stopped being a number; `mini_batch` counts from 0."""

    def __init__(self, message: str, mini_batch: int):
        super().__init__(message)
        self.mini_batch = mini_batch


@dataclass(frozen=True)
class GRPOConfig:
    """The part of the recipe that a step needs; see config.yaml for each value's source."""

    advantage_epsilon: float
    kl_coefficient: float
    entropy_coefficient: float
    rollouts_per_prompt: int
    mini_batch_prompts: int
    micro_batch_per_gpu: int
    clip_ratio_low: float
    clip_ratio_high: float
    clip_ratio_c: float
    loss_aggregation: str
    gradient_clip: float
    temperature: float
    dtype: str

    @classmethod
    def from_recipe(cls, recipe: Mapping) -> "GRPOConfig":
        """Pick the keys of a step out of a recipe.

        Raises:
            UserError: a key is missing, or asks for something that the recipe does not have.
        """
        missing = [field.name for field in fields(cls) if field.name not in recipe]
        if missing:
            raise UserError(f"the recipe lacks {', '.join(missing)}: config.yaml has the paper's values")
        return cls(**{field.name: recipe[field.name] for field in fields(cls)})

    def __post_init__(self):
        for term in ("kl_coefficient", "entropy_coefficient"):
            if getattr(self, term) != 0:
                raise UserError(
                    f"recipe.{term} must be 0, got {getattr(self, term)}: the recipe of JustRL (arXiv 2512.16649) "
                    "trains with neither a KL term nor an entropy bonus"
                )
        if self.loss_aggregation != "token-mean":
            raise UserError(f"recipe.loss_aggregation must be token-mean, got {self.loss_aggregation!r}")
        if self.clip_ratio_c <= 1:
            raise UserError(f"recipe.clip_ratio_c (dual clip) must be above 1, got {self.clip_ratio_c}")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"recipe.dtype must be float32 or bfloat16, got {self.dtype!r}")


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one step: prompt and response token ids per sequence, a prompt's group side by side.

    `rewards` is [prompts, group]; there are prompts x group sequences. `rollout_log_probs`, one per response token, are
    what the sampler computed; they are compared with the trainer's own and enter nothing else.
    """

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]
    rewards: Tensor
    rollout_log_probs: Sequence[Sequence[float]] | None = None


class JustRLGRPOTrainer:
    """Updates a policy by GRPO as JustRL does: asymmetric clip, token mean, no KL, no entropy bonus.

    Args:
        model: a causal language model of transformers; the parameters that are optimised, in float32.
        optimizer: over `model.parameters()`.
        config: a `GRPOConfig`, or a recipe mapping to make one from.
        world: the processes that train together; each holds its part of every mini-batch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: GRPOConfig | Mapping,
        world: World | None = None,
    ):
        self.config = config if isinstance(config, GRPOConfig) else GRPOConfig.from_recipe(config)
        self.model = model
        self.optimizer = optimizer
        self.world = world or World()
        self.policy = PolicyLogProbs(model, temperature=self.config.temperature)
        self._replica: nn.Module = self.policy
        if self.world.size > 1:
            self._replica = nn.parallel.DistributedDataParallel(self.policy)

    def compute_loss(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        total_tokens: Tensor | float | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """The clipped loss of (a part of) a mini-batch; see `clipped_policy_loss` for the formula.

        Args:
            log_probs, old_log_probs, advantages, mask: the same shape, [batch, tokens] or flat, mask 1 on response
                tokens.
            total_tokens: response tokens of the whole mini-batch; by default those of `mask`.

        Returns:
            the loss, and `clip_fraction`, `clip_fraction_lower`, `kl` as means over the tokens of `mask`, `tokens`.
        """
        loss, sums = clipped_policy_loss(
            log_probs,
            old_log_probs,
            advantages,
            mask,
            clip_ratio_low=self.config.clip_ratio_low,
            clip_ratio_high=self.config.clip_ratio_high,
            clip_ratio_c=self.config.clip_ratio_c,
            total_tokens=total_tokens,
        )
        tokens = max(1.0, float(sums["tokens"]))
        metrics = {
            "clip_fraction": float(sums["clipped"]) / tokens,
            "clip_fraction_lower": float(sums["clipped_lower"]) / tokens,
            "kl": float(sums["kl"]) / tokens,
            "tokens": float(sums["tokens"]),
        }
        return loss, metrics

    def train_step(self, batch: RolloutBatch) -> dict[str, float]:
        """Update the policy once per mini-batch on the rollouts of one step.

        Returns:
            entropy (token mean before the update); loss, clip_fraction, clip_fraction_lower, kl and grad_norm (before
            clipping), each the mean over the mini-batches; rollout_probs_diff_mean, if the batch has what it needs.

        Raises:
            NonFiniteError: the loss or the gradient of a mini-batch is not finite; that update is not made.
        """
        self.model.train()
        advantages = compute_group_advantages(batch.rewards, self.config.advantage_epsilon).flatten().tolist()
        old_log_probs, entropy = self.compute_old_log_probs(batch)
        # Counted in sequences; with several processes each holds an equal part of every mini-batch.
        part = self.world.share(self.config.mini_batch_prompts, "mini_batch_prompts")
        size = (part.stop - part.start) * self.config.rollouts_per_prompt
        updates = []
        for number, start in enumerate(range(0, len(batch.responses), size)):
            rows = range(start, min(start + size, len(batch.responses)))
            updates.append(self._update(number, rows, batch, advantages, old_log_probs))
        means = {name: sum(update[name] for update in updates) / len(updates) for name in updates[0]}
        difference = self._rollout_difference(batch, old_log_probs)
        return {"entropy": entropy, **means, **difference}

    def _rollout_difference(self, batch: RolloutBatch, old_log_probs: list[Tensor]) -> dict[str, float]:
        """Mean absolute difference of each token's probability between sampler and trainer (verl's rollout_probs_diff).

        More than rounding says that what is trained is not what sampled.
        """
        if batch.rollout_log_probs is None:
            return {}
        theirs = torch.tensor([x for log_probs in batch.rollout_log_probs for x in log_probs])
        ours = torch.cat(old_log_probs).cpu()
        total, tokens = self.world.sum([float((theirs.exp() - ours.exp()).abs().sum()), float(len(ours))])
        return {"rollout_probs_diff_mean": total / tokens}

    @torch.no_grad()
    def compute_old_log_probs(self, batch: RolloutBatch) -> tuple[list[Tensor], float]:
        """Log-probabilities of each response under the policy before the update, and the mean entropy of its tokens."""
        old_log_probs: list[Tensor] = [torch.empty(0)] * len(batch.responses)
        entropy_sum = tokens = 0.0
        for rows in self._micro_batches(range(len(batch.responses)), batch):
            log_probs, entropy = self._forward(self.policy, rows, batch, with_entropy=True)
            entropy_sum += float(entropy.sum())
            tokens += len(entropy)
            lengths = [len(batch.responses[row]) for row in rows]
            for row, part in zip(rows, log_probs.split(lengths), strict=True):
                old_log_probs[row] = part
        entropy_sum, tokens = self.world.sum([entropy_sum, tokens])
        return old_log_probs, entropy_sum / tokens

    def _micro_batches(self, rows: range, batch: RolloutBatch) -> list[list[int]]:
        """Cut rows into micro-batches of like lengths: little padding, and the longest first, where memory peaks."""
        ordered = sorted(rows, key=lambda row: (-len(batch.prompts[row]) - len(batch.responses[row]), row))
        size = self.config.micro_batch_per_gpu
        return [ordered[i : i + size] for i in range(0, len(ordered), size)]

    def _forward(self, policy: nn.Module, rows: list[int], batch: RolloutBatch, with_entropy: bool = False):
        device = next(self.model.parameters()).device
        input_ids, mask = pack_sequences(
            [batch.prompts[row] for row in rows], [batch.responses[row] for row in rows], pad_id=0, device=device
        )
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.config.dtype == "bfloat16"):
            return policy(input_ids, mask, with_entropy)

    def _update(
        self, number: int, rows: range, batch: RolloutBatch, advantages: list[float], old_log_probs: list[Tensor]
    ) -> dict[str, float]:
        """One optimizer step on the sequences `rows`, gradients accumulated over micro-batches."""
        (total_tokens,) = self.world.sum([float(sum(len(batch.responses[row]) for row in rows))])
        micro_batches = self._micro_batches(rows, batch)
        sums = dict.fromkeys(("loss", "clip_fraction", "clip_fraction_lower", "kl"), 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        for index, micro in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            with contextlib.nullcontext() if last or self.world.size == 1 else self._replica.no_sync():
                log_probs, _ = self._forward(self._replica, micro, batch)
                per_token = [torch.full((len(batch.responses[row]),), advantages[row]) for row in micro]
                loss, metrics = self.compute_loss(
                    log_probs,
                    torch.cat([old_log_probs[row] for row in micro]),
                    torch.cat(per_token).to(log_probs.device),
                    torch.ones_like(log_probs),
                    total_tokens=total_tokens,
                )
                # DDP averages gradients over processes; the token mean is over all of them together.
                (loss * self.world.size).backward()
            sums["loss"] += float(loss.detach())
            for name in ("clip_fraction", "clip_fraction_lower", "kl"):
                sums[name] += metrics[name] * metrics["tokens"] / total_tokens
        sums = dict(zip(sums, self.world.sum(list(sums.values())), strict=True))
        grad_norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip))
        for name, value in (("loss", sums["loss"]), ("gradient", grad_norm)):
            if not torch.isfinite(torch.tensor(value)):
                self.optimizer.zero_grad(set_to_none=True)
                raise NonFiniteError(f"the {name} of mini-batch {number + 1} is {value}", number)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**sums, "grad_norm": grad_norm}
