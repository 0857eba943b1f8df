"""Rewards and graders of one's own: a plain Python function of completion, gold and the row of the question.

    def score(completion: str, gold: str, row: dict) -> float: ...              a reward; above 0 counts as solved
    def grade(completion: str, gold: str, row: dict) -> bool | None: ...        a grader; None: there is no answer

`row` is {"question", "index", "data_source"} in training, {"question", "question_id", "benchmark"} in evaluation. The
function runs in the process that trains or grades, without limits on its time; its code is known by its SHA-256
(`justrl.own_code`).
"""

import importlib.util
import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from justrl.config import OwnFunction
from justrl.config_files import find
from justrl.errors import UserError
from justrl.own_code import code_sha256
from justrl.verifiers.outcome import Grade, Grader, Outcome
from justrl.verifiers.rewards import Mark

EXAMPLE = {"question": "What is the answer?", "index": 0, "data_source": "math"}

Answer = tuple[str, str, Mapping[str, Any]]
"""A completion, its gold, and the row that the question is from."""


@lru_cache
def load(own: OwnFunction) -> Callable[[str, str, dict], Any]:
    """Import the function.

    Raises UserError: the file was edited since the experiment began, cannot be imported, or has no such function.
    """
    path = find(own.file).resolve()
    if not path.is_file():
        raise UserError(f"{own.file} is not there; its path begins where one starts, or at this repository")
    found = code_sha256(path)
    if own.sha256 not in (None, found):
        raise UserError(
            f"{own.file}, or a module next to it that it imports, has been edited: the SHA-256 is "
            f"{found:.12}..., and the experiment began with "
            f"{own.sha256:.12}...; undo the edit, or give the edited function a run name of its own"
        )
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}_{found:.12}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{own.file} is no Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{own.file} cannot be imported: {_said(error)}") from error
    function = getattr(module, own.function, None)
    if not callable(function):
        raise UserError(f"{own.file} has no function {own.function}: name it as `function`")
    return function


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _call(own: OwnFunction, answer: Answer) -> Any:
    completion, gold, row = answer
    try:
        return load(own)(completion, gold, dict(row))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{own} raised {_said(error)}, {_on(answer)}") from error


def _on(answer: Answer) -> str:
    return f"on the answer {answer[0]!r:.100} to the gold {answer[1]!r:.60}"


class OwnReward:
    """A training reward of one's own: whatever finite number its function returns."""

    def __init__(self, own: OwnFunction) -> None:
        self.own, self.name = own, str(own)
        load(own)

    def __call__(self, completion: str, gold: str) -> float:
        """Score of one completion, to an example of a question."""
        return self.mark([(completion, gold, EXAMPLE)])[0].score

    def mark(self, answers: Iterable[Answer]) -> list[Mark]:
        """Mark answers, in their order.

        Raises UserError: the function raises, or returns anything but a finite number.
        """
        marks = []
        for answer in answers:
            value = _call(self.own, answer)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise UserError(
                    f"{self.own} returned {value!r:.60}, {_on(answer)}: a reward is one finite number for one answer"
                )
            marks.append(Mark(float(value)))
        return marks


class OwnGrader(Grader):
    """A grader of one's own: right, wrong, or no answer at all."""

    def __init__(self, own: OwnFunction) -> None:
        self.own, self.name = own, str(own)
        load(own)

    def grade_many(self, answers: Iterable[Answer]) -> list[Grade]:  # type: ignore[override]
        """Grade answers, in their order.

        Raises UserError: the function raises, or returns anything but True, False or None.
        """
        outcomes = {True: Outcome.CORRECT, False: Outcome.WRONG, None: Outcome.UNPARSED}
        grades = []
        for answer in answers:
            value = _call(self.own, answer)
            if value is not None and not isinstance(value, bool):
                raise UserError(
                    f"{self.own} returned {value!r:.60}, {_on(answer)}: a grader returns True, False, or None where "
                    "there is no answer"
                )
            grades.append(Grade(outcomes[value]))
        return grades
