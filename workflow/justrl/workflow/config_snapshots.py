"""Snapshots of a started experiment's configuration, saved next to its results for its jobs and the next start.

<results>/experiments/0001.json is the snapshot of the first start. A start with a changed configuration adds the next
number, so a job that waits in a queue still finds the configuration that it was planned with.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from justrl.config.files import differences, in_words
from justrl.config.layout import Layout
from justrl.config.names import with_todays_names
from justrl.errors import UserError
from justrl.io import read_json, read_whole_lines, write_json

FOLDER = "experiments"
# One line for each requested target, with the snapshot of the start that requested it.
ASKED = "asked.jsonl"


def document(config: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """The snapshot: configuration with overlays, and the segment ends that do not follow from the configuration."""
    runs = layout.experiment.runs
    ends = {run: list(layout.segment_ends(run)) for run in runs if layout.segment_ends(run) != runs[run].segment_ends}
    return json.loads(json.dumps({"config": config, "segment_ends": ends}))


def newest(results: Path) -> Path | None:
    """The snapshot of the last start that wrote files; None before the first."""
    return max(results.glob(f"{FOLDER}/[0-9]*.json"), key=lambda path: int(path.stem), default=None)


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Configuration and segment ends that a job was planned with.

    Raises UserError if the file is missing or damaged.
    """
    try:
        content = read_json(path)
        return with_todays_names(content["config"]), content["segment_ends"]
    except FileNotFoundError:
        raise UserError(
            f"{path}, the configuration that this job was planned with, is missing: start Snakemake again"
        ) from None
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}, the configuration of an earlier start, is damaged ({error!s:.100}): restore it, or "
            "start Snakemake again, which writes a new one"
        ) from None


def file_of(content: dict[str, Any], results: Path) -> Path:
    """The file for this snapshot: the newest one if it is equal, else the next number."""
    last = newest(results)
    if last and saved(last) == content:
        return last
    return results / FOLDER / f"{int(last.stem) + 1 if last else 1:04}.json"


def saved(path: Path) -> dict[str, Any] | None:
    """The snapshot in a file; None if it cannot be read."""
    try:
        config, ends = read(path)
        return {"config": config, "segment_ends": ends}
    except UserError:
        return None


def changes(content: dict[str, Any], results: Path) -> Iterator[str]:
    """Yield a line with the differences from the configuration of the last start, if there are any."""
    last = newest(results)
    before = saved(last) if last else None
    if last and before is None:
        yield f"{last}, the configuration of the last start, is damaged, so changes since then cannot be listed."
    elif before and (found := in_words(differences(before["config"], content["config"]))):
        yield f"Configuration changed since the last start ({last}): {found}"


def write(content: dict[str, Any], path: Path) -> None:
    """Write a snapshot to the file that `file_of` named.

    Raises UserError if another start has written a different one there meanwhile.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    elif saved(path) != content:
        raise UserError(f"another start has written {path} at the same time: start again")


def note_asked(targets: Iterable[str], path: Path) -> None:
    """Record the targets requested from the start whose snapshot is in `path`, each target once."""
    noted = path.with_name(ASKED)
    known = {row.get("target") for row in _asked(noted) if row.get("experiment") == path.name}
    lines = [json.dumps({"experiment": path.name, "target": target}) for target in targets if target not in known]
    if lines:
        with noted.open("a", encoding="utf-8") as handle:
            handle.write("".join(f"{line}\n" for line in lines))


def asked(results: Path) -> list[str] | None:
    """The targets requested from starts with the newest snapshot; None if there is no record."""
    noted, last = results / FOLDER / ASKED, newest(results)
    rows = [row["target"] for row in _asked(noted) if last and row.get("experiment") == last.name]
    return rows if rows else None


def _asked(path: Path) -> list[dict[str, Any]]:
    return [row for row in read_whole_lines(path) if "target" in row] if path.is_file() else []
