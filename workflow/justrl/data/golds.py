r"""Extract the reference answer from the forms in which data sets publish it, or the reason why it is unusable.

Training data and benchmarks read their reference answers here. An unambiguous form is converted and counted. A text
that is not an answer (a placeholder, prose, a worked solution without a marked result) is refused: always in a
benchmark, and above a share of the rows in training data.
"""

import ast
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from justrl.errors import UserError
from justrl.verifiers.extraction import balanced_end, last_boxed

CONVERTED: tuple[str, ...] = (
    "as it is",
    "invisible characters",
    "an object as text",
    "a list as text",
    "inside tags or quotes",
    "after ####",
    "after Answer:",
    "several boxes",
)
UNUSABLE: tuple[str, ...] = (
    "a placeholder",
    "prose",
    "boxes that differ",
    "an unclosed box",
    "an object without an answer",
    "a spreadsheet's date or error",
    "control characters",
    "nothing but signs",
)
MOST_UNUSABLE = 0.01
"""Share of the rows of training data that may hold no answer: more of them, and the file holds something else."""

# Placeholders that programs write for missing values; `\text{none}` is a real answer.
_NOTHING = {"na", "n/a", "nan", "null", "none", "nil"}
_PLACEHOLDER = re.compile(
    r"(?:n/?a|todo|tb[da]|fixme|xxx|unknown|missing|blank|placeholder|omitted|error|answer|solution|result|proof"
    r"|no (?:answer|solution) (?:found|given|provided|available)|no answer|(?:the|final|your|correct) answer"
    r"|(?:answer )?not (?:found|available|given|provided|applicable)|un(?:answered|solved|available)"
    r"|open[- ]ended|prove it|(?:cannot )?parse error|cannot parse|(?:see|refer to|pending|to be|solution in|proof)\b.*"
    r"|(?:insert|enter|put|add|your)\b.*\banswer.*|.*\banswer(?: goes)? here)",
    re.IGNORECASE | re.DOTALL,
)
# `<answer>`, `{answer}`, `[answer]`, `$Answer`.
_TEMPLATE = re.compile(
    r"(?:<[A-Za-z_ ]+>(?:</\w+>)?|\{+.*answer.*\}+|\[.*answer.*\]|\$?Answer)", re.IGNORECASE | re.DOTALL
)
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
# `1/2` and `3-4` as spreadsheets save them, and spreadsheet errors.
_SPREADSHEET = re.compile(
    r"#(?:n/a|ref!|value!|div/0!|name\?|num!|null!)|\d{4}-\d\d-\d\d[ T]\d\d:\d\d.*"
    rf"|\d{{1,2}}-{_MONTH}(?:-\d+)?|{_MONTH}-\d+",
    re.IGNORECASE,
)
_TAGGED = re.compile(r"<(\w*answer|result|solution)>(.*)</\1>\s*", re.IGNORECASE | re.DOTALL)
_ARRAY = re.compile(r"(?:np\.|numpy\.)?array\((\[.*?\])(?:,\s*dtype=[^)]*)?\)", re.DOTALL)
_QUOTED = re.compile(r"\*\*([^*]+)\*\*|\"([^\"]+)\"|'([^']+)'|`([^`]+)`", re.DOTALL)
_BARE_BOX = re.compile(r"\$?\\boxed\s*([0-9A-Za-z])\$?\.?")
_MARKED = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?answer(?:\s*\\?[:=]|\s+is\s*:?)\s*(\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_MARKS = re.compile(r"\*\*|__")
_KEYS = ("ground_truth", "answer", "final_answer", "gold", "target", "label", "value")
# Commas between groups of three digits, if the number is the whole text.
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_COMMANDS = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}")
# None of the 1,646 reference answers of the nine benchmarks has more than two words.
_MOST_WORDS = 7
_SENTENCE = re.compile(
    r"\b(?:is|are|was|were|has|have|had|therefore|thus|hence|because|since|so|we|it|that|which|can|will|there)\b",
    re.IGNORECASE,
)


class Gold(NamedTuple):
    """A reference answer as graders need it ("" if unusable), and a note on its conversion or its fault."""

    text: str
    note: str = CONVERTED[0]

    @property
    def usable(self) -> bool:
        """Whether it is a usable answer."""
        return self.note in CONVERTED


def clean_gold(gold: str) -> str:
    r"""Return a reference answer as the graders need it: unboxed, without math delimiters, stripped.

    `\boxed{204}` gives `204`; `$69$,$84$` gives `69,84`. An escaped dollar sign is money and stays (`\$18.90`). The
    full stop of a sentence that ends in a formula is removed with its dollar sign (`$x$.` gives `x`).
    """
    boxed = last_boxed(gold)
    gold = (gold if boxed is None else boxed).strip()
    gold = re.sub(r"(?<!\\)((?:\\\\)*)\$\.$", r"\1", gold)
    # A dollar preceded by an even number of backslashes is a delimiter.
    return re.sub(r"(?<!\\)((?:\\\\)*)\$", r"\1", gold).strip()


def read_gold(raw: str) -> Gold:
    """Extract one reference answer, or the reason why it is unusable."""
    seen = "".join(char for char in raw if unicodedata.category(char) != "Cf").strip()
    note = CONVERTED[0] if seen == raw.strip() else "invisible characters"
    # Remove GSM8K's calculator notes, and a model's thoughts before its answer.
    seen = re.sub(r"<<[^<>]*>>", "", seen.rpartition("</think>")[2]).strip()
    gold = _structured(seen) or _worked(seen) or _boxed(seen) or _dressed(seen) or _plain(seen, note)
    if any(unicodedata.category(char) == "Cc" and char not in "\n\r\t" for char in gold.text):
        return Gold("", "control characters")
    return Gold("", "nothing but signs") if gold.usable and raw.strip() and not gold.text else gold


def _dressed(text: str) -> Gold | None:
    """Extract an answer from tags, quotes or markdown around the whole text, or from a box without braces."""
    tagged, quoted, bare = _TAGGED.fullmatch(text), _QUOTED.fullmatch(text), _BARE_BOX.fullmatch(text)
    if bare:
        return Gold(bare[1])
    inner = tagged[2] if tagged else next(filter(None, quoted.groups()), None) if quoted else None
    if inner is None or not inner.strip():
        return None
    gold = read_gold(inner)
    return Gold(gold.text, "inside tags or quotes") if gold.usable else gold


def _structured(text: str) -> Gold | None:
    """Extract the answer from an object or a list stored as text."""
    value = _literal(text)
    if isinstance(value, dict):
        found = next((value[key] for key in _KEYS if value.get(key) not in (None, "")), None)
        if isinstance(found, dict):
            found = next((found[key] for key in _KEYS if found.get(key) not in (None, "")), None)
        if found is None or isinstance(found, bool | dict):
            return Gold("", "an object without an answer")
        inner = _joined(found) if isinstance(found, list) else read_gold(str(found))
        return Gold(inner.text, "an object as text") if inner.usable else inner
    # Two bare numbers in square brackets are an interval, in parentheses a point.
    if isinstance(value, list | tuple | set) and (any(isinstance(item, str) for item in value) or len(value) == 1):
        return _joined(list(value) if not isinstance(value, set) else sorted(map(str, value)))
    return None


def _joined(items: list) -> Gold:
    parts = [read_gold(str(item)) for item in items]
    bad = next((part for part in parts if not part.usable), None)
    if bad or not parts or any(isinstance(item, list | dict | bool | None) for item in items):
        return bad or Gold("", "an object without an answer")
    return Gold(",".join(part.text for part in parts), "a list as text")


def _literal(text: str) -> Any:
    """Parse a text that is a JSON or Python object, list, tuple or set. Returns None for any other text."""
    if match := _ARRAY.fullmatch(text):
        text = match[1]
    quotes = '"' in text or "'" in text
    ends = ("{", "}"), ("[", "]"), *([("(", ")")] if quotes else [])
    if (text[:1], text[-1:]) not in ends or len(text) > 10_000:
        return None
    # A single backslash is LaTeX: `\f` in `\frac` is not a form feed.
    safe = re.sub(r"\\(?:[\\\"']|u[0-9a-fA-F]{4})|\\", lambda found: found[0] if len(found[0]) > 1 else r"\\", text)
    # Numbers stay text, to keep their digits.
    for read in (lambda: json.loads(safe, parse_float=str, parse_int=str), lambda: ast.literal_eval(safe)):
        try:
            value = read()
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        bare = not isinstance(value, dict) and not quotes and len(value) > 1
        return None if bare else value
    return None


def _worked(text: str) -> Gold | None:
    """Extract the result after GSM8K's `####`, or after `Answer:`."""
    if "####" in text:
        result = text.rpartition("####")[2].strip()
        return _result(result.splitlines()[0] if result else "", "after ####")
    bare = _MARKS.sub("", text)
    if match := _MARKED.fullmatch(bare.splitlines()[-1].strip() if bare else ""):
        return _result(match[1], "after Answer:")
    return None


def _result(text: str, note: str) -> Gold:
    text = text.strip()
    text = text[:-1] if text.endswith(".") and not text.endswith("..") else text
    inner = _boxed(text) or _plain(text, note)
    if not inner.usable:
        return inner
    plain = inner.text.removeprefix("\\$")
    return Gold(plain.replace(",", "") if _GROUPED.fullmatch(plain) else inner.text, note)


def _boxed(text: str) -> Gold | None:
    """Extract the answer of a text with boxes.

    Different boxes are joined if only `or`, `and` or commas are between them.
    """
    boxes, between, start = [], [], 0
    for match in re.finditer(r"\\(?:boxed|fbox)\s*\{", text):
        if match.start() < start or (end := balanced_end(text, match.end() - 1)) is None:
            continue
        between.append(text[start : match.start()])
        boxes.append(text[match.end() : end - 1] if text[end - 1] == "}" else text[match.end() : end])
        start = end
    if not boxes:
        return None
    answers = list(dict.fromkeys(clean_gold(box) for box in boxes))
    if len(answers) == 1:
        return _plain(answers[0], CONVERTED[0])
    gaps = (re.sub(r"\\(?:text|quad|qquad|mbox)\b|[{}$,;\s~&]|\band\b|\bor\b", "", gap) for gap in between[1:])
    # Parentheses around them would make an ordered pair.
    if (
        between[0].rstrip().endswith(("(", "[", "<"))
        or any(gaps)
        or any(not _plain(answer, "").text for answer in answers)
    ):
        return Gold("", "boxes that differ")
    return Gold(",".join(answers), "several boxes")


def _plain(text: str, note: str) -> Gold:
    gold = clean_gold(text)
    bare = " ".join(gold.strip(" .!*_()[]<>\"'`").split())
    inside = " ".join(re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}", r"\1", bare).split())
    words = _WORD.findall(_COMMANDS.sub(" ", gold))
    sentence = "\\" not in gold and len(words) >= 3 and _SENTENCE.search(gold)
    faults = (
        ("a placeholder", bare.lower() in _NOTHING or _PLACEHOLDER.fullmatch(inside) or _TEMPLATE.fullmatch(gold)),
        ("a spreadsheet's date or error", _SPREADSHEET.fullmatch(gold)),
        ("nothing but signs", gold and not re.search(r"\\[A-Za-z]|[∞∅]", gold) and not any(map(str.isalnum, gold))),
        ("an unclosed box", re.search(r"\\f?boxed|\\fbox", gold)),
        ("prose", len(words) > _MOST_WORDS or sentence or "\n\n" in gold),
    )
    found = next((reason for reason, true in faults if true), None)
    return Gold("", found) if gold and found else Gold(gold, note)


def first_answers(questions: int | None, answers: list[str]) -> str:
    """Format the number of questions of a file and its first answers as one line."""
    many = "questions" if questions is None else f"{questions:,} question{'s' if questions != 1 else ''}"
    return f"{many}, first answers: {', '.join(f'{answer:.40}' for answer in answers)}"


@dataclass
class GoldCounts:
    """Counts rows by the kind of their reference answer; keeps the first unusable one with its row (from 1)."""

    notes: Counter[str] = field(default_factory=Counter)
    first: tuple[int, str, str] | None = None

    def read(self, raw: str, row: int) -> Gold:
        """Extract the reference answer of a row (from 1) and count it. An empty one doesn't count as unusable."""
        gold = read_gold(raw)
        self.count(gold.note, row, raw)
        return gold

    def count(self, note: str, row: int, raw: str, rows: int = 1) -> None:
        """Count rows of one kind; `row` is the first of them and `raw` its text."""
        self.notes[note] += rows
        if note in UNUSABLE and self.first is None:
            self.first = (row, note, raw)

    @property
    def unusable(self) -> int:
        """Number of rows with an unusable reference answer."""
        return sum(self.notes[reason] for reason in UNUSABLE)

    def check(self, where: str, most: float = 0.0) -> None:
        """Raise UserError, with the first example, if more than a share `most` of the answers are unusable."""
        rows = self.notes.total()
        if self.first is None or self.unusable <= most * rows:
            return
        row, reason, raw = self.first
        allowed = f"at most {most:.0%} may" if most else "every question needs one"
        raise UserError(
            f"{where}: {self.unusable} of {rows} reference answers are unusable ({allowed}), the first in row {row}: "
            f"{reason}, {raw!r:.200}; repair the file, or name the column of the answers (`answer_column`)"
        )

    def as_dict(self) -> dict[str, Any]:
        """The counts for the data card: converted and unusable answers."""
        return {
            "converted": dict(self._of(CONVERTED[1:])),
            "unusable": dict(self._of(UNUSABLE)),
            "first_unusable": None
            if self.first is None
            else {"row": self.first[0], "reason": self.first[1], "gold": self.first[2][:200]},
        }

    def _of(self, notes: tuple[str, ...]) -> Iterator[tuple[str, int]]:
        yield from ((note, self.notes[note]) for note in notes if self.notes[note])
