"""Convert DAPO-Math-17k (or a similar set) to training prompts: unwrapped, deduplicated, limited in prompt length.

The published file repeats about 17 thousand questions a hundred times. Each is inside an instruction that asks for
`Answer:`, where the paper's prompt asks for a box, and some have two answers. The rows are read twice, in batches: the
first pass keeps hashes and decides, the second writes the chosen rows. So memory is one batch plus about 40 bytes per
row, whatever the length of the questions.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from justrl.config import LocalDataset
from justrl.config.files import find
from justrl.data import tables
from justrl.data.distinct import DistinctTexts
from justrl.data.duplicates import Choice, Hashes, choose_rows, question_hashes, text_hash
from justrl.data.golds import CONVERTED, MOST_UNUSABLE, UNUSABLE, GoldCounts, first_answers, read_gold
from justrl.data.lengths import PromptLength
from justrl.data.messages import DEFAULT_SEPARATOR, DEFAULT_SUFFIX, build_messages
from justrl.data.sources import DIRECT, Hub, local_source, locate
from justrl.errors import UserError
from justrl.io import atomic_write, file_sha256, is_hub_id, write_json
from justrl.verifiers.votes import vote

# DAPO's instruction around every question, verbatim (BytedTsinghua-SIA/DAPO-Math-17k).
WRAPPER_PREFIX = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
WRAPPER_SUFFIX = '\n\nRemember to put your answer on its own line after "Answer:".'

# Parts of the instruction that remain in a question if line ends, spaces or copies prevent its full removal.
_REMAINS = ("should be of the form answer: $answer", 'remember to put your answer on its own line after "answer:"')
_MOST_REMAINS = 0.001
"""Share of the rows that may keep some of the instruction: more of them is another wrapper than the one known here."""

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

KINDS = ("none", "partial", "full")
"""How a question can be wrapped: by how many ends of the instruction."""
_NOTES = CONVERTED + UNUSABLE
_GOLD_FACTS = np.dtype([("gold", np.uint64), ("note", np.int8)])
_QUESTION_FACTS = np.dtype([("exact", np.uint64), ("normal", np.uint64), ("kind", np.int8), ("remains", bool)])


def unwrap(text: str) -> str:
    """Remove DAPO's instruction from a question: the exact prefix and the exact suffix, if present."""
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
    subset: str | None = None,
    split: str = "train",
    question_column: str | None = None,
    answer_column: str | None = None,
    lock: str | Path | None = None,
    hub: Hub = DIRECT,
    remove_wrapper: bool = True,
    remove_duplicates: bool = True,
    remove_contradictions: bool = True,
    batch_size: int = 32_768,
) -> dict[str, Any]:
    """Clean a training set, write `train.parquet` (verl's schema) and `data_card.json`, and return the card.

    `dataset_name` is a hub id or the path of a file or folder (Parquet, JSON, JSON lines, CSV). Rows without a question
    or an answer are dropped. Of questions that are equal up to white space, the first is kept. Questions with
    contradictory answers are all dropped. Prompts of more than `max_prompt_length` tokens under the chat template of
    `tokenizer`, a model's folder, are dropped, too; without a tokenizer none is, and the card records that. Rows are in
    the order of first appearance. The options `remove_...` can keep the wrapper, copies and contradictory questions,
    for a run on the file as published.

    Raises UserError for unknown columns (listing the found and the accepted ones), an empty set or an unreadable file;
    if parts of the wrapper remain in more than a thousandth of the rows; and if more than a hundredth of the reference
    answers are unusable (`data.golds`). Fewer unusable ones are dropped and counted.
    """
    if not Path(dataset_name).exists() and not is_hub_id(dataset_name):
        raise UserError(f"no such file or folder: {dataset_name}; name a data set on the hub owner/name")
    source = local_source(dataset_name) if Path(dataset_name).exists() else None
    source = source or locate("dataset", str(dataset_name), revision, subset=subset, lock=lock, hub=hub)
    place = dataset_name if Path(dataset_name).is_file() else source.folder
    files = tables.find_data_files(place, subset, split)
    found, where = tables.column_names(files), str(files[0])
    question = tables.pick_column(found, tables.QUESTION_COLUMNS, question_column, "question", where)
    answer = tables.pick_column(found, tables.ANSWER_COLUMNS, answer_column, "answer", where)
    counts = GoldCounts()
    reader = Reader(files, question, answer, "data_source" in found, separator + suffix, batch_size, remove_wrapper)
    length = PromptLength(tokenizer) if tokenizer is not None else None
    wrapper = Wrapped()
    choice = choose_rows(reader.hashes(wrapper, counts), remove_duplicates, remove_contradictions)
    counts.check(where, MOST_UNUSABLE)
    if remove_wrapper:
        wrapper.check(choice.counts["in"], where)
    output = Path(output_dir) / "train.parquet"
    formatting = Formatting(suffix, separator, max_prompt_length, length)
    written = _write_rows(reader.rows(choice.keep | choice.shown), choice, output, formatting)
    card = {
        "dataset": source.record()
        | {"split": split, "columns": {"question": reader.question, "answer": reader.answer}},
        "tokenizer": length.record if length else None,
        "prompt": {"suffix": suffix, "separator": separator, "max_prompt_length": max_prompt_length},
        "removed": {
            "wrapper": remove_wrapper,
            "duplicates": remove_duplicates,
            "contradictions": remove_contradictions,
        },
        "rows": choice.counts | {"overlong": written.overlong if length else None, "out": written.rows},
        "wrapper": {kind: wrapper.kinds[kind] for kind in ("full", "partial", "none")} | {"remains": wrapper.remains},
        "golds": counts.as_dict(),
        "prompt_tokens": _summary(written.lengths),
        "conflicting_questions": [{"question": q, "answers": sorted(a)} for q, a in written.conflicts.values()],
        "output": {"file": output.name, "sha256": file_sha256(output), "bytes": output.stat().st_size},
        "versions": {name: version(name) for name in ("pyarrow", "tokenizers")},
    }
    write_json(output.with_name("data_card.json"), card)
    return card


def look_at_dataset(entry: LocalDataset) -> str:
    """Describe a local training set: number of rows and first answers.

    Raises UserError if its first rows are unreadable.
    """
    files = tables.find_data_files(find(entry.path), split=entry.split)
    found = tables.column_names(files)
    question = tables.pick_column(found, tables.QUESTION_COLUMNS, entry.question_column, "question", str(files[0]))
    answer = tables.pick_column(found, tables.ANSWER_COLUMNS, entry.answer_column, "answer", str(files[0]))
    columns = list(dict.fromkeys(column.split(".")[0] for column in (question, answer)))
    table = next(tables.stream_tables(files, columns, batch_size=1000))
    tables.question_texts(tables.take_column(table, question))
    golds = GoldCounts()
    texts = tables.answer_texts(tables.take_column(table, answer))
    read = [golds.read(text or "", row).text for row, text in enumerate(texts, 1)]
    golds.check(str(files[0]), MOST_UNUSABLE)
    return first_answers(tables.count_rows(files), read[:3])


class Batch(NamedTuple):
    """Some rows: their numbers in the data set, questions, cleaned reference answers, and data source names."""

    numbers: np.ndarray
    questions: list[str | None]
    golds: list[str | None]
    sources: list[str]


@dataclass
class Wrapped:
    """Counts how the questions of a file were wrapped, and how many keep parts of the wrapper."""

    kinds: Counter[str] = field(default_factory=Counter)
    remains: int = 0
    example: str = ""

    def add(self, kinds: np.ndarray, remaining: int, example: str) -> None:
        """Count rows by their kind of wrapper (index in KINDS), and those that keep parts of it."""
        for kind, count in zip(KINDS, np.bincount(kinds, minlength=len(KINDS)).tolist(), strict=True):
            self.kinds[kind] += count
        self.remains += remaining
        self.example = self.example or example

    def check(self, rows: int, where: str) -> None:
        """Raise UserError if parts of the wrapper remain in too many rows."""
        if self.remains > _MOST_REMAINS * rows:
            raise UserError(
                f"{where}: DAPO's instruction does not come off whole in {self.remains} of {rows} rows "
                f"({self.remains / rows:.2%}; at most {_MOST_REMAINS:.1%} may keep some of it), the first of them "
                f"{self.example!r:.400}: repair the file, or keep the instruction (--keep-wrapper or "
                "remove_wrapper: false)"
            )


@dataclass(frozen=True)
class Reader:
    """Reads the rows of data files in batches, repeatedly. `instruction` is removed from the end of questions."""

    files: Sequence[Path]
    question: str
    answer: str
    has_source: bool
    instruction: str
    batch_size: int
    remove_wrapper: bool

    def hashes(self, wrapper: Wrapped, counts: GoldCounts) -> Iterator[Hashes]:
        """Yield the hashes of all rows; each distinct text is processed once.

        `wrapper` counts how questions were wrapped, `counts` the kinds of reference answers.
        """
        about_questions = DistinctTexts(self._about_question, _QUESTION_FACTS)
        about_golds = DistinctTexts(_about_gold, _GOLD_FACTS)
        for first, table in self._tables("reading", [self.question, self.answer]):
            questions = tables.question_column(tables.take_column(table, self.question))
            golds = tables.answer_column(tables.take_column(table, self.answer), first + 1)
            facts = about_questions(questions)
            remaining = np.flatnonzero(facts["remains"])
            example = self._bare(questions[int(remaining[0])].as_py())[0] if len(remaining) else ""
            wrapper.add(facts["kind"], len(remaining), example)
            about = about_golds(golds)
            for note in np.unique(about["note"][about["note"] > 0]):
                rows = np.flatnonzero(about["note"] == note)
                row = int(rows[0])
                counts.count(_NOTES[note - 1], first + row + 1, golds[row].as_py(), len(rows))
            yield Hashes(facts["exact"], facts["normal"], about["gold"])

    def rows(self, wanted: np.ndarray) -> Iterator[Batch]:
        """Yield the rows of a mask, in order. Nothing after the last of them is read."""
        columns = [self.question, self.answer] + (["data_source"] if self.has_source else [])
        for first, table in self._tables("writing", columns, int(np.max(np.flatnonzero(wanted), initial=-1)) + 1):
            numbers = first + np.flatnonzero(wanted[first : first + table.num_rows])
            if not len(numbers):
                continue
            chosen = table.take(pa.array(numbers - first))
            questions = tables.question_texts(tables.take_column(chosen, self.question))
            golds = tables.answer_texts(tables.take_column(chosen, self.answer))
            names = chosen.column("data_source").to_pylist() if self.has_source else [None] * len(numbers)
            yield Batch(
                numbers,
                [self._bare(text)[0] if text else None for text in questions],
                [gold and read_gold(gold).text for gold in golds],
                [str(name or "math") for name in names],
            )

    def _tables(self, what: str, columns: Sequence[str], rows: int | None = None) -> Iterator[tuple[int, pa.Table]]:
        """Yield (index of the first row, table), with a progress bar, up to the table that contains row `rows` - 1."""
        wanted = list(dict.fromkeys(name.split(".")[0] for name in columns))
        total, first = tables.count_rows(self.files) if rows is None else rows, 0
        with tqdm(total=total, desc=what, unit=" rows", unit_scale=True, mininterval=1.0) as bar:
            for table in tables.stream_tables(self.files, wanted, self.batch_size):
                if rows is not None and first >= rows:
                    break
                yield first, table
                first += table.num_rows
                bar.update(table.num_rows)

    def _bare(self, text: str) -> tuple[str, int]:
        """Return a question without its wrapper, and the kind of the wrapper (index in KINDS)."""
        ends = text.startswith(WRAPPER_PREFIX) + text.endswith(WRAPPER_SUFFIX)
        text = unwrap(text) if self.remove_wrapper else text
        return text.removesuffix(self.instruction), ends

    def _about_question(self, text: str) -> tuple[int, int, int, bool]:
        question, kind = self._bare(text) if text else ("", 0)
        return (*(question_hashes(question) if question else (0, 0)), kind, _remains(question))


def _about_gold(text: str) -> tuple[int, int]:
    """Return the hash of an answer's value, equal for `7`, `07` and `7.0`, and its note's index from 1 (0: none)."""
    gold = read_gold(text)
    return text_hash(str(vote(gold.text))) if gold.text else 0, _NOTES.index(gold.note) + 1


def _remains(question: str) -> bool:
    plain = " ".join(question.lower().split())
    return any(part in plain for part in _REMAINS)


@dataclass(frozen=True)
class Formatting:
    """How questions become prompts, and which prompts are too long."""

    suffix: str
    separator: str
    max_prompt_length: int
    length: PromptLength | None


@dataclass
class _Written:
    """Counts of the second pass. `lengths` are those of all measured prompts, including the dropped ones."""

    rows: int = 0
    overlong: int = 0
    lengths: list[int] = field(default_factory=list)
    conflicts: dict[int, tuple[str, set[str]]] = field(default_factory=dict)

    def note_conflict(self, group: int, question: str | None, gold: str | None) -> None:
        """Record an answer of a contradictory question, up to _LISTED_CONFLICTS questions."""
        if question and gold and (group in self.conflicts or len(self.conflicts) < _LISTED_CONFLICTS):
            self.conflicts.setdefault(group, (question, set()))[1].add(gold)


def _write_rows(batches: Iterator[Batch], choice: Choice, output: Path, formatting: Formatting) -> _Written:
    """Write the chosen rows whose prompts are short enough, atomically."""
    written = _Written()
    with atomic_write(output, "wb") as handle, pq.ParquetWriter(handle, TRAIN_SCHEMA) as writer:
        for batch in batches:
            for i in np.flatnonzero(choice.shown[batch.numbers]):
                written.note_conflict(int(choice.group[batch.numbers[i]]), batch.questions[i], batch.golds[i])
            table = _format_rows(batch, np.flatnonzero(choice.keep[batch.numbers]), formatting, written)
            if table.num_rows:
                writer.write_table(table)
        if not written.rows:
            raise UserError(
                f"no question is left of {choice.counts['in']} rows ({choice.counts}, overlong {written.overlong})"
            )
    return written


def _format_rows(batch: Batch, chosen: np.ndarray, formatting: Formatting, written: _Written) -> pa.Table:
    """Convert the chosen rows of a batch to verl's schema, and count them."""
    prompts = {int(i): build_messages(batch.questions[i], formatting.suffix, formatting.separator) for i in chosen}
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
    """Return mean, percentiles and maximum of prompt lengths in tokens; None if none was measured."""
    if not lengths:
        return None
    p50, p95, p99 = (float(p) for p in np.percentile(lengths, [50, 95, 99]))
    return {"mean": float(np.mean(lengths)), "p50": p50, "p95": p95, "p99": p99, "max": max(lengths)}
