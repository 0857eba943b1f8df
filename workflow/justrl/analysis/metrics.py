"""Training metrics: one JSON line per step, the same names from both engines, and what can be read off them.

`python -m justrl.analysis.metrics merge` joins the files of a run's segments, `... summary` writes its health.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from justrl import cli
from justrl.errors import UserError
from justrl.io import atomic_write, write_json, write_jsonl

# The contract's names: every engine logs these at every step.
METRICS = (
    "reward_mean",
    "accuracy",
    "entropy",
    "response_length_mean",
    "response_clip_ratio",
    "grad_norm",
    "clip_fraction",
    "lr",
    "tokens_per_second",
    "step_seconds",
)


def log_training_metrics(metrics: Mapping[str, Any], step: int, path: str | Path) -> dict[str, Any]:
    """Append one step's metrics to a JSONL file and return the row as written.

    Values may be numbers, strings, or scalars of NumPy or torch; NaN and infinity, which JSON lacks, become null.
    Steps count from 1. If the file already holds `step` or later ones, as after a resume from a checkpoint, those lines
    are replaced, so that a resumed run leaves the same file as one that was never interrupted; so is a line torn by a
    kill.
    """
    if isinstance(step, bool) or int(step) != step or step < 1:
        raise UserError(f"step must be a whole number from 1, got {step!r}")
    row = {"step": int(step), **{name: _plain(name, value) for name, value in metrics.items() if name != "step"}}
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
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"metrics file {path} does not exist") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error.msg}); was the writer killed?") from None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise UserError(f"{path}, line {number}: a metrics line is a JSON object with a whole number 'step'")
        if rows and row["step"] != rows[-1]["step"] + 1:
            what = "is there twice" if row["step"] == rows[-1]["step"] else f"follows step {rows[-1]['step']}"
            raise UserError(f"{path}, line {number}: step {row['step']} {what}; steps must rise by one")
        rows.append(row)
    if not rows:
        raise UserError(f"metrics file {path} is empty: the segment that should have written it logged no step")
    return rows


def merge_metrics(paths: Sequence[str | Path], first_step: int = 1) -> list[dict[str, Any]]:
    """Join the metrics of a run's segments, given in any order, into one list of steps from `first_step` on.

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


def series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, leaving out the steps at which it is absent or null."""
    pairs = [(row["step"], float(row[name])) for row in rows if isinstance(row.get(name), int | float)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def _rows_before(path: Path, step: int) -> tuple[list[dict[str, Any]], bool]:
    """Rows of a metrics file before `step`, and whether these are the whole file; reads only the end if they are."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(max(0, size - 65536))
        tail = handle.read()
    last = tail.rstrip(b"\n").rsplit(b"\n", 1)[-1]
    try:
        if tail.endswith(b"\n") and json.loads(last)["step"] < step:
            return [], True
    except (ValueError, KeyError, TypeError):
        pass
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int) and row["step"] < step:
            kept.append(row)
    return kept, False


def _plain(name: str, value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"metric {name!r} must be a number or a string, got {type(value).__name__}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: merge segments, or summarise a run."""
    parser = argparse.ArgumentParser(prog="python -m justrl.analysis.metrics", description="Merge and read metrics.")
    commands = parser.add_subparsers(dest="command", required=True)
    merge = commands.add_parser("merge", help="join the metrics of a run's segments; steps must be contiguous")
    merge.add_argument("segments", nargs="+", type=Path, metavar="SEGMENT.jsonl")
    merge.add_argument("--output", required=True, type=Path)
    merge.add_argument("--first-step", type=int, default=1, help="first step of the run (default: 1)")
    summary = commands.add_parser("summary", help="write a run's health: starts, ends, and what went wrong")
    summary.add_argument("--metrics", required=True, type=Path)
    summary.add_argument("--output", required=True, type=Path)
    summary.add_argument("--experiment", default="paper", help="the experiment's name, as in the config")
    arguments = parser.parse_args(argv)
    if arguments.command == "merge":
        with atomic_write(arguments.output) as handle:
            for row in merge_metrics(arguments.segments, arguments.first_step):
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
        return 0
    from justrl.analysis.health import summarize_run

    report = summarize_run(read_metrics(arguments.metrics), arguments.experiment)
    write_json(arguments.output, report)
    for finding in report["findings"]:
        print(f"{finding['name']}: {finding['sentence']}")
    return 0


if __name__ == "__main__":
    cli.run(main)
