r"""The authors' training reward, to the character.

Source: thunlp/JustRL, `train/verl/utils/reward_score/math_dapo.py`, `compute_score(strict_box_verify=True)`: the last
300 characters, of those the last 100, and in them the last `\boxed{` with balanced braces.
"""

from justrl.verifiers.extraction import final_boxed
from justrl.verifiers.outcome import Grade, Grader, Outcome, require_text

WINDOW = 100


class PaperVerifier(Grader):
    r"""The paper's reward: +1.0 if the box in the last 100 characters holds exactly the gold, else -1.0.

    Nothing is normalised: a space, a `\dfrac` or a leading zero makes an answer wrong. So does a box whose opening lies
    before the window, and a final box that does not close. Never raises on a string.
    """

    name = "paper"

    def extract_answer(self, text: str) -> str | None:
        r"""Content of the last `\boxed{` within the last 100 characters, unchanged; None if absent or unbalanced."""
        require_text(text=text)
        # The upstream cut to 300 characters before the one to 100 changes nothing and is left out.
        return final_boxed(text[-WINDOW:])

    def normalize(self, answer: str) -> str:
        """Return `answer` as it is: this reward compares character for character."""
        require_text(answer=answer)
        return answer

    def verify(self, completion: str, gold: str) -> float:
        """Return +1.0 if the boxed answer equals `gold` character for character, else -1.0."""
        return 1.0 if self.grade(completion, gold).correct else -1.0

    def grade(self, completion: str, gold: str) -> Grade:
        """Grade as `verify` does, telling a wrong answer from none."""
        require_text(completion=completion, gold=gold)
        answer = self.extract_answer(completion)
        if answer is None:
            return Grade(Outcome.UNPARSED)
        return Grade.of(Outcome.CORRECT if answer == gold else Outcome.WRONG, answer)
