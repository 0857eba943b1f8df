"""Text generation with one interface: transformers on any machine, or vLLM."""

from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.models.folder import check_weights
from justrl.models.sampling import Backend, BackendOptions, check_model_length, require_backend

BACKENDS = ("vllm", "transformers")


def load_backend(name: str, model_dir: str | Path, **options: Any) -> Backend:
    """Load a model into a backend.

    Args:
        name: "vllm" or "transformers".
        model_dir: a Hugging Face model folder, or a hub id (then `revision` names the commit).
        options: the fields of `BackendOptions`.

    Raises UserError: an unknown backend, one that is not installed, a model that cannot hold max_model_len tokens or is
        incomplete.
    """
    if name not in BACKENDS:
        raise UserError(f"backend {name!r} is unknown: use {' or '.join(BACKENDS)}")
    require_backend(name)
    given = BackendOptions(**options)
    if given.batch_size is not None and given.batch_size < 1:
        raise UserError(f"the batch size must be at least 1, got {given.batch_size}")
    if given.max_model_len is not None:
        check_model_length(model_dir, given.max_model_len, given.revision)
    check_weights(model_dir)
    if name == "vllm":
        from justrl.models.vllm_backend import VllmBackend

        return VllmBackend(model_dir, **options)
    if given.tensor_parallel_size != 1:
        raise UserError("the transformers backend uses one device: set --tensor-parallel-size 1 or --backend vllm")
    if given.engine_options:
        raise UserError("engine options belong to vLLM: leave them out or use --backend vllm")
    from justrl.models.transformers_backend import TransformersBackend

    return TransformersBackend.load(model_dir, given.revision, given.dtype, given.batch_size or 128)
