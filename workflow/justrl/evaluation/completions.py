"""The completions file: one row per sample, with the settings that generated it.

The settings are JSON in the Parquet schema's metadata, under `justrl`. Two files belong together if and only if the
fingerprints of their settings agree. A shard's number is not one of the settings.
"""

import hashlib
import json
import re
import shutil
import sys
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from justrl.errors import UserError
from justrl.io import json_sha256, write_parquet

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
# `thunlp/JustRL`'s released generations: {task}_t{temperature}_p{top_p}_n{n}-MNT{max_tokens}.jsonl
_RELEASED_NAME = re.compile(r"(?P<task>.+)_t(?P<t>[\d.]+)_p(?P<p>[\d.]+)_n(?P<n>\d+)-MNT(?P<max>\d+)\.jsonl$")
_RELEASED_BENCHMARKS = {"aime24": "aime", "math-500": "math500", "olympiad-bench": "olympiad"}


def fingerprint(value: Any) -> str:
    """A short hash of a JSON value, equal if and only if the values are."""
    return json_sha256(value)[:16]


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that determine the completions: all except the versions and machines that generated them."""
    return {key: value for key, value in settings.items() if key != "environments"}


def made_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two files have the same settings, ignoring settings that an earlier version did not record."""
    recorded = LATER - (LATER & one.keys() & other.keys())
    return all(one.get(key) == other.get(key) for key in (one.keys() | other.keys()) - recorded)


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

    metadata = parquet.read_schema(path).metadata or {}
    return json.loads(metadata.get(METADATA_KEY, b"{}"))


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

        An unreadable part, such as one left by a failed disk or node, is deleted: its samples are generated again.
        """
        import pyarrow
        from pyarrow import parquet

        rows: dict[tuple[str, int], dict] = {}
        environments: list[dict[str, str]] = []
        for path in sorted(self.folder.glob("part-*.parquet")) if self.folder.is_dir() else []:
            try:
                found, made_by = parquet.read_table(path).to_pylist(), table_settings(path).get("environments", [])
            except (pyarrow.ArrowException, OSError) as error:
                if getattr(error, "errno", None):  # a disk error, not bad content
                    raise
                print(f"{path} is damaged and is generated again: {error!s:.200}", file=sys.stderr, flush=True)
                path.unlink()
                continue
            for row in found:
                rows.setdefault((row["question_id"], row["sample_index"]), row)
            _add_new(environments, made_by)
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
    settings: dict[str, Any] = {}
    first: Path | None = None
    environments: list[dict[str, str]] = []
    for path in map(Path, paths):
        if path.suffix == ".jsonl":
            frame, found = _read_released(path)
        else:
            frame = read_table(path, COLUMNS, "completions", optional=(GOLD,)).to_pandas()
            found = table_settings(path)
        _add_new(environments, found.get("environments", []))
        found = comparable(found)
        if first is not None and not made_alike(found, settings):
            different = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
            raise UserError(
                f"{path} and {first} were made with different settings: they differ in {', '.join(different)}"
            )
        if first is None:
            settings, first = found, path
        frames.append(frame)
    with_golds = all(GOLD in frame for frame in frames)
    wanted = [*COLUMNS, *([GOLD] if with_golds else [])]
    samples = pandas.concat([frame[wanted] for frame in frames], ignore_index=True)
    twice = samples[samples.duplicated(KEY)]
    if len(twice):
        row = twice.iloc[0]
        raise UserError(
            f"{len(twice)} samples occur twice in the given files, the first being {row.benchmark} question "
            f"{row.question_id} sample {row.sample_index}: give each shard once"
        )
    return samples.sort_values(KEY, ignore_index=True), {**settings, "environments": environments}


def match_questions(samples: "pandas.DataFrame", questions: Sequence) -> "pandas.DataFrame":
    """Replace the authors' question numbers in released samples by the ids of our benchmark.

    Questions are matched by their text, ignoring white space, since the hub's copies may have another order.
    """
    ids = {" ".join(question.question.split()): question.id for question in questions}
    found = samples["question"].map(lambda text: ids.get(" ".join(text.split())))
    unknown = samples[found.isna()]
    if len(unknown):
        row = unknown.iloc[0]
        raise UserError(f"the benchmark has no question like number {row.question_id} of {row.benchmark}: other data?")
    return samples.assign(question_id=found).sort_values(KEY, ignore_index=True)


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


def _read_released(path: Path) -> tuple["pandas.DataFrame", dict[str, Any]]:
    """Read one of the authors' JSONL files: {example_id, prompt, answer, seed, response} per line.

    A question's samples are numbered by the first appearance of their seed in the file. Boxes and dollar signs are
    removed from reference answers, as for every benchmark here.
    """
    import pandas

    from justrl.data.golds import clean_gold

    if not path.is_file():
        raise UserError(f"no such completions file: {path}")
    rows: list[dict[str, Any]] = []
    order: dict[int, int] = {}
    match = _RELEASED_NAME.search(path.name)
    task = match["task"].lower() if match else path.stem.lower()
    benchmark = _RELEASED_BENCHMARKS.get(task, task)
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
                seed = int(item["seed"])
                if not all(isinstance(item[key], str) for key in ("prompt", "answer", "response")):
                    raise TypeError("prompt, answer and response must be text")
                rows.append(
                    {
                        "benchmark": benchmark,
                        "question_id": str(item["example_id"]),
                        "sample_index": order.setdefault(seed, len(order)),
                        "seed": seed,
                        "question": _without_suffix(item["prompt"]),
                        GOLD: clean_gold(item["answer"]),
                        "prompt": item["prompt"],
                        "completion": item["response"],
                        "token_count": None,
                        "finish_reason": None,
                        "model": path.parent.name,
                        "model_revision": None,
                    }
                )
            except (KeyError, ValueError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{path}, line {number} is not of the released form "
                    f"(example_id, prompt, answer, seed, response): {type(error).__name__} {error}"
                ) from None
    if not rows:
        raise UserError(f"{path} holds no completions")
    settings: dict[str, Any] = {"source": "released", "model": path.parent.name}
    if match:
        sampling = {"temperature": float(match["t"]), "top_p": float(match["p"]), "max_tokens": int(match["max"])}
        settings["protocol"] = {"name": "released", **sampling, "samples": int(match["n"])}
    return pandas.DataFrame(rows, columns=[*COLUMNS, GOLD]), settings


def _without_suffix(prompt: str) -> str:
    """The question of a released prompt: the text before the instruction that the authors append after one space."""
    return prompt.rpartition(" Please reason step by step")[0] or prompt
