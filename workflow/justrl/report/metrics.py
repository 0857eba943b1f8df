"""Training metrics: one JSON line per step with the same names from both engines; writing, reading and merging."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from justrl.config import paper
from justrl.errors import UserError
from justrl.io import read_json_object, read_whole_lines, write_jsonl

Rows = Sequence[Mapping[str, Any]]  # one row per step

# The required names: every engine logs these at every step.
METRICS = (
    "reward_mean",
    "accuracy",
    "entropy",
    "entropy_as_published",
    "response_length_mean",
    "response_clip_ratio",
    "grad_norm",
    "clip_fraction",
    "lr",
    "tokens_per_second",
    "step_seconds",
)


def metrics_row(metrics: Mapping[str, Any], step: int) -> dict[str, Any]:
    """One step's metrics as a JSON object, the step first.

    Values may be numbers, strings, or scalars of NumPy or torch; NaN and infinity, which JSON lacks, become null.
    """
    if isinstance(step, bool) or int(step) != step or step < 0:
        raise UserError(f"step must be a whole number, got {step!r}")
    return {"step": int(step), **{name: _plain(name, value) for name, value in metrics.items() if name != "step"}}


def append_metrics(metrics: Mapping[str, Any], step: int, path: str | Path) -> dict[str, Any]:
    """Append one step's metrics to a JSONL file and return the row as written (see `metrics_row`).

    Steps count from 1. If the file already has `step` or later steps, as after a resume from a checkpoint, those lines
    are replaced, so that a resumed run leaves the same file as an uninterrupted one. A line that a killed process left
    incomplete is replaced too.
    """
    row = metrics_row(metrics, step)
    if row["step"] < 1:
        raise UserError(f"step must be a whole number from 1, got {step!r}: a metrics file counts steps from 1")
    path = Path(path)
    if path.is_file() and path.stat().st_size:
        kept, intact = _rows_before(path, row["step"])
        if not intact:
            write_jsonl(path, [*kept, row])
            return row
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return row


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read a metrics file and check that every line is an object with a step, the steps rising by one.

    Raises UserError naming the file and the line.
    """
    rows: list[dict[str, Any]] = []
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"metrics file {path} does not exist") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); was the writer killed?") from None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise UserError(f"{path}, line {number}: a metrics line is a JSON object with a whole number 'step'")
        if rows and row["step"] != rows[-1]["step"] + 1:
            what = "is there twice" if row["step"] == rows[-1]["step"] else f"follows step {rows[-1]['step']}"
            raise UserError(f"{path}, line {number}: step {row['step']} {what}; steps must rise by one")
        rows.append(row)
    if not rows:
        raise UserError(f"metrics file {path} is empty: the segment that should have written it logged no step")
    return rows


def run_of(path: str | Path) -> dict[str, str | None]:
    """The run of a metrics file and its experiment (`paper.stamp_of_run`), from its run.json: {run, experiment}.

    Without a run.json the run is named after the file (after the folder of a `metrics.jsonl`) and the experiment is
    None.
    """
    path = Path(path)
    named = path.absolute().parent.name if path.stem == "metrics" else path.stem
    described = read_json_object(path.with_name("run.json"))
    return {"run": named, "experiment": paper.stamp_of_run({"run": named, **described})}


def merge_metrics(paths: Sequence[str | Path], first_step: int = 1) -> list[dict[str, Any]]:
    """Merge the metrics of a run's segments, given in any order, into one list of steps from `first_step` on.

    Raises UserError naming the segment that overlaps the one before it or leaves a gap.
    """
    segments = sorted(((read_metrics(path), Path(path)) for path in paths), key=lambda item: item[0][0]["step"])
    if not segments:
        raise UserError("merge needs at least one metrics file")
    merged: list[dict[str, Any]] = []
    expected, before = first_step, "the start of the run"
    for rows, path in segments:
        start = rows[0]["step"]
        if start > expected:
            raise UserError(f"{path} starts at step {start}, but {before} leaves off before step {expected}: a gap")
        if start < expected:
            raise UserError(f"{path} starts at step {start}, which {before} already covers (next is {expected})")
        merged += rows
        expected, before = rows[-1]["step"] + 1, str(path)
    return merged


def series(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, without the steps at which it is absent, null, NaN or infinite."""
    numbers = ((row["step"], row.get(name)) for row in rows)
    pairs = [(step, float(value)) for step, value in numbers if isinstance(value, int | float) and math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _rows_before(path: Path, step: int) -> tuple[list[dict[str, Any]], bool]:
    """Find the rows of a metrics file before `step`.

    Returns ([], True) if that is the whole file, after reading only its end; else (the rows, False).
    """
    size = path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(max(0, size - 65536))
        tail = handle.read()
    last = tail.rstrip(b"\n").rsplit(b"\n", 1)[-1]
    try:
        if tail.endswith(b"\n") and json.loads(last)["step"] < step:
            return [], True
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    kept = [row for row in read_whole_lines(path) if isinstance(row.get("step"), int) and row["step"] < step]
    return kept, False


def _plain(name: str, value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"metric {name!r} must be a number or a string, got {type(value).__name__}")
