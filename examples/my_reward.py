"""Example of a custom reward: 1 for a correct answer in a box, 0.5 for a long one, less for a wrong one or no box."""


def score(completion: str, gold: str, row: dict) -> float:
    """`row` has the question, its index and its data_source; above 0 counts as solved."""
    if f"\\boxed{{{gold}}}" in completion:
        return 1.0 if len(completion) < 4 * len(row["question"]) else 0.5
    return -0.5 if "\\boxed{" in completion else -1.0
