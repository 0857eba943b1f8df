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
from justrl.data.golds import MOST_UNUSABLE, Gold, clean_gold, read_gold
from justrl.errors import UserError

GUESSED = ("007", "1e3", "1.50", "N", "no", "True", "inf", "1/2", "2025-01-01", "-0", "1,732", r"\frac{1}{2}", "1_0")
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


def is_plain(text: str) -> bool:
    """Whether a text is an answer by itself, with nothing to convert."""
    return read_gold(text) == Gold(clean_gold(text)) and bool(clean_gold(text))


texts = st.sampled_from(GUESSED) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(max_examples=60)
@given(st.lists(texts.filter(is_plain), min_size=1, max_size=12), st.sampled_from(sorted(WRITERS)), st.integers(1, 5))
@example(list(GUESSED), "csv", 3)
@example(list(GUESSED), "jsonl", 3)
@example(["a\r\nb", 'say "5"', "1\\\\", "1,2\n3"], "csv", 2)
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
        ("1e999", "1e999 is not an answer"),
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
        ("in.json", b'[{"question": "a", "answer": "1"}, 7]', "in.json, row 2: it is not a JSON object but '7'"),
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


@pytest.mark.parametrize(
    ("raw", "gold", "note"),
    [
        ("She has 3*8=<<3*8=24>>24 pens.\n#### 24", "24", "after ####"),
        ("#### 12,500", "12500", "after ####"),
        ("It costs 18 dollars.\n#### $18", "18", "after ####"),
        ("['2', '-2']", "2,-2", "a list as text"),
        ('["1/2"]', "1/2", "a list as text"),
        ("[67]", "67", "a list as text"),
        ('{"style": "rule", "ground_truth": "67"}', "67", "an object as text"),
        ("{'ground_truth': ['3', '4']}", "3,4", "an object as text"),
        ('{"answer": 0.10}', "0.10", "an object as text"),
        (r"\boxed{3} or \boxed{-3}", "3,-3", "several boxes"),
        (r"$\boxed{x=1}$ and $\boxed{x=2}$", "x=1,x=2", "several boxes"),
        (r"Hence \boxed{5}, that is \boxed{5}.", "5", "as it is"),
        ("\u200b72\ufeff", "72", "invisible characters"),
        ("Answer: 5", "5", "after Answer:"),
        ("**Final answer:** $12$", "12", "after Answer:"),
        ("The answer is 1,200.", "1200", "after Answer:"),
        ("[1,2]", "[1,2]", "as it is"),
        ("{1,2}", "{1,2}", "as it is"),
        ("(-\\infty, 3]", "(-\\infty, 3]", "as it is"),
        ("Alice and Bob", "Alice and Bob", "as it is"),
        (r"\text{no real solution}", r"\text{no real solution}", "as it is"),
        ("not found", "", "a placeholder"),
        ("<answer>", "", "a placeholder"),
        ("N/A", "", "a placeholder"),
        ("TODO.", "", "a placeholder"),
        ("???", "", "nothing but signs"),
        ("-", "", "nothing but signs"),
        ("She has twenty-four pens left.", "", "prose"),
        ("It follows because the angles are equal", "", "prose"),
        (r"First \boxed{3}, hence \boxed{9}", "", "boxes that differ"),
        (r"\boxed{5", "", "an unclosed box"),
        ('{"score": 1}', "", "an object without an answer"),
        (r"['\frac{1}{2}']", r"\frac{1}{2}", "a list as text"),
        (r'["\binom{4}{2}", "\theta"]', r"\binom{4}{2},\theta", "a list as text"),
        (r'["\\frac{1}{2}"]', r"\frac{1}{2}", "a list as text"),
        ("array(['72'], dtype=object)", "72", "a list as text"),
        ("('72',)", "72", "a list as text"),
        (r"(\boxed{3}, \boxed{4})", "", "boxes that differ"),
        ("None of the above", "None of the above", "as it is"),
        (r"\frac{1}{2} \text{ if } n \text{ is even}", r"\frac{1}{2} \text{ if } n \text{ is even}", "as it is"),
        (r"\text{none}", r"\text{none}", "as it is"),
        ("01-Feb", "", "a spreadsheet's date or error"),
        ("2024-05-03 00:00:00", "", "a spreadsheet's date or error"),
        ("#REF!", "", "a spreadsheet's date or error"),
        (r"\boxed{\text{N/A}}", "", "a placeholder"),
        ("{answer}", "", "a placeholder"),
        ("answer goes here", "", "a placeholder"),
        ("unsolved", "", "a placeholder"),
        ("<answer>5</answer>", "5", "inside tags or quotes"),
        ("**5**", "5", "inside tags or quotes"),
        ("'5'", "5", "inside tags or quotes"),
        (r"\boxed 5", "5", "as it is"),
        (r"\boxed{}", "", "nothing but signs"),
        ("\u200b", "", "nothing but signs"),
        ("#### ", "", "nothing but signs"),
    ],
)
def test_a_gold_is_read_or_refused(raw: str, gold: str, note: str) -> None:
    assert read_gold(raw) == Gold(gold, note)


def test_the_golds_of_the_real_benchmarks_stay_as_they_are(real_benchmarks: Path) -> None:
    for path in sorted(real_benchmarks.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            raw = str(row.get("answer") or row["reward_model"]["ground_truth"])
            assert read_gold(raw) == Gold(clean_gold(raw))


def test_unusable_golds_are_dropped_and_counted_or_refused_above_a_share(tmp_path: Path) -> None:
    right = [str(n) for n in range(200)]
    write_jsonl(tmp_path / "few.jsonl", [*right, "TODO", "['7']"])
    card = process_dapo_dataset(tmp_path / "few.jsonl", tmp_path / "few")
    assert card["rows"]["out"] == 201
    assert card["golds"]["unusable"] == {"a placeholder": 1} and card["golds"]["converted"] == {"a list as text": 1}
    assert card["golds"]["first_unusable"] == {"row": 201, "reason": "a placeholder", "gold": "TODO"}
    assert MOST_UNUSABLE < 4 / 204
    write_jsonl(tmp_path / "many.jsonl", [*right, "TODO", "N/A", "?", "the angle is right so it is 90"])
    with pytest.raises(
        UserError, match=r"4 of 204 reference answers are unusable \(at most 1% may\), .* row 201: .*'TODO'"
    ):
        process_dapo_dataset(tmp_path / "many.jsonl", tmp_path / "many")
    with pytest.raises(UserError, match=r"row 201: a placeholder, 'TODO'"):
        format_benchmark("b", tmp_path / "few.jsonl")


def test_one_value_in_several_spellings_is_no_contradiction(tmp_path: Path) -> None:
    spellings = ["7", "07", "7.0", r"\frac{14}{2}", "7"]
    rows = [{"question": "3+4?", "answer": answer} for answer in spellings] + [{"question": "2+2?", "answer": "4"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    card = process_dapo_dataset(tmp_path / "in.jsonl", tmp_path)
    assert card["rows"]["conflicting"] == 0 and card["rows"]["out"] == 2


@pytest.mark.parametrize("rows", [[("1", "q", "5"), ("2", "q", "6")], [("1", "q", "5"), ("1", "r", "6")]])
def test_two_golds_of_one_question_or_id_are_refused_in_a_benchmark(tmp_path: Path, rows: list) -> None:
    lines = [json.dumps(dict(zip(("id", "question", "answer"), row, strict=True))) for row in rows]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"rows 1 and 2 have the same (question|id) .* and different answers"):
        format_benchmark("b", tmp_path / "in.jsonl")
    (tmp_path / "in.jsonl").write_text("\n".join(lines).replace('"6"', '"5.0"'))
    assert format_benchmark("b", tmp_path / "in.jsonl").num_rows == 2


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_text_of_arrow_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({" Question": pa.array(["a?", "b?"]).cast(kind), "ANSWER": pa.array(["1", "2"]).cast(kind)})
    pq.write_table(table, tmp_path / "in.parquet")
    assert format_benchmark("b", tmp_path / "in.parquet")["answer"].to_pylist() == ["1", "2"]
    assert process_dapo_dataset(tmp_path / "in.parquet", tmp_path)["rows"]["out"] == 2


def test_a_prompt_of_parts_is_its_text_and_an_image_is_refused(tmp_path: Path) -> None:
    part = {"type": "text", "text": "1+1?"}
    row = {"prompt": [{"role": "user", "content": [part]}], "reward_model": {"ground_truth": "2"}}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    process_dapo_dataset(tmp_path / "in.jsonl", tmp_path)
    assert pq.read_table(tmp_path / "train.parquet")["extra_info"][0]["question"].as_py() == "1+1?"
    part |= {"type": "image", "text": None}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match="must be text or parts of text"):
        process_dapo_dataset(tmp_path / "in.jsonl", tmp_path)


def test_a_file_with_too_many_rows_is_refused_before_it_is_read(tmp_path: Path, monkeypatch) -> None:
    write_parquet(tmp_path / "in.parquet", ["1"] * 31)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **options: pytest.fail("it was read"))
    monkeypatch.setattr("justrl.data.tables.column_names", lambda files: ["question", "answer"])
    with pytest.raises(UserError, match="has 31 questions, but 30 are expected"):
        format_benchmark("b", tmp_path / "in.parquet", rows=30)
