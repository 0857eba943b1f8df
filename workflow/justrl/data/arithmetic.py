"""Generated sums with exact answers: what the mini experiment trains and is tested on.

A sum `a + b` belongs to the training or to the held-out side by a hash of its two numbers, whatever the order of the
terms, the seed or the number of rows asked for, so the two sides cannot overlap. More digits make a harder task.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from justrl import cli
from justrl.data.prompts import DEFAULT_SEPARATOR, DEFAULT_SUFFIX, apply_chat_template
from justrl.errors import UserError
from justrl.io import atomic_write

HELD_OUT_SHARE = 10  # one pair in ten is never trained on
DATA_SOURCE = "arithmetic"


def is_held_out(a: int, b: int) -> bool:
    """Say on which side of the fixed split the sum of `a` and `b` lies, in either order."""
    low, high = sorted((a, b))
    digest = hashlib.sha256(f"{low}+{high}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_SHARE == 0


def question_text(a: int, b: int) -> str:
    """Put a sum in words, as the model is asked it."""
    return f"What is {a} + {b}?"


def draw_sums(rows: int, digits: int, seed: int, held_out: bool) -> list[tuple[int, int]]:
    """Draw `rows` different ordered pairs of `digits`-digit numbers from one side of the split.

    Raises:
        UserError: if that side of the split holds fewer pairs than asked for.
    """
    if digits < 1 or rows < 1:
        raise UserError(f"arithmetic tasks need at least 1 row of at least 1 digit, got rows={rows}, digits={digits}")
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


def training_rows(rows: int, digits: int, seed: int) -> list[dict]:
    """Make training tasks: id, question, answer."""
    return [
        {"id": str(index), "question": question_text(a, b), "answer": str(a + b)}
        for index, (a, b) in enumerate(draw_sums(rows, digits, seed, held_out=False))
    ]


def as_training_examples(tasks: list[dict], prompt_suffix: str, prompt_separator: str) -> list[dict]:
    """Bring tasks into verl's training schema, prompts formatted as the paper's are.

    `reward_model.style` is "rule", verl's word for answers that a rule can check.
    """
    return [
        {
            "data_source": DATA_SOURCE,
            "prompt": apply_chat_template(task["question"], prompt_suffix, prompt_separator),
            "ability": "MATH",
            "reward_model": {"style": "rule", "ground_truth": task["answer"]},
            "extra_info": {"index": int(task["id"]), "question": task["question"]},
        }
        for task in tasks
    ]


def benchmark_rows(rows: int, digits: int, seed: int) -> list[dict]:
    """Make held-out tasks: id, question, answer."""
    return [
        {"id": str(index), "question": question_text(a, b), "answer": str(a + b)}
        for index, (a, b) in enumerate(draw_sums(rows, digits, seed, held_out=True))
    ]


def write_parquet(rows: list[dict], path: Path) -> Path:
    """Write rows as Parquet, atomically; a path without the ending .parquet is a folder that gets `train.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = path if path.suffix == ".parquet" else path / "train.parquet"
    with atomic_write(file, "wb") as handle:
        pq.write_table(pa.Table.from_pylist(rows), handle)
    return file


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m justrl.data.arithmetic", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="sums to train on")
    train.add_argument("--formatted", action="store_true", help="write verl's training schema, ready for a trainer")
    train.add_argument("--prompt-suffix", default=DEFAULT_SUFFIX, help="put after every question, if formatted")
    train.add_argument("--prompt-separator", default=DEFAULT_SEPARATOR, help="what joins the two, if formatted")
    benchmark = commands.add_parser("benchmark", help="sums that are never trained on")
    for command in (train, benchmark):
        command.add_argument("--rows", type=int, required=True, help="how many sums")
        command.add_argument("--digits", type=int, required=True, help="digits of each of the two numbers")
        command.add_argument("--seed", type=int, required=True, help="which sums are drawn and in what order")
        command.add_argument("--output", type=Path, required=True, help="Parquet file to write, or its folder")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Write one file of generated tasks."""
    args = parse_arguments(argv)
    if args.command == "benchmark":
        rows = benchmark_rows(args.rows, args.digits, args.seed)
    else:
        rows = training_rows(args.rows, args.digits, args.seed)
        if args.formatted:
            rows = as_training_examples(rows, args.prompt_suffix, args.prompt_separator.replace("\\n", "\n"))
    file = write_parquet(rows, args.output)
    print(f"{len(rows)} sums of {args.digits} digits -> {file}")


if __name__ == "__main__":
    cli.run(main)
