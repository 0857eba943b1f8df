"""Training rewards: a grader's verdict as a number, within a limit on time for each step.

Evaluation can wait for an answer that takes long; a training step cannot: 2,048 answers like `ln(ln(...5))`, each
ended by the graders' limit of five seconds, would hold it for hours. Three things bound what `robust` takes:

- one comparison has half a second of processor time, a tenth of what evaluation gives it;
- a distinct pair of answer and gold is compared once, also where the comparison was ended by that limit;
- all of them together have a budget of wall-clock time: 60 seconds saved up, and 0.03 more for each answer that is
  marked, which makes at most two minutes for the 2,048 of a step, whatever they are.

An answer that is then not decided counts as wrong. It is counted (the metric `undecided`), and said once. What strings
and fractions decide is decided always. `paper` and `strict` only compare strings: neither leaves anything undecided.

A response that ends inside its last box earns the least by `paper`, as the authors have it, and by `strict`, whose
grader would take the box before it: neither engine tells the reward why a response ended, and what is whole closes its
boxes.
"""

import sys
from collections.abc import Iterable
from typing import NamedTuple

from justrl.verifiers.exact import ExactVerifier
from justrl.verifiers.extraction import cut_in_box
from justrl.verifiers.outcome import Outcome
from justrl.verifiers.pooled import PooledGrader

TIMEOUT = Outcome.TIMEOUT
COMPARISON_SECONDS = 0.5
SAVED_SECONDS = 60.0
SECONDS_PER_ANSWER = 0.03


class Mark(NamedTuple):
    """What one completion earned; `undecided` where its grader gave up, which counts as wrong."""

    score: float
    undecided: bool = False


class Reward:
    """Marks completions: 1.0 for a right answer. Threads may share one."""

    name: str

    def __call__(self, completion: str, gold: str) -> float:
        """Score of one completion."""
        return self.mark([(completion, gold)])[0].score

    def mark(self, answers: Iterable[tuple]) -> list[Mark]:
        """Mark answers, (completion, gold) or with more behind, in their order."""
        raise NotImplementedError


class ExactReward(Reward):
    """`paper` and `strict`: a verifier that compares strings; what ends inside its last box is not right."""

    def __init__(self, verifier: ExactVerifier) -> None:
        self.name, self.verifier = verifier.name, verifier

    def __call__(self, completion: str, gold: str) -> float:
        """Score of one completion."""
        score = self.verifier.verify(completion, gold)
        return self.verifier.wrong_reward if score == 1.0 and cut_in_box(completion) else score

    def mark(self, answers: Iterable[tuple]) -> list[Mark]:
        """Mark answers, (completion, gold) or with more behind, in their order."""
        return [Mark(self(completion, gold)) for completion, gold, *_ in answers]


class RobustReward(Reward):
    """`robust`: 1.0 for what `grader` accepts, else -1.0, within a step's limits."""

    name = "robust"

    def __init__(self, grader: PooledGrader) -> None:
        self.grader = grader
        self._said = False

    def mark(self, answers: Iterable[tuple]) -> list[Mark]:
        """Mark answers, (completion, gold) or with more behind, in their order."""
        pairs = [(completion, gold) for completion, gold, *_ in answers]
        self.grader.grant(SECONDS_PER_ANSWER * len(pairs), SAVED_SECONDS)
        grades = self.grader.grade_many(pairs)
        if not self._said and (given_up := [it.extracted for it in grades if it.outcome is TIMEOUT]):
            self._said = True
            print(
                f"reward {self.name}: {given_up[0]!r:.100} is not decided within the limits and counts as wrong; "
                "the metric `undecided` counts such answers from now on",
                file=sys.stderr,
                flush=True,
            )
        return [Mark(1.0 if it.correct else -1.0, it.outcome is TIMEOUT) for it in grades]
