"""Training rewards: a grader's outcome as a number, with a time limit per step.

Evaluation can wait for a slow answer, but a training step cannot: 2,048 answers like `ln(ln(...5))`, each stopped by
the graders' limit of five seconds, would take hours. Three limits bound the time of `robust`:

- A comparison has half a second of processor time, a tenth of the limit in evaluation.
- A distinct pair of answer and gold is compared once, even if that limit stopped the comparison.
- All comparisons share a budget of wall-clock time: 0.03 seconds per answer to score, on top of at most 60 saved
  seconds. That is at most two minutes for the 2,048 answers of a step.

An answer that is still undecided counts as wrong. The metric `undecided` counts such answers, and the first one is
printed. Answers that strings and fractions can decide are always decided. `paper` and `strict` only compare strings and
leave nothing undecided.

A response that ends inside its last box gets the reward of a wrong answer. `paper` does so in the authors' code. For
`strict` it is checked here, because its grader would take the box before. Neither engine passes the reason why a
response ended to the reward, but a complete response closes its boxes.
"""

import sys
from collections.abc import Iterable
from typing import NamedTuple

from justrl.verifiers.extraction import cut_in_box, final_boxed, last_boxed
from justrl.verifiers.outcome import Grade, Grader, Outcome, require_text
from justrl.verifiers.workers import PooledGrader

WINDOW = 100
TIMEOUT = Outcome.TIMEOUT
COMPARISON_SECONDS = 0.5
SAVED_SECONDS = 60.0
SECONDS_PER_ANSWER = 0.03


class ExactVerifier(Grader):
    """Base of `strict` and `paper`, which compare the boxed answer with the gold answer character for character.

    A subclass sets how the answer is extracted, how it is normalised, and the reward of a wrong answer.
    """

    wrong_reward = 0.0

    def extract_answer(self, text: str) -> str | None:
        r"""Extract the answer from a `\boxed{...}` in `text`; None if there is none. Never raises on a string."""
        raise NotImplementedError

    def normalize(self, answer: str) -> str:
        """Normalise an answer for the comparison; here, return it unchanged."""
        return answer

    def verify(self, completion: str, gold: str) -> float:
        """Return 1.0 if the completion's boxed answer equals the gold after normalisation, else `wrong_reward`."""
        # No `Grade` here: building one takes longer than the comparison, and this runs for every rollout.
        require_text(completion, gold)
        answer = self.extract_answer(completion)
        correct = answer is not None and self.normalize(answer) == self.normalize(gold)
        return 1.0 if correct else self.wrong_reward

    def grade(self, completion: str, gold: str) -> Grade:
        """Grade as `verify` does, but distinguish a wrong answer from a missing one."""
        require_text(completion, gold)
        answer = self.extract_answer(completion)
        if answer is None:
            return Grade(Outcome.UNPARSED)
        correct = self.normalize(answer) == self.normalize(gold)
        return Grade.of(Outcome.CORRECT if correct else Outcome.WRONG, answer)


class MathRuleVerifier(ExactVerifier):
    r"""Rule-based reward 1.0 or 0.0: the last balanced `\boxed{...}` equals the gold up to spaces.

    Takes time linear in the text and never raises on a string.
    """

    name = "strict"

    def extract_answer(self, text: str) -> str | None:
        r"""Content of the last `\boxed{...}` with balanced braces, stripped; None if there is none."""
        answer = last_boxed(text)
        return None if answer is None else answer.strip()

    def normalize(self, answer: str) -> str:
        """Strip `answer` and remove all its spaces."""
        return answer.strip().replace(" ", "")


class PaperVerifier(ExactVerifier):
    r"""The authors' reward: +1.0 if the box in the last 100 characters holds exactly the gold answer, else -1.0.

    It is `compute_score(strict_box_verify=True)` of thunlp/JustRL (`train/verl/utils/reward_score/math_dapo.py`).
    Nothing is normalised: a space, a `\dfrac` or a leading zero makes an answer wrong. A box that opens before the
    window is wrong, too, and so is a last box that doesn't close. Never raises on a string.
    """

    name = "paper"
    wrong_reward = -1.0

    def extract_answer(self, text: str) -> str | None:
        r"""Content of the last `\boxed{` within the last 100 characters, unchanged; None if absent or unbalanced."""
        # Upstream first cuts to 300 characters, which has no effect before the cut to 100.
        return final_boxed(text[-WINDOW:])


class Mark(NamedTuple):
    """The reward of one completion. `undecided` if its grader gave up, which counts as wrong."""

    score: float
    undecided: bool = False


class Reward:
    """Scores completions, 1.0 for a correct answer. Thread-safe."""

    name: str

    def __call__(self, completion: str, gold: str) -> float:
        """Score of one completion."""
        return self.mark([(completion, gold)])[0].score

    def mark(self, answers: Iterable[tuple]) -> list[Mark]:
        """Score answers in input order. Each is (completion, gold), optionally followed by more values."""
        raise NotImplementedError


class ExactReward(Reward):
    """`paper` and `strict`: a verifier that compares strings. A completion that ends inside its last box is wrong."""

    def __init__(self, verifier: ExactVerifier) -> None:
        self.name, self.verifier = verifier.name, verifier

    def __call__(self, completion: str, gold: str) -> float:
        """Score of one completion."""
        score = self.verifier.verify(completion, gold)
        return self.verifier.wrong_reward if score == 1.0 and cut_in_box(completion) else score

    def mark(self, answers: Iterable[tuple]) -> list[Mark]:
        """Score answers in input order. Each is (completion, gold), optionally followed by more values."""
        return [Mark(self(completion, gold)) for completion, gold, *_ in answers]


class RobustReward(Reward):
    """`robust`: 1.0 for answers that `grader` accepts, else -1.0, within the limits of a step."""

    name = "robust"

    def __init__(self, grader: PooledGrader) -> None:
        self.grader = grader
        self._said = False

    def mark(self, answers: Iterable[tuple]) -> list[Mark]:
        """Score answers in input order. Each is (completion, gold), optionally followed by more values."""
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
