"""Deduplication of a training set: one row of each question, none of those whose answers contradict each other."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CACHED_TEXTS = 32_768
"""Texts remembered while streaming: more than DAPO's block of 17,917 rows, so its repetitions are known at sight."""


@dataclass(frozen=True)
class Choice:
    """Which rows stay.

    `keep` and `conflicting` are masks over all rows in their order; `group` numbers the questions, -1 for a row
    without question or gold.
    """

    keep: np.ndarray
    conflicting: np.ndarray
    group: np.ndarray
    counts: dict[str, int]


def choose_rows(
    batches: Iterable[tuple[Sequence[str | None], Sequence[str | None]]],
    remove_duplicates: bool = True,
    remove_contradictions: bool = True,
) -> Choice:
    """Decide from one pass over batches of (questions, golds): the first of each question stays, if its golds agree.

    Questions are the same up to white space. Texts are compared by 64-bit hashes, 24 bytes a row: among two million
    rows, the chance that any two different texts meet is 1e-7.
    """
    hashes = [_hash_batch(questions, golds) for questions, golds in batches]
    exact, normal, gold = (np.concatenate(parts) for parts in zip(*hashes, strict=True))
    rows = np.flatnonzero((normal != 0) & (gold != 0))
    _, first, group = np.unique(normal[rows], return_index=True, return_inverse=True)
    contradictory = np.zeros(len(first), bool)
    contradictory[group[gold[rows] != gold[rows][first][group]]] = True

    keep, conflicting = np.zeros(len(exact), bool), np.zeros(len(exact), bool)
    keep[rows[first] if remove_duplicates else rows] = True
    conflicting[rows[contradictory[group]]] = True
    if remove_contradictions:
        keep &= ~conflicting
    group_of_row = np.full(len(exact), -1, np.int64)
    group_of_row[rows] = group
    counts = {
        "in": len(exact),
        "incomplete": len(exact) - len(rows),
        "unique_exact": len(np.unique(exact[rows])),
        "unique": len(first),
        "duplicates": len(rows) - len(first),
        "conflicting": int(contradictory.sum()),
    }
    return Choice(keep, conflicting, group_of_row, counts)


def _hash_batch(questions: Sequence[str | None], golds: Sequence[str | None]) -> tuple[np.ndarray, ...]:
    """Return arrays over the rows: hash of the question, of the question up to white space, of the gold; 0 for none."""
    pairs = [_question_hashes(question) if question else (0, 0) for question in questions]
    exact, normal = zip(*pairs, strict=True) if pairs else ((), ())
    gold = [_gold_hash(gold) if gold else 0 for gold in golds]
    return tuple(np.array(column, np.uint64) for column in (exact, normal, gold))


@lru_cache(CACHED_TEXTS)
def _question_hashes(question: str) -> tuple[int, int]:
    normal = " ".join(question.split())
    return text_hash(question), text_hash(normal) if normal else 0


def text_hash(text: str) -> int:
    """Return a 64-bit hash of a text, the same in every process, never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1


_gold_hash = lru_cache(CACHED_TEXTS)(text_hash)
