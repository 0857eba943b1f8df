"""A grader of one's own: the gold as the last number of the answer, in a box or not."""

import re


def grade(completion: str, gold: str, row: dict) -> bool | None:
    """True, False, or None where there is no answer; `row` has the question, its id and its benchmark."""
    numbers = re.findall(r"-?\d+", completion)
    return numbers[-1] == gold if numbers else None
