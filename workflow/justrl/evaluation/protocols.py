"""Evaluation protocols: from the command line, against those that completions were made with; a sample's seed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from justrl.config import EvalProtocol, read_part
from justrl.errors import UserError
from justrl.io import json_argument


def load_protocol(text: str) -> tuple[str, EvalProtocol]:
    """Read a protocol and its name from a JSON file, or from JSON given inline (text that begins with a brace)."""
    fields = json_argument(text, "--protocol")
    name = fields.pop("name", "custom" if text.lstrip().startswith("{") else Path(text).stem)
    return name, read_part(EvalProtocol, fields, f"protocol {name}")


def check_made_with(settings: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse completions whose settings are other than those asked for; what is not asked for may be anything.

    The authors' released ones are compared in what their names say. Raises UserError naming both.
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
    """The random seed of one sample, 63 bits, from what the sample is and nothing else.

    Shards, batch sizes, the order of requests and reruns therefore do not change it, and no two samples share one
    (the authors' script draws unseeded numbers and gives every question of a pass the same one).
    """
    key = json.dumps([seed, run, benchmark, question_id, sample_index], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
