"""Rollouts: sampling responses from the current policy, reproducibly.

Each response has random numbers of its own, derived from (seed, step, prompt, sample): what is sampled does not depend
on how many processes share the work or on where a run was interrupted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from justrl.errors import UserError

# How many random numbers are drawn for a response at a time; the sequence does not depend on it.
_BLOCK = 64


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn; `top_p` 1 and `top_k` -1 are off, as in the paper's training."""

    max_response_length: int
    temperature: float
    top_p: float
    top_k: int

    def __post_init__(self):
        if self.temperature <= 0:
            raise UserError(f"recipe.temperature must be above 0 to explore, got {self.temperature}")


@dataclass(frozen=True)
class Rollout:
    """One response: its token ids, the end token included if it came, and each one's log-probability when drawn."""

    response: list[int]
    log_probs: list[float]


class RolloutBackend(Protocol):
    """Whatever can sample responses from the policy as it is now."""

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[Rollout]:
        """Sample one response per prompt, from the random stream of its seed (a sequence of non-negative ints)."""
        ...


def filter_probabilities(probabilities: Tensor, top_p: float, top_k: int) -> Tensor:
    """Zero all but the `top_k` likeliest tokens and all but the smallest set of them that holds `top_p` of the mass.

    Args:
        probabilities: [batch, vocabulary].

    Returns:
        the same shape, not renormalised.
    """
    if top_k > 0:
        smallest = probabilities.topk(min(top_k, probabilities.shape[-1])).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < smallest, 0.0)
    if top_p < 1.0:
        ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
        ordered = ordered / ordered.sum(dim=-1, keepdim=True)
        # A token stays if those before it do not yet hold top_p, so the likeliest one always does.
        drop = (ordered.cumsum(dim=-1) - ordered) >= top_p
        probabilities = probabilities.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), 0.0)
    return probabilities


def sample_tokens(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution at `uniforms` [batch] in [0, 1)."""
    cumulative = probabilities.double().cumsum(dim=-1)
    points = uniforms.double()[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, points, right=True).squeeze(-1)
    return tokens.clamp(max=probabilities.shape[-1] - 1)


def _uniform_columns(generators: list[np.random.Generator], length: int) -> Iterator[np.ndarray]:
    """Yield `length` arrays with the next random number of every generator."""
    for start in range(0, length, _BLOCK):
        block = np.stack([generator.random(_BLOCK) for generator in generators])
        yield from block.T[: length - start]


class TransformersRollouts:
    """Rollouts by the model that is trained, with a key-value cache.

    Args:
        model: a causal language model of transformers, used as it is at the moment of the call.
        end_ids: tokens that end a response.
        batch_size: sequences generated together; None takes all at once.
        autocast: compute in bfloat16 (the parameters stay as they are).
    """

    def __init__(
        self,
        model: nn.Module,
        sampling: Sampling,
        end_ids: Sequence[int],
        pad_id: int,
        batch_size: int | None = None,
        autocast: bool = False,
    ):
        self.model = model
        self.sampling = sampling
        self.end_ids = torch.tensor(sorted(set(end_ids)))
        self.pad_id = pad_id
        self.batch_size = batch_size
        self.autocast = autocast

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[Rollout]:
        """Sample one response per prompt; see `RolloutBackend`."""
        was_training = self.model.training
        self.model.eval()
        size = self.batch_size or len(prompts)
        rollouts = []
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            for start in range(0, len(prompts), size):
                part = slice(start, start + size)
                rollouts += self._generate_batch(prompts[part], seeds[part])
        self.model.train(was_training)
        return rollouts

    def _left_padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Prompts [batch, longest] with padding before them, so that all end, and go on, at the same column."""
        longest = max(map(len, prompts))
        input_ids = torch.full((len(prompts), longest), self.pad_id)
        attention = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            attention[row, longest - len(prompt) :] = 1
        return input_ids.to(self.model.device), attention.to(self.model.device)

    def _generate_batch(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[Rollout]:
        from transformers import DynamicCache

        responses: list[list[int]] = [[] for _ in prompts]
        log_probs: list[list[float]] = [[] for _ in prompts]
        uniforms = _uniform_columns([np.random.default_rng(seed) for seed in seeds], self.sampling.max_response_length)
        device, end_ids = self.model.device, self.end_ids.to(self.model.device)
        input_ids, attention = self._left_padded(prompts)
        positions = (attention.cumsum(dim=-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        rows = torch.arange(len(prompts), device=device)  # the prompt that each row of the batch belongs to
        finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        for column in uniforms:
            output = self.model(
                input_ids=input_ids,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            all_log_probs = (output.logits[:, -1].float() / self.sampling.temperature).log_softmax(dim=-1)
            allowed = filter_probabilities(all_log_probs.exp(), self.sampling.top_p, self.sampling.top_k)
            tokens = sample_tokens(allowed, torch.from_numpy(column).to(device)[rows])
            chosen = all_log_probs.gather(-1, tokens[:, None]).squeeze(-1)
            for row, done, token, log_prob in zip(
                rows.tolist(), finished.tolist(), tokens.tolist(), chosen.tolist(), strict=True
            ):
                if not done:
                    responses[row].append(token)
                    log_probs[row].append(log_prob)
            finished = finished | torch.isin(tokens, end_ids)
            if finished.all():
                break
            attention = torch.cat([attention, attention.new_ones(len(rows), 1)], dim=-1)
            input_ids, positions = tokens[:, None], positions[:, -1:] + 1
            if finished.sum() * 2 >= len(rows):
                # Half the work is for sequences that have ended: go on with the others only.
                alive = (~finished).nonzero().squeeze(-1)
                cache.batch_select_indices(alive)
                rows, finished = rows[alive], finished[alive]
                attention, input_ids, positions = attention[alive], input_ids[alive], positions[alive]
        return [Rollout(*pair) for pair in zip(responses, log_probs, strict=True)]
