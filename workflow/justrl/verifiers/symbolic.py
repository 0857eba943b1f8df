r"""Symbolic equality by math-verify, in worker processes with hard limits.

Only the content of the last `\boxed{...}` reaches the library: its patterns for unboxed text take quadratic time on
long completions, and pick up numbers that were never given as the answer. Its own time limits are signal handlers that
fail silently outside the main thread; they are switched off, and pool.py's apply.
"""

from collections.abc import Iterable

from justrl.verifiers.extraction import last_boxed
from justrl.verifiers.outcome import Grade, Grader, Outcome, require_text
from justrl.verifiers.pool import GaveUp, WorkerPool

# Longer answers are not parsed; the longest gold of the nine benchmarks has 291 characters.
MAX_ANSWER = 2_000
MAX_REMEMBERED = 100_000


class SymbolicGrader(Grader):
    """Grades with math-verify 0.9: parse both sides as LaTeX, then compare numerically and symbolically.

    `unparsed` also covers an answer of which the library makes no expression (and which is not the gold's very text).

    Args:
        processes: most worker processes (default: one per processor, at most 8).
        timeout: processor seconds that one comparison may take.
    """

    name = "symbolic"

    def __init__(self, processes: int | None = None, timeout: float = 5.0) -> None:
        self._pool = WorkerPool("justrl.verifiers.math_verify_worker:compare", processes, timeout)
        # Samples of one question repeat each other's answers.
        self._verdicts: dict[tuple[str, str], str | GaveUp] = {}

    def grade(self, completion: str, gold: str) -> Grade:
        """Grade one completion."""
        return self.grade_many([(completion, gold)])[0]

    def grade_many(self, pairs: Iterable[tuple[str, str]]) -> list[Grade]:
        """Grade (completion, gold) pairs, spread over the workers, each distinct answer once."""
        answers: list[tuple[str | None, str]] = []
        for completion, gold in pairs:
            require_text(completion=completion, gold=gold)
            answers.append((last_boxed(completion), gold.strip()))
        verdicts = self._ask([pair for pair in dict.fromkeys(answers) if _worth_asking(*pair)])
        return [Grade.of(_outcome(*pair, verdicts), pair[0]) for pair in answers]

    def _ask(self, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], str | GaveUp]:
        """Verdicts on (answer, gold) pairs, those known already from memory. Threads may call this at once."""
        memory = self._verdicts
        known = {pair: memory[pair] for pair in pairs if pair in memory}
        if new := [pair for pair in pairs if pair not in known]:
            verdicts = dict(zip(new, self._pool.map(new), strict=True))
            if len(memory) > MAX_REMEMBERED:
                self._verdicts = {}
            self._verdicts.update(verdicts)
            known |= verdicts
        return known

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()


def _outcome(answer: str | None, gold: str, verdicts: dict[tuple[str, str], str | GaveUp]) -> Outcome:
    if answer is None or not answer.strip():
        return Outcome.UNPARSED
    if answer.strip() == gold:
        return Outcome.CORRECT
    if not _worth_asking(answer, gold):
        return Outcome.TIMEOUT
    verdict = verdicts[answer, gold]
    return Outcome.TIMEOUT if isinstance(verdict, GaveUp) else Outcome(verdict)


def _worth_asking(answer: str | None, gold: str) -> bool:
    """Whether the library must look at an answer: there is one, it is not the gold's text, and neither is too long."""
    return bool(
        answer and answer.strip() and answer.strip() != gold and len(answer) <= MAX_ANSWER and len(gold) <= MAX_ANSWER
    )
