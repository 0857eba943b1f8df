"""Rewards and graders of the user: a plain Python function of the completion, the gold answer and the question's row.

    def score(completion: str, gold: str, row: dict) -> float: ...              a reward; above 0 counts as solved
    def grade(completion: str, gold: str, row: dict) -> bool | None: ...        a grader; None: there is no answer

`row` is {"question", "index", "data_source"} in training, {"question", "question_id", "benchmark"} in evaluation. The
function runs in worker processes, in any order, with limits per answer (workers.py), so it must depend on its arguments
alone. Its printed output goes to the log's error stream. An answer on which it exceeds a limit is undecided. The
SHA-256 of its code identifies it (`justrl.config.custom_code`).
"""

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from justrl.config import OwnFunction, read_part
from justrl.config.custom_code import code_sha256
from justrl.config.files import find
from justrl.errors import UserError
from justrl.verifiers.outcome import Grade, Grader, Outcome
from justrl.verifiers.rewards import Mark
from justrl.verifiers.workers import GaveUp, WorkerPool

EXAMPLE = {"question": "What is the answer?", "index": 0, "data_source": "math"}
# Per answer. The wall-clock limit is ten times that plus 30 s, for functions that wait for a program that they start.
PROCESSOR_SECONDS = 10.0
MEMORY_MB = 8192
# The reward of a wrong answer in the paper's reward and in most others.
UNDECIDED_SCORE = -1.0
# Up to this many undecided answers are tolerated in training: so few don't show what share will be undecided.
UNDECIDED_IN_TRAINING = 10
NAMED = 3
# Number of answers between two checks of the undecided share.
AT_ONCE = 64

Answer = tuple[str, str, Mapping[str, Any]]
"""A completion, its gold, and the row that the question is from."""


def load(own: OwnFunction) -> Callable[[str, str, dict], Any]:
    """Import the function.

    Raises UserError: the file was edited since the experiment began, cannot be imported, or has no such function.
    """
    path = find(own.file).resolve()
    if not path.is_file():
        raise UserError(f"no such file: {own.file} (relative to the working directory or the repository)")
    found = code_sha256(path)
    if own.sha256 not in (None, found):
        raise UserError(
            f"{own.file}, or a module next to it that it imports, has been edited: the SHA-256 is "
            f"{found:.12}..., and the experiment began with "
            f"{own.sha256:.12}...; undo the edit, or give the edited function a run name of its own"
        )
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}_{found:.12}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{own.file} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"{own.file} cannot be imported: {_said(error)}") from error
    function = getattr(module, own.function, None)
    if not callable(function):
        raise UserError(f"{own.file} has no function {own.function}: name it as `function`")
    return function


def in_worker(own_json: str) -> Callable[[list | None], dict[str, Any]]:
    """Return the function as a worker runs it: it takes an answer as a list, or None to check that the function loads.

    Each result has one key: `value`, a number, a bool or None; `odd`, the text of a value of another kind; or
    `problem`, an error message.
    """
    own = read_part(OwnFunction, own_json, "function")
    try:
        function = load(own)
    except UserError as error:
        problem = str(error)
        return lambda _: {"problem": problem}

    def answer(item: list | None) -> dict[str, Any]:
        if item is None:
            return {"value": None}
        try:
            value = function(*item)
            if value is None or isinstance(value, bool):
                return {"value": value}
            if isinstance(value, int | float) and math.isfinite(value):
                return {"value": float(value)}
            return {"odd": f"{value!r:.60}"}
        except (MemoryError, RecursionError):
            raise
        except (Exception, SystemExit) as error:
            return {"problem": f"{own} raised {_said(error)}, {_on(item)}"}

    return answer


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text:.300}" if text else type(error).__name__


def _on(answer: Answer | list) -> str:
    return f"on the answer {answer[0]!r:.100} to the gold {answer[1]!r:.60}"


class OwnPool:
    """Runs the user's function in worker processes, with limits per answer.

    Raises UserError: the function cannot be loaded.
    """

    def __init__(self, own: OwnFunction) -> None:
        self.own = own
        self._pool = WorkerPool(
            f"{__name__}:in_worker",
            cpu_seconds=PROCESSOR_SECONDS,
            memory_mb=MEMORY_MB,
            argument=json.dumps(own.as_dict()),
        )
        self._map([None])

    def values(self, answers: list[Answer], kinds: tuple[type, ...], wanted: str) -> list[Any]:
        """Call the function on each answer.

        Returns its values, with a GaveUp for each answer on which it exceeded a limit.

        Args:
            answers: the arguments of each call.
            kinds: the types that it may return.
            wanted: describes these types in the error message.

        Raises UserError: the function raises, or returns anything else.
        """
        values: list[Any] = []
        items = []
        for text, gold, row in answers:
            # Values of a table's row may be numpy's.
            plain = {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
            items.append([text, gold, plain])
        for answer, result in zip(answers, self._map(items), strict=True):
            if isinstance(result, GaveUp):
                values.append(result)
                continue
            value = result.get("value")
            if "odd" in result or not isinstance(value, kinds):
                raise UserError(f"{self.own} returned {result.get('odd', value)}, {_on(answer)}: {wanted}")
            values.append(value)
        return values

    def _map(self, items: list) -> list[dict[str, Any] | GaveUp]:
        try:
            results = self._pool.map(items)
        except RuntimeError as error:
            raise UserError(f"{self.own} cannot be called: {_said(error)}") from error
        if items == [None] and isinstance(results[0], GaveUp):
            raise UserError(
                f"{self.own} cannot be imported within {self._pool.wall_seconds:.0f} s: {results[0].reason}"
            )
        for result in results:
            if isinstance(result, dict) and "problem" in result:
                raise UserError(result["problem"])
        return results

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()


def limits() -> str:
    """The limits per answer, as text."""
    seconds = f"{PROCESSOR_SECONDS:.0f} s of processor time, {10 * PROCESSOR_SECONDS + 30:.0f} s by the clock"
    return f"{seconds} and {MEMORY_MB // 1024} GiB of memory for an answer"


class OwnReward:
    """A training reward from the user's function: any finite number that it returns.

    An undecided answer earns UNDECIDED_SCORE. The first NAMED are printed. Scoring stops if more than 1% of the
    answers, and more than UNDECIDED_IN_TRAINING, are undecided.
    """

    def __init__(self, own: OwnFunction) -> None:
        self.own, self.name = own, str(own)
        self._pool = OwnPool(own)
        self._marked = self._undecided = 0

    def __call__(self, completion: str, gold: str) -> float:
        """Score one completion, with an example row."""
        return self.mark([(completion, gold, EXAMPLE)])[0].score

    def mark(self, answers: Iterable[Answer]) -> list[Mark]:
        """Score each answer, in input order.

        Raises UserError: the function raises, returns anything but a finite number, or leaves too many answers
        undecided.
        """
        answers = list(answers)
        return [
            mark
            for start in range(0, len(answers), AT_ONCE)
            for mark in self._mark_some(answers[start : start + AT_ONCE])
        ]

    def _mark_some(self, answers: list[Answer]) -> list[Mark]:
        marks = []
        values = self._pool.values(answers, (float,), "a reward is one finite number for one answer")
        for answer, value in zip(answers, values, strict=True):
            if isinstance(value, GaveUp):
                self._note(answer, value)
                marks.append(Mark(UNDECIDED_SCORE, undecided=True))
            else:
                marks.append(Mark(value))
        self._marked += len(answers)
        if self._undecided > max(UNDECIDED_IN_TRAINING, self._marked / 100):
            raise UserError(
                f"{self.own} left {self._undecided} of {self._marked} answers undecided, more than 1%, within "
                f"{limits()}: make the function faster, or have it give up by itself"
            )
        return marks

    def _note(self, answer: Answer, result: GaveUp) -> None:
        self._undecided += 1
        if self._undecided <= NAMED:
            print(
                f"reward {self.own}: undecided ({result.reason}), earns {UNDECIDED_SCORE:g}: question "
                f"{answer[2].get('index')}, {answer[2].get('question')!r:.100}, {_on(answer)}; "
                "the metric `undecided` counts such answers",
                file=sys.stderr,
                flush=True,
            )


class OwnGrader(Grader):
    """A grader from the user's function: correct, wrong, unparsed for no answer, or timeout if it exceeds a limit."""

    def __init__(self, own: OwnFunction) -> None:
        self.own, self.name = own, str(own)
        self._pool = OwnPool(own)

    def grade_many(self, answers: Iterable[Answer]) -> list[Grade]:  # type: ignore[override]
        """Grade each answer, in input order.

        Raises UserError: the function raises, or returns anything but True, False or None.
        """
        outcomes = {True: Outcome.CORRECT, False: Outcome.WRONG, None: Outcome.UNPARSED}
        wanted = "a grader must return True, False, or None if there is no answer"
        values = self._pool.values(list(answers), (bool, type(None)), wanted)
        return [Grade(Outcome.TIMEOUT if isinstance(value, GaveUp) else outcomes[value]) for value in values]

    def close(self) -> None:
        """End the worker processes; grading again starts new ones."""
        self._pool.close()
