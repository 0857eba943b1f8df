"""Rollouts: responses sampled from the current policy, by the sampler that evaluation and judge use.

Each response has random numbers of its own, derived from (seed, step, prompt, sample): what is sampled does not depend
on how many processes share the work or on where a run was interrupted.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch

from justrl.generation.base import Backend, Completed, Sampling, SamplingRequest, require_backend
from justrl.generation.transformers_backend import TransformersBackend
from justrl.generation.vllm_backend import VllmBackend


class RolloutBackend(Protocol):
    """Whatever can sample responses from the policy as it is now."""

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[Completed]:
        """Sample one response per prompt, from the random stream of its seed (a sequence of non-negative ints)."""
        ...


class TransformersRollouts:
    """Rollouts by the model that is trained, to the bit reproducible.

    Args:
        model: a causal language model of transformers, used as it is at the moment of the call.
        batch_size: sequences decoded together; None takes all at once.
        autocast: compute in bfloat16 (the parameters stay as they are).
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
    """Rollouts by vLLM, for responses too long to be sampled by transformers in reasonable time.

    vLLM holds a copy of the policy, so the trainer hands it the new weights before each step, as a safetensors file.
    Its kernels are not the trainer's: what it samples is reproducible by seed on the same machine, but a resumed
    training is then the same in distribution and not to the bit.

    Args:
        model_dir: Hugging Face folder with the policy's configuration and tokenizer.
        save_weights: writes the policy's present weights, in `dtype`, as a Hugging Face folder.
        scratch: folder for those weights; on a RAM disk if there is one.
        max_length: prompt and response together, in tokens.
        memory_share: the part of the GPU's memory that vLLM takes; the trainer needs the rest.
    """

    def __init__(
        self,
        model_dir: Path,
        sampling: Sampling,
        *,
        save_weights: Callable[[Path], None],
        scratch: Path,
        max_length: int,
        dtype: str,
        batch_size: int | None = None,
        memory_share: float = 0.4,
    ):
        # The engine runs in this process: it gets the weights by a call, and ends when the trainer does.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        self._sampling, self._save_weights, self._scratch = sampling, save_weights, scratch
        require_backend("vllm")
        with _any_kernels():
            self._backend = VllmBackend(
                model_dir,
                revision=None,
                dtype=dtype,
                max_model_len=max_length,
                tensor_parallel_size=1,
                seed=0,
                batch_size=batch_size,
                engine_options={"gpu_memory_utilization": memory_share},
            )

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[Completed]:
        """Take over the policy's weights and sample one response per prompt; see `RolloutBackend`."""
        self._save_weights(self._scratch)
        with _any_kernels():
            self._backend.load_weights(self._scratch)
            return _in_order(self._backend, self._sampling, prompts, seeds)


@contextmanager
def _any_kernels():
    """Let vLLM, which runs in this process, use kernels that torch's deterministic mode would refuse or slow down."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def _in_order(
    backend: Backend, sampling: Sampling, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]
) -> list[Completed]:
    """One response per prompt, in the prompts' order."""
    requests = [
        SamplingRequest(str(index), list(prompt), tuple(seed), sampling)
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    return sorted(backend.generate(requests), key=lambda answer: int(answer.id))
