"""Generated sums with exact answers: training data and benchmark of the mini experiment.

A hash of the two numbers assigns each sum `a + b` to the training or the held-out side. The order of the terms, the
seed and the number of rows don't matter, so the two sides cannot overlap. More digits make a harder task.
"""

import hashlib
from pathlib import Path

import numpy as np

from justrl.data.messages import build_messages
from justrl.errors import UserError
from justrl.io import atomic_write

HELD_OUT_SHARE = 10  # one pair in ten is held out from training
DATA_SOURCE = "arithmetic"


def is_held_out(a: int, b: int) -> bool:
    """Whether the sum of `a` and `b`, in either order, is on the held-out side of the fixed split."""
    low, high = sorted((a, b))
    digest = hashlib.sha256(f"{low}+{high}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


def question_text(a: int, b: int) -> str:
    """Write a sum as the question for the model."""
    return f"What is {a} + {b}?"


def draw_sums(rows: int, digits: int, seed: int, held_out: bool) -> list[tuple[int, int]]:
    """Draw `rows` distinct ordered pairs of `digits`-digit numbers from one side of the split.

    Raises UserError: that side of the split has fewer pairs than requested.
    """
    low, high = 10 ** (digits - 1), 10**digits
    rng = np.random.default_rng([seed, digits, int(held_out)])
    if (high - low) ** 2 <= 100_000:
        pairs = [(a, b) for a in range(low, high) for b in range(low, high) if is_held_out(a, b) == held_out]
        if rows > len(pairs):
            side = "held-out" if held_out else "training"
            raise UserError(
                f"{rows} {side} sums of {digits} digits were asked for, but there are {len(pairs)}: ask for fewer rows"
            )
        return [pairs[i] for i in rng.permutation(len(pairs))[:rows]]
    drawn: dict[tuple[int, int], None] = {}
    while len(drawn) < rows:
        a, b = (int(x) for x in rng.integers(low, high, size=2))
        if is_held_out(a, b) == held_out:
            drawn[a, b] = None
    return list(drawn)


def training_rows(rows: int, digits: int, seed: int, harder_share: float = 0.0) -> list[dict]:
    """Generate training tasks: id, question, answer.

    A share `harder_share` of them has one more digit, at random positions.
    """
    harder = round(rows * harder_share)
    sums = draw_sums(rows - harder, digits, seed, held_out=False) if harder < rows else []
    if harder:
        sums += draw_sums(harder, digits + 1, seed, held_out=False)
        sums = [sums[i] for i in np.random.default_rng([seed, harder]).permutation(rows)]
    return [
        {"id": str(index), "question": question_text(a, b), "answer": str(a + b)} for index, (a, b) in enumerate(sums)
    ]


def as_training_examples(tasks: list[dict], prompt_suffix: str, prompt_separator: str) -> list[dict]:
    """Convert tasks to verl's training schema, with prompts formatted like the paper's.

    `reward_model.style` is "rule", verl's name for answers that a rule can check.
    """
    return [
        {
            "data_source": DATA_SOURCE,
            "prompt": build_messages(task["question"], prompt_suffix, prompt_separator),
            "ability": "MATH",
            "reward_model": {"style": "rule", "ground_truth": task["answer"]},
            "extra_info": {"index": int(task["id"]), "question": task["question"]},
        }
        for task in tasks
    ]


def benchmark_rows(rows: int, digits: int, seed: int) -> list[dict]:
    """Generate held-out tasks: id, question, answer."""
    return [
        {"id": str(index), "question": question_text(a, b), "answer": str(a + b)}
        for index, (a, b) in enumerate(draw_sums(rows, digits, seed, held_out=True))
    ]


def write_parquet(rows: list[dict], path: Path) -> Path:
    """Write rows as Parquet, atomically. A path without the suffix .parquet is a folder, which gets `train.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path if path.suffix == ".parquet" else path / "train.parquet"
    with atomic_write(file, "wb") as handle:
        pq.write_table(pa.Table.from_pylist(rows), handle)
    return file
