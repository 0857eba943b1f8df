"""DAPO-Math-17k (or a file of its kind) as training prompts: unwrapped, without duplicates, within the prompt length.

The published file holds about 17 thousand questions a hundred times over, each inside an instruction that asks for
`Answer:` where the paper's prompt asks for a box, some with two answers. Two passes
over the rows, a batch at a time: the first keeps three 8-byte hashes a row and decides, the second writes the chosen
rows. So memory is a batch and 25 bytes a row, whatever the length of the questions.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from justrl.data import columns, tables
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
_CACHED_TEXTS = 32_768  # more than DAPO's block of 17,917 rows, so that its repetitions are recognised at once


def unwrap(text: str) -> str:
    """Take DAPO's instruction off a question, the exact prefix and the exact suffix, each where it is there."""
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
    batch_size: int = 8192,
) -> dict[str, Any]:
    """Clean a training set, write `train.parquet` (verl's schema) and `data_card.json`, return the card.

    `dataset_name` is a hub id or the path of a file or folder (Parquet, JSON, JSON lines). Rows without a question or
    an answer go; of questions equal up to white space the first stays; questions with contradictory answers go
    altogether; so do prompts of more than `max_prompt_length` tokens under the chat template of `tokenizer`, a
    model's folder (without one, none is dropped, and the card says so). The order is that of first appearance.

    Raises UserError for unknown columns (naming what is there and what is accepted), an empty set, an unreadable file.
    """
    source = local_source(dataset_name) if Path(dataset_name).exists() else None
    source = source or locate("dataset", str(dataset_name), revision, config=config, lock=lock, hub=hub)
    is_file = Path(dataset_name).is_file()
    files = tables.find_data_files(dataset_name if is_file else source.folder, config, split)
    found = tables.column_names(files)
    question = columns.pick_column(found, columns.QUESTION_COLUMNS, question_column, "question", str(dataset_name))
    answer = columns.pick_column(found, columns.ANSWER_COLUMNS, answer_column, "answer", str(dataset_name))
    counter = PromptLength(tokenizer) if tokenizer is not None else None

    def rows(what: str) -> Iterator[tuple[list[str | None], list[str | None]]]:
        return read_rows(files, question, answer, batch_size, what)

    choice = choose_rows(rows("reading"))
    output = Path(output_dir) / "train.parquet"
    written = _write_rows(
        rows("writing"),
        choice,
        output,
        lambda text: apply_chat_template(text, suffix, separator),
        counter,
        max_prompt_length,
    )
    card = {
        "dataset": source.record() | {"columns": {"question": question, "answer": answer}, "split": split},
        "tokenizer": counter.record if counter else None,
        "prompt": {"suffix": suffix, "separator": separator, "max_prompt_length": max_prompt_length},
        "rows": choice.counts | written.counts,
        "wrapper": choice.wrapper,
        "prompt_tokens": written.token_summary(),
        "conflicting_questions": written.conflicts(),
        "output": {"file": output.name, "sha256": sha256_file(output), "bytes": output.stat().st_size},
        "versions": {name: version(name) for name in ("datasets", "pyarrow", "transformers")},
    }
    write_json(output.with_name("data_card.json"), card)
    return card


def read_rows(
    files: Sequence[Path], question: str, answer: str, batch_size: int, what: str
) -> Iterator[tuple[list[str | None], list[str | None]]]:
    """Yield (questions as they are, golds cleaned) of one batch after the other, with a progress bar."""
    wanted = list(dict.fromkeys(name.split(".")[0] for name in (question, answer)))
    with tqdm(total=tables.count_rows(files), desc=what, unit=" rows", unit_scale=True, mininterval=1.0) as bar:
        for table in tables.stream_tables(files, wanted, batch_size):
            texts = columns.question_texts(columns.take_column(table, question))
            golds = columns.answer_texts(columns.take_column(table, answer))
            yield texts, [gold and _clean_gold(gold) for gold in golds]
            bar.update(table.num_rows)


_clean_gold = lru_cache(_CACHED_TEXTS)(columns.clean_gold)


@dataclass(frozen=True)
class Choice:
    """Which rows stay: `keep` and `conflicting` are masks over all rows in their order."""

    keep: np.ndarray
    conflicting: np.ndarray
    group: np.ndarray
    counts: dict[str, int]
    wrapper: dict[str, int]


def choose_rows(batches: Iterator[tuple[list[str | None], list[str | None]]]) -> Choice:
    """Decide from one pass over the rows which stay: the first of each question, if its answers all agree.

    Texts are compared by 64-bit hashes: among two million rows, the chance that any two differing texts meet is 1e-7.
    """
    hashes = [_hash_batch(texts, answers) for texts, answers in batches]
    raw, normal, golds, kinds = (np.concatenate(parts) for parts in zip(*hashes, strict=True))
    complete = (normal != 0) & (golds != 0)
    rows = np.flatnonzero(complete)
    _, first, group = np.unique(normal[rows], return_index=True, return_inverse=True)
    contradictory = np.zeros(len(first), bool)
    contradictory[group[golds[rows] != golds[rows][first][group]]] = True
    keep, conflicting = np.zeros(len(raw), bool), np.zeros(len(raw), bool)
    keep[rows[first[~contradictory]]] = True
    conflicting[rows[contradictory[group]]] = True
    everywhere = np.full(len(raw), -1, np.int64)
    everywhere[rows] = group
    counts = {
        "in": len(raw),
        "incomplete": int(len(raw) - len(rows)),
        "unique_exact": len(np.unique(raw[rows])),
        "unique": len(first),
        "duplicates": int(len(rows) - len(first)),
        "conflicting": int(contradictory.sum()),
    }
    wrapper = {name: int((kinds == code).sum()) for code, name in enumerate(_WRAPPERS[:3])}
    return Choice(keep, conflicting, everywhere, counts, wrapper)


def _hash_batch(texts: Sequence[str | None], golds: Sequence[str | None]) -> tuple[np.ndarray, ...]:
    """Return arrays over the rows: hash of the text, hash of the question, hash of the gold (0 for none), wrapper."""
    known = [_fingerprint(text) if text else (0, 0, _WRAPPERS.index("empty")) for text in texts]
    raw, normal, kinds = zip(*known, strict=True)
    gold_hashes = [_hash_cached(gold) if gold else 0 for gold in golds]
    hashes = (np.array(column, np.uint64) for column in (raw, normal, gold_hashes))
    return (*hashes, np.array(kinds, np.uint8))


_WRAPPERS = ("full", "partial", "none", "empty")


@lru_cache(_CACHED_TEXTS)
def _fingerprint(text: str) -> tuple[int, int, int]:
    """Return the hash of the text as it is, that of the question up to white space, and its place in _WRAPPERS."""
    ends = text.startswith(WRAPPER_PREFIX) + text.endswith(WRAPPER_SUFFIX)
    normal = " ".join(unwrap(text).split())
    return _hash(text), _hash(normal) if normal else 0, 2 - ends


def _hash(text: str) -> int:
    # Zero stands for "no text", so no text may have it.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


_hash_cached = lru_cache(_CACHED_TEXTS)(_hash)


class PromptLength:
    """Counts a prompt's tokens as the model will see it: its own chat template, the assistant's turn opened."""

    def __init__(self, folder: str | Path) -> None:
        """Load the tokenizer of a model's folder; raise UserError if there is none or it has no chat template."""
        from transformers import AutoTokenizer

        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"the tokenizer {folder} is not a folder: give the folder of the model to be trained")
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} holds no usable tokenizer: {str(error).splitlines()[0]}") from error
        if not self._tokenizer.chat_template:
            raise UserError(f"the tokenizer in {folder} has no chat template, so prompts cannot be measured")
        names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model")
        record = local_source(folder) if (folder / "source.json").is_file() else None
        self.record = {
            "hub_id": record.hub_id if record else None,
            "revision": record.revision if record else None,
            "files": {name: sha256_file(folder / name) for name in names if (folder / name).is_file()},
        }

    def __call__(self, prompts: list[list[dict[str, str]]]) -> list[int]:
        """Return the number of tokens of each message list."""
        encoded = self._tokenizer.apply_chat_template(prompts, add_generation_prompt=True, tokenize=True)
        ids = encoded["input_ids"] if not isinstance(encoded, list) else encoded
        return [len(row) for row in ids]


class _Written:
    """What the second pass counted."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.rows = 0
        self.overlong: int | None = None
        self._answers: dict[int, tuple[str, set[str]]] = {}

    @property
    def counts(self) -> dict[str, int | None]:
        return {"overlong": self.overlong, "out": self.rows}

    def note_conflict(self, group: int, text: str, answer: str) -> None:
        """Remember an answer of a contradictory question, of the first few such questions."""
        if group in self._answers or len(self._answers) < _LISTED_CONFLICTS:
            self._answers.setdefault(group, (unwrap(text), set()))[1].add(answer)

    def conflicts(self) -> list[dict[str, Any]]:
        return [{"question": question, "answers": sorted(answers)} for question, answers in self._answers.values()]

    def token_summary(self) -> dict[str, float] | None:
        """Summarise the lengths of the prompts that were measured, those dropped included."""
        if not self.lengths:
            return None
        lengths = np.array(self.lengths)
        p50, p95, p99 = np.percentile(lengths, [50, 95, 99])
        return {"mean": float(lengths.mean()), "p50": p50, "p95": p95, "p99": p99, "max": int(lengths.max())}


def _write_rows(
    batches: Iterator[tuple[list[str | None], list[str | None]]],
    choice: Choice,
    output: Path,
    make_prompt: Callable[[str], list[dict[str, str]]],
    count_tokens: PromptLength | None,
    max_prompt_length: int,
) -> _Written:
    """Write the chosen rows as verl's Parquet, dropping prompts that are too long; the file appears whole or not."""
    written = _Written()
    written.overlong = None if count_tokens is None else 0
    position = 0
    with atomic_write(output, "wb") as handle, pq.ParquetWriter(handle, TRAIN_SCHEMA) as writer:
        for texts, answers in batches:
            rows = slice(position, position := position + len(texts))
            for offset in np.flatnonzero(choice.conflicting[rows]):
                written.note_conflict(int(choice.group[rows][offset]), texts[offset], answers[offset])
            chosen = [(unwrap(texts[offset]), answers[offset]) for offset in np.flatnonzero(choice.keep[rows])]
            prompts = [make_prompt(question) for question, _ in chosen]
            if count_tokens is not None and prompts:
                lengths = count_tokens(prompts)
                written.lengths += lengths
                fits = [length <= max_prompt_length for length in lengths]
                written.overlong += fits.count(False)
                chosen = [item for item, fit in zip(chosen, fits, strict=True) if fit]
                prompts = [item for item, fit in zip(prompts, fits, strict=True) if fit]
            if chosen:
                writer.write_table(_train_table(chosen, prompts, written.rows))
                written.rows += len(chosen)
        if not written.rows:
            raise UserError(f"no question is left of {position} rows ({choice.counts}, overlong {written.overlong})")
    return written


def _train_table(chosen: list[tuple[str, str]], prompts: list[list[dict[str, str]]], start: int) -> pa.Table:
    return pa.Table.from_pydict(
        {
            "data_source": ["math_dapo"] * len(chosen),
            "prompt": prompts,
            "ability": ["MATH"] * len(chosen),
            "reward_model": [{"style": "rule", "ground_truth": answer} for _, answer in chosen],
            "extra_info": [{"index": start + i, "question": question} for i, (question, _) in enumerate(chosen)],
        },
        schema=TRAIN_SCHEMA,
    )
