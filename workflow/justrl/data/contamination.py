"""Training questions that a benchmark also asks: equal to one of its questions, or sharing 13 words in a row with one.

    python -m justrl.data.contamination --train train.parquet --benchmarks aime.parquet ... \\
        --output-json report.json --output-csv pairs.csv --output-train clean.parquet [--remove]

Thirteen words are the usual window (GPT-3, Llama), and competition problems share stock phrases that are as long
("where m and n are relatively prime positive integers, find m + n"), so every pair also says how much of the benchmark
question it covers: a copy covers nearly all of it, a stock phrase little.
"""

import argparse
import csv
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from justrl.errors import UserError
from justrl.io import atomic_write, write_json

NGRAM = 13


@dataclass(frozen=True)
class Pair:
    """A training question and a benchmark question that meet.

    `train_row` counts rows of the training file from 0; `coverage` is the share of the benchmark question's n-grams
    that the training question holds (1.0 for equal ones).
    """

    benchmark: str
    id: str
    train_row: int
    kind: str
    shared_ngrams: int
    coverage: float
    train_question: str
    benchmark_question: str


def normalized_words(text: str) -> list[str]:
    """Return the words of a text: runs of letters and digits, in one case and one Unicode form; signs are left out."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())


def normalized_text(text: str) -> str:
    """Return a text in one case, one Unicode form and single spaces: what "equal" compares, signs included."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def ngrams(text: str, n: int = NGRAM) -> set[str]:
    """Return the distinct runs of `n` words of a text; none if it has fewer."""
    words = normalized_words(text)
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def check_contamination(train: Iterable[str], benchmarks: Sequence[dict[str, str]], n: int = NGRAM) -> list[Pair]:
    """Return every pair of a training question and a benchmark question that are equal or share an n-gram.

    `benchmarks` holds rows {benchmark, id, question}. Pairs come in the order of the training questions, then of the
    benchmarks. Time is linear in the text, by an index of the benchmarks' n-grams.
    """
    from tqdm import tqdm

    grams = [ngrams(row["question"], n) for row in benchmarks]
    by_gram: dict[str, list[int]] = defaultdict(list)
    by_text: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(benchmarks):
        by_text[normalized_text(row["question"])].append(number)
        for gram in grams[number]:
            by_gram[gram].append(number)
    pairs = []
    for train_row, question in enumerate(tqdm(train, desc="comparing", unit=" questions", mininterval=1.0)):
        shared: dict[int, int] = defaultdict(int)
        for gram in ngrams(question, n) & by_gram.keys():
            for number in by_gram[gram]:
                shared[number] += 1
        equal = set(by_text.get(normalized_text(question), ()))
        for number in sorted(equal | shared.keys()):
            kind, coverage = ("equal", 1.0) if number in equal else ("ngram", shared[number] / len(grams[number]))
            row = benchmarks[number]
            ends = (shared[number], round(coverage, 4), question, row["question"])
            pairs.append(Pair(row["benchmark"], row["id"], train_row, kind, *ends))
    return pairs


def summarize(
    pairs: Sequence[Pair], benchmarks: Sequence[dict[str, str]], train_rows: int, n: int = NGRAM
) -> dict[str, Any]:
    """Count pairs per benchmark: training rows and benchmark questions concerned, and those covered by half or more."""
    names = list(dict.fromkeys(row["benchmark"] for row in benchmarks))
    counts = {}
    for name in names:
        mine = [pair for pair in pairs if pair.benchmark == name]
        counts[name] = {
            "questions": sum(row["benchmark"] == name for row in benchmarks),
            "questions_met": len({pair.id for pair in mine}),
            "questions_half_covered": len({pair.id for pair in mine if pair.coverage >= 0.5}),
            "questions_equal": len({pair.id for pair in mine if pair.kind == "equal"}),
            "train_rows": len({pair.train_row for pair in mine}),
        }
    listed = [{k: v for k, v in asdict(pair).items() if not k.endswith("_question")} for pair in pairs]
    rows = {"in": train_rows, "met": len({pair.train_row for pair in pairs})}
    return {"ngram": n, "train_rows": rows, "benchmarks": counts, "pairs": listed}


def write_pairs(pairs: Sequence[Pair], path: str | Path) -> None:
    """Write the pairs with both questions as CSV, worst first, atomically."""
    with atomic_write(path) as handle:
        table = csv.DictWriter(handle, list(Pair.__dataclass_fields__), lineterminator="\n")
        table.writeheader()
        for pair in sorted(pairs, key=lambda pair: (-pair.coverage, pair.benchmark, pair.id, pair.train_row)):
            table.writerow(asdict(pair))


def read_questions(path: str | Path) -> list[str]:
    """Return the questions of a training file in verl's schema, without the instruction that its prompts end with."""
    schema = pq.read_schema(path)
    if "extra_info" not in schema.names or schema.field("extra_info").type.get_field_index("question") < 0:
        raise UserError(f"{path} has no extra_info.question: make it with python -m justrl.prepare_data")
    return [info["question"] for info in pq.read_table(path, columns=["extra_info"])["extra_info"].to_pylist()]


def write_train(train: Path, output: Path, drop: set[int]) -> None:
    """Write the training file without the rows in `drop`, atomically; with none to drop, byte for byte."""
    if not drop:
        with atomic_write(output, "wb") as handle:
            handle.write(train.read_bytes())
        return
    table = pq.read_table(train)
    with atomic_write(output, "wb") as handle:
        pq.write_table(table.filter([row not in drop for row in range(table.num_rows)]), handle)


def main() -> None:
    """Parse the command line, compare, write the reports and the training file."""
    parser = argparse.ArgumentParser(
        prog="python -m justrl.data.contamination", description="Find training questions that benchmarks also ask."
    )
    parser.add_argument("--train", type=Path, required=True, help="training Parquet (verl's schema)")
    parser.add_argument("--benchmarks", type=Path, nargs="+", required=True, help="benchmark Parquet files")
    parser.add_argument("--output-json", type=Path, required=True, help="counts and pairs")
    parser.add_argument("--output-csv", type=Path, required=True, help="pairs with both questions, worst first")
    parser.add_argument(
        "--output-train", type=Path, help="training file to go on with: the same, or with --remove cleaned"
    )
    parser.add_argument("--remove", action="store_true", help="leave out training questions that meet a benchmark's")
    parser.add_argument("--ngram", type=int, default=NGRAM, help=f"words in a row (default {NGRAM})")
    arguments = parser.parse_args()
    if arguments.remove and arguments.output_train is None:
        raise UserError("--remove needs --output-train, the file to write")
    train = read_questions(arguments.train)
    names = ["benchmark", "id", "question"]
    benchmarks = [row for path in arguments.benchmarks for row in pq.read_table(path, columns=names).to_pylist()]
    pairs = check_contamination(train, benchmarks, arguments.ngram)
    drop = {pair.train_row for pair in pairs} if arguments.remove else set()
    if len(drop) == len(train):
        raise UserError(
            f"every one of the {len(train)} training questions meets a benchmark question: none would be left"
        )
    report = summarize(pairs, benchmarks, len(train), arguments.ngram)
    report["train_rows"] |= {"removed": len(drop), "out": len(train) - len(drop)}
    if arguments.output_train is not None:
        write_train(arguments.train, arguments.output_train, drop)
    write_pairs(pairs, arguments.output_csv)
    write_json(arguments.output_json, report)
    met = report["train_rows"]["met"]
    print(f"{met} of {len(train)} training questions meet a benchmark's; {len(drop)} removed", file=sys.stderr)


if __name__ == "__main__":
    from justrl.cli import run

    run(main)
