"""Rollouts by vLLM, for responses too long to be sampled by transformers in reasonable time.

vLLM holds a copy of the policy, so the trainer hands it the new weights before each step, as a safetensors file. Its
kernels are not the trainer's: what it samples is reproducible by seed on the same machine, but a resumed training is
then the same in distribution and not to the bit.
"""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from justrl.errors import UserError
from justrl.evaluation.vllm_backend import cpu_options, set_environment
from justrl.grpo.rollout import Rollout, Sampling


class VllmRollouts:
    """A vLLM engine in this process.

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
        end_ids: Sequence[int],
        *,
        save_weights: Callable[[Path], None],
        scratch: Path,
        max_length: int,
        dtype: str,
        batch_size: int | None = None,
        memory_share: float = 0.4,
    ):
        import torch

        has_gpu = torch.cuda.is_available()
        # The engine runs in this process: it gets the weights by a call, and ends when the trainer does.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if find_spec("vllm") is None:
            raise UserError(
                "--rollouts vllm: vLLM is not installed here; make its environment with `make gpu-env`, or use "
                "--rollouts transformers"
            )
        set_environment(has_gpu)
        from vllm import LLM

        self._sampling, self._end_ids = sampling, sorted(set(end_ids))
        self._save_weights, self._scratch = save_weights, scratch
        self._llm = LLM(
            model=str(model_dir),
            dtype=dtype,
            max_model_len=max_length,
            gpu_memory_utilization=memory_share,
            generation_config="vllm",
            trust_remote_code=False,
            disable_log_stats=True,
            **({"max_num_seqs": batch_size} if batch_size else {}),
            **({} if has_gpu else cpu_options(max_length)),
        )

    def generate(self, prompts: Sequence[Sequence[int]], seeds: Sequence[Sequence[int]]) -> list[Rollout]:
        """Take over the policy's weights and sample one response per prompt; see `RolloutBackend`."""
        from vllm import SamplingParams
        from vllm.inputs import tokens_input

        self._save_weights(self._scratch)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(self._scratch)})
        self._llm.reset_prefix_cache()
        parameters = [
            SamplingParams(
                max_tokens=self._sampling.max_response_length,
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
                top_k=self._sampling.top_k,
                stop_token_ids=self._end_ids,
                ignore_eos=True,  # the end tokens are those given, not the tokenizer's
                detokenize=False,
                logprobs=0,
                seed=int(np.random.SeedSequence(seed).generate_state(1)[0]),
            )
            for seed in seeds
        ]
        outputs = self._llm.generate([tokens_input(list(prompt)) for prompt in prompts], parameters, use_tqdm=False)
        rollouts = []
        for output in outputs:
            (completion,) = output.outputs
            tokens = list(completion.token_ids)
            chosen = [entry[token].logprob for entry, token in zip(completion.logprobs, tokens, strict=True)]
            rollouts.append(Rollout(tokens, chosen))
        return rollouts
