"""Graders whose comparisons run in worker processes."""

from collections.abc import Collection
from typing import Any

from justrl.verifiers.outcome import Grade, Grader
from justrl.verifiers.workers import NO_TIME_LEFT, GaveUp, WorkerPool

MAX_REMEMBERED = 100_000


class PooledGrader(Grader):
    """Base of graders that compare pairs of texts in workers and cache the results.

    A subclass sets `grade_many` and `target`, the function that workers run ("package.module:function").

    Args:
        processes: maximum number of worker processes (default: one per processor, at most 8).
        timeout: processor seconds per comparison in a worker.
    """

    target = ""

    def __init__(self, processes: int | None = None, timeout: float = 5.0) -> None:
        self._pool = WorkerPool(self.target, processes, timeout)
        # Samples of a question repeat each other's answers.
        self._results: dict[tuple[str, str], Any] = {}

    def grade(self, completion: str, gold: str) -> Grade:
        """Grade one completion."""
        return self.grade_many([(completion, gold)])[0]

    def compare(self, pairs: Collection[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        """Compare pairs in the worker pool, using cached results.

        A pair that exceeds a limit gets a GaveUp. Thread-safe.
        """
        memory = self._results
        known = {pair: memory[pair] for pair in pairs if pair in memory}
        if new := [pair for pair in dict.fromkeys(pairs) if pair not in known]:
            results = dict(zip(new, self._pool.map(new), strict=True))
            # A pair that never started because time ran out isn't cached, so it can be compared on the next call.
            begun = {
                pair: result
                for pair, result in results.items()
                if not (isinstance(result, GaveUp) and result.reason == NO_TIME_LEFT)
            }
            if len(memory) > MAX_REMEMBERED:
                self._results = {}
            self._results.update(begun)
            known |= results
        return known

    def grant(self, seconds: float, at_most: float) -> None:
        """Extend the time budget of all comparisons by `seconds` (WorkerPool.grant).

        Without a call there is no budget.
        """
        self._pool.grant(seconds, at_most)

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()
