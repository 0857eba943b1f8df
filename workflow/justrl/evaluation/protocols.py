"""Evaluation protocols: read one, compare it with the settings of completions, and derive each sample's seed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from justrl.config import EvalProtocol, read_part
from justrl.errors import UserError
from justrl.io import json_argument


def load_protocol(text: str) -> tuple[str, EvalProtocol]:
    """Read a protocol and its name from a JSON file, or from inline JSON (text that begins with a brace)."""
    fields = json_argument(text, "--protocol")
    name = fields.pop("name", "custom" if text.lstrip().startswith("{") else Path(text).stem)
    return name, read_part(EvalProtocol, fields, f"protocol {name}")


def check_made_with(settings: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise UserError unless the completions' settings match every requested one; other settings are not compared.

    For the authors' released completions, only the settings in their file names are compared. The error names both
    values.
    """
    made, wanted = _flat(settings), _flat(asked)
    if settings.get("source") == "released":
        wanted = {key: value for key, value in wanted.items() if key in made and key != "protocol.name"}
    different = [key for key in wanted if made.get(key) != wanted[key]]
    if different:
        there, here = (", ".join(f"{key} {of.get(key)!r}" for key in different) for of in (made, wanted))
        raise UserError(
            f"the completions were made with {there}, but --config requires {here}: give other "
            "completions, or change --config"
        )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    inner = settings.get("protocol") or {}
    rest = {key: value for key, value in settings.items() if key != "protocol"}
    return rest | {f"protocol.{key}": value for key, value in inner.items()}


def sample_seed(seed: int, run: str, benchmark: str, question_id: str, sample_index: int) -> int:
    """The random seed of one sample, 63 bits, derived only from the sample's identity.

    So shards, batch sizes, request order and reruns don't change it, and no two samples share a seed. (The authors'
    script draws unseeded numbers and uses the same one for every question of a pass.)
    """
    key = json.dumps([seed, run, benchmark, question_id, sample_index], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
