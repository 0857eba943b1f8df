"""Example of a custom grader: the last number of the answer equals the reference answer, with or without a box."""

import re


def grade(completion: str, gold: str, row: dict) -> bool | None:
    """True, False, or None if there is no answer; `row` has the question, its id and its benchmark."""
    numbers = re.findall(r"-?\d+", completion)
    return numbers[-1] == gold if numbers else None
