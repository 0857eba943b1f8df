"""Deduplicate a training set: keep one row per question, and none of a question with contradictory answers."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Choice:
    """The result of the deduplication.

    `keep` and `shown` are masks over all rows, in order. `shown` selects the first row of each answer to a
    contradictory question. `group` numbers the questions; it is -1 for a row without a question or an answer.
    """

    keep: np.ndarray
    shown: np.ndarray
    group: np.ndarray
    counts: dict[str, int]


class Hashes(NamedTuple):
    """Hashes per row: the question, the question up to white space, and the answer; 0 if absent."""

    exact: np.ndarray
    normal: np.ndarray
    gold: np.ndarray


def choose_rows(hashes: Iterable[Hashes], remove_duplicates: bool = True, remove_contradictions: bool = True) -> Choice:
    """Choose rows by the hashes of all rows, given in parts: the first row of each question whose answers agree.

    Questions are equal up to white space. Texts are compared by 64-bit hashes, 24 bytes per row: among two million
    rows, the chance of any collision is 1e-7.
    """
    exact, normal, gold = (np.concatenate(parts) for parts in zip(*hashes, strict=True))
    rows = np.flatnonzero((normal != 0) & (gold != 0))
    first, group = _groups(normal[rows])
    contradictory = np.zeros(len(first), bool)
    contradictory[group[gold[rows] != gold[rows][first][group]]] = True

    keep, shown = np.zeros(len(exact), bool), np.zeros(len(exact), bool)
    keep[rows[first] if remove_duplicates else rows] = True
    conflicting = rows[contradictory[group]]
    if remove_contradictions:
        keep[conflicting] = False
    answers = np.stack([normal[conflicting], gold[conflicting]])
    shown[conflicting[np.unique(answers, axis=1, return_index=True)[1]]] = True
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
    return Choice(keep, shown, group_of_row, counts)


def _groups(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group equal values.

    Returns the first index of each group, and each value's group, in order of first appearance.
    """
    # Arrow uses a hash table; np.unique would sort.
    group = pa.array(values).dictionary_encode().indices.to_numpy()
    first = np.zeros(int(np.max(group, initial=-1)) + 1, np.int64)
    first[group[::-1]] = np.arange(len(group))[::-1]
    return first, group


def question_hashes(question: str) -> tuple[int, int]:
    """Return the hash of a question, and its hash up to white space, which is 0 for an empty question."""
    normal = " ".join(question.split())
    return text_hash(question), text_hash(normal) if normal else 0


def text_hash(text: str) -> int:
    """Return a 64-bit hash of a text, equal in every process and never 0."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") or 1
