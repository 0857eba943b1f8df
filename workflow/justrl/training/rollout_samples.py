"""Saves a few rollouts of each step for inspection: one file per step, joined when the segment is finished.

Rollouts are selected by their index in the step, without random numbers, so the training does not change. A step that
is repeated after a kill overwrites its file. Files are kept until the next segment is finished, because a damaged
archive may have to be rebuilt from the last state, without training a step.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from justrl.io import write_parquet

if TYPE_CHECKING:
    import pyarrow

FILE = "rollouts.parquet"
COLUMNS = {
    "step": "int32",
    "sample_index": "int32",
    "prompt": "string",
    "gold": "string",
    "response": "string",
    "length": "int32",
    "reward": "float64",
    "correct": "bool_",
    "finish_reason": "string",
}


def places(step: int, rollouts: int, wanted: int) -> list[int]:
    """Return the indices of the rollouts to save: evenly spaced, to cover several questions, and shifted each step."""
    wanted = min(wanted, rollouts)
    return sorted((place * rollouts // wanted + step) % rollouts for place in range(wanted))


def write(folder: Path, step: int, rows: Sequence[dict[str, Any]]) -> None:
    """Write the saved rollouts of a step: one dict per rollout, keys as in COLUMNS; `length` is in tokens.

    Without rows, remove the file, even one from an earlier attempt with other settings.
    """
    import pyarrow

    if not rows:
        _file(folder, step).unlink(missing_ok=True)
        return

    write_parquet(pyarrow.Table.from_pylist(list(rows), schema=_schema()), _file(folder, step), compression="zstd")


def join(folder: Path, steps: Sequence[int], path: Path) -> None:
    """Join the saved rollouts of these steps in one file; write no file if there are none.

    An unreadable file, such as a failed disk or node leaves, is skipped and does not stop the training.
    """
    import pyarrow

    files = [_file(folder, step) for step in steps if _file(folder, step).exists()]
    kept = [table for file in files if (table := _read(file)) is not None]
    if kept:
        write_parquet(pyarrow.concat_tables(kept), path, compression="zstd")


def _read(file: Path) -> "pyarrow.Table | None":
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file).select(list(COLUMNS)).cast(_schema())
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        print(f"{file} is torn: its rollouts are left out of the page ({error!s:.200})", file=sys.stderr, flush=True)
        return None
    return table


def _schema() -> "pyarrow.Schema":
    import pyarrow

    return pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])


def remove(folder: Path, last: int) -> None:
    """Remove the files of the steps up to `last`."""
    for file in folder.glob("step_*.parquet"):
        step = file.stem.removeprefix("step_")
        if step.isdigit() and int(step) <= last and file.is_file():
            file.unlink()


def _file(folder: Path, step: int) -> Path:
    return folder / f"step_{step:06d}.parquet"
