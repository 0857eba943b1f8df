"""Tasks of reasoning-gym as training data and benchmarks: questions with one answer, and a scorer per task.

`reasoning_gym.create_dataset(task, size=..., seed=..., **settings)` generates the questions. A hash of its text assigns
each question to the training or the held-out side. The seed and the number of questions don't matter, so the two sides
cannot overlap. A task is accepted only if its scorer uses nothing but the answer and evaluates no code: an answer is a
model's text, and `eval` would run the model's code.
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from justrl.errors import UserError

HELD_OUT_SHARE = 10  # one question in ten is held out from training
SOURCE = "reasoning_gym/"
INSTALL = "reasoning-gym is not installed here: `make tasks` adds it to .venv (and to .venv-verl, where that is)"
# Maximum number of draws per requested question before a task counts as exhausted.
MOST_DRAWS = 200
# Functions that evaluate an answer as code, or pass it to a library that does.
EVALUATES = frozenset({"eval", "exec", "compile", "parse_expr", "sympify", "parse_latex", "simplify", "__import__"})

Scorer = Callable[[str, Mapping[str, Any]], float]


def training_rows(task: str, settings: Mapping[str, Any], rows: int, seed: int) -> list[dict]:
    """Generate `rows` distinct questions that are not held out: id, question, answer, data_source.

    Raises UserError: reasoning-gym is not installed, has no such task or setting, the task's scorer is not accepted, or
    the task has fewer questions.
    """
    return _rows(task, settings, rows, seed, held_out=False)


def benchmark_rows(task: str, settings: Mapping[str, Any], rows: int, seed: int) -> list[dict]:
    """Generate `rows` distinct held-out questions; see `training_rows`."""
    return _rows(task, settings, rows, seed, held_out=True)


def is_held_out(question: str) -> bool:
    """Whether a question is on the held-out side of the fixed split."""
    digest = hashlib.sha256(question.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


def task_of(row: Mapping[str, Any]) -> str:
    """The task of a row of training (data_source) or evaluation (question_id); empty if not from reasoning-gym."""
    name = str(row.get("data_source") or row.get("question_id") or "")
    return name.removeprefix(SOURCE).partition("#")[0] if name.startswith(SOURCE) else ""


@cache
def scorer(task: str) -> Scorer:
    """Return a task's scorer, a function of an answer and {"answer": the gold answer}; 1.0 is correct.

    Raises UserError: the scorer is not accepted.
    """
    if not task:
        raise UserError("a question of no task of reasoning-gym has no scorer there")
    if problem := why_not(task):
        raise UserError(f"the task {task} of reasoning-gym cannot be used: {problem}")
    return _gym().get_score_answer_fn(task)


def why_not(task: str) -> str | None:
    """The reason why a task's scorer is not accepted, found in its source; None if it is accepted."""
    classes = _gym().factory.DATASETS
    if task not in classes:
        return "no such task"
    cls = classes[task][0]
    try:
        calls = dict(_code_of(cls, "score_answer"))
    except (OSError, TypeError, SyntaxError):
        return "the source of its scorer cannot be read"
    for name, tree in calls.items():
        for node in ast.walk(tree):
            called = getattr(node, "id", getattr(node, "attr", ""))
            if isinstance(node, ast.Name | ast.Attribute) and called in EVALUATES:
                return f"its scorer evaluates answers ({called} in {name})"
    if not _reads_the_gold_alone(calls["score_answer"]):
        return "its scorer needs more of a question than the answer"
    return None


def _gym() -> Any:
    try:
        import reasoning_gym
        import reasoning_gym.factory
    except ImportError as error:
        raise UserError(f"{INSTALL} ({error})") from None
    return reasoning_gym


def _code_of(cls: type, method: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield the code of a method, and of all methods and functions that it calls within reasoning-gym."""
    waiting, seen = [(method, getattr(cls, method))], set()
    while waiting:
        name, function = waiting.pop()
        function = inspect.unwrap(getattr(function, "__func__", function))
        if function in seen:
            continue
        seen.add(function)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        yield name, tree
        module = inspect.getmodule(function)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                owner = cls if node.value.id in ("self", "cls") else getattr(module, node.value.id, None)
                found = getattr(owner, node.attr, None)
            elif isinstance(node, ast.Name):
                found = getattr(module, node.id, None)
            else:
                continue
            if inspect.isroutine(found) and str(getattr(found, "__module__", "")).startswith("reasoning_gym"):
                waiting.append((getattr(found, "__name__", "?"), found))


def _reads_the_gold_alone(scorer: ast.AST) -> bool:
    """Whether a scorer reads nothing but the answer from its entry."""
    (function,) = [node for node in ast.walk(scorer) if isinstance(node, ast.FunctionDef)][:1]
    entry = function.args.args[-1].arg
    allowed = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == entry:
            if not (isinstance(node.slice, ast.Constant) and node.slice.value == "answer"):
                return False
            allowed.add(node.value)
    used = {node for node in ast.walk(function) if isinstance(node, ast.Name) and node.id == entry}
    return bool(used) and used <= allowed


def _rows(task: str, settings: Mapping[str, Any], rows: int, seed: int, held_out: bool) -> list[dict]:
    scorer(task)
    gym = _gym()
    try:
        dataset = gym.create_dataset(task, seed=seed, size=rows * MOST_DRAWS, **settings)
    except (TypeError, AssertionError, ValueError) as error:
        raise UserError(
            f"the task {task} of reasoning-gym does not take the settings {dict(settings)}: {error}"
        ) from None
    found: dict[str, str] = {}
    for number in range(rows * MOST_DRAWS):
        item = dataset[number]
        if is_held_out(item["question"]) == held_out:
            found.setdefault(item["question"], item["answer"])
        if len(found) == rows:
            break
    else:
        side = "held-out" if held_out else "training"
        raise UserError(
            f"{rows} {side} questions of {task} were asked for, and {rows * MOST_DRAWS:,} draws gave {len(found)}: ask "
            "for fewer rows, or for harder questions (settings)"
        )
    return [
        {"id": f"{SOURCE}{task}#{number}", "question": question, "answer": answer, "data_source": f"{SOURCE}{task}"}
        for number, (question, answer) in enumerate(found.items())
    ]
