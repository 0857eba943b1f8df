"""One interface to whatever generates text: vLLM on GPUs, transformers on anything.

`load_backend(...)` gives an object whose `generate(requests)` yields each answer as it finishes, in any order. Both
backends take token ids in and decode the answer with the model's own tokenizer, so their text is made the same way.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from justrl.errors import UserError

BACKENDS = ("vllm", "transformers")
END_OF_TURN = "<|im_end|>"


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: temperature 0 is greedy, top_p 1.0 and top_k -1 are off; max_tokens counts new tokens."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """One answer to make: an id of the caller's, the prompt as token ids, the seed of its random numbers."""

    id: str
    prompt_token_ids: list[int]
    seed: int
    sampling: Sampling


@dataclass(frozen=True)
class Completed:
    """One finished answer: text without special tokens, its length with the stop token, "stop" or "length"."""

    id: str
    text: str
    token_count: int
    finish_reason: str
    token_ids: tuple[int, ...]


class Backend(Protocol):
    """What `load_backend` returns."""

    name: str
    environment: dict[str, str]

    def generate(self, requests: Iterable[Request]) -> Iterator[Completed]:
        """Yield every request's answer as it finishes, in any order."""

    def close(self) -> None:
        """Give the model's memory back; the backend is of no use afterwards."""


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
        max_model_len: longest prompt plus answer, in tokens; None is the model's own limit.
        tensor_parallel_size: GPUs that share the model (vLLM only).
        seed: the engine's own seed; requests carry theirs.
        batch_size: sequences decoded together (None: the backend's default).
        engine_options: further arguments of `vllm.LLM`, such as gpu_memory_utilization.

    Raises:
        UserError: an unknown backend, one that is not installed, or a model that cannot hold max_model_len tokens.
    """
    if name not in BACKENDS:
        raise UserError(f"backend {name!r} is unknown: use {' or '.join(BACKENDS)}")
    require_backend(name)
    if max_model_len is not None:
        check_model_length(model_dir, max_model_len, revision)
    if name == "vllm":
        from justrl.evaluation.vllm_backend import VllmBackend

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
    from justrl.evaluation.transformers_backend import TransformersBackend

    return TransformersBackend(model_dir, revision=revision, dtype=dtype, batch_size=batch_size or 128)


def require_backend(name: str) -> None:
    """Raise UserError, naming the environment to install, if a backend's packages are absent."""
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "vLLM is not installed in this environment: install it with `make gpu-env` (GPU) or `make verl-env` (CPU), "
            "or use --backend transformers"
        )


def load_tokenizer(model_dir: str | Path, revision: str | None = None):
    """The model's tokenizer; UserError if there is none or it has no chat template."""
    check_model_folder(model_dir)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model_dir), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"no tokenizer can be loaded from {model_dir}: {_first_line(error)}") from error
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {model_dir} has no chat template, so there is no telling how to ask it")
    return tokenizer


def stop_token_ids(model_dir: str | Path, tokenizer, revision: str | None = None) -> tuple[int, ...]:
    """The tokens that end an answer, sorted.

    They are the tokenizer's end of sequence, those of generation_config.json (the one value taken from it: a model
    may end its turn with a token that its tokenizer does not call the end), and `<|im_end|>` where the chat template
    uses it as one token. Given explicitly to either backend, so neither adds or misses any.
    """
    found = set()
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    for source in (_generation_config(model_dir, revision), _model_config(model_dir, revision)):
        ids = getattr(source, "eos_token_id", None)
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    template = tokenizer.chat_template
    if END_OF_TURN in (template if isinstance(template, str) else str(template)):
        token = tokenizer.get_vocab().get(END_OF_TURN)
        if token is not None:
            found.add(token)
    if not found:
        raise UserError(f"{model_dir} names no end-of-sequence token: set eos_token in its tokenizer_config.json")
    return tuple(sorted(int(token) for token in found))


def model_length(model_dir: str | Path, revision: str | None = None) -> int:
    """The most tokens (prompt plus answer) a model was made for: its positions, times a RoPE scaling factor."""
    config = _model_config(model_dir, revision).get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None)
    if not positions:
        raise UserError(f"the config.json of {model_dir} does not say max_position_embeddings")
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in ("linear", "dynamic", "yarn") and scaling.get("factor"):
        positions = int((scaling.get("original_max_position_embeddings") or positions) * scaling["factor"])
    return positions


def check_model_length(model_dir: str | Path, needed: int, revision: str | None = None) -> None:
    """Raise UserError, before any engine is built, if a model cannot hold `needed` tokens."""
    limit = model_length(model_dir, revision)
    if needed > limit:
        raise UserError(
            f"{model_dir} holds {limit:,} tokens, but the longest prompt plus max_tokens needs {needed:,}: "
            f"lower max_tokens by at least {needed - limit:,}"
        )


def check_model_folder(model_dir: str | Path) -> None:
    """Raise UserError if a path that is meant as a folder (it has a separator and no such hub id form) is not there."""
    path = Path(model_dir)
    looks_like_hub_id = len(path.parts) <= 2 and not path.is_absolute() and not str(model_dir).startswith(".")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"{model_dir} is not a Hugging Face model folder: it has no config.json")
    elif not looks_like_hub_id:
        raise UserError(f"there is no model folder {model_dir}")


def _model_config(model_dir: str | Path, revision: str | None):
    check_model_folder(model_dir)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(model_dir), revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"no model can be loaded from {model_dir}: {_first_line(error)}") from error


def _generation_config(model_dir: str | Path, revision: str | None):
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(str(model_dir), revision=revision)
    except OSError:
        return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
