"""Evaluation protocols: how a question is asked, how an answer is sampled, and which random numbers it gets.

A protocol is a named block of `config.yaml` (`protocols.paper`, `protocols.greedy`, or the user's own). Nothing of a
model's own generation_config takes part: every sampling value is given here, and the stop tokens are resolved by
`justrl.evaluation.backends.stop_token_ids` and recorded with the completions.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from justrl.errors import UserError

PER_BENCHMARK = "per_benchmark"
_FIELDS = ("temperature", "top_p", "top_k", "max_tokens", "prompt_separator", "prompt_suffix", "samples")
_REQUIRED = ("temperature", "top_p", "max_tokens", "prompt_separator", "prompt_suffix")


@dataclass(frozen=True)
class Protocol:
    """One way of evaluating.

    temperature 0 is greedy; top_k -1 and top_p 1.0 switch that filter off; max_tokens bounds the answer, in tokens;
    the user message is question + prompt_separator + prompt_suffix; samples is answers per question, or
    "per_benchmark" where each benchmark names its own (the paper: 32 or 4).
    """

    temperature: float
    top_p: float
    max_tokens: int
    prompt_separator: str
    prompt_suffix: str
    top_k: int = -1
    samples: int | str = PER_BENCHMARK
    name: str = "custom"

    def __post_init__(self):
        numbers = (("temperature", self.temperature, 0.0, 100.0), ("top_p", self.top_p, 1e-6, 1.0))
        for field, value, low, high in numbers:
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UserError(f"protocol {self.name}: {field} must be between {low:g} and {high:g}, got {value!r}")
        for field, value in (("max_tokens", self.max_tokens), ("samples", self.samples)):
            if field == "samples" and value == PER_BENCHMARK:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"protocol {self.name}: {field} must be a whole number of at least 1, got {value!r}")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or (self.top_k < 1 and self.top_k != -1):
            raise UserError(f"protocol {self.name}: top_k must be -1 (off) or at least 1, got {self.top_k!r}")

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any], name: str = "custom") -> "Protocol":
        """Make a protocol from a config block; a missing or unknown key raises UserError."""
        fields = dict(fields)
        name = fields.pop("name", name)
        unknown = sorted(set(fields) - set(_FIELDS))
        if unknown:
            raise UserError(f"protocol {name}: unknown key {unknown[0]}; it takes {', '.join(_FIELDS)}")
        missing = [field for field in _REQUIRED if field not in fields]
        if missing:
            raise UserError(f"protocol {name}: {missing[0]} is missing; give {', '.join(_REQUIRED)}")
        if isinstance(fields.get("samples"), str):
            fields["samples"] = fields["samples"].replace("-", "_")
        return cls(name=name, **fields)

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON."""
        return asdict(self)

    def user_message(self, question: str) -> str:
        """The text of the user's turn for one question."""
        return question + self.prompt_separator + self.prompt_suffix

    def samples_per_question(self, override: int | None = None) -> int:
        """Answers per question: the override (a benchmark's own number) or the protocol's; UserError if neither."""
        samples = self.samples if override is None else override
        if not isinstance(samples, int):
            raise UserError(f"protocol {self.name} leaves the samples to the benchmark: give --samples")
        if samples < 1:
            raise UserError(f"--samples must be at least 1, got {samples}")
        if samples > 1 and self.temperature == 0:
            raise UserError(
                f"protocol {self.name} is greedy, so its {samples} samples would all be the same: use --samples 1"
            )
        return samples


def load_protocol(text: str) -> Protocol:
    """Read a protocol from a JSON file, or from JSON given inline (text that begins with a brace)."""
    if text.lstrip().startswith("{"):
        source, content, name = "--protocol", text, "custom"
    else:
        path = Path(text)
        if not path.is_file():
            raise UserError(f"--protocol: there is no file {text}; give a JSON file or inline JSON")
        source, content, name = str(path), path.read_text(encoding="utf-8"), path.stem
    try:
        fields = json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f"{source} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{source} must be a JSON object of protocol fields, got {type(fields).__name__}")
    return Protocol.from_mapping(fields, name)


def sample_seed(seed: int, run: str, benchmark: str, question_id: str, sample_index: int) -> int:
    """The random seed of one sample, 63 bits, from what the sample is and nothing else.

    Shards, batch sizes, the order of requests and reruns therefore do not change it, and no two samples share one
    (the authors' script draws unseeded numbers and gives every question of a pass the same one).
    """
    key = json.dumps([seed, run, benchmark, question_id, sample_index], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
