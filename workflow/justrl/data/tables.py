"""Data files of a folder, and their rows as Arrow tables, a bounded number at a time.

JSON is read through `datasets` in streaming mode, Parquet through pyarrow: no copy in a cache, no more memory than one
batch needs.
"""

import errno
import glob
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa

from justrl.errors import UserError

FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json"}
# JSON files that describe a data set and hold none of its rows; source.json is our own record of a download.
_DESCRIPTIONS = {"source.json", "dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
_SPLIT_WORDS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation"}
_SPLIT_WORDS |= {"val": "validation", "dev": "validation", "eval": "test"}


def is_data_file(name: str) -> bool:
    """Say whether a relative file name is one of rows: Parquet, JSON or JSON lines, not hidden, not a description."""
    path = Path(name)
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and path.suffix.lower() in FORMATS and path.name not in _DESCRIPTIONS


def list_data_files(folder: Path) -> list[str]:
    """Return the relative names of the data files below a folder, in the order of their names."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(filter(is_data_file, names))


def find_data_files(source: str | Path, config: str | None = None, split: str | None = None) -> list[Path]:
    """Return the data files of `source`, a file or a folder, for one configuration and split of its data set.

    A data-set card (README.md with `configs`) decides where there is one, as on the hub; else names do: a path that
    names the configuration, a name that holds the split's word. A single data file is taken whatever its name. Of the
    same rows as Parquet and JSON, Parquet is taken.
    """
    source = Path(source)
    if source.is_file():
        if source.suffix.lower() not in FORMATS:
            raise UserError(f"{source} is not a data file: accepted are {', '.join(FORMATS)}")
        return [source]
    if not source.is_dir():
        raise UserError(f"{source} does not exist: give a data file or a folder of data files")
    names = list_data_files(source)
    if not names:
        raise UserError(f"{source} holds no data file: accepted are {', '.join(FORMATS)}")
    if len(names) > 1:
        names = _by_card(source, names, config, split) or _by_name(source, names, config, split)
    parquet = [name for name in names if name.lower().endswith(".parquet")]
    return [source / name for name in parquet or names]


def _by_card(folder: Path, names: list[str], config: str | None, split: str | None) -> list[str]:
    """Return the files that the card's `configs` give to the split, or none if it says nothing of it."""
    card = folder / "README.md"
    header = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL) if card.is_file() else None
    if header is None:
        return []
    import yaml

    try:
        configs = (yaml.safe_load(header[1]) or {}).get("configs") or []
    except (yaml.YAMLError, AttributeError):
        return []
    patterns: list[str] = []
    for entry in configs:
        wanted = (
            entry.get("config_name") == config if config else entry.get("config_name") == "default" or not configs[1:]
        )
        if wanted:
            patterns += _card_patterns(entry.get("data_files") or [], split or "train")
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def _card_patterns(data_files: str | list, split: str) -> list[str]:
    """Return the path patterns of one split from a card's `data_files`: text, a list of text, or {split, path}."""
    patterns: list[str] = []
    for item in [data_files] if isinstance(data_files, str | dict) else data_files:
        if isinstance(item, dict):
            paths = item.get("path") or [] if item.get("split", "train") == split else []
            patterns += [paths] if isinstance(paths, str) else paths
        elif split == "train":
            patterns.append(item)
    return patterns


def _by_name(folder: Path, names: list[str], config: str | None, split: str | None) -> list[str]:
    if config is not None:
        named = [name for name in names if config in re.split(r"[/.]", name)]
        if not named:
            raise UserError(f"{folder} has no data file of configuration {config!r}: found {', '.join(names[:8])}")
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
    """Return the number of rows where the files say it without being read (Parquet), else None."""
    import pyarrow.parquet as pq

    if any(path.suffix.lower() != ".parquet" for path in files):
        return None
    return sum(pq.read_metadata(path).num_rows for path in files)


def column_names(files: Sequence[Path]) -> list[str]:
    """Return the names of the columns; of JSON, those of the first rows. Raises UserError if there are no rows."""
    for table in stream_tables(files, batch_size=64):
        if table.num_rows:
            return table.column_names
    raise UserError(f"{files[0] if files else 'the data set'} is empty: it has no rows")


def stream_tables(
    files: Sequence[Path], columns: Sequence[str] | None = None, batch_size: int = 8192
) -> Iterator[pa.Table]:
    """Yield the rows of the files in order, as Arrow tables of at most `batch_size` rows, the given columns only.

    Raises UserError for a file that cannot be read.
    """
    is_parquet = FORMATS[files[0].suffix.lower()] == "parquet"
    try:
        yield from (_stream_parquet if is_parquet else _stream_json)(files, columns, batch_size)
    except (pa.ArrowException, UnicodeDecodeError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot read {', '.join(map(str, files[:3]))}: {reason}") from error


def _stream_parquet(files: Sequence[Path], columns: Sequence[str] | None, batch_size: int) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    for path in files:
        # Read page by page: the reader of `datasets` decodes whole row groups, and DAPO's hold a million rows each
        # (1.4 GiB of Arrow memory at a time, against 21 MiB this way, and four times as long).
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            for batch in file.iter_batches(batch_size, columns=list(columns) if columns else None, use_threads=False):
                yield pa.Table.from_batches([batch])


def _stream_json(files: Sequence[Path], columns: Sequence[str] | None, batch_size: int) -> Iterator[pa.Table]:
    import datasets

    # data_files are glob patterns to `datasets`, so a path's own brackets must be escaped.
    paths = [glob.escape(str(path.resolve())) for path in files]
    stream = datasets.load_dataset("json", data_files={"train": paths}, split="train", streaming=True)
    if columns:
        stream = stream.select_columns(list(columns))
    yield from stream.with_format("arrow").iter(batch_size=batch_size)
