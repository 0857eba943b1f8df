"""The completions file: one row per sample, and beside it the settings that made it.

Settings travel as JSON in the Parquet schema's metadata under `justrl`. Two files belong together if and only if the
fingerprints of their settings agree; a shard's number is no part of it.
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
# The right answers, which the benchmark's file has alone; completions of earlier versions and released ones hold them.
GOLD = "answer"
# What must stand in every row of a completions or benchmark file.
TEXTS = {"benchmark", "question_id", "question", GOLD, "completion"}
# `thunlp/JustRL`'s released generations: {task}_t{temperature}_p{top_p}_n{n}-MNT{max_tokens}.jsonl
_RELEASED_NAME = re.compile(r"(?P<task>.+)_t(?P<t>[\d.]+)_p(?P<p>[\d.]+)_n(?P<n>\d+)-MNT(?P<max>\d+)\.jsonl$")
_RELEASED_BENCHMARKS = {"aime24": "aime", "math-500": "math500", "olympiad-bench": "olympiad"}


def fingerprint(value: Any) -> str:
    """A short hash of a JSON value: equal if and only if the values are."""
    return json_sha256(value)[:16]


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what completions are: all but the versions and machines that made them."""
    return {key: value for key, value in settings.items() if key != "environments"}


def made_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two files have the same settings; what an earlier version did not record yet is not compared."""
    recorded = LATER - (LATER & one.keys() & other.keys())
    return all(one.get(key) == other.get(key) for key in (one.keys() | other.keys()) - recorded)


def model_fingerprint(model_dir: str | Path) -> str:
    """A hash of a model folder: its configuration and tokenizer whole, of its weights the size and 16 samples.

    It tells a retrained model from the one before at the same path without reading gigabytes. A hub id hashes as
    itself (its revision is a setting of its own).
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
    """Rows (one dict per sample, keys as in COLUMNS) as a table that carries the settings."""
    import pyarrow

    fields = {name: getattr(pyarrow, kind)() for name, kind in COLUMNS.items()}
    schema = pyarrow.schema(fields, metadata={METADATA_KEY: json.dumps(settings, ensure_ascii=False)})
    return pyarrow.Table.from_pylist(list(rows), schema=schema)


def table_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a Parquet file of ours carries; {} if it has none."""
    from pyarrow import parquet

    metadata = parquet.read_schema(path).metadata or {}
    return json.loads(metadata.get(METADATA_KEY, b"{}"))


class PartStore:
    """What is finished of a completions file that is not whole yet, kept beside it in `<output>.parts/`.

    Parts lie in a folder named by the fingerprint of their settings, so those of another protocol, model or seed are
    never mixed in. Any number of parts may be added by any number of tries; a sample found twice counts once.
    """

    def __init__(self, output: str | Path, settings: dict[str, Any]):
        self.root = Path(f"{output}.parts")
        self.settings = settings
        self.folder = self.root / fingerprint(settings)

    def others(self) -> list[Path]:
        """Folders of parts that were made under other settings."""
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if path.is_dir() and path != self.folder)

    def add(self, rows: Sequence[dict], environment: dict[str, str]) -> None:
        """Write finished rows as one more part; `environment` names the versions and the device that made them."""
        if rows:
            table = make_table(rows, {**self.settings, "environments": [environment]})
            write_parquet(table, self.folder / f"part-{uuid.uuid4().hex}.parquet", compression="zstd")

    def read(self) -> tuple[dict[tuple[str, int], dict], list[dict[str, str]]]:
        """The finished rows by (question id, sample index), and the different environments that made them.

        A part that cannot be read, as a lost disk or node leaves one, is removed: its samples are made again.
        """
        import pyarrow
        from pyarrow import parquet

        rows: dict[tuple[str, int], dict] = {}
        environments: list[dict[str, str]] = []
        for path in sorted(self.folder.glob("part-*.parquet")) if self.folder.is_dir() else []:
            try:
                found, made_by = parquet.read_table(path).to_pylist(), table_settings(path).get("environments", [])
            except (pyarrow.ArrowException, OSError) as error:
                if getattr(error, "errno", None):  # of the disk, not of the file's content
                    raise
                print(f"{path} is damaged and is generated again: {error!s:.200}", file=sys.stderr, flush=True)
                path.unlink()
                continue
            for row in found:
                rows.setdefault((row["question_id"], row["sample_index"]), row)
            _add_new(environments, made_by)
        return rows, environments

    def remove(self) -> None:
        """Delete these parts, and the folder if no others are left in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()


def read_completions(paths: Sequence[str | Path]) -> tuple["pandas.DataFrame", dict[str, Any]]:
    """Read completions, of one file or of several shards of one generation, sorted by benchmark, question and sample.

    Takes our Parquet files, or the authors' released JSONL files, which leave token_count and finish_reason empty.

    Returns:
        The samples, with the right answers where each file has them, and the settings they were made with.

    Raises:
        UserError: a file that is not one of these, files made under different settings, or a sample that occurs twice.
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
    """Give released samples, numbered by the authors, the ids that a benchmark of ours has for the same questions.

    Questions are found by their text, white space aside, since the hub's copies need not have the authors' order.
    """
    ids = {" ".join(question.question.split()): question.id for question in questions}
    found = samples["question"].map(lambda text: ids.get(" ".join(text.split())))
    unknown = samples[found.isna()]
    if len(unknown):
        row = unknown.iloc[0]
        raise UserError(f"the benchmark has no question like number {row.question_id} of {row.benchmark}: other data?")
    return samples.assign(question_id=found).sort_values(KEY, ignore_index=True)


def digest(samples: "pandas.DataFrame") -> str:
    """A hash of answers and right answers, by which grades are tied to the completions they judge."""
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
    """Read columns of a Parquet file, `optional` ones where it has them.

    Raises UserError: what is absent, not Parquet, or lacks a column.
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
    """Read one of the authors' JSONL files: {example_id, prompt, answer, seed, response} a line.

    A question's samples are numbered in the order of their seeds' first appearance in the file. Golds lose the box and
    the dollar signs that some of theirs have, as every benchmark's do here.
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
    """The question in a released prompt: all before the instruction that the authors append after one space."""
    return prompt.rpartition(" Please reason step by step")[0] or prompt
