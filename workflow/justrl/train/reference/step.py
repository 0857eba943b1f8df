"""One training step of GRPO: advantages, old log-probabilities and clipped policy updates.

Each step takes the rollouts of a batch of prompts through group advantages, the log-probabilities of the policy that
drew them, and several clipped updates, one per mini-batch. Names, order and numbers follow verl 0.9, which trains the
paper's runs; from the same batch both make the same losses and gradients. Where this differs, on purpose:

1. Clip fractions and KL are means over the tokens of a mini-batch; verl averages the means of its micro-batches.
2. A loss or gradient that is not finite ends the training; verl skips that update and goes on.
3. A group of equal rewards has advantage 0 exactly; verl leaves a rounding error divided by epsilon.
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
from justrl.threads import one_core_each
from justrl.train.published_entropy import entropy_as_published
from justrl.train.reference.advantages import compute_group_advantages
from justrl.train.reference.distributed import ProcessGroup
from justrl.train.reference.logprobs import PolicyLogProbs, can_share_prompts, pack_sequences
from justrl.train.reference.loss import policy_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Made = TypeVar("Made")

# Parameters of a model whose operations one thread does best.
SMALL = 50_000_000


class NonFiniteError(UserError):
    """The loss or the gradient stopped being a number; `mini_batch` counts from 0."""

    def __init__(self, message: str, mini_batch: int):
        super().__init__(message)
        self.mini_batch = mini_batch


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one step: prompt and response token ids per sequence, a prompt's group side by side.

    `rewards` is [prompts, group]; there are prompts x group sequences. `rollout_log_probs`, one per response token, are
    what the sampler computed; they are compared with the trainer's own and enter nothing else. `old_log_probs`, one per
    response token, and `advantages`, [prompts, group], are used as they are in place of what a step would compute.
    """

    prompts: Sequence[Sequence[int]]
    responses: Sequence[Sequence[int]]
    rewards: Tensor
    rollout_log_probs: Sequence[Sequence[float]] | None = None
    old_log_probs: Sequence[Tensor] | None = None
    advantages: Tensor | None = None


class GRPOTrainer:
    """Updates a policy by GRPO as JustRL does: asymmetric clip, no KL, no entropy bonus; by the recipe's loss.

    Args:
        model: a causal language model of transformers; the parameters that are optimised, in float32.
        optimizer: over `model.parameters()`.
        recipe: what a step does; see config.yaml for each value's source.
        world: the processes that train together; each holds its part of every mini-batch.
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
        """The recipe's loss of (a part of) a mini-batch; see `policy_loss` for the arguments.

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
            before_update: called with what is known of the rollouts; what it raises leaves the policy as it is.

        Returns:
            entropy (token mean before the update) and entropy_as_published, unless the batch brings `old_log_probs`;
            policy_loss, clip_fraction, clip_fraction_lower, approx_kl and grad_norm (before clipping), each the mean
            over the mini-batches; rollout_probs_diff_mean, if the batch has what it needs.

        Raises NonFiniteError: the loss or the gradient of a mini-batch is not finite; that update is not made.
        """
        self.model.train()
        # 1. Advantages: each reward, centred and scaled by those of its group.
        advantages = batch.advantages
        if advantages is None:
            scale = self.recipe.loss != "dr_grpo"
            advantages = compute_group_advantages(batch.rewards, self.recipe.advantage_epsilon, scale)
        per_sequence = advantages.flatten().tolist()

        # 2. Old log-probabilities: of the policy that drew the rollouts, before its first update.
        if batch.old_log_probs is None:
            old_log_probs, entropies = self.compute_old_log_probs(batch)
            entropy = self._entropy(batch, entropies)
        else:
            old_log_probs, entropy = list(batch.old_log_probs), {}

        # 3. Check: the sampler must have drawn from this policy.
        difference = self._rollout_difference(batch, old_log_probs)
        before_update({**entropy, **difference})

        # 4. Updates: the clipped loss of each mini-batch, its gradients over micro-batches, one step of the optimizer.
        size = self._rows_per_mini_batch(batch)
        updates = []
        for number, start in enumerate(range(0, len(batch.responses), size)):
            rows = range(start, min(start + size, len(batch.responses)))
            updates.append(self._update(number, rows, batch, per_sequence, old_log_probs))

        # 5. Metrics: means over the mini-batches.
        means = {name: sum(update[name] for update in updates) / len(updates) for name in updates[0]}
        return {**entropy, **means, **difference}

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

    def compute_old_log_probs(self, batch: RolloutBatch) -> tuple[list[Tensor], list[Tensor]]:
        """Log-probabilities of each response under the policy before the update, and its tokens' entropies in nats."""
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
        """The step's entropy, and what the authors' code would have logged; both over the trajectories of all ranks."""
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
        """Trajectories that this process has of a mini-batch; with several, each holds an equal part of every one."""
        part = self.world.share(self.recipe.mini_batch_prompts, "mini_batch_prompts")
        return (part.stop - part.start) * batch.rewards.shape[1]

    def _micro_batches(self, rows: range, batch: RolloutBatch) -> list[list[int]]:
        """Cut rows into micro-batches of like lengths: little padding, and the longest first, where memory peaks.

        Where prompts are shared, those that answer one stay neighbours, in as few micro-batches as can be.
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
        """How many micro-batches are worked on at once: several of a small model on a CPU, one for each thread.

        Its operations are too short to be shared by threads. Each micro-batch at work has gradients of its own, for
        which a larger model has no memory to spare.
        """
        cpu = next(self.model.parameters()).device.type == "cpu"
        several = cpu and self._small and self.world.size == 1 and len(micro_batches) > 1
        return torch.get_num_threads() if several else 1

    def _of_each(self, micro_batches: list[list[int]], work: Callable[[list[int]], Made]) -> Iterator[Made]:
        """What `work` makes of each micro-batch, in their order; the number of threads at work changes no bit of it."""
        if (threads := self._at_once(micro_batches)) == 1:
            yield from map(work, micro_batches)
            return
        if self._workers is None:
            self._workers = one_core_each(threads)
        for start in range(0, len(micro_batches), threads):
            yield from self._workers.map(work, micro_batches[start : start + threads])

    def _without_exchange(self) -> contextlib.AbstractContextManager:
        """Within it, several processes keep their gradients to themselves."""
        replica = self._replica
        return replica.no_sync() if isinstance(replica, DistributedDataParallel) else contextlib.nullcontext()

    def _update(
        self, number: int, rows: range, batch: RolloutBatch, advantages: list[float], old_log_probs: list[Tensor]
    ) -> dict[str, float]:
        """One optimizer step on the sequences `rows`, gradients accumulated over micro-batches."""
        own = [float(sum(len(batch.responses[row]) for row in rows)), float(len(rows))]
        total_tokens, sequences = self.world.sum(own)
        micro_batches = self._micro_batches(rows, batch)
        sums = dict.fromkeys(("policy_loss", "clip_fraction", "clip_fraction_lower", "approx_kl"), 0.0)
        parameters = list(self.model.parameters())
        apart = self._at_once(micro_batches) > 1
        self.optimizer.zero_grad(set_to_none=True)

        def differentiate(micro: list[int]) -> tuple[float, dict[str, float], tuple[Tensor | None, ...]]:
            """Loss, metrics, and the gradients that are still to be added up."""
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
                # DDP averages gradients over processes; the loss is divided by what all of them have together.
                (loss * self.world.size).backward()
            return float(loss.detach()), metrics, ()

        for loss, metrics, gradients in self._of_each(micro_batches, differentiate):
            # In the order of the micro-batches, as `backward` adds them.
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
