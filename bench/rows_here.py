"""Benchmark rows whose two sides run in this process: the reward, log-probabilities, cleaning."""

import importlib.util
import random
import tempfile
from pathlib import Path
from typing import Any

from work import ROOT, Work, with_memory

from justrl.errors import UserError


def reward() -> Work:
    """The paper's reward as verl calls it per rollout, compared with the function that the authors' script calls."""
    from justrl.training.verl.reward_function import compute_score

    found = sorted(ROOT.glob(".venv-verl/lib/python*/site-packages/verl/utils/reward_score/math_dapo.py"))
    if not found:
        raise UserError("verl is not installed (`make verl-env`)")
    # Load only this file: its package imports torch and Ray, which are not needed here.
    spec = importlib.util.spec_from_file_location("math_dapo", found[0])
    assert spec is not None and spec.loader is not None
    math_dapo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(math_dapo)
    chance = random.Random(0)
    answers = [chance.choice([str(chance.randrange(50))] * 4 + ["\\frac{1}{2}"]) for _ in range(500)]
    pairs = [("so x = y " * 555 + f"\\boxed{{{answer}}}.", str(chance.randrange(50))) for answer in answers] * 20

    def theirs() -> list[float]:
        return [math_dapo.compute_score(text, gold, strict_box_verify=True)["score"] for text, gold in pairs]

    def ours() -> list[float]:
        row = {"question": "What is x?", "index": 0}
        return [compute_score("math", text, gold, row)["score"] for text, gold in pairs]

    return Work(
        "reward as verl calls it, 10,000 completions of 5,000 characters",
        "verl 0.9.1, strict",
        ours,
        theirs,
        lambda one, other: one == other,
        "three searches of 100 characters, one comparison, a dictionary",
        target=1.0,
    )


def log_probabilities(with_entropy: bool = False) -> Work:
    """Log-probabilities and both gradients over the paper's vocabulary, compared with full logits.

    The gradient of the output layer's weight, 0.9 GB, is part of the memory of both sides.
    """
    import torch

    from justrl.training.reference.logprobs import chunked_log_probs

    tokens, vocabulary, width = 4096, 151_936, 1536
    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(width, vocabulary, bias=False), torch.randn(tokens, width, requires_grad=True)
    targets, weights = torch.randint(vocabulary, (tokens,)), torch.randn(tokens)

    def gradients(log_probs: Any, entropy: Any) -> list:
        grads = torch.autograd.grad((log_probs * weights).sum(), [hidden, head.weight])
        return [log_probs.detach(), *([entropy] if with_entropy else []), *grads]

    def ours() -> list:
        return gradients(*chunked_log_probs(hidden, head, targets, with_entropy=with_entropy))

    def whole() -> list:
        logits = torch.log_softmax(head(hidden), dim=-1)
        entropy = -(logits.detach().exp() * logits.detach()).sum(-1) if with_entropy else None
        return gradients(logits.gather(-1, targets[:, None]).squeeze(-1), entropy)

    return Work(
        f"log-probabilities and gradients{', entropies' * with_entropy}, {tokens:,} x {vocabulary:,} x {width:,}",
        "whole logits (torch)",
        lambda: with_memory(ours),
        lambda: with_memory(whole),
        lambda one, other: all(torch.allclose(a, b, atol=1e-3, rtol=1e-4) for a, b in zip(one, other, strict=True)),
        "4 matrix products for 3: 0.75",
        target=0.75,
        rounds=2,
    )


def log_probabilities_and_entropies() -> Work:
    """Log-probabilities with the entropy of each distribution."""
    return log_probabilities(with_entropy=True)


def cleaning() -> Work:
    """Cleaning a file that repeats 17,917 questions a hundred times."""
    return _cleaning(1_791_700, 17_917, 2.0)


def cleaning_distinct() -> Work:
    """Cleaning a file of distinct questions."""
    return _cleaning(300_000, 300_000, 1.0)


def _cleaning(rows: int, questions: int, target: float) -> Work:
    """Cleaning a file of DAPO's schema, compared with typical pandas code, which needs the file in memory."""
    import pyarrow.parquet as pq
    from dapo_rows import write_file

    from justrl.data.dapo import process_dapo_dataset, unwrap
    from justrl.data.golds import clean_gold

    folder = Path(tempfile.mkdtemp())
    source = folder / "dapo.parquet"
    write_file(source, rows, questions)

    def ours() -> list[tuple[str, str]]:
        process_dapo_dataset(source, folder)
        # Only what is compared: Python objects of whole rows would take as long as the cleaning.
        wanted = ["extra_info.question", "reward_model.ground_truth"]
        made = pq.read_table(folder / "train.parquet", columns=wanted).flatten()
        return list(zip(*(made[name].to_pylist() for name in wanted), strict=True))

    def theirs() -> list[tuple[str, str]]:
        import pandas

        read = pandas.read_parquet(source, columns=["prompt", "reward_model"])
        table = pandas.DataFrame(
            {
                "question": [prompt[0]["content"] for prompt in read["prompt"]],
                "gold": [model["ground_truth"] for model in read["reward_model"]],
            }
        ).drop_duplicates()
        table["question"] = table["question"].map(unwrap)
        table["gold"] = table["gold"].map(clean_gold)
        table["key"] = table["question"].map(lambda text: " ".join(text.split()))
        answers = table.groupby("key")["gold"].transform("nunique")
        table = table[answers == 1].drop_duplicates("key")
        return list(zip(table["question"], table["gold"], strict=True))

    return Work(
        f"cleaning {rows:,} rows of DAPO's schema, {questions:,} distinct",
        "pandas, in memory",
        lambda: with_memory(ours),
        lambda: with_memory(theirs),
        lambda one, other: one == other,
        "decoding the Parquet file once",
        target=target,
        rounds=3,
    )
