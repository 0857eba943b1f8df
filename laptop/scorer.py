"""The reward and the grader of reasoning-gym's tasks: the task's own scorer, right from 1.0 only.

Its part marks, for an answer that merely contains the right one, are not paid: they teach to write more. The answer is
the last box or, where there is none, the last line, without the dress of Markdown and a full stop. Where the right
answer is a number, the last number of that line is read: "The answer is 12." answers 12.
"""

import re

from justrl.data.tasks import scorer, task_of
from justrl.verifiers.extraction import last_boxed

DRESS = "*_`$ \t"
NUMBER = re.compile(r"-?\d(?:[\d,]*\d)?(?:\.\d+)?")


def score(completion: str, gold: str, row: dict) -> float:
    """+1 for a right answer, -1 for any other, as the paper's reward."""
    return 1.0 if grade(completion, gold, row) else -1.0


def grade(completion: str, gold: str, row: dict) -> bool | None:
    """Whether the task's scorer gives the answer full marks; None where there is no answer."""
    answer = answer_of(completion, gold)
    if not answer:
        return None
    return scorer(task_of(row))(answer, {"answer": gold}) >= 1.0


def answer_of(completion: str, gold: str) -> str:
    """What a completion answers to a question whose right answer is `gold`; empty if nothing."""
    box = last_boxed(completion)
    if box is not None:
        return box.strip()
    lines = [line for line in completion.splitlines() if line.strip()]
    answer = lines[-1].strip(DRESS).removesuffix(".").strip(DRESS) if lines else ""
    if NUMBER.fullmatch(gold.strip()) and not NUMBER.fullmatch(answer):
        return (NUMBER.findall(answer) or [""])[-1].replace(",", "")
    return answer
