"""Rollouts: the questions of each step, and responses to them sampled from the current policy.

The samplers are those of evaluation and judge. The order of the questions is a function of the seed, and each response
has its own random numbers, derived from (seed, step, prompt, sample). Samples therefore do not depend on the number of
processes or on where a run was interrupted.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from justrl.errors import UserError
from justrl.hardware.memory import SHARE
from justrl.models.sampling import Backend, Completed, Sampling, SamplingRequest, require_backend
from justrl.models.transformers_backend import TransformersBackend
from justrl.models.vllm_backend import VllmBackend
from justrl.training.reward import question_row
from justrl.training.segment import SegmentRequest


@dataclass(frozen=True)
class Question:
    """A prompt as token ids, the reference answer, and the data row for custom reward functions."""

    prompt: list[int]
    gold: str
    row: Mapping[str, Any] = field(default_factory=dict)


def load_questions(path: Path, tokenizer, max_prompt_length: int) -> list[Question]:
    """Read a training Parquet file (verl's schema) and apply the model's chat template to every prompt.

    Raises UserError: a column is missing, the file is empty, or a prompt is longer than `max_prompt_length` tokens.
    """
    import pyarrow.parquet as pq

    names = set(pq.read_schema(path).names)
    missing = {"prompt", "reward_model"} - names
    if missing:
        raise UserError(f"{path}: no column {' or '.join(sorted(missing))}; write it with `justrl data prepare`")
    wanted = ["prompt", "reward_model", *sorted(names & {"data_source", "extra_info"})]
    rows = pq.read_table(path, columns=wanted).to_pylist()
    if not rows:
        raise UserError(f"{path}: no rows to train on")
    messages = [row["prompt"] for row in rows]
    prompts = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    for index, prompt in enumerate(prompts):
        if len(prompt) > max_prompt_length:
            raise UserError(
                f"{path}: row {index} has {len(prompt)} prompt tokens, recipe.max_prompt_length is "
                f"{max_prompt_length}: prepare the data again with this model and length"
            )
    return [
        Question(
            prompt, row["reward_model"]["ground_truth"], question_row(row.get("data_source"), row.get("extra_info"))
        )
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def step_questions(step: int, prompts_per_step: int, questions: int, seed: int) -> list[int]:
    """Return the indices of the questions of a step (counted from 1).

    Every epoch has its own permutation. Steps go through the epochs without a gap, so a step may take the end of one
    epoch and the beginning of the next. The result depends only on the arguments, so there is no position to save.
    """
    chosen: list[int] = []
    position = (step - 1) * prompts_per_step
    while len(chosen) < prompts_per_step:
        epoch, offset = divmod(position + len(chosen), questions)
        order = np.random.default_rng([seed, epoch]).permutation(questions)
        chosen += order[offset : offset + prompts_per_step - len(chosen)].tolist()
    return chosen


class RolloutBackend(Protocol):
    """Samples responses from the current policy."""

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[Completed]:
        """Sample one response per prompt, with the random stream of its seed (a sequence of non-negative ints)."""
        ...


class TransformersRollouts:
    """Bit-reproducible rollouts, sampled with the model that is trained.

    Args:
        model: a causal language model of transformers; each call uses its current weights.
        batch_size: sequences decoded together; None decodes all at once.
        autocast: compute in bfloat16 (the parameters keep their precision).
    """

    def __init__(self, model, tokenizer, sampling: Sampling, batch_size: int | None = None, autocast: bool = False):
        self.model, self.sampling, self.autocast = model, sampling, autocast
        self._backend = TransformersBackend(model, tokenizer, batch_size)

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[Completed]:
        """Sample one response per prompt; see `RolloutBackend`."""
        was_training = self.model.training
        self.model.eval()
        with torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            answers = _in_order(self._backend, self.sampling, prompts, seeds)
        self.model.train(was_training)
        return answers


class VllmRollouts:
    """Rollouts sampled with vLLM, for responses too long for transformers.

    vLLM has its own copy of the policy, so the trainer gives it the new weights before each step, as a safetensors
    file. Its kernels differ from the trainer's: samples are reproducible by seed on the same machine, but a resumed
    training has the same distribution, not the same bits.

    Args:
        request: its base model has the policy's configuration and tokenizer; the weights go to its work directory.
        save_weights: writes the policy's current weights, in the recipe's precision, as a Hugging Face folder.
    """

    def __init__(self, request: SegmentRequest, sampling: Sampling, save_weights: Callable[[Path], None]):
        # The engine runs in this process: it can load weights by a function call, and ends with the trainer.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        self._sampling, self._save_weights = sampling, save_weights
        self._scratch = request.work_dir / "rollout_weights"
        require_backend("vllm")
        with _any_kernels():
            self._backend = VllmBackend(
                request.model_dir,
                revision=None,
                dtype=request.recipe.dtype,
                max_model_len=request.recipe.longest,
                tensor_parallel_size=1,
                seed=0,
                batch_size=request.execution.rollout_batch_size,
                # The trainer needs the rest of the GPU's memory.
                engine_options={"gpu_memory_utilization": SHARE},
            )

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[Completed]:
        """Load the policy's current weights and sample one response per prompt; see `RolloutBackend`."""
        self._save_weights(self._scratch)
        with _any_kernels():
            self._backend.load_weights(self._scratch)
            return _in_order(self._backend, self._sampling, prompts, seeds)


@contextmanager
def _any_kernels():
    """Let vLLM, which runs in this process, use kernels that torch's deterministic mode would reject or slow down."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def _in_order(
    backend: Backend, sampling: Sampling, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]
) -> list[Completed]:
    """Return one response per prompt, in the prompts' order."""
    requests = [
        SamplingRequest(str(index), list(prompt), tuple(seed), sampling)
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    return sorted(backend.generate(requests), key=lambda answer: int(answer.id))
