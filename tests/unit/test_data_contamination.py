"""Training questions that benchmarks also ask."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl.data.contamination import NGRAM, check_contamination, ngrams, normalized_words
from justrl.data.dapo import process_dapo_dataset

LONG = "Let $ABC$ be a triangle with $AB = 13$, $BC = 14$ and $CA = 15$; find the area of its incircle in square units."


def benchmark(*questions: str) -> list[dict[str, str]]:
    return [{"benchmark": "b", "id": str(i), "question": question} for i, question in enumerate(questions)]


@pytest.mark.parametrize(
    ("question", "kind", "coverage"),
    [
        (LONG, "equal", 1.0),
        (LONG.upper().replace(" ", "\n  "), "equal", 1.0),
        (LONG.replace("$", "").replace(";", " -- "), "ngram", 1.0),
        ("In other news: " + LONG + " Good luck!", "ngram", 1.0),
        (LONG.replace("incircle", "circumcircle"), "ngram", None),
    ],
)
def test_copies_are_found(question: str, kind: str, coverage: float | None) -> None:
    (pair,) = check_contamination(["Something else?", question], benchmark("What is 1 + 1?", LONG))
    assert (pair.train_row, pair.id, pair.kind) == (1, "1", kind)
    assert 0 < pair.coverage < 1 if coverage is None else pair.coverage == coverage


@pytest.mark.parametrize(
    ("question", "asked", "kind"),
    [
        (r"Evaluate \(\dfrac{7}{8}+2^{3}\)", "Evaluate $\\frac{7}{8} + 2^3$.", "equal"),
        (r"Compute $3\cdot 4\,+5$", r"compute \[ 3 \times 4 + 5 \]", "equal"),
        (r"Simplify $\sqrt{\left(\tfrac{x}{2}\right)}$", r"Simplify $\sqrt{(\frac{x}{2})}$.", "equal"),
        ("Is 91 a prime number", "Is 91 a prime number?", "equal"),
        ("Problem 4: How many primes are below 50? Think well.", "How many primes are below 50?", "contained"),
        ("How many primes are below 50?", "Q: How many primes are below 50?", "contained"),
        ("How many primes are below 500?", "How many primes are below 50?", None),
        ("Calculate 17 + 25 + 3.", "Calculate 17 + 25.", None),
        ("Calculate the value of 17 - 25.", "Calculate the value of 17 + 25.", None),
        ("Find x if x is the largest root of this polynomial.", "Find x", None),
    ],
)
def test_short_questions_meet_by_containment(question: str, asked: str, kind: str | None) -> None:
    assert [pair.kind for pair in check_contamination([question], benchmark(asked))] == ([kind] if kind else [])


def test_thirteen_words_meet_and_twelve_do_not() -> None:
    words = [f"w{i}" for i in range(40)]
    question = " ".join(words)
    assert check_contamination([" ".join(["x", *words[5:18], "y"])], benchmark(question))[0].shared_ngrams == 1
    assert check_contamination([" ".join(["x", *words[5:17], "y"])], benchmark(question)) == []


def test_short_questions_meet_only_where_they_are_equal() -> None:
    train = ["What is 1 + 1?", "what is  1 + 1?", "What is 1 - 1?", "What is 1 1"]
    assert [pair.train_row for pair in check_contamination(train, benchmark("What is 1 + 1?"))] == [0, 1]


small = st.lists(st.sampled_from("ab"), max_size=8).map(" ".join)


@given(st.lists(small, max_size=8), st.lists(small, min_size=1, max_size=8), st.integers(1, 4))
def test_the_index_finds_what_comparing_all_pairs_finds(train: list[str], questions: list[str], n: int) -> None:
    found = {(p.train_row, int(p.id), p.shared_ngrams) for p in check_contamination(train, benchmark(*questions), n)}
    expected = {
        (i, j, len(ngrams(a, n) & ngrams(b, n)))
        for i, a in enumerate(train)
        for j, b in enumerate(questions)
        if a.split() == b.split() or ngrams(a, n) & ngrams(b, n)
    }
    assert found == expected


@given(st.text())
def test_words_are_stable(text: str) -> None:
    words = normalized_words(text)
    assert all(word and not any(c.isspace() or c == "_" for c in word) for word in words)
    assert len(ngrams(text, 2)) <= max(len(words) - 1, 0)


@pytest.mark.parametrize("remove", [False, True])
def test_the_command_reports_and_removes(tmp_path: Path, remove: bool) -> None:
    questions = ["Clean?", LONG, "Also clean?", "Before. " + LONG]
    rows = [{"question": question, "answer": str(i)} for i, question in enumerate(questions)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    process_dapo_dataset(tmp_path / "in.parquet", tmp_path)
    for name in ("aime", "amc23"):
        table = pa.Table.from_pylist([{"benchmark": name, "id": "7", "question": LONG, "answer": "1"}])
        pq.write_table(table if name == "aime" else table.slice(1), tmp_path / f"{name}.parquet")
    command = [sys.executable, "-m", "justrl", "data", "contamination", "--train", str(tmp_path / "train.parquet")]
    command += ["--benchmarks", str(tmp_path / "aime.parquet"), str(tmp_path / "amc23.parquet")]
    command += ["--output-dir", str(tmp_path / "clean")]
    subprocess.run([*command, *(["--remove"] if remove else [])], check=True, capture_output=True)

    report = json.loads((tmp_path / "clean" / "contamination.json").read_text())
    assert report["ngram"] == NGRAM
    assert report["train_rows"] == {"in": 4, "met": 2, "removed": 2 * remove, "out": 4 - 2 * remove}
    assert report["benchmarks"]["aime"] == {
        "questions": 1,
        "questions_met": 1,
        "questions_half_covered": 1,
        "questions_equal": 1,
        "train_rows": 2,
    }
    assert [(p["train_row"], p["kind"]) for p in report["pairs"]] == [(1, "equal"), (3, "ngram")]
    with (tmp_path / "clean" / "contamination.csv").open() as handle:
        assert [row["train_question"] for row in csv.DictReader(handle)] == [questions[1], questions[3]]
    clean = pq.read_table(tmp_path / "clean" / "train.parquet")
    kept = [info["question"] for info in clean["extra_info"].to_pylist()]
    assert kept == ([questions[0], questions[2]] if remove else questions)
    assert clean.schema == pq.read_schema(tmp_path / "train.parquet")


def test_the_real_benchmarks_hold_each_other_apart(real_benchmarks: Path) -> None:
    from justrl.data.benchmarks import format_benchmark

    rows = [
        row
        for path in sorted(real_benchmarks.glob("*.parquet"))
        for row in format_benchmark(path.stem, path).to_pylist()
    ]
    assert len(rows) == 1646
    pairs = check_contamination([row["question"] for row in rows], rows)
    # Every question meets itself; whatever else meets is reported with what it shares.
    assert sum(pair.kind == "equal" for pair in pairs) >= len(rows)
    assert all(pair.kind != "ngram" or pair.shared_ngrams > 0 for pair in pairs)
    # Five of Minerva's questions repeat a short one before them with its solution; no other short one is held.
    held = [pair for pair in pairs if pair.kind == "contained"]
    assert len(held) == 5
    assert len({pair.id for pair in held}) == 1
    assert {(pair.benchmark, rows[pair.train_row]["benchmark"]) for pair in held} == {("Minerva", "Minerva")}
