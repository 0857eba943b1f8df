"""Rows of JSON, JSON lines and CSV as Arrow tables: text as it is in the file, numbers as they are written there.

A reader that guesses one type for a column changes values: a number among texts has the texts quoted, `007` becomes 7,
`NA` nothing. Here numbers are text from the start, so that no row changes another, and what fits no column is refused.
"""

import csv
import json
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from justrl.errors import UserError

# Further from the point than any answer is; to write such a number out would take its exponent's length.
_FAR = 400


def row_names(files: Sequence[Path], rows: int = 64) -> list[str]:
    """The names of the columns of the first rows, in the order of their appearance."""
    return list(dict.fromkeys(name for row in islice(_all_rows(files), rows) for name in row))


def stream_rows(files: Sequence[Path], columns: Sequence[str] | None, batch_size: int) -> Iterator[pa.Table]:
    """Yield the rows of the files in order, as Arrow tables of at most `batch_size` rows, the given columns only.

    Raises UserError: a file or row that cannot be read, or a value of another kind than those above it, by its row.
    """
    rows, first = _all_rows(files), 1
    while batch := list(islice(rows, batch_size)):
        names = columns or list(dict.fromkeys(name for row in batch for name in row))
        where = ", ".join(map(str, files[:3]))
        yield pa.table({name: _column([row.get(name) for row in batch], name, where, first) for name in names})
        first += len(batch)


def number_text(literal: str) -> str:
    """A number as a gold has it: whole ones without a point, others with the digits that they are written with."""
    value = Decimal(literal)
    if not value.is_finite() or abs(value.adjusted()) > _FAR:
        raise UserError(f"{literal} is not an answer: store reference answers as text")
    return str(int(value)) if value == value.to_integral_value() else f"{value:f}"


def _column(values: list, name: str, where: str, first: int) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, ValueError, TypeError):
        bad = bisect_left(range(len(values)), True, key=lambda row: _fails(values[: row + 1]))
        raise UserError(
            f"{where}, row {first + bad}: {name} is {values[bad]!r:.80}, which is not text, or has "
            "another type than in the rows above"
        ) from None


def _fails(values: list) -> bool:
    try:
        pa.array(values)
    except (pa.ArrowException, ValueError, TypeError):
        return True
    return False


def _all_rows(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        yield from _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as handle:
        lines = csv.reader(handle, strict=True)
        try:
            header = next(lines, [])
            check_unique(header)
            for fields in filter(None, lines):
                if len(fields) != len(header):
                    raise UserError(f"it has {len(fields)} fields, its header {len(header)}")
                yield dict(zip(header, fields, strict=True))
        except (csv.Error, ValueError) as error:
            raise UserError(f"cannot read {path}, line {lines.line_num}: {error}") from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as handle:
        start = handle.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        handle.seek(0)
        if start.startswith(b"["):
            parts: Iterable[Any] = _parse(handle.read(), f"cannot read {path}")
        else:
            lines = (line for line in handle if line.strip())
            parts = (_parse(line, f"cannot read {path}, row {row}") for row, line in enumerate(lines, 1))
        for row, part in enumerate(parts, 1):
            if not isinstance(part, dict):
                raise UserError(f"cannot read {path}, row {row}: it is not a JSON object but {part!r:.80}")
            yield part


def _parse(text: bytes, where: str) -> Any:
    try:
        # Of NaN and infinity, which are no JSON and yet are met, only an answer makes an error.
        return json.loads(
            text.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_int=str,
            parse_float=number_text,
            parse_constant=float,
        )
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    check_unique([name for name, _ in pairs])
    return dict(pairs)


def check_unique(names: Sequence[str]) -> None:
    """Raise UserError if two columns have one name."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the column {twice} is there twice: which one is meant?")
