"""The sampler's interface, for rollouts, evaluation and the judge: vLLM on GPUs, transformers on any machine.

`justrl.models.load_backend` returns an object whose `generate(requests)` yields answers as they finish, in any
order. Both backends take token ids and decode answers with the model's own tokenizer, so they produce text in the same
way.
"""

import importlib.util
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from justrl.errors import UserError
from justrl.io import read_object
from justrl.models.chat_template import (
    ChatTokenizer,
    check_ids,
    check_tokenizer,
    panics_said,
    strftime_then,
    try_tokenizer,
)
from justrl.models.folder import check_model_folder, checked_folder, first_line, model_config, model_file

END_OF_TURN = "<|im_end|>"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json"),
)
_OF_MISTRAL = ("mistral", "mistral3", "voxtral", "ministral", "pixtral")


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters.

    temperature 0 is greedy; top_p 1.0 and top_k -1 are off; max_tokens counts new tokens. With `log_probs`, an answer
    includes each token's log-probability, after the temperature and before any filter.
    """

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_token_ids: tuple[int, ...]
    log_probs: bool = False


@dataclass(frozen=True)
class SamplingRequest:
    """One answer to generate: the caller's id, the prompt as token ids, and the seed of its random numbers."""

    id: str
    prompt_token_ids: list[int]
    seed: int | tuple[int, ...]
    sampling: Sampling


@dataclass(frozen=True)
class Completed:
    """One finished answer: text without special tokens, length including the stop token, and "stop" or "length"."""

    id: str
    text: str
    token_count: int
    finish_reason: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...] = ()


@dataclass(frozen=True)
class BackendOptions:
    """How a backend loads a model.

    Args:
        revision: commit of a model on the hub.
        dtype: torch dtype by name; "auto" is float32 without a GPU and bfloat16 with one.
        max_model_len: longest prompt plus answer, in tokens; None: the model's own limit.
        tensor_parallel_size: GPUs that share the model (vLLM only).
        seed: the engine's own seed; each request has its own, too.
        batch_size: sequences decoded together (None: the backend's default).
        engine_options: further arguments of `vllm.LLM`, such as gpu_memory_utilization.
    """

    revision: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    seed: int = 0
    batch_size: int | None = None
    engine_options: dict[str, Any] | None = None


class Backend(Protocol):
    """The interface of the objects that `load_backend` returns."""

    name: str
    environment: dict[str, str]

    def generate(self, requests: Iterable[SamplingRequest]) -> Iterator[Completed]:
        """Yield every request's answer as it finishes, in any order."""

    def close(self) -> None:
        """Release the model's memory; the backend cannot be used afterwards."""


def require_backend(name: str) -> None:
    """Raise UserError, with the environment to install, if a backend's packages are missing."""
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "vLLM is not installed in this environment: run `make gpu-env`, then `. .venv-gpu/bin/activate` (without "
            "a GPU `make verl-env`, `. .venv-verl/bin/activate`), or use transformers (--backend transformers; in "
            "training, --rollouts transformers)"
        )


def load_tokenizer(model_dir: str | Path, revision: str | None = None):
    """Load the model's tokenizer from its tokenizer.json.

    Raises UserError: it has no chat template, or `check_tokenizer` refuses it.
    """
    folder = checked_folder(model_dir, revision, (*TOKENIZER_FILES, "config.json"))
    from transformers import PreTrainedTokenizerFast

    tokenizer = _load_tokenizer(PreTrainedTokenizerFast, model_dir, folder, revision)
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {model_dir} has no chat template; add one or use an instruction-tuned model")
    tokenizer.apply_chat_template = partial(tokenizer.apply_chat_template, strftime_now=strftime_then)
    with panics_said(folder):
        check_tokenizer(tokenizer, folder, stop_token_ids(model_dir, tokenizer, revision))
    return tokenizer


def check_tokenizer_of_verl(model_dir: str | Path) -> None:
    """Raise UserError if verl's own loading and rendering would differ: another tokenizer class, or today's date."""
    from transformers import AutoTokenizer

    folder = Path(model_dir)
    tokenizer = _load_tokenizer(AutoTokenizer, folder, folder, None)
    with panics_said(folder):
        own = ChatTokenizer(folder)
        check_ids(tokenizer, folder, own)
        own.render([{"role": "user", "content": "?"}])
    if own.dated:
        raise UserError(
            f"{model_dir}: the chat template writes today's date (strftime_now), so verl's prompts would differ from "
            "day to day: write a fixed date in its place, or train with `engine: reference`"
        )


def _load_tokenizer(loader, model_dir: str | Path, folder: Path, revision: str | None):
    try_tokenizer(folder)
    # If config.json names no version, transformers warns that every large tokenizer is Mistral's broken one. For other
    # models the warning is false, as `check_ids` shows.
    broken = _model_file(model_dir, "config.json", revision).get("model_type") in _OF_MISTRAL
    options: dict[str, Any] = {} if broken else {"fix_mistral_regex": False}
    # A model's text is graded as written: with this option on, "1 , 2" would become "1, 2".
    options["clean_up_tokenization_spaces"] = False
    try:
        with panics_said(folder):
            return loader.from_pretrained(str(model_dir), revision=revision, trust_remote_code=False, **options)
    except Exception as error:  # broken files raise anything
        raise UserError(f"no tokenizer can be loaded from {model_dir}: {first_line(error)}") from error


def copy_tokenizer(model_dir: str | Path, folder: str | Path) -> None:
    """Copy a model's tokenizer, template and stop tokens byte by byte, since a library that saves them changes them."""
    check_model_folder(model_dir)
    for path in (Path(model_dir) / name for name in TOKENIZER_FILES):
        if path.is_file():
            shutil.copyfile(path, Path(folder) / path.name)


def chat_prompt(tokenizer, message: str) -> str:
    """The prompt for one user message: the model's own chat template, without a system message from us.

    It already has every special token: encode it with `add_special_tokens=False`.
    """
    try:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": message}], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template can raise anything
        raise UserError(
            f"{tokenizer.name_or_path}: the chat template does not take {message[:80]!r}: {first_line(error)}"
        ) from error


def stop_tokens_by_source(model_dir: str | Path, tokenizer, revision: str | None = None) -> dict[str, set[int]]:
    """The tokens that end an answer, by source: tokenizer, generation_config.json, config.json, chat template.

    A model may end its turn with a token other than its tokenizer's end of sequence, and a model's files may disagree.
    Those of Qwen2.5's base models name `<|endoftext|>`, but their chat template ends a turn with `<|im_end|>`.

    Args:
        tokenizer: a tokenizer of transformers, or a `generation.chat_template.ChatTokenizer`.
    """
    named: dict[str, list] = {"tokenizer": [tokenizer.eos_token_id]}
    for name in ("generation_config.json", "config.json"):
        ids = _model_file(model_dir, name, revision).get("eos_token_id")
        named[name] = ids if isinstance(ids, list) else [ids]
    uses = END_OF_TURN in str(tokenizer.chat_template)
    named["chat template"] = [tokenizer.get_vocab().get(END_OF_TURN)] if uses else []
    found = {source: {token for token in tokens if token is not None} for source, tokens in named.items()}
    if not all(isinstance(token, int) for tokens in found.values() for token in tokens):
        raise UserError(f"{model_dir}: the eos_token_id of its JSON files must be token ids, got {found}")
    return found


def stop_token_ids(model_dir: str | Path, tokenizer, revision: str | None = None) -> tuple[int, ...]:
    """The tokens that end an answer, sorted: the union over all sources (see `stop_tokens_by_source`).

    Evaluation, the judge and the rollouts of both engines use the same ones. Every sampler gets them explicitly, so
    that none adds or misses one.
    """
    found = set().union(*stop_tokens_by_source(model_dir, tokenizer, revision).values())
    if not found:
        raise UserError(f"{model_dir} names no end-of-sequence token: set eos_token in its tokenizer_config.json")
    return tuple(sorted(found))


def model_length(model_dir: str | Path, revision: str | None = None) -> int:
    """The model's context length in tokens (prompt plus answer): its positions, times a RoPE scaling factor."""
    config = model_config(model_dir, revision).get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None)
    if not positions:
        raise UserError(f"the config.json of {model_dir} lacks max_position_embeddings; add it")
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


def _model_file(model_dir: str | Path, name: str, revision: str | None) -> dict[str, Any]:
    """Read a JSON file of a model folder or hub repository; {} if it doesn't exist."""
    path = model_file(model_dir, name, revision)
    return read_object(path) if path else {}
