"""Benchmarks in one schema, from the hub's columns and from the authors' own files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from justrl.config import Experiment, load
from justrl.data.benchmarks import BENCHMARK_SCHEMA, benchmark_name, format_benchmark, load_eval_dataset
from justrl.data.messages import DEFAULT_SUFFIX
from justrl.errors import UserError

# The authors' file of each benchmark of config.yaml, a gold in the middle of it, and its first question's first words.
REAL = {
    "aime": ("AIME24", 2, "371", "Every morning Aya goes"),
    "aime25": ("AIME25", 1, "588", "Find the sum of all integer bases"),
    "amc23": ("AMC23", 0, "27", "Cities $A$ and $B$ are"),
    "math500": ("MATH-500", 0, r"\left( 3, \frac{\pi}{2} \right)", "Convert the point $(0,3)$"),
    "minerva": ("Minerva", 1, "4.5e33", "Each of the two Magellan telescopes"),
    "olympiad": ("Olympiad-Bench", 1, r"\frac{1}{2 n+2}", "Xenia and Sergey play"),
    "hmmt25": ("HMMT25", 1, "3375", "Compute the sum of the positive divisors"),
    "brumo25": ("BRUMO25", 0, "2^{99}", "One hundred concentric circles"),
    "cmimc25": ("CMIMC25", 0, r"\frac{13}{32}", "Four runners are preparing"),
}


@pytest.fixture(scope="session")
def config() -> Experiment:
    return load()


@pytest.fixture(scope="session")
def mirror(real_benchmarks: Path, config: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real files laid out as a mirror of the hub."""
    folder = tmp_path_factory.mktemp("mirror")
    for name, (file, *_) in REAL.items():
        place = folder / config.benchmarks[name].hub_id
        place.mkdir(parents=True)
        shutil.copy(real_benchmarks / f"{file}.parquet", place / "test.parquet")
    return folder


@pytest.mark.parametrize("name", REAL)
def test_the_real_files_go_through(real_benchmarks: Path, config: Experiment, name: str) -> None:
    file, row, gold, start = REAL[name]
    entry = config.benchmarks[name]
    options = {key: getattr(entry, key) for key in ("question_column", "answer_column", "id_column", "split", "rows")}
    table = format_benchmark(name, real_benchmarks / f"{file}.parquet", **options)
    assert table.schema == BENCHMARK_SCHEMA
    rows = table.to_pylist()
    assert rows[row]["answer"] == gold
    assert rows[0]["question"].startswith(start)
    assert len({row["id"] for row in rows}) == len(rows) == entry.rows
    for item in rows:
        assert item["benchmark"] == name
        assert item["question"] == item["question"].strip() != ""
        assert item["answer"] == item["answer"].strip() != ""
        assert "boxed" not in item["answer"]
        assert "$" not in item["answer"].replace(r"\$", "")


def test_money_and_lists_of_formulas_in_real_golds(real_benchmarks: Path) -> None:
    golds = format_benchmark("math500", real_benchmarks / "MATH-500.parquet")["answer"].to_pylist()
    assert {r"\$32,\!348", r"\$18.90", r"\$36"} <= set(golds)
    golds = format_benchmark("olympiad", real_benchmarks / "Olympiad-Bench.parquet")["answer"].to_pylist()
    assert {"69,84", "f(n)=n, g(n)=1", r"(-\infty, 0) \cup\{1\}", "221,8"} <= set(golds)


@pytest.mark.parametrize("name", [*REAL, "aime2024", "AIME24", "MATH-500", "Olympiad-Bench", "HMMT25", "minerva_math"])
def test_every_name_loads_from_the_mirror(mirror: Path, config: Experiment, tmp_path: Path, name: str) -> None:
    rows = load_eval_dataset(name, experiment=config, mirror=mirror, offline=True, lock=tmp_path / "lock.json")
    expected = benchmark_name(name, config.benchmarks)
    assert len(rows) == config.benchmarks[expected].rows
    assert set(rows[0]) == {"question", "ground_truth"}
    assert rows[REAL[expected][1]]["ground_truth"] == REAL[expected][2]


def test_a_path_loads_as_well(real_benchmarks: Path) -> None:
    assert load_eval_dataset(real_benchmarks / "AIME24.parquet")[0]["ground_truth"] == "204"


def test_unknown_names_are_answered_with_the_known(config: Experiment) -> None:
    with pytest.raises(UserError, match="no benchmark 'gsm8k': the configuration has aime, aime25, amc23"):
        load_eval_dataset("gsm8k", experiment=config)


def test_what_is_not_in_the_mirror_is_named(config: Experiment, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="HuggingFaceH4/MATH-500 at revision main is not here and offline mode is on"):
        load_eval_dataset("math500", experiment=config, mirror=tmp_path, offline=True, lock=tmp_path / "lock.json")


# One row as each hub repository has it.
HUB_ROWS = {
    "aime_2024": {"id": 60, "problem": "Why?", "solution": "It is \\boxed{204}.", "answer": "204", "year": "2024"},
    "amc23": {"id": 0, "question": "Why?", "answer": "27", "url": "https://example.org"},
    "amc23 as numbers": {"id": 0, "question": "Why?", "answer": 27.0},
    "MATH-500": {"problem": "Why?", "solution": "s", "answer": "p - q", "level": 2, "unique_id": "test/a/1.json"},
    "OlympiadBench": {"id": 1606, "question": "Why?", "final_answer": ["$2$", "$3$"], "solution": ["a", "b"]},
    "hmmt_feb_2025": {"problem_idx": 1, "problem": "Why?", "answer": "103", "problem_type": ["Number Theory"]},
}


@pytest.mark.parametrize(
    ("name", "answer", "identity"),
    [
        ("aime_2024", "204", "60"),
        ("amc23", "27", "0"),
        ("amc23 as numbers", "27", "0"),
        ("MATH-500", "p - q", "test/a/1.json"),
        ("OlympiadBench", "2,3", "1606"),
        ("hmmt_feb_2025", "103", "1"),
    ],
)
@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_hub_columns_are_known(tmp_path: Path, name: str, answer: str, identity: str, form: str) -> None:
    path = tmp_path / f"test.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([HUB_ROWS[name]]), path)
    else:
        path.write_text(json.dumps(HUB_ROWS[name]) + "\n")
    assert format_benchmark("b", path, rows=1).to_pylist() == [
        {"benchmark": "b", "id": identity, "question": "Why?", "answer": answer}
    ]


def test_an_instruction_in_the_question_comes_off(tmp_path: Path) -> None:
    rows = [{"question": f" Why?{end}{DEFAULT_SUFFIX}", "answer": "1"} for end in ("\n\n", " ", "\n")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    assert format_benchmark("b", tmp_path / "b.parquet")["question"].to_pylist() == ["Why?"] * 3


@pytest.mark.parametrize("ids", [[1, 1], [1, None], None])
def test_rows_without_ids_of_their_own_are_numbered(tmp_path: Path, ids: list | None) -> None:
    rows = [{"question": f"{i}?", "answer": "1"} | ({"id": ids[i]} if ids else {}) for i in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    assert format_benchmark("b", tmp_path / "b.parquet")["id"].to_pylist() == ["b-0", "b-1"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Why?", "answer": "1"}, "has 1 questions, but 30 are expected"),
        ({"text": "Why?", "answer": "1"}, "found text, answer; accepted are question, problem, prompt"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, row: dict, message: str) -> None:
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=message):
        format_benchmark("b", tmp_path / "b.parquet", rows=30)


@pytest.mark.parametrize("row", [{"question": " ", "answer": "1"}, {"question": "Why?", "answer": "$ $"}])
def test_an_empty_question_or_gold_is_refused(tmp_path: Path, row: dict) -> None:
    pq.write_table(pa.Table.from_pylist([{"question": "Why?", "answer": "1"}, row]), tmp_path / "b.parquet")
    with pytest.raises(
        UserError,
        match=r"(no question or no answer in 1 rows|1 of 2 reference answers are unusable .*), the first (of "
        r"them|in) row 2",
    ):
        format_benchmark("b", tmp_path / "b.parquet")


def test_the_command(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([HUB_ROWS["MATH-500"]]), tmp_path / "test.parquet")
    command = [sys.executable, "-m", "justrl", "data", "benchmark", "--name", "math500", "--input", str(tmp_path)]
    command += ["--split", "test", "--question-column", "problem", "--id-column", "unique_id"]
    output = tmp_path / "out" / "questions.parquet"
    subprocess.run([*command, "--output", str(output), "--rows", "1"], check=True, capture_output=True)
    assert pq.read_table(output).to_pylist()[0]["id"] == "test/a/1.json"
    refused = subprocess.run([*command, "--output", str(output), "--rows", "2"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: benchmark math500")
    assert refused.stderr.count("\n") == 1
