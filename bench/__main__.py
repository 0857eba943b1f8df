"""Each speed beside its peer's: the same work on the same machine, in turns, and only where both made the same result.

    make bench                                (or python bench [--rounds 7] [--only reward cleaning])

Processor time, which a busy machine moves less than the clock; a ratio is that of two neighbouring measurements, and of
all ratios the median, least and greatest are shown. Writes results/bench.json, with hardware and versions, and the
table of docs/measured.md. A peer that is not installed is said so in its row.
"""

import argparse
import importlib.util
import os
import platform
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.io import write_json

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/measured.md"
PART = re.compile(r"(<!-- measured: peers -->\n).*?(<!-- end -->)", re.S)


@dataclass(frozen=True)
class Work:
    """Two ways to one result. `agree` compares what they returned; `floor` says what neither can go below."""

    name: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agree: Callable[[Any, Any], bool]
    floor: str


def reward() -> Work:
    """The paper's reward on long completions, beside the function of verl 0.9.1 that the authors' script calls."""
    from justrl import PaperVerifier

    found = sorted(ROOT.glob(".venv-verl/lib/python*/site-packages/verl/utils/reward_score/math_dapo.py"))
    if not found:
        raise UserError("verl is not installed (`make verl-env`)")
    # The file alone: the package around it imports torch and Ray, which have no part in this.
    spec = importlib.util.spec_from_file_location("math_dapo", found[0])
    assert spec is not None and spec.loader is not None
    math_dapo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(math_dapo)
    chance, verifier = random.Random(0), PaperVerifier()
    answers = [chance.choice([str(chance.randrange(50))] * 4 + ["\\frac{1}{2}"]) for _ in range(500)]
    pairs = [("so x = y " * 555 + f"\\boxed{{{answer}}}.", str(chance.randrange(50))) for answer in answers] * 20

    def theirs() -> list[float]:
        return [math_dapo.compute_score(text, gold, strict_box_verify=True)["score"] for text, gold in pairs]

    return Work(
        "reward, 10,000 completions of 5,000 characters",
        "verl 0.9.1, strict",
        lambda: [verifier.verify(text, gold) for text, gold in pairs],
        theirs,
        lambda one, other: one == other,
        "three searches of 100 characters, one comparison",
    )


def log_probabilities() -> Work:
    """Log-probabilities and both gradients, beside whole logits."""
    import torch

    from justrl.train.reference.logprobs import chunked_log_probs

    torch.manual_seed(0)
    head, hidden = torch.nn.Linear(1536, 32_768, bias=False), torch.randn(512, 1536, requires_grad=True)
    targets, weights = torch.randint(32_768, (512,)), torch.randn(512)

    def gradients(log_probs: Any) -> list:
        return [log_probs.detach(), *torch.autograd.grad((log_probs * weights).sum(), [hidden, head.weight])]

    def whole() -> list:
        return gradients(torch.log_softmax(head(hidden), dim=-1).gather(-1, targets[:, None]).squeeze(-1))

    return Work(
        "log-probabilities and gradients, 512 x 32,768 x 1,536",
        "whole logits (torch)",
        lambda: gradients(chunked_log_probs(hidden, head, targets, chunk_tokens=256)[0]),
        whole,
        lambda one, other: all(torch.allclose(a, b, atol=1e-3, rtol=1e-4) for a, b in zip(one, other, strict=True)),
        "4 matrix products for 3: 0.75",
    )


def cleaning() -> Work:
    """Cleaning a file that repeats 17,917 questions ten times, beside a loop over its rows."""
    import pyarrow.parquet as pq
    from dapo_rows import write_file

    from justrl.data.dapo import process_dapo_dataset, unwrap
    from justrl.data.tables import clean_gold

    folder = Path(tempfile.mkdtemp())
    source = folder / "dapo.parquet"
    write_file(source, 179_170, 17_917)

    def ours() -> list[tuple[str, str]]:
        process_dapo_dataset(source, folder)
        rows = pq.read_table(folder / "train.parquet").to_pylist()
        return [(row["extra_info"]["question"], row["reward_model"]["ground_truth"]) for row in rows]

    def theirs() -> list[tuple[str, str]]:
        golds: dict[str, set[str]] = {}
        first: dict[str, tuple[str, str]] = {}
        for batch in pq.ParquetFile(source).iter_batches(8192, columns=["prompt", "reward_model"]):
            for row in batch.to_pylist():
                question, gold = unwrap(row["prompt"][0]["content"]), clean_gold(row["reward_model"]["ground_truth"])
                key = " ".join(question.split())
                golds.setdefault(key, set()).add(gold)
                first.setdefault(key, (question, gold))
        return [pair for key, pair in first.items() if len(golds[key]) == 1]

    return Work(
        "cleaning 179,170 rows of DAPO's schema",
        "a loop over the rows",
        ours,
        theirs,
        lambda one, other: one == other,
        "decoding the Parquet file once",
    )


WORKS = {"reward": reward, "log_probabilities": log_probabilities, "cleaning": cleaning}


def measure(work: Work, rounds: int) -> dict[str, Any]:
    """Peer and ours in turns, after one of each whose results are compared.

    Raises UserError: the two results differ.
    """
    if not work.agree(work.ours(), work.theirs()):
        raise UserError(f"{work.name}: ours and {work.peer} made different results, so their times say nothing")
    pairs = [(seconds(work.theirs), seconds(work.ours)) for _ in range(rounds)]
    ratios = [theirs / ours for theirs, ours in pairs]
    return {
        "peer_seconds": statistics.median(theirs for theirs, _ in pairs),
        "our_seconds": statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "greatest": max(ratios),
    }


def seconds(call: Callable[[], Any]) -> float:
    """Processor seconds of a call, all threads of this process."""
    start = time.process_time()
    call()
    return time.process_time() - start


def row(made: dict[str, Any]) -> str:
    """A result as a row of the table."""
    cells = [made["name"], made.get("peer", "")]
    if "why_not" in made:
        return "| " + " | ".join([*cells, f"not measured: {made['why_not']}", ""]) + " |"
    spread = f"**{made['ratio']:.2f}** [{made['least']:.2f}, {made['greatest']:.2f}]"
    return "| " + " | ".join([*cells, spread, made["floor"]]) + " |"


def run(name: str, rounds: int) -> dict[str, Any]:
    """Measure one work, or say why it cannot be."""
    try:
        work = WORKS[name]()
    except UserError as error:
        return {"name": name.replace("_", " "), "why_not": str(error)}
    return {"name": work.name, "peer": work.peer, "floor": work.floor} | measure(work, rounds)


def main() -> None:
    """Measure, print, and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), help="these rows; writes no page")
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench.json")
    arguments = parser.parse_args()
    rows = [run(name, arguments.rounds) for name in arguments.only]
    lines = ["| work | peer | peer's time / ours | floor |", "|---|---|---|---|", *map(row, rows)]
    print("\n".join(lines))
    packages = {name: version(name) for name in ("torch", "pyarrow", "numpy")}
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    record = {"rounds": arguments.rounds, "rows": rows, "python": platform.python_version()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output, record | {"versions": packages, "machine": machine})
    if arguments.only == list(WORKS):
        page = PAGE.read_text(encoding="utf-8")
        table = "\n".join(lines) + "\n"
        PAGE.write_text(PART.sub(lambda found: found[1] + table + found[2], page), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
