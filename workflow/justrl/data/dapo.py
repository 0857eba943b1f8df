"""Convert DAPO-Math-17k (or a similar set) to training prompts: unwrapped, deduplicated, limited in prompt length.

The published file repeats about 17 thousand questions a hundred times. Each is inside an instruction that asks for
`Answer:`, where the paper's prompt asks for a box, and some have two answers. The rows are read once, in batches; each
distinct question and answer is processed once and kept in memory, and three numbers for each row.
"""

from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from justrl.config import LocalDataset
from justrl.config.files import find
from justrl.data import tables
from justrl.data.golds import MOST_UNUSABLE, Gold, GoldCounts, first_answers, read_gold
from justrl.data.messages import DEFAULT_SEPARATOR, DEFAULT_SUFFIX, build_messages
from justrl.data.sources import DIRECT, Hub, local_source, locate
from justrl.errors import UserError
from justrl.io import atomic_write, file_sha256, is_hub_id, write_json
from justrl.models.chat_template import ChatTokenizer
from justrl.models.folder import check_download, read_record
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
CACHED_TEXTS = 32_768
"""Texts remembered while streaming: more than DAPO's block of 17,917 rows, so its repetitions are known at sight."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


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
    files = tables.find_data_files(dataset_name if Path(dataset_name).is_file() else source.folder, subset, split)
    found, where = tables.column_names(files), str(files[0])
    question, answer = tables.pick_columns(found, question_column, answer_column, where)
    length = PromptLength(tokenizer) if tokenizer is not None else None

    rows = Rows(separator + suffix, remove_wrapper)
    rows.read(files, question, answer, "data_source" if "data_source" in found else None, batch_size)
    golds = rows.count_golds()
    golds.check(where, MOST_UNUSABLE)
    wrapper = rows.count_wrappers(where)
    kept, counts, conflicts = rows.choose(remove_duplicates, remove_contradictions)
    lengths = rows.prompt_lengths(kept, length, suffix, separator)
    in_limit = kept if lengths is None else kept[lengths <= max_prompt_length]
    overlong = len(kept) - len(in_limit)
    if not len(in_limit):
        raise UserError(f"no question is left of {counts['in']} rows ({counts}, overlong {overlong})")
    output = Path(output_dir) / "train.parquet"
    rows.write(output, in_limit, suffix, separator, batch_size)

    card = {
        "dataset": source.record() | {"split": split, "columns": {"question": question, "answer": answer}},
        "tokenizer": length.record if length else None,
        "prompt": {"suffix": suffix, "separator": separator, "max_prompt_length": max_prompt_length},
        "removed": {
            "wrapper": remove_wrapper,
            "duplicates": remove_duplicates,
            "contradictions": remove_contradictions,
        },
        "rows": counts | {"overlong": overlong if length else None, "out": len(in_limit)},
        "wrapper": wrapper,
        "golds": golds.as_dict(),
        "prompt_tokens": _summary(lengths),
        "conflicting_questions": conflicts,
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
    question, answer = tables.pick_columns(found, entry.question_column, entry.answer_column, str(files[0]))
    columns = list(dict.fromkeys(column.split(".")[0] for column in (question, answer)))
    table = next(tables.stream_tables(files, columns, batch_size=1000))
    tables.question_texts(tables.take_column(table, question))
    golds = GoldCounts()
    texts = tables.answer_texts(tables.take_column(table, answer))
    read = [golds.read(text or "", row).text for row, text in enumerate(texts, 1)]
    golds.check(str(files[0]), MOST_UNUSABLE)
    return first_answers(tables.count_rows(files), read[:3])


class DistinctTexts:
    """Numbers the texts of a column that is read in parts: from 1, in order of appearance; 0 for a row without text.

    `facts` has the result of `describe` on the text of each number. Arrow compares the texts, so a row with a known
    text costs no work in Python. Up to CACHED_TEXTS texts are known; beyond them, a text may get a number per part.
    """

    def __init__(self, describe: Callable[[str], Any], without_text: Any) -> None:
        self._describe = describe
        self.facts = [without_text]
        self._known = pa.array([], pa.large_string())
        self._parts: list[np.ndarray] = []

    def add(self, column: pa.Array) -> None:
        """Number the rows of the next part."""
        column = column.cast(pa.large_string())
        numbers = pc.index_in(column, self._known).fill_null(-1).to_numpy() + 1
        new = np.flatnonzero((numbers == 0) & column.is_valid().to_numpy(zero_copy_only=False))
        if len(new):
            encoded = column.take(pa.array(new)).dictionary_encode()
            numbers[new] = len(self.facts) + encoded.indices.to_numpy()
            self.facts += map(self._describe, encoded.dictionary.to_pylist())
            if len(self.facts) <= CACHED_TEXTS:
                self._known = pa.concat_arrays([self._known, encoded.dictionary])
        self._parts.append(numbers)

    def numbers(self) -> np.ndarray:
        """The number of each row."""
        return np.concatenate([np.zeros(0, np.int32), *self._parts])


class Question(NamedTuple):
    """A question without the wrapper, its text up to white space, the wrapper's ends, and whether parts of it remain.

    `normal` is empty for a row without a question; `ends` is an index in KINDS.
    """

    text: str = ""
    normal: str = ""
    ends: int = 0
    remains: bool = False


class Answer(NamedTuple):
    """An answer as in the file, as read, and its value, equal for `7`, `07` and `7.0` ("" without an answer)."""

    raw: str = ""
    gold: Gold = Gold("")
    value: str = ""


class Rows:
    """The rows of a training set. `instruction` is removed from the end of questions."""

    def __init__(self, instruction: str, remove_wrapper: bool) -> None:
        self._instruction, self._remove_wrapper = instruction, remove_wrapper
        self._questions = DistinctTexts(self._question, Question())
        self._answers = DistinctTexts(_answer, Answer())
        self._sources = DistinctTexts(str, "")

    def read(self, files: list[Path], question: str, answer: str, source: str | None, batch_size: int) -> None:
        """Read these columns of all files, with a progress bar."""
        wanted = list(dict.fromkeys(name.split(".")[0] for name in (question, answer, source) if name))
        rows = 0
        with tqdm(
            total=tables.count_rows(files), desc="reading", unit=" rows", unit_scale=True, mininterval=1.0
        ) as bar:
            for table in tables.stream_tables(files, wanted, batch_size):
                self._questions.add(tables.question_column(tables.take_column(table, question)))
                self._answers.add(tables.answer_column(tables.take_column(table, answer), rows + 1))
                names = tables.take_column(table, source) if source else pa.nulls(table.num_rows)
                if not tables.is_text(names.type):
                    names = pa.array([str(name) if name else None for name in names.to_pylist()], pa.string())
                self._sources.add(names)
                rows += table.num_rows
                bar.update(table.num_rows)
        self.question, self.answer, self.source = (
            column.numbers() for column in (self._questions, self._answers, self._sources)
        )

    def _question(self, text: str) -> Question:
        ends = text.startswith(WRAPPER_PREFIX) + text.endswith(WRAPPER_SUFFIX)
        text = (unwrap(text) if self._remove_wrapper else text).removesuffix(self._instruction)
        normal = " ".join(text.split())
        plain = normal.lower()
        # One object for two equal texts: most questions are in normal form.
        return Question(text, text if text == normal else normal, ends, any(part in plain for part in _REMAINS))

    def count_golds(self) -> GoldCounts:
        """Count the rows by the kind of their answer, without those that have none."""
        counts = GoldCounts()
        numbers, first, rows = np.unique(self.answer, return_index=True, return_counts=True)
        for number, row, many in zip(numbers.tolist(), first.tolist(), rows.tolist(), strict=True):
            if number:
                answer = self._answers.facts[number]
                counts.count(answer.gold.note, row + 1, answer.raw, many)
        return counts

    def count_wrappers(self, where: str) -> dict[str, int]:
        """Count the rows by how their question was wrapped, and those that keep parts of the wrapper (`remains`).

        Raises UserError if the wrapper is to be removed and parts of it remain in too many rows.
        """
        counts = Counter({"full": 0, "partial": 0, "none": 0, "remains": 0})
        for question, many in zip(self._questions.facts, np.bincount(self.question).tolist(), strict=True):
            counts[KINDS[question.ends]] += many
            counts["remains"] += many * question.remains
        rows, remains = len(self.question), counts["remains"]
        if self._remove_wrapper and remains > _MOST_REMAINS * rows:
            example = next(question.text for question in self._questions.facts if question.remains)
            raise UserError(
                f"{where}: DAPO's instruction does not come off whole in {remains} of {rows} rows "
                f"({remains / rows:.2%}; at most {_MOST_REMAINS:.1%} may keep some of it), the first of them "
                f"{example!r:.400}: repair the file, or keep the instruction (--keep-wrapper or "
                "remove_wrapper: false)"
            )
        return dict(counts)

    def choose(
        self, remove_duplicates: bool = True, remove_contradictions: bool = True
    ) -> tuple[np.ndarray, dict[str, int], list[dict[str, Any]]]:
        """Choose the first row of each question whose answers agree; questions are equal up to white space.

        Returns the chosen rows in order, the counts, and the first contradictory questions with their answers.
        """
        groups, values = {"": 0}, {"": 0}
        group = np.array([groups.setdefault(it.normal, len(groups)) for it in self._questions.facts])[self.question]
        value = np.array([values.setdefault(it.value, len(values)) for it in self._answers.facts])[self.answer]
        complete = np.flatnonzero((group > 0) & (value > 0))
        # Of several values for an index, the last one is assigned, so in reverse order the first row of each question.
        first = np.full(len(groups), -1)
        first[group[complete][::-1]] = complete[::-1]
        contradictory = np.zeros(len(groups), bool)
        contradictory[group[complete[value[complete] != value[first[group[complete]]]]]] = True

        keep = np.zeros(len(group), bool)
        keep[first[first >= 0] if remove_duplicates else complete] = True
        conflicting = complete[contradictory[group[complete]]]
        if remove_contradictions:
            keep[conflicting] = False
        conflicts: dict[int, tuple[str, dict[int, str]]] = {}
        for row in conflicting.tolist():
            if group[row] in conflicts or len(conflicts) < _LISTED_CONFLICTS:
                _, golds = conflicts.setdefault(group[row], (self._text(row), {}))
                golds.setdefault(value[row], self._answers.facts[self.answer[row]].gold.text)
        unique = int((first >= 0).sum())
        counts = {
            "in": len(group),
            "incomplete": len(group) - len(complete),
            "unique_exact": len({self._questions.facts[n].text for n in np.unique(self.question[complete]).tolist()}),
            "unique": unique,
            "duplicates": len(complete) - unique,
            "conflicting": int(contradictory.sum()),
        }
        listed = [{"question": text, "answers": sorted(set(golds.values()))} for text, golds in conflicts.values()]
        return np.flatnonzero(keep), counts, listed

    def prompt_lengths(
        self, chosen: np.ndarray, length: "PromptLength | None", suffix: str, separator: str
    ) -> np.ndarray | None:
        """The number of tokens of each chosen row's prompt; None if there is nothing to measure with."""
        if length is None:
            return None
        numbers, place = np.unique(self.question[chosen], return_inverse=True)
        prompts = [build_messages(self._questions.facts[number].text, suffix, separator) for number in numbers.tolist()]
        return np.array(length(prompts), np.int64)[place]

    def write(self, output: Path, chosen: np.ndarray, suffix: str, separator: str, batch_size: int) -> None:
        """Write the chosen rows, atomically."""
        with atomic_write(output, "wb") as handle, pq.ParquetWriter(handle, TRAIN_SCHEMA) as writer:
            for start in tqdm(range(0, len(chosen), batch_size), desc="writing", mininterval=1.0):
                writer.write_table(self._training_table(chosen[start : start + batch_size], start, suffix, separator))

    def _training_table(self, chosen: np.ndarray, start: int, suffix: str, separator: str) -> pa.Table:
        """Return chosen rows in verl's schema, numbered from `start`, with the prompts of `build_messages`."""
        many = len(chosen)
        questions = pa.array([self._text(row) for row in chosen.tolist()], pa.string())
        golds = pa.array([self._answers.facts[number].gold.text for number in self.answer[chosen].tolist()])
        content = pc.binary_join_element_wise(questions, suffix, separator)
        messages = pa.StructArray.from_arrays([pa.repeat("user", many), content], ["role", "content"])
        columns = [
            pa.array([self._sources.facts[number] or "math" for number in self.source[chosen].tolist()]),
            pa.ListArray.from_arrays(pa.array(range(many + 1), pa.int32()), messages),
            pa.repeat("MATH", many),
            pa.StructArray.from_arrays([pa.repeat("rule", many), golds], ["style", "ground_truth"]),
            pa.StructArray.from_arrays([pa.array(range(start, start + many)), questions], ["index", "question"]),
        ]
        return pa.Table.from_arrays(columns, schema=TRAIN_SCHEMA)

    def _text(self, row: int) -> str:
        return self._questions.facts[self.question[row]].text


def _answer(text: str) -> Answer:
    gold = read_gold(text)
    return Answer(text, gold, str(vote(gold.text)) if gold.text else "")


class PromptLength:
    """Counts a prompt's tokens under a model's chat template, including the start of the assistant's turn.

    `record` identifies the tokenizer: hub id and revision, if the folder records them, and the SHA-256 of its files.
    """

    def __init__(self, folder: str | Path) -> None:
        """Load the tokenizer of a model's folder. Raises UserError if there is none or it has no chat template."""
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"the tokenizer {folder} is not a folder: give the folder of the model to be trained")
        check_download(folder)
        self._tokenizer = ChatTokenizer(folder)
        if not self._tokenizer.chat_template:
            raise UserError(f"the tokenizer in {folder} has no chat template, so prompts cannot be measured")
        source = read_record(folder / "source.json") if (folder / "source.json").is_file() else {}
        self.record = {
            "hub_id": source.get("hub_id"),
            "revision": source.get("revision"),
            "files": {name: file_sha256(folder / name) for name in _TOKENIZER_FILES if (folder / name).is_file()},
        }

    def __call__(self, prompts: list[list[dict[str, str]]]) -> list[int]:
        """Return the number of tokens of each prompt."""
        return self._tokenizer.lengths(prompts)


def _summary(lengths: np.ndarray | None) -> dict[str, float] | None:
    """Return mean, percentiles and maximum of prompt lengths in tokens; None if none was measured."""
    if lengths is None or not len(lengths):
        return None
    p50, p95, p99 = (float(p) for p in np.percentile(lengths, [50, 95, 99]))
    return {"mean": float(np.mean(lengths)), "p50": p50, "p95": p95, "p99": p99, "max": int(lengths.max())}
