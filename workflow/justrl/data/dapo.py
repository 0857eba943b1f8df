"""DAPO-Math-17k (or a set of its kind) as training prompts: unwrapped, without duplicates, within the prompt length.

The published file holds about 17 thousand questions a hundred times over, each inside an instruction that asks for
`Answer:` where the paper's prompt asks for a box, some with two answers. Two passes over the rows, a batch at a time:
the first keeps hashes and decides, the second writes the chosen rows. So memory is a batch and some 40 bytes a row,
whatever the length of the questions.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from justrl.data import columns, tables
from justrl.data.duplicates import CACHED_TEXTS, Choice, choose_rows
from justrl.data.lengths import PromptLength
from justrl.data.lock import sha256_file
from justrl.data.prompts import DEFAULT_SEPARATOR, DEFAULT_SUFFIX, apply_chat_template
from justrl.data.sources import DIRECT, Hub, local_source, locate
from justrl.errors import UserError
from justrl.io import atomic_write, write_json

# What DAPO puts around every question, to the character (BytedTsinghua-SIA/DAPO-Math-17k).
WRAPPER_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
WRAPPER_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'

TRAIN_SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "ability": pa.string(),
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct({"index": pa.int64(), "question": pa.string()}),
    }
)
"""verl's schema of a training file."""

_LISTED_CONFLICTS = 50


def unwrap(text: str) -> str:
    """Take DAPO's instruction off a question: the exact prefix and the exact suffix, each where it is there."""
    return text.removeprefix(WRAPPER_PREFIX).removesuffix(WRAPPER_SUFFIX)


def process_dapo_dataset(
    dataset_name: str | Path,
    output_dir: str | Path,
    *,
    tokenizer: str | Path | None = None,
    max_prompt_length: int = 1024,
    suffix: str = DEFAULT_SUFFIX,
    separator: str = DEFAULT_SEPARATOR,
    revision: str = "main",
    config: str | None = None,
    split: str = "train",
    question_column: str | None = None,
    answer_column: str | None = None,
    lock: str | Path | None = None,
    hub: Hub = DIRECT,
    remove_duplicates: bool = True,
    remove_contradictions: bool = True,
    batch_size: int = 8192,
) -> dict[str, Any]:
    """Clean a training set, write `train.parquet` (verl's schema) and `data_card.json`, return the card.

    `dataset_name` is a hub id or the path of a file or folder (Parquet, JSON, JSON lines). Rows without a question or
    an answer go; of questions equal up to white space the first stays; questions with contradictory answers go
    altogether; so do prompts of more than `max_prompt_length` tokens under the chat template of `tokenizer`, a
    model's folder (without one, none is dropped, and the card says so). The order is that of first appearance. Copies
    and contradictory questions can be kept (`remove_duplicates`, `remove_contradictions`), for a run on the file as is.

    Raises UserError for unknown columns (naming what is there and what is accepted), an empty set, an unreadable file.
    """
    source = local_source(dataset_name) if Path(dataset_name).exists() else None
    source = source or locate("dataset", str(dataset_name), revision, config=config, lock=lock, hub=hub)
    place = dataset_name if Path(dataset_name).is_file() else source.folder
    reader = Reader.of(
        tables.find_data_files(place, config, split), question_column, answer_column, separator + suffix, batch_size
    )
    length = PromptLength(tokenizer) if tokenizer is not None else None
    wrapper: Counter[str] = Counter()
    choice = choose_rows(
        (batch[:2] for batch in reader.batches("reading", wrapper)), remove_duplicates, remove_contradictions
    )
    output = Path(output_dir) / "train.parquet"
    formatting = Formatting(suffix, separator, max_prompt_length, length)
    written = _write_rows(reader.batches("writing"), choice, output, formatting)
    card = {
        "dataset": source.record()
        | {"split": split, "columns": {"question": reader.question, "answer": reader.answer}},
        "tokenizer": length.record if length else None,
        "prompt": {"suffix": suffix, "separator": separator, "max_prompt_length": max_prompt_length},
        "removed": {"duplicates": remove_duplicates, "contradictions": remove_contradictions},
        "rows": choice.counts | {"overlong": written.overlong, "out": written.rows},
        "wrapper": {kind: wrapper[kind] for kind in ("full", "partial", "none")},
        "prompt_tokens": _summary(written.lengths),
        "conflicting_questions": [{"question": q, "answers": sorted(a)} for q, a in written.conflicts.values()],
        "output": {"file": output.name, "sha256": sha256_file(output), "bytes": output.stat().st_size},
        "versions": {name: version(name) for name in ("datasets", "pyarrow", "transformers")},
    }
    write_json(output.with_name("data_card.json"), card)
    return card


class Batch(NamedTuple):
    """Some rows: questions without wrapper, cleaned golds, the name of where each comes from."""

    questions: list[str | None]
    golds: list[str | None]
    sources: list[str]


@dataclass(frozen=True)
class Reader:
    """Reads the rows of data files in batches, as often as asked."""

    files: Sequence[Path]
    question: str
    answer: str
    has_source: bool
    instruction: str
    batch_size: int

    @classmethod
    def of(
        cls,
        files: Sequence[Path],
        question_column: str | None,
        answer_column: str | None,
        instruction: str = "",
        batch_size: int = 8192,
    ) -> "Reader":
        """Find the columns of question and answer. `instruction` is taken off the end of questions that have it."""
        found, where = tables.column_names(files), str(files[0])
        question = columns.pick_column(found, columns.QUESTION_COLUMNS, question_column, "question", where)
        answer = columns.pick_column(found, columns.ANSWER_COLUMNS, answer_column, "answer", where)
        return cls(files, question, answer, "data_source" in found, instruction, batch_size)

    def batches(self, what: str, wrapper: Counter[str] | None = None) -> Iterator[Batch]:
        """Yield all rows with a progress bar; `wrapper` counts how their questions were wrapped."""
        wanted = list(dict.fromkeys(name.split(".")[0] for name in (self.question, self.answer)))
        wanted += ["data_source"] if self.has_source else []
        total = tables.count_rows(self.files)
        with tqdm(total=total, desc=what, unit=" rows", unit_scale=True, mininterval=1.0) as bar:
            for table in tables.stream_tables(self.files, wanted, self.batch_size):
                texts = columns.question_texts(columns.take_column(table, self.question))
                golds = columns.answer_texts(columns.take_column(table, self.answer))
                bare = [_bare_question(text, self.instruction) if text else (None, "none") for text in texts]
                if wrapper is not None:
                    wrapper.update(kind for _, kind in bare)
                names = table.column("data_source").to_pylist() if self.has_source else [None] * len(texts)
                yield Batch(
                    [question for question, _ in bare],
                    [gold and _clean_gold(gold) for gold in golds],
                    [str(name or "math") for name in names],
                )
                bar.update(table.num_rows)


@lru_cache(CACHED_TEXTS)
def _bare_question(text: str, instruction: str) -> tuple[str, str]:
    ends = text.startswith(WRAPPER_PREFIX) + text.endswith(WRAPPER_SUFFIX)
    return unwrap(text).removesuffix(instruction), ("none", "partial", "full")[ends]


_clean_gold = lru_cache(CACHED_TEXTS)(columns.clean_gold)


@dataclass(frozen=True)
class Formatting:
    """How questions become prompts, and which of those are too long."""

    suffix: str
    separator: str
    max_prompt_length: int
    length: PromptLength | None


@dataclass
class _Written:
    """What the second pass wrote and saw: lengths are those of all measured prompts, the dropped ones included."""

    rows: int = 0
    overlong: int | None = None
    lengths: list[int] = field(default_factory=list)
    conflicts: dict[int, tuple[str, set[str]]] = field(default_factory=dict)

    def note_conflict(self, group: int, question: str, gold: str) -> None:
        """Remember a gold of a contradictory question, of the first few such questions."""
        if group in self.conflicts or len(self.conflicts) < _LISTED_CONFLICTS:
            self.conflicts.setdefault(group, (question, set()))[1].add(gold)


def _write_rows(batches: Iterator[Batch], choice: Choice, output: Path, formatting: Formatting) -> _Written:
    """Write the chosen rows whose prompts are not too long; the file appears whole or not at all."""
    written = _Written(overlong=None if formatting.length is None else 0)
    position = 0
    with atomic_write(output, "wb") as handle, pq.ParquetWriter(handle, TRAIN_SCHEMA) as writer:
        for batch in batches:
            rows = slice(position, position + len(batch.questions))
            position = rows.stop
            for i in np.flatnonzero(choice.conflicting[rows]):
                written.note_conflict(int(choice.group[rows][i]), batch.questions[i], batch.golds[i])
            table = _format_rows(batch, np.flatnonzero(choice.keep[rows]), formatting, written)
            if table.num_rows:
                writer.write_table(table)
        if not written.rows:
            raise UserError(f"no question is left of {position} rows ({choice.counts}, overlong {written.overlong})")
    return written


def _format_rows(batch: Batch, chosen: np.ndarray, formatting: Formatting, written: _Written) -> pa.Table:
    """Return the chosen rows of a batch in verl's schema, and count them."""
    prompts = {int(i): apply_chat_template(batch.questions[i], formatting.suffix, formatting.separator) for i in chosen}
    if formatting.length is not None and prompts:
        lengths = formatting.length(list(prompts.values()))
        written.lengths += lengths
        fits = [length <= formatting.max_prompt_length for length in lengths]
        written.overlong += fits.count(False)
        prompts = {i: prompt for (i, prompt), fit in zip(prompts.items(), fits, strict=True) if fit}
    start = written.rows
    written.rows += len(prompts)
    return pa.Table.from_pydict(
        {
            "data_source": [batch.sources[i] for i in prompts],
            "prompt": list(prompts.values()),
            "ability": ["MATH"] * len(prompts),
            "reward_model": [{"style": "rule", "ground_truth": batch.golds[i]} for i in prompts],
            "extra_info": [{"index": start + n, "question": batch.questions[i]} for n, i in enumerate(prompts)],
        },
        schema=TRAIN_SCHEMA,
    )


def _summary(lengths: list[int]) -> dict[str, float] | None:
    """Return mean, percentiles and maximum of prompt lengths in tokens, or None if none was measured."""
    if not lengths:
        return None
    p50, p95, p99 = (float(p) for p in np.percentile(lengths, [50, 95, 99]))
    return {"mean": float(np.mean(lengths)), "p50": p50, "p95": p95, "p99": p99, "max": max(lengths)}
