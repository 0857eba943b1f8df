"""Checks of a model folder, before any library opens it.

A library may wait forever on a named pipe, copy what a link points to, or build a model with any number of layers.
transformers initialises missing weights randomly and only logs it.

A downloaded folder must be unchanged: every file by its size and SHA-256. Gigabytes are hashed only once. The hashes
are stored next to the folder, with each file's size and modification time. No job reads a file again while both are
the same.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.io import (
    check_regular,
    file_sha256,
    irregular,
    is_hub_id,
    read_json,
    read_json_object,
    read_object,
    write_json,
)

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


def check_download(folder: str | Path, *, required: bool = False) -> None:
    """Raise UserError unless the files of a folder are those that its source.json records.

    A folder without the record passes unless `required`. The error names the first file that is missing, has changed
    or, in a model's folder, was not downloaded; or the record, if it is unreadable.
    """
    folder = Path(folder)
    record = folder / "source.json"
    check_regular(record)
    if not record.is_file():
        if required:
            raise UserError(f"{folder} is missing, or no download: it has no source.json")
        return
    described = read_record(record)
    files = described["files"]
    if described.get("kind") == "model":
        there = {path.relative_to(folder).as_posix() for path in read_files(folder) if is_loaded(path.name)}
        if added := sorted(there - files.keys()):
            raise UserError(
                f"{folder / added[0]} was not downloaded into {folder}: remove it, or delete source.json "
                "to treat the folder as your own"
            )
    memory = folder.with_name(f".{folder.name}.checked.json")
    known = read_json_object(memory)
    seen: dict[str, Any] = {}
    for name, expected in sorted(files.items()):
        path = folder / name
        check_regular(path)
        if not path.is_file():
            raise UserError(f"{folder} lacks the downloaded file {name}: delete the folder and download it again")
        status = path.stat()
        before = known.get(name)
        if isinstance(before, list) and before[:2] == [status.st_size, status.st_mtime_ns]:
            seen[name] = before
        else:
            seen[name] = [status.st_size, status.st_mtime_ns, file_sha256(path)]
        if seen[name][2:] != [expected]:
            raise UserError(
                f"{path} is not the file that was downloaded (SHA-256 {seen[name][2]!s:.12}..., source.json has "
                f"{expected:.12}...): delete the folder and download it again"
            )
    if seen != known and os.access(memory.parent, os.W_OK):
        with suppress(OSError):
            write_json(memory, seen)


def revision_of(folder: str | Path) -> str | None:
    """The commit of a downloaded folder; None if it is not recorded."""
    record = Path(folder) / "source.json"
    return read_record(record).get("revision") if record.is_file() else None


def read_record(path: Path) -> dict[str, Any]:
    """Read a source.json: the origin of a download, and `files`, the SHA-256 of each file by name.

    Raises UserError for an invalid record: one without files, or with a file outside its folder.
    """
    record = read_object(path)
    files = record.get("files")
    if not isinstance(files, dict) or not files or not all(isinstance(value, str) for value in files.values()):
        raise UserError(
            f"{path} is not a download record (`files` is missing): delete its folder and download it again"
        )
    if outside := [name for name in files if name.startswith("/") or {"", ".", ".."} & set(name.split("/"))]:
        raise UserError(f"{path} names {outside[0]!r:.80}, which is not in its folder: download it again")
    return record


def checked_folder(model_dir: str | Path, revision: str | None, names: Sequence[str] = ("config.json",)) -> Path:
    """The model's folder, after `check_model_folder`. For a hub id, its cache folder with the files of these names.

    Raises UserError: the check fails, or the hub has none of the files.
    """
    check_model_folder(model_dir)
    if Path(model_dir).is_dir():
        return Path(model_dir)
    found = [path for name in names if (path := model_file(model_dir, name, revision))]
    if not found:
        raise UserError(f"the hub's {model_dir} has no {names[0]}: it cannot be used as a model here")
    check_model_folder(found[0].parent)
    return found[0].parent


def model_config(model_dir: str | Path, revision: str | None):
    """The configuration of a model. Raises UserError if there is none, or if it needs code from the folder."""
    checked_folder(model_dir, revision)
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(model_dir), revision=revision, trust_remote_code=False)
    except Exception as error:  # broken files raise anything
        raise UserError(f"no model can be loaded from {model_dir}: {first_line(error)}") from error


def model_file(model_dir: str | Path, name: str, revision: str | None) -> Path | None:
    """The path of a file of a model folder or hub repository; None if it doesn't exist."""
    if Path(model_dir).is_dir():
        path = Path(model_dir) / name
        return path if path.is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(str(model_dir), name, revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError as error:
        asked = f"{model_dir}, which is not a local folder and was requested from the hub"
        raise UserError(f"no {name} can be loaded from {asked}: {first_line(error)}") from error
    return Path(found) if found else None


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_weights(model_dir: str | Path) -> None:
    """Raise UserError if safetensors files are broken, or lack, add or reshape tensors of the model's class.

    The files of a downloaded folder must also match their recorded hashes. A hub id passes. For quantized models, and
    for those whose class transformers doesn't know or stores under other names, only the files themselves are checked.

    The error names the folder, and the file or the tensors.
    """
    folder = Path(model_dir)
    if not folder.is_dir():
        return
    check_model_folder(folder)
    check_download(folder)
    config = model_config(folder, None)
    found: Shapes = {}
    for path in loaded_files(folder):
        found |= tensor_shapes(path)
    try:
        model = None if getattr(config, "quantization_config", None) else _empty_model(config)
    except Exception as error:  # a model's class can raise anything
        raise UserError(f"the config.json of {folder} does not describe a loadable model: {error!r}") from error
    if model is not None and (problems := _differences(found, model)):
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{folder}: the weights do not match its config.json: {'; '.join(problems[:3])}{more}. "
            "Download the folder again"
        )


def largest_tensor(model_dir: str | Path) -> tuple[int, str]:
    """Number of parameters and name of the largest tensor in a folder's weight files."""
    return max(
        (math.prod(shape), name)
        for path in loaded_files(Path(model_dir))
        for name, shape in tensor_shapes(path).items()
    )


def loaded_files(folder: Path) -> list[Path]:
    """The weight files that are loaded: the single one, or those of the index."""
    files = weight_files(folder)
    if missing := [path.name for path in files if not path.is_file()]:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        note = f"; {', '.join(pickled[:2])} is pickled, which is never loaded: convert it" if pickled else ""
        raise UserError(f"{folder} lacks {', '.join(missing[:3])}{note or ': download the folder again'}")
    return files


def _empty_model(config):
    """Build the model without memory for its weights; None if its tensors have different names in the files."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
    from transformers.conversion_mapping import get_model_conversion_mapping

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return None if get_model_conversion_mapping(model, add_legacy=False) else model


def _differences(found: Shapes, model) -> list[str]:
    """List missing, misshapen and extra tensors, one phrase each. Of tied tensors, one is enough."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = model.all_tied_weights_keys
    partner = tied | {source: name for name, source in tied.items()}
    absent = _keep(expected.keys() - found.keys(), model._keys_to_ignore_on_load_missing)
    problems = [f"{name} is missing" for name in absent if partner.get(name) not in found]
    problems += [
        f"{name} has the shape {found[name]} instead of {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    # Older Llama files store a tensor that is computed today.
    known = {*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq"}
    return problems + [f"{name} is not one of its tensors" for name in _keep(found.keys() - expected.keys(), known)]


def _keep(names, ignored) -> list[str]:
    return sorted(name for name in names if not any(re.search(pattern, name) for pattern in ignored or ()))
