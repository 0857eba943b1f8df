r"""Symbolic equality by SymPy, in worker processes with hard limits.

Only the content of the last `\boxed{...}` is read, or of the box around it: what stands next to an inner box is part of
the answer. `math_verify_worker` reads it as a whole and compares. Plain numbers need no worker: `plain_values` compares
them by the same function, a thousand times sooner.
"""

import re
from collections.abc import Iterable

from justrl.verifiers.extraction import BOX, balanced_end, last_boxed
from justrl.verifiers.outcome import Grade, Outcome, require_text
from justrl.verifiers.plain_values import compare_plain
from justrl.verifiers.pooled import PooledGrader
from justrl.verifiers.workers import GaveUp

# Longer answers are not parsed; the longest gold of the nine benchmarks has 291 characters.
MAX_ANSWER = 2_000
# TeX takes the group behind a command, wherever it begins.
_SPACED_BOX = re.compile(r"\\boxed\s+\{")


class SymbolicGrader(PooledGrader):
    """Grades by value: both sides are read whole, then compared exactly, or to the digits given, and symbolically.

    `unparsed` also covers an answer that is not read as a whole (and which is not the gold's very text).
    """

    name = "symbolic"
    target = "justrl.verifiers.math_verify_worker:compare"

    def grade_many(self, pairs: Iterable[tuple[str, str]]) -> list[Grade]:
        """Grade (completion, gold) pairs, spread over the workers, each distinct answer once."""
        answers: list[tuple[str | None, str]] = []
        for completion, gold in pairs:
            require_text(completion=completion, gold=gold)
            answers.append((_boxed(_SPACED_BOX.sub(r"\\boxed{", completion)), gold.strip()))
        asked = [(answer, gold) for answer, gold in dict.fromkeys(answers) if answer and _worth_asking(answer, gold)]
        verdicts: dict[tuple[str, str], str | GaveUp] = {
            pair: verdict for pair in asked if (verdict := compare_plain(*pair)) is not None
        }
        verdicts |= self.compare([pair for pair in asked if pair not in verdicts])
        return [Grade.of(_outcome(*pair, verdicts), pair[0]) for pair in answers]


def _boxed(completion: str) -> str | None:
    """Content of the last box, or of the outermost box around it: what surrounds it is part of the answer."""
    answer = last_boxed(completion)
    if answer is None:
        return None
    start = completion.rfind(f"{BOX}{answer}}}")
    end = start + len(BOX) + len(answer) + 1
    around = max(0, start - MAX_ANSWER)
    while (outer := completion.find(BOX, around, start)) >= 0:
        close = balanced_end(completion, outer, end + MAX_ANSWER)
        if close is not None and close > end:
            return completion[outer + len(BOX) : close - 1]
        around = outer + 1
    return answer


def _outcome(answer: str | None, gold: str, verdicts: dict[tuple[str, str], str | GaveUp]) -> Outcome:
    if answer is None or not answer.strip():
        return Outcome.UNPARSED
    if answer.strip() == gold:
        return Outcome.CORRECT
    if not _worth_asking(answer, gold):
        return Outcome.TIMEOUT
    verdict = verdicts[answer, gold]
    return Outcome.TIMEOUT if isinstance(verdict, GaveUp) else Outcome(verdict)


def _worth_asking(answer: str, gold: str) -> bool:
    """Whether an answer must be compared: there is one, it is not the gold's text, and neither is too long."""
    return bool(answer.strip() and answer.strip() != gold and len(answer) <= MAX_ANSWER and len(gold) <= MAX_ANSWER)
