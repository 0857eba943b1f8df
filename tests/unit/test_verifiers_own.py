"""Rewards and graders that users write: what they get, what is refused, their limits, the same pay by both engines."""

import json

import numpy
import pandas
import pytest

from justrl import config
from justrl.config import OwnFunction, Recipe
from justrl.config import files as config_files
from justrl.data import arithmetic
from justrl.errors import UserError
from justrl.evaluation.grading import grade_samples
from justrl.preflight.experiment_checks import check_reward
from justrl.training.reward import RewardFunction
from justrl.training.verl.reward_function import compute_score
from justrl.training.verl.settings import reward_rule
from justrl.verifiers import get_reward
from justrl.verifiers import own as own_functions
from justrl.verifiers.outcome import Outcome
from justrl.verifiers.own import OwnGrader
from justrl.workflow.paper_check import check_paper

REWARD = """
def score(completion, gold, row):
    return len(completion) / len(row.get("question") or "x") if gold in completion else -1
"""


@pytest.fixture
def write(tmp_path):
    """A function that writes Python and returns it as a function of one's own."""

    def written(text: str, function: str = "score", name: str = "mine.py") -> OwnFunction:
        (tmp_path / name).write_text(text)
        return OwnFunction(file=str(tmp_path / name), function=function)

    return written


def recipe_with(own: OwnFunction) -> Recipe:
    plain = config_files.read()
    plain["experiment"] = "mine"
    plain["recipe"]["reward"] = own.as_dict()
    return config.Experiment.from_mapping(plain).runs["deepseek"].recipe


def test_both_engines_pay_what_the_function_returns(write):
    recipe = recipe_with(write(REWARD))
    row = {"question": "six", "index": 4, "data_source": "sums"}
    paid = RewardFunction(recipe)(["it is 6", "it is 7"], ["6", "6"], [3, 3], [row, row])
    assert paid.totals == [7 / 3, -1.0]
    assert paid.correct == [True, False]
    rule = reward_rule(type("Request", (), {"recipe": recipe}))
    extra = {"question": "six", "index": 4, "num_turns": 2}
    scores = [compute_score("sums", text, "6", extra, reward=rule) for text in ("it is 6", "it is 7")]
    assert [score["score"] for score in scores] == paid.totals
    assert [score["acc"] for score in scores] == [1.0, 0.0]


def test_both_engines_tell_it_the_same_row(write):
    own = write(
        "def score(completion, gold, row):\n    return float(sorted(row) == ['data_source', 'index', 'question'])"
    )
    extra = {"question": "six", "index": 4, "interaction_kwargs": {}}
    assert compute_score("sums", "6", "6", extra, reward=json.dumps(own.as_dict()))["score"] == 1.0


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return 1 / 0", "raised ZeroDivisionError"),
        ("return float('nan')", "returned nan"),
        ("return [1.0, 1.0]", r"returned \[1.0, 1.0\]"),
        ("return None", "returned None"),
        ("return True", "returned True"),
        ("return '1'", "returned '1'"),
    ],
)
def test_a_reward_without_one_finite_number_is_refused_by_its_answer(write, body, problem):
    own = write(f"def score(completion, gold, row):\n    {body}")
    with pytest.raises(UserError, match=f"mine.py:score {problem}.* on the answer 'it is 6' to the gold '6'") as caught:
        get_reward(own).mark([("it is 6", "6", {})])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def other(completion, gold, row): ...", "has no function score"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("def score(", "cannot be imported: SyntaxError"),
    ],
)
def test_a_file_without_the_function_is_refused(write, text, problem):
    with pytest.raises(UserError, match=problem):
        get_reward(write(text))


def test_an_edited_file_is_refused(write):
    began = write("def score(completion, gold, row):\n    return 1.0")
    write("def score(completion, gold, row):\n    return 0.5")
    with pytest.raises(UserError, match=r"has been edited: the SHA-256 is .* undo the edit"):
        get_reward(began)


def test_the_file_s_hash_is_part_of_the_training(write):
    before = recipe_with(write("def score(completion, gold, row):\n    return 1.0"))
    after = recipe_with(write("def score(completion, gold, row):\n    return 0.5"))
    assert before.reward.sha256 != after.reward.sha256
    assert config.read_part(Recipe, json.dumps(before.as_dict()), "run.json").reward == before.reward


def test_the_preflight_calls_it_on_the_run_s_own_questions(write, tmp_path):
    """A reward may need to know where a question is from: of a made-up one it would be refused."""
    own = write(
        "def score(completion, gold, row):\n"
        "    assert row['data_source'] == 'arithmetic' and str(gold) in '3 5 7 9'\n"
        "    return len(row['question']) if gold in completion else 0"
    )
    sums = arithmetic.training_rows(20, digits=1, seed=1)
    questions = arithmetic.as_training_examples(sums, "Answer.", " ")
    for question in questions:
        question["reward_model"]["ground_truth"] = "7"
        question["data_source"] = "arithmetic"
    arithmetic.write_parquet(questions, tmp_path / "train.parquet")
    assert "12 numbers for 12 answers, from 0 to " in check_reward(own, tmp_path / "train.parquet").found
    assert "it is called once the training data is there" in check_reward(own).found
    with pytest.raises(UserError, match="nothing_of_that_name"):
        check_reward(write("import nothing_of_that_name\ndef score(completion, gold, row):\n    return 1.0"))


def test_the_paper_s_experiment_has_no_reward_of_one_s_own(write):
    plain = config_files.read()
    plain["recipe"]["reward"] = write("def score(completion, gold, row):\n    return 1.0").as_dict()
    with pytest.raises(UserError, match=r"recipe.reward is .*mine.py:score here and paper in the paper"):
        check_paper(config.Experiment.from_mapping(plain))


def test_a_missing_file_is_named_by_its_key():
    plain = config_files.read()
    plain["experiment"] = "mine"
    plain["runs"]["deepseek"]["recipe"] = {"reward": {"file": "nowhere.py"}}
    with pytest.raises(UserError, match=r"deepseek.recipe.reward.file: no such file.*got 'nowhere.py'"):
        config.Experiment.from_mapping(plain)


def samples(*completions: str) -> pandas.DataFrame:
    rows = [("sums", "1", n, text, "6", "What is 2 * 3?") for n, text in enumerate(completions)]
    names = ["benchmark", "question_id", "sample_index", "completion", "answer", "question"]
    return pandas.DataFrame(rows, columns=names)


def test_a_grader_stands_beside_the_others(write):
    text = """
        def grade(completion, gold, row):
            assert row == {"question": "What is 2 * 3?", "question_id": "1", "benchmark": "sums"}
            return None if not completion else gold in completion
    """
    own = write("\n".join(line[8:] for line in text.splitlines()), "grade")
    grades = grade_samples(samples("it is 6", "it is 7", ""), ["strict"], own={"anywhere": own})
    mine = grades[grades["grader"] == "anywhere"]
    assert list(mine["outcome"]) == [Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSED]
    assert set(grades["grader"]) == {"strict", "anywhere"}


@pytest.mark.parametrize("returned", ["1", "'yes'", "0.5", "[True]"])
def test_a_grader_that_says_neither_is_refused(write, returned):
    own = write(f"def grade(completion, gold, row):\n    return {returned}", "grade")
    with pytest.raises(UserError, match="a grader must return True, False, or None"):
        OwnGrader(own).grade_many([("it is 6", "6", {})])


def test_the_examples_do_what_they_say(root):
    reward = get_reward(OwnFunction(file=str(root / "examples/my_reward.py")))
    row = {"question": "What is 17 + 25?"}
    answers = [r"\boxed{42}", "so " * 40 + r"\boxed{42}", r"\boxed{41}", "42"]
    assert [mark.score for mark in reward.mark([(text, "42", row) for text in answers])] == [1.0, 0.5, -0.5, -1.0]
    grader = OwnGrader(OwnFunction(file=str(root / "examples/my_grader.py"), function="grade"))
    answers = [r"it is \boxed{42}", "it is 42", "42, no: 41", "no idea"]
    found = [grade.outcome for grade in grader.grade_many([(text, "42", row) for text in answers])]
    assert found == [Outcome.CORRECT, Outcome.CORRECT, Outcome.WRONG, Outcome.UNPARSED]


# What a function may do on an answer of this text, and what is then undecided.
HOSTILE = """
import os, sys, time

def grade(completion, gold, row):
    if completion == "spin":
        while True:
            pass
    if completion == "C":
        return len(str(9 ** 9 ** 99))
    if completion == "memory":
        return bytearray(2**35)
    if completion == "deep":
        return grade(completion, gold, row)
    if completion == "die":
        os._exit(0)
    print("noise " * 20_000)
    if completion == "read":
        return sys.stdin.read() == ""
    return gold in completion

def score(completion, gold, row):
    right = grade(completion, gold, row)
    return right if right is None else float(right)
"""
UNDECIDED = ("spin", "C", "memory", "deep", "die")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(own_functions, "PROCESSOR_SECONDS", 0.5)


@pytest.mark.parametrize("hostile", UNDECIDED)
def test_one_answer_on_which_a_grader_meets_a_limit_is_undecided_and_named(write, short, capfd, hostile):
    own = write(HOSTILE, "grade")
    grades = grade_samples(samples("it is 6", hostile, "it is 7", "read"), ["strict"], own={"mine": own})
    mine = grades[grades["grader"] == "mine"]
    assert list(mine["outcome"]) == [Outcome.CORRECT, Outcome.TIMEOUT, Outcome.WRONG, Outcome.CORRECT]
    assert "mine: undecided are 1 of 4 answers, within 0 s" in (said := capfd.readouterr().err)
    assert "sums question 1 sample 1" in said


def test_more_than_one_in_a_hundred_undecided_ends_the_grading(write, short):
    own = write(HOSTILE, "grade")
    few = ["die"] * 3 + ["it is 6"] * 297
    grades = grade_samples(samples(*few), ["strict"], own={"mine": own})
    assert (grades["outcome"] == Outcome.TIMEOUT).sum() == 3
    with pytest.raises(UserError, match=r"mine: undecided are 4 of 300 .* sums question 1 sample 0; .* above 1%"):
        grade_samples(samples(*["die"] * 4, *["it is 6"] * 296), ["strict"], own={"mine": own})


def test_an_undecided_reward_is_the_same_in_both_engines_and_named_once_a_process(write, short, capfd):
    own = write(HOSTILE)
    recipe = recipe_with(own)
    row = {"question": "six", "index": 4, "data_source": "sums"}
    paid = RewardFunction(recipe)(["it is 6", "spin", "it is 7"], ["6"] * 3, [3] * 3, [row] * 3)
    assert paid.totals == [1.0, -1.0, 0.0] and paid.undecided == [False, True, False]
    assert "undecided (processor time), earns -1: question 4, 'six'" in capfd.readouterr().err
    rule = reward_rule(type("Request", (), {"recipe": recipe}))
    score = compute_score("sums", "spin", "6", {"question": "six", "index": 4}, reward=rule)
    assert score == {"score": -1.0, "acc": 0.0, "undecided": 1.0}


def test_a_reward_that_hangs_on_many_answers_ends_the_training(write, short):
    reward = get_reward(write(HOSTILE))
    reward.mark([("die", "6", {})] * 10)
    with pytest.raises(UserError, match=r"left 11 of 30 answers undecided, more than 1%"):
        reward.mark([("die", "6", {}), *[("it is 6", "6", {})] * 19])


def test_answers_longer_than_a_pipe_are_marked(write):
    own = write("def score(completion, gold, row):\n    return float(len(completion))")
    assert get_reward(own).mark([("🙂" * 500_000, "6", {})])[0].score == 500_000


def test_a_module_next_to_the_function_is_found(write, tmp_path):
    (tmp_path / "near_reward.py").write_text("HIGHEST = 3.0")
    own = write("from near_reward import HIGHEST\ndef score(completion, gold, row):\n    return HIGHEST")
    assert get_reward(own).mark([("it", "6", {})])[0].score == 3.0


@pytest.mark.parametrize("text", ["import sys\nsys.exit(0)", "import os\nos._exit(0)", "raise MemoryError"])
def test_a_file_that_ends_its_process_is_refused(write, text):
    with pytest.raises(UserError, match=r"mine.py.* cannot be"):
        get_reward(write(text))


def test_rows_with_numbers_of_a_table_arrive(write):
    own = write("def score(completion, gold, row):\n    return row['index'] + 0.5")
    assert get_reward(own).mark([("it", "6", {"index": numpy.int64(4)})])[0].score == 4.5
