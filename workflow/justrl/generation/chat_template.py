"""Chat prompts and their token ids by `tokenizers` and jinja2 alone, for jobs that want nothing else of transformers.

Importing transformers costs seconds of processor time. The text is that of `apply_chat_template` of transformers 5: the
same sandbox, whitespace rules, filters and variables. The ids are those of the folder's tokenizer.json.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from justrl.errors import UserError
from justrl.io import json_object

# Every token of a batch is a Python integer until it is counted.
_BATCH = 512
# What one prompt may take of a processor, of memory and of room; the largest templates take milliseconds.
MOST_SECONDS, MOST_MEMORY, MOST_CHARACTERS = 20, 2 * 2**30, 10**7
_LARGEST_TEMPLATE = 2**20
# A prompt that is not the same on both is not the same tomorrow: they differ in each part of a date and a time.
DAYS = (datetime(2001, 2, 3, 4, 5, 6), datetime(2030, 11, 22, 17, 38, 49))
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
# The special tokens that a template may name, as transformers calls them.
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Messages = Sequence[Mapping[str, str]]


class ChatTokenizer:
    """The tokenizer of a model folder: tokenizer.json, the special tokens and the chat template.

    `chat_template` is None where there is none; with several, it is the one called default.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the folder's files; raise UserError if it has no usable tokenizer.json."""
        self.folder = Path(folder)
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no usable tokenizer: there is no tokenizer.json in it")
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{folder} holds no usable tokenizer: tokenizer.json: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # The file that holds the chat template.
        self._source, self._tried = self.folder / "chat_template.jinja", False
        settings = self._settings()
        self.special_tokens = {name: _content(settings[name]) for name in _NAMED_TOKENS if settings.get(name)}
        self.chat_template = self._template(settings)

    def _settings(self) -> dict[str, Any]:
        """tokenizer_config.json, and over it special_tokens_map.json where the former lists no added tokens."""
        read = [
            json_object((self.folder / name).read_bytes(), self.folder / name) if (self.folder / name).is_file() else {}
            for name in ("tokenizer_config.json", "special_tokens_map.json")
        ]
        return read[0] if "added_tokens_decoder" in read[0] else read[0] | read[1]

    def _template(self, settings: dict[str, Any]) -> str | None:
        if self._source.is_file():
            if self._source.stat().st_size > _LARGEST_TEMPLATE:
                raise UserError(f"{self._source}: larger than {_LARGEST_TEMPLATE:,} bytes, which no chat template is")
            try:
                return self._source.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{self._source}: not UTF-8 at byte {error.start}: save it in that encoding") from None
        self._source = self.folder / "tokenizer_config.json"
        template = settings.get("chat_template")
        if isinstance(template, list):
            named = [entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default"]
            template = named[-1].get("template") if named else None
        if not isinstance(template, str | None):
            raise UserError(f"{self._source}: chat_template must be text, got {type(template).__name__}")
        return template

    @property
    def eos_token_id(self) -> int | None:
        """The end of sequence's id; None if the tokenizer names none."""
        token = self.special_tokens.get("eos_token")
        return None if token is None else self._tokenizer.token_to_id(token)

    def get_vocab(self) -> dict[str, int]:
        """Every token's id."""
        return self._tokenizer.get_vocab()

    def token(self, token_id: int) -> str | None:
        """The token of an id; None if there is none."""
        return self._tokenizer.id_to_token(token_id)

    @cached_property
    def _compiled(self):
        return _compile(self.chat_template or "")

    def render(self, messages: Messages) -> str:
        """The text that the model is sent for these messages, the assistant's turn opened.

        Raises UserError: there is no chat template, or it is broken or refuses the messages.
        """
        if not self.chat_template:
            raise UserError(
                f"the tokenizer of {self.folder} has no chat template, so there is no telling how to ask it"
            )
        variables: dict[str, Any] = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
        }
        variables |= self.special_tokens
        if not self._tried:
            self._try(variables)
            self._tried = True
        try:
            return self._compiled.render(variables)
        except Exception as error:  # a template can raise what Python can
            raise UserError(self._refusal(_described(error))) from error

    def _try(self, variables: dict[str, Any]) -> None:
        """Render once in a process of its own, where a template without end takes neither the time nor the memory."""
        path = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, str(MOST_SECONDS), str(MOST_MEMORY)],
            input=json.dumps([self.chat_template, variables], default=str).encode(),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
        if done.returncode < 0:
            raise UserError(self._refusal(f"it takes more than {MOST_SECONDS} s, or ends Python"))
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise UserError(self._refusal(f"its trial ended with status {done.returncode}: {last}"))
        if said := done.stdout.decode(errors="replace"):
            raise UserError(self._refusal(said))

    def _refusal(self, why: str) -> str:
        return f"{self._source}: the chat template does not take these messages: {why}"

    def encode(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """Yield the token ids of rendered texts; the chat template has written every special token already."""
        texts = iter(texts)
        while part := list(islice(texts, _BATCH)):
            for encoding in self._tokenizer.encode_batch_fast(part, add_special_tokens=False):
                yield encoding.ids

    def lengths(self, conversations: Iterable[Messages]) -> list[int]:
        """The number of tokens of each conversation's prompt."""
        return [len(ids) for ids in self.encode(map(self.render, conversations))]


class _GenerationBlock(Extension):
    """`{% generation %}` marks what a model is trained on; in a prompt its content stands as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares a plain set

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def _compile(template: str, today: datetime | None = None) -> Template:
    """The template, ready to render; with `today` in place of the clock's time."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: (today or datetime.now()).strftime(form)
    return environment.from_string(template)


def _described(error: Exception) -> str:
    """An error of a template in a line."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, TemplateError) and text:
        return text
    if isinstance(error, MemoryError):
        return f"it takes more than {MOST_MEMORY / 2**30:g} GB of memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _trial() -> None:
    """Render the template and variables of stdin, on two days, within limits; print what is wrong."""
    seconds, memory = map(int, sys.argv[1:])
    template, variables = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        texts = {_compile(template, day).render(variables) for day in DAYS}
        size = max(map(len, texts))
        wrong = f"it makes {size:,} characters of them" if size > MOST_CHARACTERS else ""
        if len(texts) > 1:
            wrong = "the prompt holds today's date (strftime_now), so it differs from day to day: write a fixed date"
    except Exception as error:  # a template can raise what Python can
        wrong = _described(error)
    print(wrong, end="")


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """JSON as a template wants it: jinja2's own filter escapes what HTML would."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _content(token: str | dict[str, Any]) -> str:
    """A special token's text; tokenizer_config.json gives some with their properties."""
    return token["content"] if isinstance(token, dict) else token


if __name__ == "__main__":
    _trial()
