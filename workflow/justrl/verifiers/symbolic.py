r"""Symbolic equality by SymPy, in worker processes with hard limits.

The answer is the content of the last `\boxed{...}`. If that box is inside another one, the content of the outermost box
is the answer. `math_verify_worker` parses the answer as a whole and compares it. Plain numbers need no worker:
`plain_values` compares them by the same rule, a thousand times faster.
"""

import re
from collections.abc import Iterable

from justrl.verifiers.extraction import BOX, balanced_end, last_boxed
from justrl.verifiers.outcome import Grade, Outcome, require_text
from justrl.verifiers.plain_values import compare_plain
from justrl.verifiers.workers import GaveUp, PooledGrader

# Longer answers are not parsed; the longest reference answer of the nine benchmarks has 291 characters.
MAX_ANSWER = 2_000
# TeX allows spaces between a command and its group.
_SPACED_BOX = re.compile(r"\\boxed\s+\{")


class SymbolicGrader(PooledGrader):
    """Grades by value: parses both sides whole, then compares them exactly, to the digits given, or symbolically.

    `unparsed` includes an answer that cannot be parsed as a whole, unless its text equals the gold answer.
    """

    name = "symbolic"
    target = "justrl.verifiers.math_verify_worker:compare"

    def grade_many(self, pairs: Iterable[tuple[str, str]]) -> list[Grade]:
        """Grade (completion, gold) pairs, distributed over the workers. Each distinct pair is compared once."""
        answers: list[tuple[str | None, str]] = []
        for completion, gold in pairs:
            require_text(completion, gold)
            answers.append((_boxed(_SPACED_BOX.sub(r"\\boxed{", completion)), gold.strip()))
        asked = [(answer, gold) for answer, gold in dict.fromkeys(answers) if answer and _worth_asking(answer, gold)]
        verdicts: dict[tuple[str, str], str | GaveUp] = {
            pair: verdict for pair in asked if (verdict := compare_plain(*pair)) is not None
        }
        verdicts |= self.compare([pair for pair in asked if pair not in verdicts])
        return [Grade.of(_outcome(*pair, verdicts), pair[0]) for pair in answers]


def _boxed(completion: str) -> str | None:
    """Content of the last box, or of the outermost box around it, whose other text is part of the answer."""
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
    """Whether to compare an answer: it isn't empty, differs from the gold answer's text, and neither is too long."""
    return bool(answer.strip() and answer.strip() != gold and len(answer) <= MAX_ANSWER and len(gold) <= MAX_ANSWER)
