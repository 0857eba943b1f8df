"""Chat prompts and their token ids by `tokenizers` and jinja2 alone, for jobs that want nothing else of transformers.

Importing transformers costs seconds of processor time. The text is that of `apply_chat_template` of transformers 5: the
same sandbox, whitespace rules, filters and variables. The ids are those of the folder's tokenizer.json.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from justrl.errors import UserError
from justrl.io import json_object

# Every token of a batch is a Python integer until it is counted.
_BATCH = 512
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
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        template = settings.get("chat_template")
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
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
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        return environment.from_string(self.chat_template or "")

    def render(self, messages: Messages) -> str:
        """The text that the model is sent for these messages, the assistant's turn opened.

        Raises UserError: there is no chat template, or it is broken or refuses the messages.
        """
        if not self.chat_template:
            raise UserError(
                f"the tokenizer of {self.folder} has no chat template, so there is no telling how to ask it"
            )
        try:
            return self._compiled.render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self.special_tokens
            )
        except TemplateError as error:
            raise UserError(f"the chat template of {self.folder} does not take these messages: {error}") from error

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


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """JSON as a template wants it: jinja2's own filter escapes what HTML would."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _content(token: str | dict[str, Any]) -> str:
    """A special token's text; tokenizer_config.json gives some with their properties."""
    return token["content"] if isinstance(token, dict) else token
