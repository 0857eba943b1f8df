"""Training questions that a benchmark also asks: equal to one of its questions, or sharing 13 words in a row with one.

Thirteen words are the usual window (GPT-3, Llama), and competition problems share stock phrases that are as long
("where m and n are relatively prime positive integers, find m + n"), so every pair also says how much of the benchmark
question it covers: a copy covers nearly all of it, a stock phrase little.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from justrl.errors import UserError
from justrl.io import atomic_write, write_csv, write_json, write_parquet

NGRAM = 13
# What a run has trained with; `operations.made_from` keeps it there.
TRAINED = "trained.parquet"


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
    worst_first = sorted(pairs, key=lambda pair: (-pair.coverage, pair.benchmark, pair.id, pair.train_row))
    write_csv(path, Pair.__dataclass_fields__, map(asdict, worst_first))


def read_questions(path: str | Path) -> list[str]:
    """Return the questions of a training file in verl's schema, without the instruction that its prompts end with."""
    schema = pq.read_schema(path)
    if "extra_info" not in schema.names or schema.field("extra_info").type.get_field_index("question") < 0:
        raise UserError(f"{path} has no extra_info.question: make it with `justrl data prepare`")
    return [info["question"] for info in pq.read_table(path, columns=["extra_info"])["extra_info"].to_pylist()]


def write_train(train: Path, output: Path, drop: set[int]) -> None:
    """Write the training file without the rows in `drop`, atomically; with none to drop, byte for byte."""
    if not drop:
        with atomic_write(output, "wb") as handle:
            handle.write(train.read_bytes())
        return
    table = pq.read_table(train)
    write_parquet(table.filter([row not in drop for row in range(table.num_rows)]), output)


def compare_files(
    train: Path, benchmarks: Sequence[Path], output: Path, remove: bool = False, n: int = NGRAM
) -> dict[str, Any]:
    """Compare a training file with benchmark files; write contamination.json, contamination.csv and train.parquet.

    The training file is the same one, or with `remove` without the questions that meet a benchmark's. Once a run has
    trained with it, it stays as it was (`output`/trained.parquet): benchmarks that came later are reported alone.

    Returns:
        What contamination.json holds.

    Raises UserError: no question would be left.
    """
    questions = read_questions(train)
    names = ["benchmark", "id", "question"]
    rows = [row for path in benchmarks for row in pq.read_table(path, columns=names).to_pylist()]
    pairs = check_contamination(questions, rows, n)
    drop = {pair.train_row for pair in pairs} if remove else set()
    if len(drop) == len(questions):
        raise UserError(
            f"every one of the {len(questions)} training questions meets a benchmark question: none would be left"
        )
    report = summarize(pairs, rows, len(questions), n)
    report["train_rows"] |= {"removed": len(drop), "out": len(questions) - len(drop)}
    kept = output / TRAINED
    if kept.is_file():
        write_train(kept, output / "train.parquet", set())
        out = pq.read_metadata(kept).num_rows
        report["train_rows"] |= {"removed": len(questions) - out, "out": out, "as_trained": True}
    else:
        write_train(train, output / "train.parquet", drop)
    write_pairs(pairs, output / "contamination.csv")
    write_json(output / "contamination.json", report)
    return report
