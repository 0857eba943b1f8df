"""Grading outcomes and the Grader base class."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """Outcome of grading one completion.

    `timeout` means that the grader gave up: it ran out of time or memory, exceeded its limit on the size of an
    expression, or its process died. It is never reported as `wrong`, so a broken grader shows in the counts.
    """

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade of one completion: the outcome, and the answer extracted from it (None if it has none)."""

    outcome: Outcome
    extracted: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the completion counts as solved."""
        return self.outcome is Outcome.CORRECT

    @classmethod
    def of(cls, outcome: Outcome, extracted: str | None) -> "Grade":
        """Build a grade whose `extracted` can be written to any UTF-8 file (lone surrogates become `?`)."""
        if extracted is not None and not extracted.isascii():
            extracted = extracted.encode("utf-8", "replace").decode("utf-8")
        return cls(outcome, extracted)


class Grader:
    """Base of all graders. A subclass sets `name` and `grade`; one that holds processes or models also `close`."""

    name = ""

    def grade(self, completion: str, gold: str) -> Grade:
        """Grade one completion (the model's whole text) against the gold answer (without box or dollar signs)."""
        raise NotImplementedError

    def grade_many(self, pairs: Iterable[tuple[str, str]]) -> list[Grade]:
        """Grade (completion, gold) pairs, in input order."""
        return [self.grade(*pair) for pair in pairs]

    def close(self) -> None:
        """Release processes or memory. Grading can continue afterwards and starts them again."""

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def require_text(completion: object, gold: object, question: object = "") -> None:
    """Raise a TypeError with the argument's name if one is not a string."""
    if isinstance(completion, str) and isinstance(gold, str) and isinstance(question, str):
        return
    for name, value in (("completion", completion), ("gold", gold), ("question", question)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a string, got {type(value).__name__}")
