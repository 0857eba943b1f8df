"""Golds come out of JSON lines, CSV and Parquet as they went in, or their row is refused with its number and value."""

import csv
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from justrl.data.benchmarks import format_benchmark
from justrl.data.dapo import process_dapo_dataset
from justrl.data.golds import clean_gold
from justrl.errors import UserError

GUESSED = ("007", "1e3", "1.50", "NA", "null", "True", "nan", "1/2", "2025-01-01", "-0", "1,732", r"\frac{1}{2}", "1_0")
KEEP_ALL = {"remove_duplicates": False, "remove_contradictions": False}


def write_parquet(path: Path, answers: list) -> None:
    pq.write_table(pa.table({"question": [f"q{i}" for i in range(len(answers))], "answer": answers}), path)


def write_jsonl(path: Path, answers: list) -> None:
    rows = [{"question": f"q{i}", "answer": answer} for i, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, answers: list) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([("question", "answer"), *((f"q{i}", a) for i, a in enumerate(answers))])


WRITERS = {"parquet": write_parquet, "jsonl": write_jsonl, "csv": write_csv}


def golds(folder: Path, form: str, answers: list, **options) -> list[str]:
    path = folder / f"in.{form}"
    WRITERS[form](path, answers)
    process_dapo_dataset(path, folder, **KEEP_ALL, **options)
    return [row["reward_model"]["ground_truth"] for row in pq.read_table(folder / "train.parquet").to_pylist()]


texts = st.sampled_from(GUESSED) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=60)
@given(st.lists(texts.filter(clean_gold), min_size=1, max_size=12), st.sampled_from(sorted(WRITERS)), st.integers(1, 5))
@example(list(GUESSED), "csv", 3)
@example(list(GUESSED), "jsonl", 3)
@example(["a\r\nb", 'say "5"', "\\\\", "1,2\n3"], "csv", 2)
def test_texts_stay_as_they_are(tmp_path_factory, answers: list[str], form: str, batch: int) -> None:
    folder = tmp_path_factory.mktemp("golds")
    assert golds(folder, form, answers, batch_size=batch) == [clean_gold(answer) for answer in answers]


@pytest.mark.parametrize("numbers", [1, 3])
def test_numbers_among_texts_change_no_other_row(tmp_path: Path, numbers: int) -> None:
    answers: list = [r"\frac{1}{2}", "007", "1.50"] * 1000
    right = list(answers)
    for place, number, text in ((2999, 5, "5"), (17, 2.50, "2.5"), (1000, 10**30, str(10**30)))[:numbers]:
        answers[place], right[place] = number, text
    assert golds(tmp_path, "jsonl", answers) == right


@pytest.mark.parametrize(
    ("written", "gold"),
    [
        ("5", "5"),
        ("27.0", "27"),
        ("1.50", "1.50"),
        ("1e3", "1000"),
        ("2.5e-3", "0.0025"),
        ("340282366920938463463374607431768211457", "340282366920938463463374607431768211457"),
        ("9007199254740993.5", "9007199254740993.5"),
        ('"1e3"', "1e3"),
        ('["$6$", 7]', "6,7"),
    ],
)
def test_numbers_of_json_keep_the_digits_they_are_written_with(tmp_path: Path, written: str, gold: str) -> None:
    (tmp_path / "in.jsonl").write_text(f'{{"question": "Q?", "answer": {written}}}\n')
    process_dapo_dataset(tmp_path / "in.jsonl", tmp_path)
    assert pq.read_table(tmp_path / "train.parquet")["reward_model"][0].as_py()["ground_truth"] == gold


@pytest.mark.parametrize(
    ("column", "gold"),
    [
        (pa.array([0.1], pa.float32()), "0.1"),
        (pa.array([27.0], pa.float32()), "27"),
        (pa.array([Decimal("1.50")]), "1.50"),
        (pa.array(["007"]).dictionary_encode(), "007"),
    ],
)
def test_numbers_of_parquet_keep_their_digits(tmp_path: Path, column: pa.Array, gold: str) -> None:
    assert golds(tmp_path, "parquet", column) == [gold]


ROWS = ['{"question": "a", "answer": "1"}', '{"question": "b", "answer": %s}']


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("true", r"row 2: answer is True"),
        ("NaN", r"row 2: answer is nan"),
        ('{"x": 1}', r"row 2: answer is \{'x': '1'\}"),
        ('["1"]', r"row 2: answer is \['1'\]"),
        ("1e999", "1e999 is no answer"),
        (r'"\ud800"', r"row 2: answer is '\\ud800'"),
        ('"2", "answer": "3"', "row 2: the column answer is there twice"),
        ("[" * 100_000 + "]" * 100_000, "row 2: maximum recursion depth"),
    ],
    ids=lambda value: value[:12],
)
def test_what_is_no_gold_is_refused_with_its_row(tmp_path: Path, answer: str, message: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(ROWS) % answer)
    with pytest.raises(UserError, match=message):
        process_dapo_dataset(path, tmp_path / "out")
    with pytest.raises(UserError, match=message):
        format_benchmark("b", path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.jsonl", b'{"question": "a", "answer": "\xff"}\n', "in.jsonl, row 1: 'utf-8' codec"),
        ("in.json", b"[" * 100_000, "in.json: maximum recursion depth"),
        ("in.json", b'[{"question": "a", "answer": "1"}, 7]', "in.json, row 2: it is no JSON object but '7'"),
        ("in.csv", b"question,answer\nq,\xff\n", "in.csv, line 0: 'utf-8' codec"),
        ("in.csv", b"question,answer\nq,1\nq,2,3\n", "in.csv, line 3: it has 3 fields, its header 2"),
        ("in.csv", b"question,answer,answer\nq,1,2\n", "in.csv, line 1: the column answer is there twice"),
        ("in.csv", b'question,answer\nq,"1\n', "cannot read .*in.csv"),
        ("in.csv", b"question,answer\n", "in.csv is empty: it has no rows"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_broken_files_are_told_in_a_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        process_dapo_dataset(tmp_path / name, tmp_path / "out")


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["q"]), pa.array(["1"]), pa.array(["2"])], ["question", "answer", "answer"])
    pq.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(UserError, match=r"in\.parquet: the column answer is there twice"):
        process_dapo_dataset(tmp_path / "in.parquet", tmp_path)


@pytest.mark.parametrize(("value", "shown"), [(True, "True"), (2.0**60, r"1\.15"), (b"5", "b'5'")])
def test_a_parquet_gold_that_is_none_is_named_by_its_row(tmp_path: Path, value, shown: str) -> None:
    with pytest.raises(UserError, match=f"row 3: .*{shown}"):
        golds(tmp_path, "parquet", [None, None, value], batch_size=2)


def test_a_benchmark_may_be_a_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "in.csv", list(GUESSED))
    assert format_benchmark("b", tmp_path / "in.csv")["answer"].to_pylist() == list(GUESSED)
