"""One training step of GRPO: advantages, old log-probabilities and clipped policy updates.

A step computes, from the rollouts of a batch of prompts, group advantages, the log-probabilities under the policy that
sampled them, and several clipped updates, one per mini-batch. Names, order and constants follow verl 0.9, which trains
the paper's runs; from the same batch, both compute the same losses and gradients. Deliberate differences:

1. Clip fractions and KL are means over the tokens of a mini-batch; verl averages the means of its micro-batches.
2. A loss or gradient that is not finite stops the training; verl skips that update and continues.
3. A group of equal rewards has advantage 0 exactly; verl's has a rounding error divided by epsilon.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pad_sequence

from justrl.config import Recipe
from justrl.errors import UserError
from justrl.hardware.machine import one_core_each
from justrl.training.published_entropy import entropy_as_published
from justrl.training.reference.distributed import ProcessGroup
from justrl.training.reference.logprobs import PolicyLogProbs, can_share_prompts, pack_sequences
from justrl.training.reference.loss import compute_group_advantages, policy_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Made = TypeVar("Made")

# Maximum number of parameters of a model whose operations run fastest on one thread.
SMALL = 50_000_000


class NonFiniteError(UserError):
    """The loss or the gradient is not finite; `mini_batch` counts from 0."""

    def __init__(self, message: str, mini_batch: int):
        super().__init__(message)
        self.mini_batch = mini_batch


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one step: prompt and response token ids per sequence; a prompt's group is adjacent.

    `rewards` is [prompts, group]; there are prompts x group sequences. `rollout_log_probs`, one per response token, are
    the sampler's; they are only compared with the trainer's. `old_log_probs`, one per response token, and `advantages`,
    [prompts, group], are used instead of computing them if given.
    """

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]
    rewards: Tensor
    rollout_log_probs: Sequence[Sequence[float]] | None = None
    old_log_probs: Sequence[Tensor] | None = None
    advantages: Tensor | None = None


class GRPOTrainer:
    """Updates a policy by GRPO as in JustRL: asymmetric clip, no KL, no entropy bonus; with the recipe's loss.

    Args:
        model: a causal language model of transformers, whose float32 parameters are optimised.
        optimizer: over `model.parameters()`.
        recipe: settings of a step; see config.yaml for each value's source.
        world: the processes that train together; each processes its part of every mini-batch.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        world: ProcessGroup | None = None,
    ):
        self.recipe = recipe
        self.model = model
        self.optimizer = optimizer
        self.world = world or ProcessGroup()
        self.policy = PolicyLogProbs(model, temperature=self.recipe.temperature)
        self._replica: PolicyLogProbs | DistributedDataParallel = self.policy
        if self.world.size > 1:
            self._replica = DistributedDataParallel(self.policy)
        self._workers: ThreadPoolExecutor | None = None
        self._share_prompts = can_share_prompts(model)
        self._small = sum(parameter.numel() for parameter in model.parameters()) <= SMALL

    def compute_loss(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        *,
        tokens: Tensor | float | None = None,
        sequences: Tensor | float | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the recipe's loss of (a part of) a mini-batch; see `policy_loss` for the arguments.

        Returns:
            the loss, and means over its tokens: `clip_fraction`, `clip_fraction_lower`, `approx_kl`; and `tokens`.
        """
        loss, sums = policy_loss(
            self.recipe, log_probs, old_log_probs, advantages, mask, tokens=tokens, sequences=sequences
        )
        own = max(1.0, float(sums["tokens"]))
        metrics = {
            "clip_fraction": float(sums["clipped"]) / own,
            "clip_fraction_lower": float(sums["clipped_lower"]) / own,
            "approx_kl": float(sums["kl"]) / own,
            "tokens": float(sums["tokens"]),
        }
        return loss, metrics

    def train_step(
        self, batch: RolloutBatch, before_update: Callable[[dict[str, float]], None] = lambda found: None
    ) -> dict[str, float]:
        """Update the policy once per mini-batch on the rollouts of one step.

        Args:
            before_update: called with the metrics known before the update; if it raises, the policy is not changed.

        Returns:
            entropy (token mean before the update) and entropy_as_published, unless the batch has `old_log_probs`;
            policy_loss, clip_fraction, clip_fraction_lower, approx_kl and grad_norm (before clipping), each the mean
            over the mini-batches; rollout_probs_diff_mean if the batch has `rollout_log_probs`.

        Raises NonFiniteError: the loss or the gradient of a mini-batch is not finite; that update is not made.
        """
        self.model.train()
        # 1. Advantages: each reward, centred and scaled within its group.
        advantages = batch.advantages
        if advantages is None:
            scale = self.recipe.loss != "dr_grpo"
            advantages = compute_group_advantages(batch.rewards, self.recipe.advantage_epsilon, scale)
        per_sequence = advantages.flatten().tolist()

        # 2. Old log-probabilities: under the policy that sampled the rollouts, before its first update.
        if batch.old_log_probs is None:
            old_log_probs, entropies = self.compute_old_log_probs(batch)
            entropy = self._entropy(batch, entropies)
        else:
            old_log_probs, entropy = list(batch.old_log_probs), {}

        # 3. Check: the sampler must have used this policy.
        difference = self._rollout_difference(batch, old_log_probs)
        before_update({**entropy, **difference})

        # 4. Updates: the clipped loss of each mini-batch, gradients accumulated over micro-batches, one optimizer step.
        size = self._rows_per_mini_batch(batch)
        updates = []
        for number, start in enumerate(range(0, len(batch.responses), size)):
            rows = range(start, min(start + size, len(batch.responses)))
            updates.append(self._update(number, rows, batch, per_sequence, old_log_probs))

        # 5. Metrics: means over the mini-batches.
        means = {name: sum(update[name] for update in updates) / len(updates) for name in updates[0]}
        return {**entropy, **means, **difference}

    def _rollout_difference(self, batch: RolloutBatch, old_log_probs: list[Tensor]) -> dict[str, float]:
        """Return the mean absolute difference in token probability between sampler and trainer.

        This is verl's rollout_probs_diff. More than rounding error means that sampler and trainer differ.
        """
        if batch.rollout_log_probs is None:
            return {}
        theirs = torch.tensor([x for log_probs in batch.rollout_log_probs for x in log_probs])
        ours = torch.cat(old_log_probs).cpu()
        total, tokens = self.world.sum([float((theirs.exp() - ours.exp()).abs().sum()), float(len(ours))])
        return {"rollout_probs_diff_mean": total / tokens}

    def compute_old_log_probs(self, batch: RolloutBatch) -> tuple[list[Tensor], list[Tensor]]:
        """Return log-probabilities of each response under the policy before the update, and entropies in nats."""
        old_log_probs: list[Tensor] = [torch.empty(0)] * len(batch.responses)
        entropies = list(old_log_probs)

        @torch.no_grad()
        def compute(rows: list[int]) -> tuple[Tensor, Tensor]:
            return self._forward(self.policy, rows, batch, with_entropy=True)

        micro_batches = self._micro_batches(range(len(batch.responses)), batch)
        for rows, (log_probs, entropy) in zip(micro_batches, self._of_each(micro_batches, compute), strict=True):
            lengths = [len(batch.responses[row]) for row in rows]
            for row, part, own in zip(rows, log_probs.split(lengths), entropy.split(lengths), strict=True):
                old_log_probs[row], entropies[row] = part, own
        return old_log_probs, entropies

    def _entropy(self, batch: RolloutBatch, entropies: list[Tensor]) -> dict[str, float]:
        """Return the step's entropy and the authors' logged version of it, over the trajectories of all ranks."""
        own = [
            (len(prompt), entropy.double().cumsum(0).tolist())
            for prompt, entropy in zip(batch.prompts, entropies, strict=True)
        ]
        everything = self.world.in_order(own, self._rows_per_mini_batch(batch))
        sums = [cumulated for _, cumulated in everything]
        lengths = [len(cumulated) for cumulated in sums]
        published = entropy_as_published(
            [prompt + length for (prompt, _), length in zip(everything, lengths, strict=True)],
            lengths,
            lambda row, tokens: sums[row][tokens - 1] if tokens else 0.0,
        )
        entropy = sum(cumulated[-1] for cumulated in sums if cumulated) / sum(lengths)
        return {"entropy": entropy, "entropy_as_published": published}

    def _rows_per_mini_batch(self, batch: RolloutBatch) -> int:
        """Return the number of trajectories of a mini-batch on this process; every process has an equal part."""
        part = self.world.share(self.recipe.mini_batch_prompts, "mini_batch_prompts")
        return (part.stop - part.start) * batch.rewards.shape[1]

    def _micro_batches(self, rows: range, batch: RolloutBatch) -> list[list[int]]:
        """Divide rows into micro-batches of similar lengths, for little padding; the longest, for peak memory, first.

        If prompts are shared, responses to one prompt stay adjacent and are in as few micro-batches as possible.
        """
        size, group = self.recipe.micro_batch_per_gpu, batch.rewards.shape[1] if self._share_prompts else 1
        lengths = [len(prompt) + len(response) for prompt, response in zip(batch.prompts, batch.responses, strict=True)]
        groups = [rows[i : i + group] for i in range(0, len(rows), group)]
        groups.sort(key=lambda group: (-max(lengths[row] for row in group), group[0]))
        ordered = [row for group in groups for row in group]
        size -= size % group if size > group else 0
        return [ordered[i : i + size] for i in range(0, len(ordered), size)]

    def _forward(self, policy: nn.Module, rows: list[int], batch: RolloutBatch, with_entropy: bool = False):
        device = next(self.model.parameters()).device
        packed = pack_sequences(
            [batch.prompts[row] for row in rows],
            [batch.responses[row] for row in rows],
            device,
            share_prompts=self._share_prompts,
        )
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.recipe.dtype == "bfloat16"):
            return policy(packed, with_entropy)

    def _at_once(self, micro_batches: list[list[int]]) -> int:
        """Return the number of micro-batches to run in parallel: the thread count for a small model on a CPU, else 1.

        A small model's operations are too short to split among threads. Each parallel micro-batch has its own
        gradients, for which a larger model has no memory to spare.
        """
        cpu = next(self.model.parameters()).device.type == "cpu"
        several = cpu and self._small and self.world.size == 1 and len(micro_batches) > 1
        return torch.get_num_threads() if several else 1

    def _of_each(self, micro_batches: list[list[int]], work: Callable[[list[int]], Made]) -> Iterator[Made]:
        """Yield `work(micro_batch)` for each micro-batch, in order; results do not depend on the number of threads."""
        if (threads := self._at_once(micro_batches)) == 1:
            yield from map(work, micro_batches)
            return
        if self._workers is None:
            self._workers = one_core_each(threads)
        for start in range(0, len(micro_batches), threads):
            yield from self._workers.map(work, micro_batches[start : start + threads])

    def _without_exchange(self) -> contextlib.AbstractContextManager:
        """Context manager: do not exchange gradients between processes."""
        replica = self._replica
        return replica.no_sync() if isinstance(replica, DistributedDataParallel) else contextlib.nullcontext()

    def _update(
        self, number: int, rows: range, batch: RolloutBatch, advantages: list[float], old_log_probs: list[Tensor]
    ) -> dict[str, float]:
        """Make one optimizer step on the sequences `rows`, with gradients accumulated over micro-batches."""
        own = [float(sum(len(batch.responses[row]) for row in rows)), float(len(rows))]
        total_tokens, sequences = self.world.sum(own)
        micro_batches = self._micro_batches(rows, batch)
        sums = dict.fromkeys(("policy_loss", "clip_fraction", "clip_fraction_lower", "approx_kl"), 0.0)
        parameters = list(self.model.parameters())
        apart = self._at_once(micro_batches) > 1
        self.optimizer.zero_grad(set_to_none=True)

        def differentiate(micro: list[int]) -> tuple[float, dict[str, float], tuple[Tensor | None, ...]]:
            """Run forward and backward of one micro-batch; return loss, metrics and gradients still to be added."""
            with contextlib.nullcontext() if micro is micro_batches[-1] else self._without_exchange():
                log_probs, _ = self._forward(self._replica, micro, batch)
                per_token = [torch.full((len(batch.responses[row]),), advantages[row]) for row in micro]
                columns = [
                    log_probs,
                    torch.cat([old_log_probs[row] for row in micro]).to(log_probs.device),
                    torch.cat(per_token).to(log_probs.device),
                    torch.ones_like(log_probs),
                ]
                if self.recipe.loss == "gspo":
                    lengths = [len(batch.responses[row]) for row in micro]
                    columns = [pad_sequence(column.split(lengths), batch_first=True) for column in columns]
                loss, metrics = self.compute_loss(*columns, tokens=total_tokens, sequences=sequences)
                if apart:
                    return float(loss.detach()), metrics, torch.autograd.grad(loss, parameters, allow_unused=True)
                # DDP averages gradients over processes, but the loss is already divided by the total of all processes.
                (loss * self.world.size).backward()
            return float(loss.detach()), metrics, ()

        for loss, metrics, gradients in self._of_each(micro_batches, differentiate):
            # In the order of the micro-batches, as `backward` accumulates them.
            for parameter, gradient in zip(parameters, gradients, strict=False):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
            sums["policy_loss"] += loss
            for name in ("clip_fraction", "clip_fraction_lower", "approx_kl"):
                sums[name] += metrics[name] * metrics["tokens"] / total_tokens
        sums = dict(zip(sums, self.world.sum(list(sums.values())), strict=True))
        grad_norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.gradient_clip))
        for name, value in (("loss", sums["policy_loss"]), ("gradient", grad_norm)):
            if not torch.isfinite(torch.tensor(value)):
                self.optimizer.zero_grad(set_to_none=True)
                raise NonFiniteError(f"the {name} of mini-batch {number + 1} is {value}", number)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {**sums, "grad_norm": grad_norm}
