"""Configuration files: YAML, overlays, and overrides of single keys."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from justrl.config.names import suggestion
from justrl.errors import UserError

Config = dict[str, Any]

ROOT = Path(__file__).resolve().parents[3]
DEFAULT_CONFIG = ROOT / "config.yaml"
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
# The C parser is ten times as fast, which matters because every job of the workflow reads YAML.
_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Far above the size of any experiment's configuration, and far below what exhausts stack or memory, or takes too long.
MOST_BYTES, MOST_VALUES, DEEPEST, MOST_OVERLAYS = 2**20, 100_000, 40, 20
# Plain words that YAML 1.2's core schema does not read as text. YAML 1.1 would read 010 as 8, 1:30 as 90, yes as true
# and 1e-6 as text.
_WORDS = {"": None, "~": None, "true": True, "false": False} | {
    spelled: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelled in (word, word.capitalize(), word.upper())
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


def read(
    overlays: Sequence[str | Path] = (), overrides: Sequence[str] = (), base: str | Path = DEFAULT_CONFIG
) -> Config:
    """Merge `base`, each overlay file and `dotted.key=value` overrides into plain mappings, without validation."""
    config = read_yaml(base)
    for overlay in overlays:
        config = merge(config, read_overlay(overlay))
    return apply_overrides(config, overrides)


def complete(given: Mapping) -> Config:
    """Merge an overlay, and the overlay that it extends, into config.yaml."""
    given = dict(given)
    extended = given.pop("extends", None)
    return merge(read([extended] if extended else []), given)


def merge(base: Mapping, overlay: Mapping) -> Config:
    """Return a deep copy of `base`, with mappings merged with `overlay` and all other values replaced by it.

    A mapping whose `source` changes is replaced too: the other source's keys would be unknown to it.
    """
    merged = copy.deepcopy(dict(base))
    for key, value in overlay.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and value.get("source") in (None, old.get("source")):
            merged[key] = merge(old, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def find(path: str | Path) -> Path:
    """Resolve a path from a configuration: relative to the working directory or, if missing there, the repository."""
    return Path(path) if Path(path).exists() else ROOT / path


def read_yaml(path: str | Path) -> Config:
    """Read a YAML mapping; raises UserError for a missing or irregular file, invalid YAML, or another type."""
    path = Path(path)
    try:
        odd = path.exists() and not path.is_file()
    except OSError:  # a name too long, which is reported when it is opened
        odd = False
    if odd:
        raise UserError(f"{path} is not a file: give a YAML file as configuration")
    try:
        with path.open("rb") as handle:
            content = handle.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8: save the file in that encoding") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{_short(path)} cannot be read as a configuration file: {reason}") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{path}: larger than {MOST_BYTES:,} bytes, which no configuration is")
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values, got {type(value).__name__}")
    return value


def read_card(path: Path) -> Config:
    """Read the YAML between the first two `---` of a README.md from the hub; empty if it cannot be read."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", errors="replace") as handle:
        header = re.match(r"---\n(.*?)\n---", handle.read(MOST_BYTES), re.DOTALL)
    try:
        values = parse_yaml(header[1], str(path)) if header else {}
    except UserError:
        return {}
    return values if isinstance(values, dict) else {}


def parse_yaml(text: str, source: str) -> Any:
    """Parse a YAML document by the core schema of YAML 1.2: mappings, lists, text, numbers, booleans and null.

    Keys are text as written. Raises UserError, which begins with `source` and names the line, for invalid YAML, a
    duplicate key, a tag, an alias inside its own anchor, and documents that are too deep or too large.
    """
    builder = _Builder(source)
    try:
        for event in yaml.parse(text, Loader=_PARSER):
            builder.take(event)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise UserError(f"{where}: not valid YAML: {problem or ' '.join(str(error).split())}") from None
    except UnicodeEncodeError:
        raise UserError(f"{source}: not valid YAML: it holds half of a surrogate pair") from None
    return builder.value


@dataclass
class _Open:
    """A mapping or list being read; `lines` has the line of each key, `key` is the key whose value comes next."""

    value: dict | list
    anchor: str | None
    values: int = 1
    height: int = 1
    lines: dict[str, int] = field(default_factory=dict)
    key: str | None = None
    merged: list[dict] = field(default_factory=list)


class _Builder:
    """Builds a value from the parser's events, without recursion; values repeated by aliases are counted each time."""

    def __init__(self, source: str) -> None:
        self.source, self.value, self.documents = source, None, 0
        self._open: list[_Open] = []
        # None until the anchored value is complete.
        self._anchors: dict[str, tuple[Any, int, int] | None] = {}

    def take(self, event: yaml.Event) -> None:
        """Process the next event."""
        tag = getattr(event, "tag", None)
        if tag not in (None, "tag:yaml.org,2002:str"):
            raise self._problem(event, f"the tag {tag} is not read here: write the value as text, a number or a list")
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.AliasEvent):
            found = self._anchors.get(event.anchor or "")
            if found is None:
                ring = event.anchor in self._anchors
                raise self._problem(
                    event, f"*{event.anchor} {'is inside of what it names' if ring else 'names nothing'}"
                )
            self._add(event, *found)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= DEEPEST:
                raise self._problem(event, f"nested deeper than {DEEPEST} levels")
            if event.anchor:
                self._anchors[event.anchor] = None
            self._open.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self._problem(event, "a second YAML document begins here: keep one document per file")

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        top = self._open[-1] if self._open else None
        if top and isinstance(top.value, dict) and top.key is None:
            if event.value in top.lines:
                first = top.lines[event.value]
                raise self._problem(
                    event, f"the key {_short(event.value)} is given twice, first in line {first}: keep one"
                )
            top.lines[event.value], top.key = _line(event), event.value
            value: Any = event.value
        else:
            value = self._plain(event) if event.implicit[0] and not event.tag else event.value
            self._add(event, value, 1, 0)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1, 0)

    def _plain(self, event: yaml.ScalarEvent) -> Any:
        text = event.value
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > 300:
                raise self._problem(event, f"a number of {len(text):,} digits")
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(re.sub(r"\.(?=[a-zA-Z])", "", text))
        return text

    def _add(self, event: yaml.Event, value: Any, values: int, height: int) -> None:
        if not self._open:
            self.value = value
            return
        top = self._open[-1]
        top.values, top.height = top.values + values, max(top.height, height + 1)
        if top.values > MOST_VALUES or len(self._open) + height > DEEPEST:
            raise self._problem(
                event, f"more than {MOST_VALUES:,} values or {DEEPEST} levels, what anchors repeat included"
            )
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is None:
            raise self._problem(event, "a key is one word or text")
        else:
            if top.key == "<<":
                parts = value if isinstance(value, list) else [value]
                if not all(isinstance(part, dict) for part in parts):
                    raise self._problem(event, "<< takes a mapping, or a list of them")
                top.merged = parts
            else:
                top.value[top.key] = value
            top.key = None

    def _close(self, event: yaml.Event) -> None:
        done = self._open.pop()
        for part in done.merged:
            done.value = part | done.value if isinstance(done.value, dict) else done.value
        if done.anchor:
            self._anchors[done.anchor] = (done.value, done.values, done.height)
        self._add(event, done.value, done.values, done.height)

    def _problem(self, event: yaml.Event, problem: str) -> UserError:
        return UserError(f"{self.source}, line {_line(event)}: {problem}")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _short(text: object) -> str:
    return str(text) if len(str(text)) <= 80 else f"{str(text)[:60]}... ({len(str(text)):,} letters)"


def read_overlay(path: str | Path, above: Sequence[str] = ()) -> Config:
    """Read an overlay and merge it into the overlays that it extends (paths as in `find`)."""
    if not isinstance(path, str | Path):
        raise UserError(f"{above[-1] if above else 'config'}: `extends` takes one file, got {_short(repr(path))}")
    chain = [*above, str(path)]
    if str(path) in above:
        raise UserError(f"{chain[0]}: `extends` goes round in a circle: {' -> '.join(chain)}")
    if len(chain) > MOST_OVERLAYS:
        raise UserError(f"{chain[0]}: more than {MOST_OVERLAYS} files extend each other, up to {path}")
    try:
        found = find(path)
    except OSError as error:
        raise UserError(f"{_short(path)} cannot be read as a configuration file: {error.strerror}") from None
    overlay = read_yaml(found)
    evaluation = overlay.get("evaluation")
    # The graders of a user's files keep working under the key's name in versions up to 0.1.
    if isinstance(evaluation, dict) and "own_graders" in evaluation and "custom_graders" not in evaluation:
        evaluation["custom_graders"] = evaluation.pop("own_graders")
    extended = overlay.pop("extends", None)
    return merge(read_overlay(extended, chain), overlay) if extended is not None else overlay


def apply_overrides(config: Mapping, overrides: Sequence[str], above: str = "") -> Config:
    """Set keys by `dotted.key=value`, the value read as YAML; raises UserError for an unknown key.

    Optional keys of the schema are known even if they are missing; `above` is the dotted path of `config` itself.
    """
    result = copy.deepcopy(dict(config))
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise UserError(f"override {override!r}: write it as dotted.key=value")
        path = key.split(".")
        node = result
        for depth, name in enumerate(path):
            last = depth == len(path) - 1
            if name not in node or not (last or isinstance(node[name], dict)):
                optional = _optional([*above.split("."), *path[:depth]] if above else path[:depth])
                if name not in optional:
                    near = suggestion(name, [*node, *optional])
                    raise UserError(f"override {override!r}: unknown key {name!r}{near}")
                node[name] = {}
            if not last:
                node = node[name]
        node[path[-1]] = parse_yaml(value, f"override {key}")
    return result


def _optional(path: Sequence[str]) -> Sequence[str]:
    """Return the keys in the configuration's schema at a path, without names of entries."""
    schema = read_yaml(SCHEMA)
    nodes = _meant([schema], schema)
    for name in path:
        below = [node["properties"][name] for node in nodes if name in node.get("properties", {})]
        below += [entry for node in nodes for entry in node.get("patternProperties", {}).values()]
        nodes = _meant(below, schema)
    return list(dict.fromkeys(key for node in nodes for key in node.get("properties", {})))


def _meant(nodes: Iterable[Mapping], schema: Mapping) -> list[Mapping]:
    """Replace references and alternatives in parts of a schema by what they stand for."""
    found: list[Mapping] = []
    for node in nodes:
        choices = [*node.get("oneOf", ()), *node.get("anyOf", ())]
        if "$ref" in node:
            choices.append(schema["$defs"][node["$ref"].rpartition("/")[2]])
        found += _meant(choices, schema) if choices else [node]
    return found


def differences(before: Mapping, now: Mapping, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield every dotted key in which two mappings differ, with both values; None for a missing key."""
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{above}{key}.")
        elif old != new:
            yield f"{above}{key}", old, new


def in_words(found: Iterable[tuple[str, Any, Any]], most: int = 8) -> str:
    """Format differences as `key: old -> new`, at most `most` of them."""
    shown = []
    for key, old, new in found:
        whole = isinstance(new if old is None else old, Mapping)
        shown.append(f"{key} {'added' if old is None else 'removed'}" if whole else f"{key}: {old} -> {new}")
    more = f"; and {len(shown) - most} more" if len(shown) > most else ""
    return "; ".join(shown[:most]) + more
