"""Chat prompts and their token ids with only `tokenizers` and jinja2, for jobs that need nothing else of transformers.

Importing transformers costs seconds of processor time. The text equals that of `apply_chat_template` of transformers 5,
with the same sandbox, whitespace rules, filters and variables, except that `strftime_now` is a fixed day. The ids are
those of the folder's tokenizer.json.

transformers may build a tokenizer that differs from that file: it selects by the model type and replaces the class that
a tokenizer's files name (transformers#45488). The answers still look like text, so an engine that loads the tokenizer
itself is checked against the ids here (`check_tokenizer`).
"""

import json
import os
import resource
import signal
import string
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache, cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from justrl.errors import UserError
from justrl.io import read_json, read_object
from justrl.models.folder import LARGEST_TEMPLATE, check_files

# Limits memory: every token of a batch is a Python integer until it is counted.
_BATCH = 512
# Limits per prompt: processor seconds, bytes of memory, characters. The largest templates take milliseconds.
MOST_SECONDS, MOST_MEMORY, MOST_CHARACTERS = 20, 2 * 2**30, 10**7
# Limits for loading a tokenizer and encoding a few texts; the largest tokenizer takes two seconds.
TOKENIZER_SECONDS, TOKENIZER_MEMORY = 60, 4 * 2**30
# A waiting process uses no processor time, so it is ended after this multiple of its seconds by the wall clock.
_PATIENCE = 10
ANSWER = "It is 1,025."
QUESTION = "What is $\\frac{1}{2}  + 3^{10}$?\n\nLet  x = 1,024."
# Typical content of the paper's prompts and answers: runs of spaces and newlines, digits, LaTeX, code, Chinese.
TEXTS = (
    QUESTION,
    " 12 + 34 = 46",
    "a  b\n\n\nc\t d \r\n",
    "1234567890 3.14159 10,000",
    "\\boxed{\\dfrac{-7}{12}} \\[x^2_{n+1}\\le 5\\]",
    "设实数 $x$ 满足 $x+1=2$,求 $x$ 的值。",
    "<think>\nOkay, so I'll\n</think>\n\n**Answer**",
    "def f(x):\n    return x**2  # é ½ 😀",
)
# The date of `strftime_now`, fixed so that a prompt doesn't change from day to day: the fallback date of Llama 3.2's
# template.
THE_DAY = datetime(2024, 7, 26)
# Two dates that differ in every part of date and time: a prompt that differs between them contains the date.
DAYS = (datetime(2001, 2, 3, 4, 5, 6), datetime(2030, 11, 22, 17, 38, 49))
_DATED = "the chat template writes today's date"
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
# The special tokens that a template may use, by transformers' names.
_NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Messages = Sequence[Mapping[str, str]]


class ChatTokenizer:
    """The tokenizer of a model folder: tokenizer.json, the special tokens and the chat template.

    `chat_template` is None if there is none; of several, it is the one named default.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the folder's files. Raises UserError if it has no usable tokenizer.json."""
        self.folder = Path(folder)
        try_tokenizer(self.folder)
        self._tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # The file with the chat template.
        self._source, self._tried = self.folder / "chat_template.jinja", False
        self.dated = False  # known after the first rendering: whether a prompt contains the date (THE_DAY)
        settings = self._settings()
        self.special_tokens = {name: self._content(settings, name) for name in _NAMED_TOKENS if settings.get(name)}
        self.chat_template = self._template(settings)

    def _settings(self) -> dict[str, Any]:
        """tokenizer_config.json, overridden by special_tokens_map.json if the former lists no added tokens."""
        read = [
            read_object(self.folder / name) if (self.folder / name).is_file() else {}
            for name in ("tokenizer_config.json", "special_tokens_map.json")
        ]
        return read[0] if "added_tokens_decoder" in read[0] else read[0] | read[1]

    def _template(self, settings: dict[str, Any]) -> str | None:
        if self._source.is_file():
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
        if template and len(template) > LARGEST_TEMPLATE:
            raise UserError(f"{self._source}: chat_template is larger than {LARGEST_TEMPLATE:,} letters, which none is")
        return template

    def _content(self, settings: Mapping[str, Any], name: str) -> str:
        """A special token's text. tokenizer_config.json stores some tokens as objects with properties."""
        token = settings[name]
        text = token.get("content") if isinstance(token, dict) else token
        if not isinstance(text, str):
            raise UserError(f"{self.folder}: {name} of its tokenizer_config.json must be text, got {token!s:.60}")
        return text

    @property
    def eos_token_id(self) -> int | None:
        """The id of the end-of-sequence token; None if the tokenizer names none."""
        token = self.special_tokens.get("eos_token")
        return None if token is None else self._tokenizer.token_to_id(token)

    def get_vocab(self) -> dict[str, int]:
        """Map every token to its id."""
        return self._tokenizer.get_vocab()

    def token(self, token_id: int) -> str | None:
        """The token with an id; None if there is none."""
        return self._tokenizer.id_to_token(token_id)

    @cached_property
    def _compiled(self):
        return _compile(self.chat_template or "")

    def render(self, messages: Messages) -> str:
        """Render the prompt for these messages, including the start of the assistant's turn.

        Raises UserError: there is no chat template, or it is broken or refuses the messages.
        """
        if not self.chat_template:
            raise UserError(
                f"the tokenizer of {self.folder} has no chat template; add one or use an instruction-tuned model"
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
        except Exception as error:  # a template can raise anything
            raise UserError(self._refusal(_described(error))) from error

    def _try(self, variables: dict[str, Any]) -> None:
        """Render once in a separate process, to set `dated`. Raises UserError if that fails."""
        said = _apart("template", [self.chat_template, variables], MOST_SECONDS, MOST_MEMORY)
        self.dated = said == _DATED
        if self.dated:
            today = f"{THE_DAY:%d %b %Y}"
            print(f"{self._source}: {_DATED}; here it is {today} in every prompt", file=sys.stderr)
        elif said:
            raise UserError(self._refusal(said))

    def _refusal(self, why: str) -> str:
        return f"{self._source}: the chat template does not take these messages: {why}"

    def encode(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """Yield the token ids of rendered texts; the chat template has already written every special token."""
        texts = iter(texts)
        while part := list(islice(texts, _BATCH)):
            with panics_said(self.folder):
                encoded = self._tokenizer.encode_batch_fast(part, add_special_tokens=False)
            for encoding in encoded:
                yield encoding.ids

    def lengths(self, conversations: Iterable[Messages]) -> list[int]:
        """The number of tokens of each conversation's prompt."""
        return [len(ids) for ids in self.encode(map(self.render, conversations))]


class _GenerationBlock(Extension):
    """`{% generation %}` marks the text that a model is trained on; in a prompt its content is used unchanged."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares a plain set

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)


def strftime_then(form: str) -> str:
    """Format the fixed day, as the template's replacement of the current time."""
    return THE_DAY.strftime(form)


def _compile(template: str, today: datetime = THE_DAY) -> Template:
    """Compile the template, with `today` instead of the current time."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = today.strftime
    return environment.from_string(template)


def _described(error: BaseException, memory: int = MOST_MEMORY) -> str:
    """Describe an error of a template or tokenizer in one line."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, TemplateError) and text:
        return text
    if isinstance(error, MemoryError):
        return f"it takes more than {memory / 2**30:g} GB of memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def try_tokenizer(folder: str | Path) -> None:
    """Load a folder's tokenizer.json, then encode and decode with it, in a separate process, once per file state.

    Raises UserError: it is missing or broken, exceeds the limits on time or memory, or crashes the process that loads
    it.
    """
    check_files(Path(folder))
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{folder} has no usable tokenizer: tokenizer.json is missing")
    status = path.stat()
    if said := _tried_tokenizer(str(path.absolute()), status.st_size, status.st_mtime_ns):
        raise UserError(f"{folder} has no usable tokenizer: tokenizer.json: {said}")


@cache
def _tried_tokenizer(path: str, *state: int) -> str:
    """The fault of a tokenizer.json, "" if there is none. `state` invalidates the cache if the file changes."""
    return _apart("tokenizer", path, TOKENIZER_SECONDS, TOKENIZER_MEMORY)


@contextmanager
def panics_said(folder: str | Path) -> Iterator[None]:
    """Convert a panic of the tokenizer's library, which is not an Exception, to a UserError about the folder."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{folder} holds no usable tokenizer: tokenizer.json: {_described(error)}") from None


def _apart(trial: str, given: Any, seconds: int, memory: int) -> str:
    """Run a trial of _TRIALS in a separate process with limits, so that it always ends. Returns the fault, or ""."""
    path = os.pathsep.join(filter(None, [_PACKAGE_ROOT, os.environ.get("PYTHONPATH")]))
    # A thread's reserved address space counts towards the memory limit, even if unused.
    alone = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
    limits = f"it takes more than {seconds} s or {memory / 2**30:g} GB, or ends Python"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, trial, str(seconds), str(memory)],
            input=json.dumps(given, default=str).encode(),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": path, **alone},
            timeout=_PATIENCE * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return limits
    if done.returncode < 0:
        with suppress(ValueError):
            limits += f" ({signal.Signals(-done.returncode).name})"
        return limits
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"its trial ended with status {done.returncode}: {last:.300}"
    return done.stdout.decode(errors="replace")


def _trial() -> None:
    """Run a trial on the input from stdin, within limits, and print the fault."""
    trial, seconds, memory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    given = json.load(sys.stdin)
    for limit, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        above = resource.getrlimit(limit)[1]
        lowest = most if above == resource.RLIM_INFINITY else min(most, above)
        resource.setrlimit(limit, (lowest, lowest))
    try:
        wrong = _TRIALS[trial](given)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a template can raise anything, a tokenizer panics
        wrong = _described(error, memory)
    print(wrong, end="")


def _wrong_with_template(given: tuple[str, dict[str, Any]]) -> str:
    """Render a template with its variables on two days. Returns the fault, or ""."""
    template, variables = given
    texts = {_compile(template, day).render(variables) for day in DAYS}
    size = max(map(len, texts))
    if size > MOST_CHARACTERS:
        return f"it makes {size:,} characters of them"
    return _DATED if len(texts) > 1 else ""


def _wrong_with_tokenizer(path: str) -> str:
    """Load a tokenizer.json, encode TEXTS and long runs of each character, and decode them.

    Returns "" if it succeeds.
    """
    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    runs = ["".join(letter * 40 for letter in string.printable), *(letter * 4000 for letter in "a1 .\n")]
    for special in (False, True):
        encoded = tokenizer.encode_batch_fast([*TEXTS, *runs], add_special_tokens=special)
        tokenizer.decode_batch([encoding.ids for encoding in encoded], skip_special_tokens=False)
    tokenizer.get_vocab()
    return ""


_TRIALS: dict[str, Callable[[Any], str]] = {"template": _wrong_with_template, "tokenizer": _wrong_with_tokenizer}


def check_tokenizer(tokenizer: Any, folder: str | Path, stops: tuple[int, ...]) -> None:
    """Raise UserError if a tokenizer differs from the folder's files, loses text, or cannot open and end an answer.

    Args:
        tokenizer: as transformers loaded it from `folder`.
        folder: the model's folder; its tokenizer.json defines the correct ids.
        stops: the tokens that end an answer.

    The error names the folder, the text or token, the result, and what to do.
    """
    own = ChatTokenizer(folder)
    check_ids(tokenizer, folder, own)
    _check_prompt(tokenizer, own, folder)
    _check_stops(own, folder, stops)


def check_ids(tokenizer: Any, folder: str | Path, own: ChatTokenizer | None = None) -> None:
    """Raise UserError if a tokenizer's ids differ from the folder's tokenizer.json, or if decoding loses text."""
    for text, right in zip(TEXTS, (own or ChatTokenizer(folder)).encode(TEXTS), strict=True):
        found = tokenizer.encode(text, add_special_tokens=False)
        if found != right:
            import transformers

            raise UserError(
                f"{folder}: transformers {transformers.__version__} encodes {text!r} as {found}, the model's own "
                f"tokenizer.json as {right}: the model would be asked in tokens that it does not know. It is loaded as "
                f"{type(tokenizer).__name__}; write PreTrainedTokenizerFast as tokenizer_class in "
                "tokenizer_config.json, or train with `engine: reference`, which reads tokenizer.json itself"
            )
        back = tokenizer.decode(found, skip_special_tokens=False)
        if back != text:
            raise UserError(f"{folder}: the tokenizer turns {text!r} into {back!r}: answers would be graded as others")


def _check_prompt(tokenizer: Any, own: ChatTokenizer, folder: str | Path) -> None:
    message = [{"role": "user", "content": QUESTION}]
    prompt = own.render(message)
    theirs = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    if prompt != theirs:
        raise UserError(f"{folder}: the chat template gives {theirs!r} in transformers and {prompt!r} here")
    if QUESTION not in prompt:
        raise UserError(f"{folder}: the chat template drops or changes the question: {prompt!r}")
    if not _opens_answer(tokenizer, message, prompt):
        raise UserError(
            f"{folder}: the chat template does not open the assistant's turn: the prompt ends {prompt[-40:]!r}"
        )
    (ids,) = own.encode([prompt])
    # Some models open each turn with the token that begins a sequence.
    begins = len(list(takewhile(lambda token: token == tokenizer.bos_token_id, ids)))
    if begins > 1:
        raise UserError(f"{folder}: the prompt begins with {tokenizer.bos_token!r} {begins} times")


def _opens_answer(tokenizer: Any, message: list[dict[str, str]], prompt: str) -> bool:
    """Whether an answer follows the prompt directly: a header opens its turn, or conversations have no such header."""
    if prompt != tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=False):
        return True
    answered = [*message, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(answered, tokenize=False, add_generation_prompt=False)
    except Exception:  # a template can raise anything
        return False
    return text.removeprefix(prompt).lstrip().startswith(ANSWER)


def _check_stops(own: ChatTokenizer, folder: str | Path, stops: tuple[int, ...]) -> None:
    size = read_json(Path(folder) / "config.json").get("vocab_size")
    for stop in stops:
        token = own.token(stop)
        if token is None or (size is not None and stop >= size):
            raise UserError(f"{folder}: the stop token {stop} is not in the model's vocabulary ({size} tokens)")
        (ids,) = own.encode([token])
        if ids != [stop]:
            raise UserError(f"{folder}: the stop token {token!r} is not one token but {ids}")


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Serialise to JSON for a template, without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


if __name__ == "__main__":
    _trial()
