"""Pack a canary's verdicts and numbers into one file that its owner can share publicly.

It contains only numbers, known names and versions: no paths, hosts, users or free text. If one of them is left in the
content, no file is written.
"""

import getpass
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.io import read_json_object, read_jsonl, read_object
from justrl.plan import backtest
from justrl.training.segment import WorkDir

FORMAT = 1
MOST_BYTES = 25_000_000
PACKAGES = ("torch", "vllm", "verl", "transformers", "flash-attn", "ray", "tensordict", "numpy", "snakemake")
# Checks of the preflight and of the first job on its node whose findings contain neither paths nor names.
CHECKS = ("gpus", "packages", "driver", "interconnect")
_PATH = re.compile(r"(?<![\w.:/-])(?:~|/[A-Za-z0-9_.-]+)/[A-Za-z0-9_.-]+")


def packed(folder: Path) -> dict[str, Any]:
    """Collect the content of a canary's file.

    Args:
        folder: the canary's run folder, `results/runs/canary_NAME`.

    Raises UserError if the canary has no verdict yet, or if a path, user or host would be in the file.
    """
    verdict = folder / "verdict.json"
    if not verdict.is_file():
        raise UserError(f"{verdict} is not there: `snakemake canary` makes it, and {folder} must be a canary's folder")
    described = read_object(folder / "run.json")
    looked = (folder / "preflight.json", WorkDir(folder / "work").node)
    checks = [check for file in looked for check in read_json_object(file).get("checks", [])]
    found = {
        "format": FORMAT,
        "verdict": read_object(verdict),
        "engine": described["engine"],
        "model": _public(described["model"]),
        "recipe": _public(described["recipe"]),
        "hardware": _public(read_object(folder.parent.parent / "hardware.json")),
        "preflight": {check["name"]: check["found"] for check in checks if check["name"] in CHECKS},
        "versions": dict(_versions()),
        "steps": [_numbers(row) for row in read_jsonl(folder / "metrics.jsonl")],
    }
    for private in _private(json.dumps(found, ensure_ascii=False)):
        raise UserError(f"{private!r} of {folder} would be in the file, which is for everybody: nothing was written")
    return found


def unpacked(file: Path) -> dict[str, Any]:
    """Read a file that `packed` made.

    Raises UserError if the file is missing, too large, or not a canary's file of this version.
    """
    if not file.is_file():
        raise UserError(f"no such file: {file}")
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file} has {file.stat().st_size / 1e6:,.0f} MB: a canary's file has less than 25 MB")
    found = read_object(file)
    kinds = {"verdict": dict, "recipe": dict, "hardware": dict, "versions": dict, "steps": list, "model": dict}
    missing = [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]
    if found.get("format") != FORMAT or missing:
        what = f"it lacks {missing[0]}" if missing else f"its format is {found.get('format')!r}, not {FORMAT}"
        raise UserError(f"{file} is no canary's file of this version: {what}")
    return found


def facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Readable lines, as (name, value): where the canary ran and what it measured."""
    hardware, steps = found["hardware"], found["steps"]
    yield "hardware", f"{hardware.get('nodes')} x {hardware.get('gpus_per_node')} {hardware.get('gpu')}"
    yield from found.get("preflight", {}).items()
    yield "versions", ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    for name, unit in (
        ("step_seconds", "s"),
        ("rollout_seconds", "s"),
        ("update_seconds", "s"),
        ("weight_sync_seconds", "s"),
        ("memory_gb", "GiB"),
        ("response_length_mean", "tokens"),
    ):
        values = [row[name] for row in steps if isinstance(row.get(name), int | float)]
        if values:
            yield name, ", ".join(f"{value:,.1f}" for value in values) + f" {unit}"
    if figure := backtest.canary_figure(found):
        predicted = f"{figure.seconds * figure.ratio():,.0f} s, {figure.ratio():.2f} times the measured value"
        yield "by the model of time", f"a step of these lengths takes {predicted}"


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def _public(value: Any) -> Any:
    """A configuration in which every path is reduced to its last part."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~", ".", "file:")):
        return Path(value).name
    return value


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}


def _private(text: str) -> Iterator[str]:
    """Find paths, the name of this user and the name of this host in a text."""
    yield from _PATH.findall(text)
    names = {socket.gethostname(), Path.home().name}
    with suppress(KeyError, OSError):
        names.add(getpass.getuser())
    # Names of up to three letters, and "root", also occur as ordinary words.
    yield from (name for name in names - {"root"} if len(name) > 3 and re.search(rf"\b{re.escape(name)}\b", text))
