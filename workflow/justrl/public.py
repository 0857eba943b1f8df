"""Public API on plain Python values: text, dictionaries and tensors.

The other names in `justrl.__all__` are those of their modules, unchanged; docs/api.md lists them all.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from justrl.config.names import translate_recipe
from justrl.data.messages import DEFAULT_SUFFIX, build_messages, question_of, user_content
from justrl.errors import UserError
from justrl.report.metrics import append_metrics, metrics_row

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from justrl.config import Recipe
    from justrl.training.reference.step import RolloutBatch


def apply_chat_template(question: str) -> str:
    """Return a question's prompt: it, two newlines, and the paper's instruction to reason and to box the answer."""
    return user_content(build_messages(question))


def extract_question(prompt: str) -> str:
    """Return the question in a prompt: remove the instruction after two newlines, one newline or a space.

    Text without the instruction is returned unchanged.
    """
    separators = [separator for separator in ("\n\n", "\n", " ") if prompt.endswith(separator + DEFAULT_SUFFIX)]
    return question_of(prompt, separator=separators[0]) if separators else prompt


def log_training_metrics(metrics: Mapping[str, Any], step: int, path: str | Path | None = None) -> dict[str, Any]:
    """Print one step's metrics, log them to Weights & Biases if a run is active, and append them to a file if given.

    Returns the row {"step": ..., name: value, ...}; values that are not finite are None.
    """
    row = metrics_row(metrics, step) if path is None else append_metrics(metrics, step, path)
    values = {name: value for name, value in row.items() if name != "step"}
    shown = (f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
    print(f"step {row['step']}: {', '.join(shown)}", flush=True)
    # A run can be active only if the caller has imported wandb.
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.log(values, step=row["step"])
    return row


class JustRLGRPOTrainer:
    """Updates a policy by GRPO as in JustRL: asymmetric clip, no KL, no entropy bonus; with the config's `loss`.

    Args:
        model: a causal language model of transformers.
        optimizer: over `model.parameters()`.
        config: recipe keys by our names or their aliases in `justrl.config.names` (`kl_coef`, ...).
            Missing keys have the paper's values, from config.yaml. A `Recipe` is used unchanged.

    Raises UserError: an unknown key, a KL or entropy term other than 0, or a value that the recipe does not allow.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        optimizer: "torch.optim.Optimizer",
        config: "Recipe | Mapping[str, Any] | None" = None,
    ):
        from justrl.config import Recipe, read_part
        from justrl.config import files as config_files
        from justrl.training.reference.step import GRPOTrainer

        if config is None or isinstance(config, Mapping):
            complete = config_files.read()["recipe"] | translate_recipe(config or {})
            config = read_part(Recipe, complete, "the trainer's config")
        self._trainer = GRPOTrainer(model, optimizer, config)

    @property
    def config(self) -> "Recipe":
        """The complete recipe of a step."""
        return self._trainer.recipe

    def compute_loss(
        self, log_probs: "Tensor", old_log_probs: "Tensor", advantages: "Tensor", mask: "Tensor"
    ) -> tuple["Tensor", dict[str, float]]:
        """Return the clipped loss, by default the mean over the tokens of `mask` (see `config.loss`), and its metrics.

        All tensors are [batch, tokens]; `advantages` may also be one per sequence, in any shape with that many values.
        """
        if advantages.shape != log_probs.shape:
            advantages = _per_sequence(advantages, len(log_probs), "advantages")[:, None].expand_as(log_probs)
        return self._trainer.compute_loss(log_probs, old_log_probs, advantages, mask)

    def train_step(self, batch: "RolloutBatch | Mapping[str, Tensor]") -> dict[str, float]:
        """Update the policy once per mini-batch on the rollouts of one step; metrics as in `GRPOTrainer.train_step`.

        A dictionary holds tensors; rollouts of one prompt are adjacent:
            input_ids, loss_mask: [sequences, length], prompt and response, the mask 1 on response tokens.
            rewards: [prompts, group], or [sequences], in groups of the config's `rollouts_per_prompt`.
            attention_mask: [sequences, length], 0 on padding at either end; without it every token counts.
            old_log_probs: as `input_ids`, or one column shorter (of input_ids[:, 1:]); else computed before the update.
            advantages: one per sequence; else computed from the rewards.

        Raises:
            UserError: a tensor is missing, unknown, or has the wrong shape.
            NonFiniteError: the loss or the gradient is not finite; that update is not made.
        """
        if isinstance(batch, Mapping):
            batch = rollout_batch(batch, self.config.rollouts_per_prompt)
        return self._trainer.train_step(batch)


def rollout_batch(tensors: "Mapping[str, Tensor]", group: int | None = None) -> "RolloutBatch":
    """Convert a dictionary of tensors (see `JustRLGRPOTrainer.train_step`) to rollouts without padding."""
    import torch

    from justrl.training.reference.step import RolloutBatch

    required, optional = {"input_ids", "loss_mask", "rewards"}, {"attention_mask", "old_log_probs", "advantages"}
    if missing := required - tensors.keys():
        raise UserError(f"the batch lacks {', '.join(sorted(missing))}")
    if unknown := tensors.keys() - required - optional:
        names = ", ".join(sorted(required | optional))
        raise UserError(f"the batch has unknown keys: {', '.join(sorted(unknown))} (known: {names})")
    input_ids = tensors["input_ids"]
    attended = tensors.get("attention_mask", torch.ones_like(input_ids)).bool()
    answered = tensors["loss_mask"].bool()
    for name, mask in (("attention_mask", attended), ("loss_mask", answered)):
        if mask.shape != input_ids.shape:
            raise UserError(f"{name} is {tuple(mask.shape)}, but input_ids is {tuple(input_ids.shape)}")
    spans = [_response_span(row, attended[row], answered[row]) for row in range(len(input_ids))]
    if not any(start < stop for _, start, stop in spans):
        raise UserError("loss_mask marks no token: there is nothing to train on")
    prompts = [input_ids[row, first:start].tolist() for row, (first, start, _) in enumerate(spans)]
    responses = [input_ids[row, start:stop].tolist() for row, (_, start, stop) in enumerate(spans)]
    rewards = _grouped(tensors["rewards"], len(input_ids), group)
    advantages, old_log_probs = tensors.get("advantages"), tensors.get("old_log_probs")
    if advantages is not None:
        advantages = _per_sequence(advantages, len(input_ids), "advantages").reshape(rewards.shape)
    known = None if old_log_probs is None else _of_responses(old_log_probs, input_ids, spans)
    return RolloutBatch(prompts, responses, rewards, old_log_probs=known, advantages=advantages)


def _response_span(row: int, attended: "Tensor", answered: "Tensor") -> tuple[int, int, int]:
    """Return the start of a sequence's prompt, the start of its response, and the end of the response."""
    tokens = attended.nonzero().flatten().tolist()
    response = (attended & answered).nonzero().flatten().tolist()
    if not tokens or tokens != list(range(tokens[0], tokens[-1] + 1)):
        raise UserError(f"sequence {row}: attention_mask must be 1 on one unbroken stretch of tokens")
    if not response:
        return tokens[0], tokens[-1] + 1, tokens[-1] + 1
    if response != list(range(response[0], response[-1] + 1)) or response[0] == tokens[0]:
        raise UserError(f"sequence {row}: loss_mask must be 1 on one unbroken response that follows a prompt")
    return tokens[0], response[0], response[-1] + 1


def _grouped(rewards: "Tensor", sequences: int, group: int | None) -> "Tensor":
    """Return rewards as [prompts, group]."""
    if rewards.ndim == 1 and group and len(rewards) % group == 0:
        rewards = rewards.reshape(-1, group)
    if rewards.ndim != 2 or rewards.numel() != sequences:
        raise UserError(
            f"rewards is {tuple(rewards.shape)} for {sequences} sequences: it must be [prompts, group], or [sequences] "
            f"in groups of rollouts_per_prompt ({group})"
        )
    return rewards


def _per_sequence(values: "Tensor", sequences: int, name: str) -> "Tensor":
    """Return one value per sequence, flat."""
    if values.numel() != sequences:
        raise UserError(f"{name} is {tuple(values.shape)}: it must hold one value for each of {sequences} sequences")
    return values.reshape(-1)


def _of_responses(log_probs: "Tensor", input_ids: "Tensor", spans: list[tuple[int, int, int]]) -> "list[Tensor]":
    """Return the log-probabilities of each response's tokens; without the first column, they are shifted by one."""
    shift = input_ids.shape[1] - log_probs.shape[-1]
    if log_probs.shape[:-1] != input_ids.shape[:1] or shift not in (0, 1):
        raise UserError(
            f"old_log_probs is {tuple(log_probs.shape)}: it must be as input_ids, {tuple(input_ids.shape)}, or one "
            "column shorter"
        )
    return [log_probs[row, start - shift : stop - shift].detach() for row, (_, start, stop) in enumerate(spans)]
