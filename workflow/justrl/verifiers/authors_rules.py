r"""The rules of the authors' released evaluation, without its use of Python's `eval`.

Source: thunlp/JustRL, `evals/utils.py`, `grade_answer_verl`. The content of the last `\boxed{...}` is correct if it
equals the gold answer after one of two string normalisations, or if SymPy simplifies the difference to zero. Upstream
passes the model's text to SymPy's `parse_expr`, hence to Python's `eval`, without a time limit. Here our own expression
parser builds the values (expression.py), plain fractions are compared in this process, and SymPy simplifies in worker
processes with hard limits (workers.py).
"""

import re
from collections.abc import Iterable

from justrl.verifiers import expression
from justrl.verifiers.answer_forms import mathd_form, plain_form, whole_number, without_thousands_commas
from justrl.verifiers.extraction import balanced_end
from justrl.verifiers.outcome import Grade, Outcome, require_text
from justrl.verifiers.workers import GaveUp, PooledGrader

# For longer answers, only the LaTeX form is compared.
MAX_ANSWER = 10_000
_BRACKETS = "()[]"
_FRACTION = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
# Exponents of more than one digit, and powers of powers. The authors' grader doesn't compute these either.
_POWERS = re.compile(r"\^\{|\^\(|\^[0-9]+\^|\^[0-9][0-9]+")


def boxed_answer(text: str) -> str | None:
    r"""Content of the last `\boxed{...}`, as in the authors' evaluation; None if the last `\boxed` is incomplete."""
    start = text.rfind("\\boxed")
    if start < 0 or not text.startswith("\\boxed{", start):
        return None
    end = balanced_end(text, start)
    return None if end is None else text[start + len("\\boxed{") : end - 1]


class PaperRulesGrader(PooledGrader):
    """Decides as the authors' released evaluation does, and is safe to use on any text."""

    name = "paper_rules"
    target = "justrl.verifiers.sympy_algebra:equal"

    def grade_many(self, pairs: Iterable[tuple[str, str]]) -> list[Grade]:
        """Grade (completion, gold) pairs.

        If the gold has a box, its content is used. SymPy comparisons run in the workers.
        """
        answers: list[tuple[str | None, str | None]] = []
        for completion, gold in pairs:
            require_text(completion, gold)
            answers.append((boxed_answer(completion), boxed_answer(gold) if "\\boxed" in gold else gold))
        plans = {pair: _plan(*pair) for pair in set(answers)}
        verdicts = self.compare({question for plan in plans.values() if isinstance(plan, tuple) for question in plan})
        outcomes = {pair: _settle(plan, verdicts) for pair, plan in plans.items()}
        return [Grade.of(outcomes[pair], pair[0]) for pair in answers]


def _settle(
    plan: Outcome | tuple[tuple[str, str], ...], verdicts: dict[tuple[str, str], bool | GaveUp | None]
) -> Outcome:
    """Outcome of a plan: correct if all elements are equal, wrong if one is not, even if others hit a limit."""
    if isinstance(plan, Outcome):
        return plan
    answers = [verdicts[question] for question in plan]
    if any(answer is False for answer in answers):
        return Outcome.WRONG
    return Outcome.CORRECT if all(answer is True for answer in answers) else Outcome.TIMEOUT


def _plan(answer: str | None, gold: str | None) -> Outcome | tuple[tuple[str, str], ...]:
    """Decide by strings and fractions, or return the pairs of expressions that SymPy has to compare."""
    if answer is None:
        return Outcome.UNPARSED
    if not gold:
        return Outcome.WRONG
    if mathd_form(gold) == mathd_form(answer):
        return Outcome.CORRECT
    if max(len(answer), len(gold)) > MAX_ANSWER:
        return Outcome.TIMEOUT
    gold, answer = plain_form(gold), plain_form(answer)
    if gold == answer:
        return Outcome.CORRECT
    if not answer:
        return Outcome.WRONG
    pairs = _elements(gold, answer)
    if pairs is None:
        return Outcome.WRONG
    open_questions = []
    gave_up = False
    for left, right in pairs:
        verdict = _compare(left, right)
        if verdict is False:
            return Outcome.WRONG
        gave_up |= verdict is None
        if verdict == "ask":
            open_questions.append((left, right))
    if gave_up:
        return Outcome.TIMEOUT
    return tuple(open_questions) or Outcome.CORRECT


def _elements(gold: str, answer: str) -> list[tuple[str, str]] | None:
    """Pair the elements of two tuples or intervals, or pair two single values. None if their shapes differ."""
    gold_elements, answer_elements = _split_tuple(gold), _split_tuple(answer)
    if len(gold_elements) != len(answer_elements):
        return None
    if len(gold_elements) > 1 and (gold[0], gold[-1]) != (answer[0], answer[-1]):
        return None
    return list(zip(gold_elements, answer_elements, strict=True))


def _split_tuple(text: str) -> list[str]:
    text = without_thousands_commas(text)
    if not text:
        return []
    inner = text[1:-1]
    bracketed = len(text) > 2 and text[0] in _BRACKETS and text[-1] in _BRACKETS
    if bracketed and not any(bracket in inner for bracket in _BRACKETS):
        return [element.strip() for element in inner.split(",")]
    return [text]


def _compare(gold: str, answer: str) -> bool | str | None:
    """Whether two plain forms are equal: True, False, None (a limit was exceeded) or "ask" (SymPy has to decide)."""
    if _FRACTION.search(gold) and _FRACTION.search(answer):
        # Upstream rejects an unreduced fraction, so two fractions are equal only as text.
        return gold == answer
    if (whole_number(gold) is None) != (whole_number(answer) is None):
        return False
    difference = expression.difference_of(gold, answer)
    if not _may_compute(difference):
        return False
    try:
        return expression.evaluate(difference, expression.RationalAlgebra()) == 0
    except expression.NotRationalError:
        return "ask"
    except expression.TooLargeError:
        return None
    except expression.ExpressionError:
        return False


def _may_compute(text: str) -> bool:
    """Whether the authors' grader computes with `text`: at most two distinct letters, no large or nested powers."""
    letters = {character for character in text.replace("sqrt", "").replace("frac", "") if character.isalpha()}
    return len(letters) <= 2 and _POWERS.search(text) is None
