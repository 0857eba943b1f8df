"""Text generation with one interface: transformers on any machine, or vLLM."""

from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.models.sampling import Backend, check_model_length, require_backend
from justrl.models.weight_checks import check_weights

BACKENDS = ("vllm", "transformers")


def load_backend(
    name: str,
    model_dir: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    max_model_len: int | None = None,
    tensor_parallel_size: int = 1,
    seed: int = 0,
    batch_size: int | None = None,
    engine_options: dict[str, Any] | None = None,
) -> Backend:
    """Load a model into a backend.

    Args:
        name: "vllm" or "transformers".
        model_dir: a Hugging Face model folder, or a hub id (then `revision` names the commit).
        dtype: torch dtype by name; "auto" is float32 without a GPU and bfloat16 with one.
        max_model_len: longest prompt plus answer, in tokens; None: the model's own limit.
        tensor_parallel_size: GPUs that share the model (vLLM only).
        seed: the engine's own seed; each request has its own, too.
        batch_size: sequences decoded together (None: the backend's default).
        engine_options: further arguments of `vllm.LLM`, such as gpu_memory_utilization.

    Raises UserError: an unknown backend, one that is not installed, a model that cannot hold max_model_len tokens or is
        incomplete.
    """
    if name not in BACKENDS:
        raise UserError(f"backend {name!r} is unknown: use {' or '.join(BACKENDS)}")
    require_backend(name)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"the batch size must be at least 1, got {batch_size}")
    if max_model_len is not None:
        check_model_length(model_dir, max_model_len, revision)
    check_weights(model_dir)
    if name == "vllm":
        from justrl.models.vllm_backend import VllmBackend

        return VllmBackend(
            model_dir,
            revision=revision,
            dtype=dtype,
            max_model_len=max_model_len,
            tensor_parallel_size=tensor_parallel_size,
            seed=seed,
            batch_size=batch_size,
            engine_options=engine_options or {},
        )
    if tensor_parallel_size != 1:
        raise UserError("the transformers backend uses one device: set --tensor-parallel-size 1 or --backend vllm")
    if engine_options:
        raise UserError("engine options belong to vLLM: leave them out or use --backend vllm")
    from justrl.models.transformers_backend import TransformersBackend

    return TransformersBackend.load(model_dir, revision=revision, dtype=dtype, batch_size=batch_size or 128)
