"""Checks of a model folder, before any library opens it.

A library may wait forever on a named pipe, copy what a link points to, or build a model with any number of layers.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.io import check_regular, irregular, is_hub_id, read_json, read_object

Shapes = dict[str, tuple[int, ...]]
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Files that are read or copied from a folder, by the end of their names.
_READ = (".json", ".jinja", ".txt", ".model", ".safetensors", "LICENSE")
# Folder with further chat templates.
_TEMPLATES = "additional_chat_templates"
MIB = 2**20
# The largest known tokenizer.json has 35 MB, the largest index 11 MB, the largest of the other files 6 MB.
_LARGEST = {"tokenizer.json": 256 * MIB, INDEX: 64 * MIB, "config.json": 16 * MIB, "generation_config.json": 16 * MIB}
_LARGEST |= dict.fromkeys(("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"), 16 * MIB)
_LARGEST |= dict.fromkeys(("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model"), 64 * MIB)
LARGEST_TEMPLATE = MIB
# A header lists each tensor in about a hundred characters.
_LARGEST_HEADER = 32 * MIB
# Integers in config.json by their names: the minimum, and the maximum, which is far above any model's.
_COUNTS = dict.fromkeys(("vocab_size",), (1, 2**24)) | dict.fromkeys(("hidden_size", "n_embd", "d_model"), (1, 2**20))
_COUNTS |= dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), (1, 2048))
_COUNTS |= dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), (1, 2**16))
_COUNTS |= dict.fromkeys(("intermediate_size", "n_inner"), (0, 2**24))
_COUNTS |= dict.fromkeys(("num_key_value_heads", "head_dim"), (0, 2**16))
_COUNTS |= dict.fromkeys(("max_position_embeddings", "n_positions"), (1, 2**30))
_MOST_LAYERS, _MOST_EXPERTS = 2048, 2**14
# Keys that set the size of a head to another value than width / heads.
_HEAD_SIZES = ("head_dim", "head_size", "d_kv", "kv_channels")


def check_model_folder(model_dir: str | Path) -> None:
    """Refuse a folder that holds no model, or files that hang, exhaust or mislead a program that opens them.

    Checks types and sizes of files, targets of links, numbers in config.json, the index and the headers of weights.
    A name that is not a folder here passes if it can be a hub id.

    Raises UserError: names the file, the problem and the fix.
    """
    folder = Path(model_dir)
    if not folder.is_dir():
        if is_hub_id(model_dir):
            return
        raise UserError(f"no such model folder: {model_dir}; name a model on the hub owner/name")
    check_files(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{model_dir} is not a Hugging Face model folder: it has no config.json")
    check_numbers(read_object(folder / "config.json"), folder / "config.json")
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} holds an adapter (adapter_config.json), which some programs ignore and load only "
            "its base model: merge the two, or remove that file"
        )
    for path in weight_files(folder):
        if path.is_file():
            tensor_shapes(path)


def check_files(folder: Path, within: str | Path | None = None) -> None:
    """Raise UserError for a file of a model folder that is not regular, is too large, or is a link out of the folder.

    Links of Hugging Face's cache to its blobs are allowed, and weights may be anywhere; all other files are copied with
    their content. `within` is the folder in which links may point, by default the model folder.
    """
    root = os.path.realpath(within or folder)
    for path in read_files(folder):
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path} is a link to {path.readlink()}, which does not exist: replace the link by a copy")
        if kind := irregular(path):
            raise UserError(
                f"{path} is {kind} and no file of a model: put the file itself in its place, or take it away"
            )
        if path.is_symlink() and path.suffix != ".safetensors":
            target = Path(os.path.realpath(path))
            cached = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
            if not cached and not target.is_relative_to(root):
                raise UserError(f"{path} is a link out of the model's folder, to {target}: put a copy in its place")
        most = LARGEST_TEMPLATE if path.suffix == ".jinja" else _LARGEST.get(path.name, 0)
        if most and (size := path.stat().st_size) > most:
            raise UserError(f"{path} has {size:,} bytes, too many for this kind of file: download it again")


def read_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a model folder that a library or this program reads or copies, regular or not."""
    for place in (folder, folder / _TEMPLATES):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            if path.name.endswith(_READ) and not path.name.startswith("."):
                yield path


def is_loaded(name: str) -> bool:
    """Return whether a library loads a file of that name as weights, tokenizer, template or configuration."""
    return name in _LARGEST or name.endswith((".safetensors", ".jinja")) or name == "chat_template.json"


def check_numbers(config: dict[str, Any], source: str | Path) -> None:
    """Raise UserError, which begins with `source`, for numbers in a model's configuration that no model can have."""
    parts = [config]
    while parts:
        part = parts.pop()
        parts += [value for value in part.values() if isinstance(value, dict)]
        for key, value in part.items():
            _check_number(key, value, source)
        if part is config or part is config.get("text_config"):
            _check_heads(part, source)


def _check_number(key: str, value: Any, source: str | Path) -> None:
    if key in _COUNTS:
        least, most = _COUNTS[key]
        many = isinstance(value, list)
        values = value if many else [value] if not isinstance(value, dict | None) else []
        if len(values) > _MOST_LAYERS or not all(type(v) is int and least * (not many) <= v <= most for v in values):
            raise UserError(f"{source}: {key} must be a whole number from {least} to {most:,}, got {value!s:.60}")
    elif isinstance(value, int) and key.endswith(("layers", "blocks", "depth", "experts")):
        most = _MOST_EXPERTS if key.endswith("experts") else _MOST_LAYERS
        if value > most:
            raise UserError(f"{source}: {key} must be at most {most:,}, got {value!s:.60}")
    elif isinstance(value, float) and math.isnan(value):
        raise UserError(f"{source}: {key} is not a number (NaN)")
    elif (key == "factor" or key.endswith(("_eps", "epsilon", "rope_theta"))) and (
        isinstance(value, str | bool) or (isinstance(value, int | float) and not 0 <= value < math.inf)
    ):
        raise UserError(f"{source}: {key} must be a number from 0, got {value!s:.60}")


def _check_heads(part: dict[str, Any], source: str | Path) -> None:
    width, heads, shared = (part.get(key) for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    own = any(size in key for key in part if part[key] is not None for size in _HEAD_SIZES)
    if type(width) is int and type(heads) is int and width % heads and not own:
        raise UserError(f"{source}: hidden_size {width:,} is not a multiple of num_attention_heads {heads:,}")
    if type(heads) is int and type(shared) is int and shared and heads % shared:
        raise UserError(f"{source}: num_attention_heads {heads:,} is not a multiple of num_key_value_heads {shared:,}")


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder that are loaded, existing or not: the single one, or those of the index.

    Raises UserError: it is ambiguous which files are loaded.
    """
    single, index = folder / SINGLE, folder / INDEX
    names = {SINGLE} if single.is_file() or not index.is_file() else indexed_files(folder)
    if single.is_file() and index.is_file() and SINGLE not in indexed_files(folder):
        raise UserError(
            f"{folder} holds {SINGLE} and {INDEX}, which names other files, so programs load different "
            "weights: remove the wrong files"
        )
    return [folder / name for name in sorted(names)]


def indexed_files(folder: Path) -> set[str]:
    """Return the weight files listed by a folder's index; UserError if it is not an index or names other folders."""
    path = folder / INDEX
    try:
        names = set(read_json(path)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not an index of weight files ({error}): download the folder again") from error
    odd = [name for name in names if not isinstance(name, str) or not name.endswith(".safetensors") or "/" in name]
    if odd or not names:
        found = f"{odd[0]!r:.80} is not a safetensors file in the folder" if odd else "it names none"
        raise UserError(f"{path} is not an index of weight files ({found}): download the folder again")
    return names


def tensor_shapes(path: Path) -> Shapes:
    """Return the shape of each tensor of a safetensors file; UserError if the file is truncated or of another type."""
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with path.open("rb") as handle:
            start = handle.read(23)
        if start == b"version https://git-lfs":
            raise UserError(
                f"{path} is a pointer of Git LFS, not the weights: `git lfs pull` in its folder fetches them"
            )
        if (header := int.from_bytes(start[:8], "little")) > _LARGEST_HEADER:
            raise UserError(f"{path} has a header of {header:,} bytes, too long for model weights: download it again")
        with safe_open(path, framework="np") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is truncated or not a safetensors file ({error}): download it again") from error
