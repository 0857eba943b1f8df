r"""The two training rewards that compare the boxed answer with the gold answer character for character.

`PaperVerifier` is the authors' (thunlp/JustRL, `train/verl/utils/reward_score/math_dapo.py`,
`compute_score(strict_box_verify=True)`). It gives +1/-1 for the last `\boxed{` within the last 100 characters, without
normalisation. `MathRuleVerifier` gives 1/0 for the last balanced `\boxed{...}` anywhere, compared without spaces.
"""

from justrl.verifiers.extraction import final_boxed, last_boxed
from justrl.verifiers.outcome import Grade, Grader, Outcome, require_text

WINDOW = 100


class ExactVerifier(Grader):
    """Base of both.

    A subclass sets how the answer is extracted, how it is normalised, and the reward of a wrong answer.
    """

    wrong_reward = 0.0

    def extract_answer(self, text: str) -> str | None:
        r"""Extract the answer from a `\boxed{...}` in `text`; None if there is none. Never raises on a string."""
        raise NotImplementedError

    def normalize(self, answer: str) -> str:
        """Normalise an answer for the comparison; here, return it unchanged."""
        if not isinstance(answer, str):
            require_text(answer=answer)
        return answer

    def verify(self, completion: str, gold: str) -> float:
        """Return 1.0 if the completion's boxed answer equals the gold after normalisation, else `wrong_reward`."""
        # No `Grade` here: building one takes longer than the comparison, and this runs for every rollout.
        if not (isinstance(completion, str) and isinstance(gold, str)):
            require_text(completion=completion, gold=gold)
        answer = self.extract_answer(completion)
        if answer is None:
            return self.wrong_reward
        return 1.0 if self.normalize(answer) == self.normalize(gold) else self.wrong_reward

    def grade(self, completion: str, gold: str) -> Grade:
        """Grade as `verify` does, but distinguish a wrong answer from a missing one."""
        if not (isinstance(completion, str) and isinstance(gold, str)):
            require_text(completion=completion, gold=gold)
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
        if not isinstance(text, str):
            require_text(text=text)
        answer = last_boxed(text)
        return None if answer is None else answer.strip()

    def normalize(self, answer: str) -> str:
        """Strip `answer` and remove all its spaces."""
        if not isinstance(answer, str):
            require_text(answer=answer)
        return answer.strip().replace(" ", "")


class PaperVerifier(ExactVerifier):
    r"""The paper's reward: +1.0 if the box in the last 100 characters holds exactly the gold answer, else -1.0.

    Nothing is normalised: a space, a `\dfrac` or a leading zero makes an answer wrong. A box that opens before the
    window is wrong, too, and so is a last box that doesn't close. Never raises on a string.
    """

    name = "paper"
    wrong_reward = -1.0

    def extract_answer(self, text: str) -> str | None:
        r"""Content of the last `\boxed{` within the last 100 characters, unchanged; None if absent or unbalanced."""
        if not isinstance(text, str):
            require_text(text=text)
        # Upstream first cuts to 300 characters, which has no effect before the cut to 100.
        return final_boxed(text[-WINDOW:])
