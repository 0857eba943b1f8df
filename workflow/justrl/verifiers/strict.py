r"""The seed design's verifier: the last `\boxed{...}` anywhere, compared without spaces."""

from justrl.verifiers.extraction import last_boxed
from justrl.verifiers.outcome import Grade, Grader, Outcome, require_text


class MathRuleVerifier(Grader):
    r"""Rule-based reward 1.0 or 0.0: the last balanced `\boxed{...}` equals the gold up to spaces.

    It differs from the authors' training reward (`PaperVerifier`), which looks only at the last 100 characters, keeps
    spaces and gives -1 for a wrong answer. Takes time linear in the text and never raises on a string.
    """

    name = "strict"

    def extract_answer(self, text: str) -> str | None:
        r"""Content of the last `\boxed{...}` with balanced braces, stripped; None if there is none."""
        require_text(text=text)
        answer = last_boxed(text)
        return None if answer is None else answer.strip()

    def normalize(self, answer: str) -> str:
        """Strip `answer` and remove all its spaces."""
        require_text(answer=answer)
        return answer.strip().replace(" ", "")

    def verify(self, completion: str, gold: str) -> float:
        """Return 1.0 if the completion's boxed answer equals the gold after normalisation, else 0.0."""
        return 1.0 if self.grade(completion, gold).correct else 0.0

    def grade(self, completion: str, gold: str) -> Grade:
        """Grade as `verify` does, telling a wrong answer from none."""
        require_text(completion=completion, gold=gold)
        answer = self.extract_answer(completion)
        if answer is None:
            return Grade(Outcome.UNPARSED)
        correct = self.normalize(answer) == self.normalize(gold)
        return Grade.of(Outcome.CORRECT if correct else Outcome.WRONG, answer)
