"""Read tables of math questions: find data files, stream their rows in batches, and extract questions and answers.

Published data sets have a dozen names and types for the columns of question and answer. Training data and benchmarks
accept the same ones.

JSON, JSON lines and CSV are read row by row, with texts and numbers as written in the file. A reader that infers one
type per column changes values: texts in a column with numbers get quotes, `007` becomes 7, and `NA` becomes a missing
value. Here numbers are text from the start, so no row changes another, and values of inconsistent types are refused.
"""

import csv
import errno
import json
import os
import re
import shlex
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from justrl.config.files import read_card
from justrl.data.messages import user_content
from justrl.errors import UserError
from justrl.io import check_regular

# In order of preference, if the same rows exist in several formats.
FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
# JSON files that describe a data set and have none of its rows; source.json is our own record of a download.
_DESCRIPTIONS = {"source.json", "dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
_SPLIT_WORDS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation"}
_SPLIT_WORDS |= {"val": "validation", "dev": "validation", "eval": "test"}
# In order of preference. `solution` is last: in a table that also has `answer`, it is the worked solution.
QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "reward_model", "final_answer", "ground_truth", "solution")
ID_COLUMNS = ("unique_id", "id", "problem_idx")

# Doubles represent integers exactly up to here; a larger reference answer has already lost digits.
_EXACT_FLOAT = 2**53
# More digits before or after the point than any answer has; writing such a number out would take as many characters.
_FAR = 400


def is_data_file(name: str) -> bool:
    """Whether a relative file name is a data file: Parquet, JSON (lines) or CSV, not hidden, not a description."""
    path = Path(name)
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and path.suffix.lower() in FORMATS and path.name not in _DESCRIPTIONS


def list_files(folder: Path) -> list[str]:
    """List the files below a folder.

    Raises UserError: the user has no permission to read some of it, or an apparent data file is not a regular file.
    """
    paths = [Path(place) / name for place, _, names in os.walk(folder, onerror=refuse_unreadable) for name in names]
    for path in paths:
        if is_data_file(path.relative_to(folder).as_posix()):
            check_regular(path)
    return [path.relative_to(folder).as_posix() for path in paths if path.is_file()]


def refuse_unreadable(error: OSError) -> NoReturn:
    """Raise UserError with the first folder on the way that this user cannot enter."""
    path = Path(error.filename)
    shut = next((folder for folder in reversed(path.parents) if not os.access(folder, os.X_OK)), path)
    raise UserError(
        f"{shut} cannot be read by this user ({error.strerror}): its owner lets the group in by "
        f"`chmod -R g+rX {shlex.quote(str(shut))}`"
    ) from error


def find_data_files(source: str | Path, subset: str | None = None, split: str | None = None) -> list[Path]:
    """Return the data files of `source`, a file or a folder, for one subset and split of its data set.

    A data-set card (README.md with `configs`) decides if there is one, as on the hub. Otherwise names do: a path that
    contains the subset, a name that contains the split's word. A single data file is used whatever its name. If the
    same rows exist as Parquet, JSON and CSV, the first of these is used.
    """
    source = Path(source)
    if source.is_file():
        if source.suffix.lower() not in FORMATS:
            raise UserError(f"{source} is not a data file: accepted are {', '.join(FORMATS)}")
        return [source]
    if not source.is_dir():
        check_regular(source)
        raise UserError(f"{source} does not exist: give a data file or a folder of data files")
    names = sorted(filter(is_data_file, list_files(source)))
    if not names:
        raise UserError(f"{source} holds no data file: accepted are {', '.join(FORMATS)}")
    if len(names) > 1:
        names = _by_card(source, names, subset, split) or _by_name(source, names, subset, split)
    forms = {name: FORMATS[Path(name).suffix.lower()] for name in names}
    best = min(forms.values(), key=list(FORMATS.values()).index)
    return [source / name for name in names if forms[name] == best]


def _by_card(folder: Path, names: list[str], subset: str | None, split: str | None) -> list[str]:
    """Return the files that the card's `configs` assign to the split; empty if the card doesn't mention it."""
    configs = read_card(folder / "README.md").get("configs")
    configs = [entry for entry in configs if isinstance(entry, dict)] if isinstance(configs, list) else []
    patterns: list[str] = []
    for entry in configs:
        wanted = (
            entry.get("config_name") == subset if subset else entry.get("config_name") == "default" or not configs[1:]
        )
        if wanted:
            patterns += _card_patterns(entry.get("data_files") or [], split or "train")
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def _card_patterns(data_files: Any, split: str) -> list[str]:
    """Return the path patterns of one split from a card's `data_files`: text, a list of text, or {split, path}."""
    patterns: list[Any] = []
    for item in data_files if isinstance(data_files, list) else [data_files]:
        if isinstance(item, dict):
            paths = item.get("path") or [] if item.get("split", "train") == split else []
            patterns += paths if isinstance(paths, list) else [paths]
        elif split == "train":
            patterns.append(item)
    return [pattern for pattern in patterns if isinstance(pattern, str)]


def _by_name(folder: Path, names: list[str], subset: str | None, split: str | None) -> list[str]:
    if subset is not None:
        named = [name for name in names if subset in re.split(r"[/.]", name)]
        if not named:
            raise UserError(f"{folder} has no data file of subset {subset!r}: found {', '.join(names[:8])}")
        names = named
    if split is None or len(names) == 1:
        return names
    splits = {name: _split_of(name) for name in names}
    chosen = [name for name in names if splits[name] == split]
    if not chosen and split == "train":
        chosen = [name for name in names if splits[name] is None]
    if not chosen:
        raise UserError(f"{folder} has no data file of split {split!r}: found {', '.join(names[:8])}")
    return chosen


def _split_of(name: str) -> str | None:
    words = re.split(r"[^a-z]+", Path(name).stem.lower()) + re.split(r"[^a-z]+", name.lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def count_rows(files: Sequence[Path]) -> int | None:
    """Return the number of rows if the files' metadata has it (Parquet), else None.

    Raises UserError for an unreadable file.
    """
    import pyarrow.parquet as pq

    if any(path.suffix.lower() != ".parquet" for path in files):
        return None
    with _readable(files):
        return sum(pq.read_metadata(path).num_rows for path in files)


def column_names(files: Sequence[Path]) -> list[str]:
    """Return the column names; for JSON, those of the first rows.

    Raises UserError if there are no rows, or two columns have the same name.
    """
    for table in stream_tables(files, batch_size=64) if _is_parquet(files) else ():
        if table.num_rows:
            try:
                check_unique(table.column_names)
            except UserError as error:
                raise UserError(f"{files[0]}: {error}") from None
            return table.column_names
    if files and not _is_parquet(files) and (found := row_names(files)):
        return found
    raise UserError(f"{files[0] if files else 'the data set'} is empty: it has no rows")


def _is_parquet(files: Sequence[Path]) -> bool:
    return bool(files) and FORMATS[files[0].suffix.lower()] == "parquet"


def stream_tables(
    files: Sequence[Path], columns: Sequence[str] | None = None, batch_size: int = 8192
) -> Iterator[pa.Table]:
    """Yield the rows of the files in order, as Arrow tables of at most `batch_size` rows, with only the given columns.

    Raises UserError for an unreadable file.
    """
    with _readable(files):
        yield from (_stream_parquet if _is_parquet(files) else stream_rows)(files, columns, batch_size)


@contextmanager
def _readable(files: Sequence[Path]) -> Iterator[None]:
    """Convert a reader's error on a broken file to a UserError with the file's name."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read {', '.join(map(str, files[:3]))}: {reason}") from error


def _stream_parquet(files: Sequence[Path], columns: Sequence[str] | None, batch_size: int) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    for path in files:
        # Read page by page. The reader of `datasets` decodes whole row groups, and DAPO's have a million rows each: 1.4
        # GiB of Arrow memory at a time, compared with 21 MiB here, and four times as long.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            for batch in file.iter_batches(batch_size, columns=list(columns) if columns else None, use_threads=False):
                table = pa.Table.from_batches([batch])
                # Few of Arrow's functions accept string views.
                for place, field in enumerate(table.schema):
                    if pa.types.is_string_view(field.type):
                        table = table.set_column(place, field.name, table.column(place).cast(pa.large_string()))
                yield table


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


def pick_columns(found: Sequence[str], question: str | None, answer: str | None, where: str) -> tuple[str, str]:
    """Return the columns of question and answer: the requested ones, or those with a known name (`pick_column`)."""
    return (
        pick_column(found, QUESTION_COLUMNS, question, "question", where),
        pick_column(found, ANSWER_COLUMNS, answer, "answer", where),
    )


def pick_column(found: Sequence[str], accepted: Sequence[str], asked: str | None, what: str, where: str) -> str:
    """Return the column of `what` ("question" or "answer"): the requested one, or the first with a known name.

    Names match regardless of case and outer spaces, which vary in spreadsheets. A dotted name selects a field of a
    struct ("reward_model.ground_truth"). Raises UserError that lists the found and the accepted names.
    """
    if asked is not None:
        if (column := match_column(asked, found)) is not None:
            return column
        raise UserError(f"{where} has no column {asked!r} for the {what}: it has {', '.join(found)}")
    for name in accepted:
        if (column := match_column(name, found)) is not None:
            return column
    raise UserError(
        f"{where} has no column with a known name for the {what}: found {', '.join(found) or 'none'}; accepted are "
        f"{', '.join(accepted)}: rename the column, or set {what}_column in the configuration "
        f"(--{what}-column of `justrl data`)"
    )


def match_column(asked: str, found: Sequence[str]) -> str | None:
    """Return the file's name for a column, with dotted fields: an exact match, else one up to case and outer spaces."""
    first, dot, fields = asked.partition(".")
    name = first if first in found else next((name for name in found if _plain(name) == _plain(first)), None)
    return None if name is None else name + dot + fields


def _plain(name: str) -> str:
    return name.strip().casefold()


def take_column(table: pa.Table, name: str) -> pa.Array:
    """Return a column of a table as one array; a dotted name selects a struct's field."""
    first, *fields = name.split(".")
    chunks = table.column(first)
    # Use a single chunk directly, since combining would copy it.
    column = chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    for field in fields:
        if not pa.types.is_struct(column.type) or column.type.get_field_index(field) < 0:
            raise UserError(f"column {name!r}: {column.type} has no field {field!r}")
        column = pc.struct_field(column, field)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def is_text(kind: pa.DataType) -> bool:
    """Whether a column type is string or null."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)


def question_texts(column: pa.Array) -> list[str | None]:
    """Return one text per row of a question column: strings, or message lists with exactly one user message."""
    return question_column(column).to_pylist()


def question_column(column: pa.Array) -> pa.Array:
    """Return the texts of a question column (`question_texts`) as an Arrow array, without copying if possible."""
    kind = column.type
    if is_text(kind):
        return column
    if _is_list(kind):
        message = kind.value_type
        if pa.types.is_struct(message) and {"role", "content"} <= {field.name for field in message}:
            return _message_texts(column)
    raise UserError(f"a question column must hold text or lists of {{role, content}} messages, this one holds {kind}")


def _message_texts(column: pa.Array) -> pa.Array:
    single = pc.all(pc.equal(pc.list_value_length(column), 1)).as_py() and column.null_count == 0
    if single:
        # Fast path for the usual case, without a dictionary per message: each row has one message, from the user.
        messages = column.flatten()
        content = pc.struct_field(messages, "content")
        if is_text(content.type) and pc.all(pc.equal(pc.struct_field(messages, "role"), "user")).as_py():
            return content
    texts = [None if messages is None else user_content(messages) for messages in column.to_pylist()]
    return pa.array(texts, pa.large_string())


def answer_texts(column: pa.Array, first: int = 1) -> list[str | None]:
    """Return one text per row of an answer column: text, numbers, `{ground_truth}` structs, or lists of those.

    Integers stay exact at any size that the file stores. Several answers in a list are joined by commas. Raises
    UserError for anything else, with its row number, counted from `first` for the column's first row.
    """
    return answer_column(column, first).to_pylist()


def answer_column(column: pa.Array, first: int = 1) -> pa.Array:
    """Return the texts of an answer column (`answer_texts`) as an Arrow array, without copying if possible."""
    kind = column.type
    if is_text(kind):
        return column
    if pa.types.is_struct(kind):
        if kind.get_field_index("ground_truth") < 0:
            raise UserError(f"an answer struct needs a field ground_truth, this one is {kind}")
        return answer_column(pc.struct_field(column, "ground_truth"), first)
    texts: list[str | None] = []
    for row, value in enumerate(_values(column), first):
        try:
            # pandas writes NaN for missing values.
            texts.append(None if value is None or value != value else _answer_text(value))
        except UserError as error:
            raise UserError(f"row {row}: {error}") from None
    return pa.array(texts, pa.large_string())


def _values(column: pa.Array) -> list:
    """Convert a column to Python values. Floats of 16 and 32 bits keep the digits that they were written with."""
    kind = column.type
    if _is_list(kind) and _is_short_float(kind.value_type):
        raise UserError(f"an answer column of {kind} has lost digits: store reference answers as text")
    values = column.to_pylist()
    if _is_short_float(kind):
        short = kind.to_pandas_dtype()
        return [None if value is None else float(str(short(value))) for value in values]
    return values


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_short_float(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) and kind.bit_width < 64


def _answer_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise UserError(f"an answer must be text or a number, got {value}")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and abs(value) >= _EXACT_FLOAT:
        raise UserError(
            f"the answer {value!r} is stored as a double, which lost digits: store reference answers as text"
        )
    if isinstance(value, float | Decimal):
        return number_text(str(value))
    if isinstance(value, list):
        return ",".join(_answer_text(item) for item in value if item is not None)
    raise UserError(f"an answer must be text, a number or a list of those, got {type(value).__name__}: {value!r:.80}")
