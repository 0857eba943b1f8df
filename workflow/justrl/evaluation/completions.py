"""The completions file: one row per sample, with the protocol and the other settings that generated it.

The settings are JSON in the Parquet schema's metadata, under `justrl`. Two files belong together if and only if their
settings agree (`differing`). A shard's number is not one of the settings.
"""

import hashlib
import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from justrl.config import EvalProtocol, read_part
from justrl.errors import UserError
from justrl.evaluation.released import read_released
from justrl.io import json_argument, json_sha256, write_parquet

if TYPE_CHECKING:
    import pandas
    import pyarrow

METADATA_KEY = b"justrl"
# Settings that completions of earlier versions lack.
LATER = {"prompts"}
KEY = ["benchmark", "question_id", "sample_index"]
COLUMNS = {
    "benchmark": "string",
    "question_id": "string",
    "sample_index": "int32",
    "seed": "int64",
    "question": "string",
    "prompt": "string",
    "completion": "string",
    "token_count": "int32",
    "finish_reason": "string",
    "model": "string",
    "model_revision": "string",
}
# The reference answers. They are in the benchmark's file only; completions of earlier versions and released ones also
# have them.
GOLD = "answer"
# Columns that need a value in every row of a completions or benchmark file.
TEXTS = {"benchmark", "question_id", "question", GOLD, "completion"}
Read = TypeVar("Read")


def load_protocol(text: str) -> tuple[str, EvalProtocol]:
    """Read a protocol and its name from a JSON file, or from inline JSON (text that begins with a brace)."""
    fields = json_argument(text, "--protocol")
    name = fields.pop("name", "custom" if text.lstrip().startswith("{") else Path(text).stem)
    return name, read_part(EvalProtocol, fields, f"protocol {name}")


def sample_seed(seed: int, run: str, benchmark: str, question_id: str, sample_index: int) -> int:
    """The random seed of one sample, 63 bits, derived only from the sample's identity.

    So shards, batch sizes, request order and reruns don't change it, and no two samples share a seed. (The authors'
    script draws unseeded numbers and uses the same one for every question of a pass.)
    """
    key = json.dumps([seed, run, benchmark, question_id, sample_index], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def fingerprint(value: Any) -> str:
    """A short hash of a JSON value, equal if and only if the values are."""
    return json_sha256(value)[:16]


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that determine the completions: all except the versions and machines that generated them."""
    return {key: value for key, value in settings.items() if key != "environments"}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings with different values, by key (`protocol.temperature`), as (value in one, value in other).

    Not compared are the versions and machines that generated the completions, nor settings that one of the two, from an
    earlier version, did not record.
    """
    a, b = (
        {**comparable(each), **{f"protocol.{key}": value for key, value in (each.get("protocol") or {}).items()}}
        for each in (one, other)
    )
    keys = [key for key in {**b, **a} if key != "protocol" and not (key in LATER and (key in a) != (key in b))]
    return {key: (a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)}


def check_made_with(settings: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise UserError unless the completions' settings match every requested one; other settings are not compared.

    For the authors' released completions, only the settings in their file names are compared. The error names both
    values.
    """
    protocol, made = asked.get("protocol") or {}, settings.get("protocol") or {}
    wanted = {*asked, *(f"protocol.{key}" for key in protocol)}
    if settings.get("source") == "released":
        wanted &= {*settings, *(f"protocol.{key}" for key in made if key != "name")}
    different = {key: pair for key, pair in differing(settings, asked).items() if key in wanted}
    if different:
        there, here = (", ".join(f"{key} {pair[side]!r}" for key, pair in different.items()) for side in (0, 1))
        raise UserError(
            f"the completions were made with {there}, but --config requires {here}: give other "
            "completions, or change --config"
        )


def model_fingerprint(model_dir: str | Path) -> str:
    """Hash a model folder: configuration and tokenizer completely, the weights by their size and 16 samples.

    It distinguishes a retrained model from its predecessor at the same path without reading gigabytes. For a hub id, it
    is the hash of the id (its revision is a separate setting).
    """
    folder = Path(model_dir)
    digest = hashlib.sha256()
    if not folder.is_dir():
        return hashlib.sha256(str(model_dir).encode()).hexdigest()[:16]
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".jinja", ".model"))
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        block = size if path.suffix != ".safetensors" else min(size, 1 << 20)
        pieces = 1 if block == size else 16
        with path.open("rb") as handle:
            for piece in range(pieces):
                handle.seek((size - block) * piece // max(pieces - 1, 1))
                digest.update(handle.read(block))
    return digest.hexdigest()[:16]


def make_table(rows: Iterable[dict], settings: dict[str, Any]) -> "pyarrow.Table":
    """Make a table with the settings in its metadata from rows (one dict per sample, keys as in COLUMNS)."""
    import pyarrow

    fields = {name: getattr(pyarrow, kind)() for name, kind in COLUMNS.items()}
    schema = pyarrow.schema(fields, metadata={METADATA_KEY: json.dumps(settings, ensure_ascii=False)})
    return pyarrow.Table.from_pylist(list(rows), schema=schema)


def table_settings(path: str | Path) -> dict[str, Any]:
    """The settings in the metadata of one of our Parquet files; {} if it has none."""
    from pyarrow import parquet

    return _settings_in(parquet.read_schema(path))


def _settings_in(schema: "pyarrow.Schema") -> dict[str, Any]:
    return json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))


def read_unless_damaged(read: Callable[[Path], Read], path: Path) -> Read | None:
    """Read a Parquet file; None, with a message, if a failed disk or node left it damaged."""
    import pyarrow

    try:
        return read(path)
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # a disk error, not bad content
            raise
        print(f"{path} is damaged and is generated again: {error!s:.200}", file=sys.stderr, flush=True)
        return None


class PartStore:
    """The finished parts of an incomplete completions file, in the folder `<output>.parts/`.

    Parts are in a subfolder named by the fingerprint of their settings, so parts of different protocols, models or
    seeds never mix. Any number of attempts may add any number of parts; a sample that occurs twice counts once.
    """

    def __init__(self, output: str | Path, settings: dict[str, Any]):
        self.root = Path(f"{output}.parts")
        self.settings = settings
        self.folder = self.root / fingerprint(settings)

    def others(self) -> list[Path]:
        """Folders of parts with other settings."""
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if path.is_dir() and path != self.folder)

    def add(self, rows: Sequence[dict], environment: dict[str, str]) -> None:
        """Write finished rows as one more part; `environment` names the versions and the device that generated them."""
        if rows:
            table = make_table(rows, {**self.settings, "environments": [environment]})
            write_parquet(table, self.folder / f"part-{uuid.uuid4().hex}.parquet", compression="zstd")

    def read(self) -> tuple[dict[tuple[str, int], dict], list[dict[str, str]]]:
        """The finished rows by (question id, sample index), and the distinct environments that generated them.

        A damaged part is deleted: its samples are generated again.
        """
        from pyarrow import parquet

        rows: dict[tuple[str, int], dict] = {}
        environments: list[dict[str, str]] = []
        for path in sorted(self.folder.glob("part-*.parquet")):
            found = read_unless_damaged(parquet.read_table, path)
            if found is None:
                path.unlink()
                continue
            for row in found.to_pylist():
                rows.setdefault((row["question_id"], row["sample_index"]), row)
            _add_new(environments, _settings_in(found.schema).get("environments", []))
        return rows, environments

    def remove(self) -> None:
        """Delete these parts, and the folder if it is then empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()


def read_completions(paths: Sequence[str | Path]) -> tuple["pandas.DataFrame", dict[str, Any]]:
    """Read completions, from one file or several shards of one generation, sorted by benchmark, question and sample.

    Accepts our Parquet files, or the authors' released JSONL files, for which token_count and finish_reason are empty.

    Returns:
        The samples, with the reference answers if every file has them, and the settings that generated them.

    Raises:
        UserError: a file that is not one of these, files with different settings, or a sample that occurs twice.
    """
    import pandas

    if not paths:
        raise UserError("no completions file was given")
    frames: list[pandas.DataFrame] = []
    settings: dict[str, Any] | None = None
    environments: list[dict[str, str]] = []
    for path in map(Path, paths):
        if path.suffix == ".jsonl":
            rows, found = read_released(path)
            frame = pandas.DataFrame(rows, columns=[*COLUMNS, GOLD])
        else:
            frame = read_table(path, COLUMNS, "completions", optional=(GOLD,)).to_pandas()
            found = table_settings(path)
        if settings is None:
            settings = comparable(found)
        elif different := differing(found, settings):
            keys = ", ".join(sorted(different))
            raise UserError(f"{path} and {paths[0]} were made with different settings: they differ in {keys}")
        _add_new(environments, found.get("environments", []))
        frames.append(frame)
    wanted = [*COLUMNS, *([GOLD] if all(GOLD in frame for frame in frames) else [])]
    samples = pandas.concat([frame[wanted] for frame in frames], ignore_index=True)
    twice = samples[samples.duplicated(KEY)]
    if len(twice):
        row = twice.iloc[0]
        raise UserError(
            f"{len(twice)} samples occur twice in the given files, the first being {row.benchmark} question "
            f"{row.question_id} sample {row.sample_index}: give each shard once"
        )
    return samples.sort_values(KEY, ignore_index=True), {**(settings or {}), "environments": environments}


def digest(samples: "pandas.DataFrame") -> str:
    """Hash the completions and reference answers, to tie grades to the completions that they belong to."""
    result = hashlib.sha256()
    columns = [*KEY, GOLD, "completion"]
    for row in samples.sort_values(KEY)[columns].itertuples(index=False):
        result.update(json.dumps([row[0], row[1], int(row[2]), row[3], row[4]], ensure_ascii=True).encode())
    return result.hexdigest()[:16]


def _add_new(environments: list[dict[str, str]], more: Iterable[dict[str, str]]) -> None:
    for environment in more:
        if environment not in environments:
            environments.append(environment)


def read_table(path: str | Path, columns: Iterable[str], kind: str, optional: Sequence[str] = ()) -> "pyarrow.Table":
    """Read columns of a Parquet file, and the `optional` ones that it has.

    Raises UserError: the file doesn't exist, is not Parquet, or lacks a column.
    """
    import pyarrow
    from pyarrow import parquet

    if not Path(path).is_file():
        raise UserError(f"no such {kind} file: {path}")
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a Parquet file, or cut short: {error!s:.300}") from error
    columns = [*columns, *(name for name in optional if name in table.column_names)]
    for column in columns:
        count = table.column_names.count(column)
        if count != 1:
            raise UserError(f"{path} is not a {kind} file: it has {count or 'no'} column{'s' * (count > 1)} {column}")
        if column in TEXTS and (empty := table.column(column).null_count):
            row = table.column(column).is_null().to_pylist().index(True) + 1
            raise UserError(f"{path} has no {column} in {empty} of {table.num_rows} rows, the first of them row {row}")
    return table.select(columns)
