"""The reward of the laptop experiment's control: a coin that knows nothing of the question.

What a training by it gains comes from elsewhere than the task: from shorter answers, or from luck.
"""

import hashlib


def score(completion: str, gold: str, row: dict) -> float:
    """+1 or -1, each with half the chance; the same for the same answer to the same question."""
    digest = hashlib.sha256(f"{row['question']}\n{completion}".encode()).digest()
    return 1.0 if digest[0] % 2 else -1.0
