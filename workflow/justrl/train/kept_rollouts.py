"""The few rollouts of each step that are kept to be read: a file for each step, joined when its segment is finished.

They are chosen by their place in the step, with no random number, so training does not notice. A step that is made
again after a kill writes its file again. Files stay until the next segment is finished, since a damaged archive may be
made anew from the last state, without a step.
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
    """The places of those to keep: at equal distances, so of different questions, and in each step others."""
    wanted = min(wanted, rollouts)
    return sorted((place * rollouts // wanted + step) % rollouts for place in range(wanted))


def write(folder: Path, step: int, rows: Sequence[dict[str, Any]]) -> None:
    """Write what is kept of a step: one dict for each rollout, keys as in COLUMNS; length in tokens.

    Without rows no file is left, not even that of an earlier try under another setting.
    """
    import pyarrow

    if not rows:
        _file(folder, step).unlink(missing_ok=True)
        return

    write_parquet(pyarrow.Table.from_pylist(list(rows), schema=_schema()), _file(folder, step), compression="zstd")


def join(folder: Path, steps: Sequence[int], path: Path) -> None:
    """Write what was kept of these steps as one file; none where nothing was.

    A file that cannot be read, as a lost disk or node leaves one, is left out: it ends no training.
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
