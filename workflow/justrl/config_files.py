"""Configuration files: YAML, overlays over it, and overrides of single keys."""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from justrl.errors import UserError, did_you_mean

Config = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = ROOT / "config.yaml"
# The C loader reads the same safe subset ten times as fast, which every job of the workflow pays for.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(
    overlays: Sequence[str | Path] = (), overrides: Sequence[str] = (), base: str | Path = DEFAULT_CONFIG
) -> Config:
    """`base`, then each overlay file, then `dotted.key=value` overrides, as plain mappings that nothing has checked."""
    config = read_yaml(base)
    for overlay in overlays:
        config = merge(config, read_overlay(overlay))
    return apply_overrides(config, overrides)


def complete(given: Mapping) -> Config:
    """config.yaml with an overlay over it; an overlay that the other extends lies in between."""
    given = dict(given)
    extended = given.pop("extends", None)
    return merge(read([extended] if extended else []), given)


def merge(base: Mapping, overlay: Mapping) -> Config:
    """A deep copy of `base` in which mappings are merged with `overlay` and everything else is replaced by it."""
    merged = copy.deepcopy(dict(base))
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def find(path: str | Path) -> Path:
    """A file or folder that a configuration names: from where one starts or, if there is none, from this repository."""
    return Path(path) if Path(path).exists() else ROOT / path


def read_yaml(path: str | Path) -> Config:
    """Read a YAML mapping; a missing file, broken YAML or anything but a mapping is a UserError."""
    path = Path(path)
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values, got {type(value).__name__}")
    return value


def read_overlay(path: str | Path, above: Sequence[str] = ()) -> Config:
    """Read an overlay with the overlays it extends (paths relative to the repository) merged beneath it."""
    chain = [*above, str(path)]
    if str(path) in above:
        raise UserError(f"{chain[0]}: `extends` goes round in a circle: {' -> '.join(chain)}")
    overlay = read_yaml(find(path))
    extended = overlay.pop("extends", None)
    return merge(read_overlay(extended, chain), overlay) if extended else overlay


def apply_overrides(config: Mapping, overrides: Sequence[str]) -> Config:
    """Set existing keys by `dotted.key=value`, the value read as YAML; an unknown key is a UserError."""
    result = copy.deepcopy(dict(config))
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise UserError(f"override {override!r}: write it as dotted.key=value")
        *parents, last = key.split(".")
        node = result
        for name in parents:
            if not isinstance(node.get(name), dict):
                raise UserError(f"override {override!r}: unknown key {name!r}{did_you_mean(name, node)}")
            node = node[name]
        if last not in node:
            raise UserError(f"override {override!r}: unknown key {last!r}{did_you_mean(last, node)}")
        try:
            node[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"override value {value!r}: not valid YAML: {error}") from None
    return result


def differences(before: Mapping, now: Mapping, above: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every dotted key in which two mappings differ, with its value in each; None for a key that one of them lacks."""
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{above}{key}.")
        elif old != new:
            yield f"{above}{key}", old, new


def in_words(found: Iterable[tuple[str, Any, Any]], most: int = 8) -> str:
    """Differences as `key: old -> new`, the first few of them."""
    shown = []
    for key, old, new in found:
        whole = isinstance(new if old is None else old, Mapping)
        shown.append(f"{key} {'added' if old is None else 'removed'}" if whole else f"{key}: {old} -> {new}")
    more = f"; and {len(shown) - most} more" if len(shown) > most else ""
    return "; ".join(shown[:most]) + more
