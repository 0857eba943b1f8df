r"""Rewards within limits: what is not decided counts as wrong, is counted, and holds no step."""

import pytest

from justrl.config import load
from justrl.training.reward import RewardFunction
from justrl.training.verl import reward_function
from justrl.verifiers import get_reward, rewards

GOLD = r"\sqrt{2}"
RIGHT = r"so \boxed{\frac{2}{\sqrt{2}}}"


def tower(height: int) -> str:
    """An answer on which SymPy works for seconds."""
    return "\\boxed{" + "ln(" * height + "5" + ")" * height + "}"


@pytest.fixture
def no_time(monkeypatch):
    """A step's budget of nothing."""
    monkeypatch.setattr(rewards, "SAVED_SECONDS", 0.0)
    monkeypatch.setattr(rewards, "SECONDS_PER_ANSWER", 0.0)


def robust():
    """The paper's recipe with the lenient reward, no price on length."""
    paper = load().recipe
    penalty = paper.overlong_penalty.model_copy(update={"enabled": False})
    return RewardFunction(paper.model_copy(update={"reward": "robust", "overlong_penalty": penalty}))


def test_what_the_budget_leaves_undecided_is_wrong_counted_and_said_once(no_time, capfd):
    reward = robust()
    for _ in range(2):
        earned = reward([RIGHT, r"\boxed{\sqrt2}", r"\boxed{3}", "none"], [GOLD, GOLD, "3", GOLD], [1, 1, 1, 1])
        assert earned.scores == [-1.0, 1.0, 1.0, -1.0]
        assert earned.undecided == [True, False, False, False]
    said = capfd.readouterr().err
    assert said.count("not decided within the limits and counts as wrong") == 1
    assert "reward robust: '\\\\frac{2}{\\\\sqrt{2}}' is" in said


def test_an_answer_that_the_budget_kept_waiting_is_decided_in_a_later_step(no_time, monkeypatch):
    reward = get_reward("robust")
    assert reward(RIGHT, GOLD) == -1.0
    monkeypatch.setattr(rewards, "SAVED_SECONDS", 60.0)
    monkeypatch.setattr(rewards, "SECONDS_PER_ANSWER", 60.0)
    assert reward(RIGHT, GOLD) == 1.0


@pytest.mark.timeout(120)
def test_a_step_of_hostile_answers_ends_with_the_budget(monkeypatch):
    """2,048 of them took 2.8 hours; each is ended by the limit on its processor time, the rest are not begun."""
    monkeypatch.setattr(rewards, "SAVED_SECONDS", 1.0)
    monkeypatch.setattr(rewards, "SECONDS_PER_ANSWER", 0.0)
    reward = robust()
    pairs = [(tower(25 + number % 30) + " " * number, f"\\sqrt{{{2 + number // 30}}}") for number in range(2048)]
    completions, golds = (list(column) for column in zip(*pairs, strict=True))
    earned = reward(completions, golds, [1] * 2048)
    assert set(earned.scores) == {-1.0}
    assert sum(earned.undecided) > 1900


def test_a_comparison_that_was_ended_is_not_begun_again(monkeypatch):
    reward = get_reward("robust")
    assert reward.mark([(tower(30), GOLD)] * 50) == [rewards.Mark(-1.0, undecided=True)] * 50
    left = reward.grader._pool.seconds_left
    assert reward.mark([(tower(30), GOLD)] * 50) == [rewards.Mark(-1.0, undecided=True)] * 50
    assert reward.grader._pool.seconds_left >= left


def test_evaluation_has_no_budget():
    from justrl.verifiers import get_grader

    with get_grader("paper_rules", processes=1) as grader:
        assert grader.grade(RIGHT, GOLD).correct
        assert grader._pool.seconds_left is None


def test_verl_is_told_what_was_not_decided(no_time):
    reward_function._reward.cache_clear()
    score = reward_function.compute_score("dapo", RIGHT, GOLD, reward="robust")
    assert score == {"score": -1.0, "acc": 0.0, "undecided": 1.0}
    assert reward_function.compute_score("dapo", r"\boxed{3}", "3") == {"score": 1.0, "acc": 1.0, "undecided": 0.0}
    reward_function._reward.cache_clear()
