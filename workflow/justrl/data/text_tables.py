"""Read rows of JSON, JSON lines and CSV as Arrow tables, with texts and numbers as written in the file.

A reader that infers one type per column changes values: texts in a column with numbers get quotes, `007` becomes 7, and
`NA` becomes a missing value. Here numbers are text from the start, so no row changes another, and values of
inconsistent types are refused.
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

# More digits before or after the point than any answer has; writing such a number out would take as many characters.
_FAR = 400


def row_names(files: Sequence[Path], rows: int = 64) -> list[str]:
    """The column names of the first rows, in order of appearance."""
    return list(dict.fromkeys(name for row in islice(_all_rows(files), rows) for name in row))


def stream_rows(files: Sequence[Path], columns: Sequence[str] | None, batch_size: int) -> Iterator[pa.Table]:
    """Yield the rows of the files in order, as Arrow tables of at most `batch_size` rows, with only the given columns.

    Raises UserError, with the row: an unreadable file or row, or a value of another type than those above it.
    """
    rows, first = _all_rows(files), 1
    while batch := list(islice(rows, batch_size)):
        names = columns or list(dict.fromkeys(name for row in batch for name in row))
        where = ", ".join(map(str, files[:3]))
        yield pa.table({name: _column([row.get(name) for row in batch], name, where, first) for name in names})
        first += len(batch)


def number_text(literal: str) -> str:
    """Format a number as a reference answer: integers without a decimal point, others with the digits as written."""
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
        # NaN and infinity are not JSON, but they occur. They are an error only in an answer.
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
    """Raise UserError if two columns have the same name."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the column {twice} is there twice: which one is meant?")
