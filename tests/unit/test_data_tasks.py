"""Tasks of reasoning-gym: the two sides, and which scorers are taken."""

import importlib.util
import inspect
import json
import subprocess
import sys

import pytest
from pyarrow import parquet

from justrl.config import OwnFunction
from justrl.config.files import ROOT
from justrl.data import tasks
from justrl.data.benchmarks import format_benchmark
from justrl.data.dapo import process_dapo_dataset
from justrl.errors import UserError
from justrl.verifiers import get_reward

SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
OWN = OwnFunction(file=str(ROOT / "laptop/scorer.py"))

installed = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed here (make tasks)"
)


@installed
def test_the_two_sides_share_no_question_whatever_the_seed():
    trained = {row["question"] for seed in (1, 2) for row in tasks.training_rows("chain_sum", SUMS, 300, seed)}
    held = {row["question"] for seed in (1, 2, 3) for row in tasks.benchmark_rows("chain_sum", SUMS, 60, seed)}
    assert not trained & held
    rows = tasks.training_rows("chain_sum", SUMS, 300, 1)
    assert len({row["question"] for row in rows}) == len({row["id"] for row in rows}) == 300
    assert rows == tasks.training_rows("chain_sum", SUMS, 300, 1)


@installed
@pytest.mark.parametrize(
    ("task", "settings", "problem"),
    [
        ("no_such", {}, "no such task"),
        ("chain_sum", {"max_tems": 3}, "does not take the settings"),
        ("chain_sum", {"min_terms": 3, "max_terms": 2}, "does not take the settings"),
        ("countdown", {}, r"evaluates answers \(parse_expr in score_answer\)"),
        ("bitwise_arithmetic", {}, r"evaluates answers \(eval in verify_solution\)"),
        ("sudoku", {}, "needs more of a question than the answer"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(task, settings, problem):
    with pytest.raises(UserError, match=f"{task}.*{problem}"):
        tasks.training_rows(task, settings, 10, 1)


@installed
def test_a_task_with_fewer_questions_says_so():
    few = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(UserError, match=r"200 held-out questions of chain_sum were asked for.* ask for fewer rows"):
        tasks.benchmark_rows("chain_sum", few, 200, 1)


@installed
def test_no_scorer_that_is_taken_evaluates_an_answer():
    """By their source as text, without the program's own reading of it."""
    taken = [name for name in tasks._gym().factory.DATASETS if tasks.why_not(name) is None]
    assert {"chain_sum", "products", "gcd", "spell_backward", "gsm_symbolic"} <= set(taken) and len(taken) >= 60
    for name in taken:
        source = inspect.getsource(tasks._gym().factory.DATASETS[name][0].score_answer)
        assert not any(word in source for word in ("eval(", "exec(", "parse_expr", "sympify")), name
        assert source.count("entry[") == source.count('entry["answer"]') + source.count("entry['answer']"), name


ANSWERS = {
    "12": True,
    "12.": True,
    "**12**": True,
    "It is easy.\n\n12": True,
    "So it is \\boxed{12}, I think": True,
    "12.0": True,
    "The answer is 12": True,
    "7 + 5 = **12**.": True,
    "12 or 13": False,
    "12 is 7 + 5": False,
    "no number": False,
    "13": False,
    "": False,
    "12\n13": False,
}


@installed
def test_part_marks_are_not_paid():
    row = {"question": "7 + 5 =", "index": 0, "data_source": "reasoning_gym/chain_sum"}
    marks = get_reward(OWN).mark([(completion, "12", row) for completion in ANSWERS])
    assert {text: mark.score for text, mark in zip(ANSWERS, marks, strict=True)} == {
        text: 1.0 if right else -1.0 for text, right in ANSWERS.items()
    }


@installed
def test_a_row_of_no_task_is_a_sentence():
    with pytest.raises(UserError, match="a question of no task of reasoning-gym has no scorer there"):
        get_reward(OWN).mark([("12", "12", {"data_source": "math"})])


@installed
def test_questions_reach_training_and_evaluation_with_their_task(tmp_path):
    for side in ("train", "benchmark"):
        words = ["data", "task", side, "--task", "chain_sum", "--settings", json.dumps(SUMS), "--rows", "40"]
        words += ["--seed", "1", "--output", str(tmp_path / side)]
        subprocess.run([sys.executable, "-m", "justrl", *words], check=True)
    process_dapo_dataset(tmp_path / "train", tmp_path / "prepared", suffix="Give only the number.")
    (row, *_) = parquet.read_table(tmp_path / "prepared/train.parquet").to_pylist()
    assert tasks.task_of(row) == "chain_sum"
    (question, *_) = format_benchmark("sums", tmp_path / "benchmark", rows=40).to_pylist()
    assert tasks.task_of({"question_id": question["id"], "benchmark": "sums"}) == "chain_sum"


def test_without_the_package_the_sentence_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"reasoning-gym is not installed here: `make tasks`"):
        tasks._gym()
