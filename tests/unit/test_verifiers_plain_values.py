"""Plain numbers compared without SymPy: what is told, what is left open, and that a worker would tell the same."""

import random

import pytest

from justrl.verifiers.plain_values import compare_plain
from justrl.verifiers.workers import WorkerPool

NUMBERS = ["0", "-0", "5", "-5", "12", "{a}", "-{a}", "{a}.0", "{a}.5", "\\frac{{{a}}}{{{b}}}", "{a}/{b}", "-{a}/{b}"]
NUMBERS += ["\\dfrac{{-{a}}}{{{b}}}", "\\tfrac{{{a}}}{{8}}", "0.{a}", "-1.{a}", "{c}", "\\frac{{{c}}}{{3}}"]
AROUND = ["{}", "{}", " {}. ", "x={}", "k = {}", "({}, 2)", "(-9, {}]", "[{},{}]", "\\left[{}, 7\\right)", "(1,{},3)"]


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("17.", "17", "correct"),
        ("x = \\frac{34}{2}", "17", "correct"),
        ("\\dfrac12", "\\frac{1}{2}", None),
        ("0.5", "\\frac{1}{2}", "correct"),
        ("-1/2", "\\frac{-1}{2}", "correct"),
        ("18", "17", "wrong"),
        ("\\left(1, 3\\right]", "(1,3]", "correct"),
        ("(1,4]", "(1,3]", "wrong"),
        ("(1,2,3)", "(1,2)", "wrong"),
        ("0.333333", "\\frac{1}{3}", "correct"),
        ("0.333334", "\\frac{1}{3}", "wrong"),
        # What takes more to tell: letters, brackets, an interval that is none, a set.
        ("y=5", "x=5", None),
        ("e=5", "5", None),
        ("x=(1,2)", "(1,2)", None),
        ("[1,3]", "(1,3]", None),
        ("(9,2]", "(9,2]", None),
        ("\\{1,2\\}", "\\{2,1\\}", None),
        # Not plain numbers.
        ("1,732", "1732", None),
        ("007", "7", None),
        ("1e3", "1000", None),
        ("1/0", "1", None),
        ("52_8", "52", None),
        ("17!", "17", None),
        ("9" * 13, "9" * 13, None),
        ("٣", "3", None),
        ("", "", None),
    ],
)
def test_plain_numbers_are_told_and_others_left(answer, gold, verdict):
    assert compare_plain(answer, gold) == verdict


def _answers(chance: random.Random) -> tuple[str, str]:
    def number() -> str:
        parts = {"a": chance.randint(1, 40), "b": chance.randint(1, 12), "c": chance.randint(10**9, 10**11)}
        return chance.choice(NUMBERS).format(**parts)

    form, one, other = chance.choice(AROUND), number(), number()
    gold = one if "=" in form or "." in form else form.format(one, one)
    return form.format(chance.choice([one, other]), one), gold


def test_a_verdict_is_a_workers():
    chance = random.Random(0)
    pairs = list(dict.fromkeys(_answers(chance) for _ in range(600)))
    told = [(pair, verdict) for pair in pairs if (verdict := compare_plain(*pair))]
    assert len(told) > 250 and {verdict for _, verdict in told} == {"correct", "wrong"}
    pool = WorkerPool("justrl.verifiers.math_verify_worker:compare", workers=2)
    asked = pool.map([pair for pair, _ in told])
    pool.close()
    assert [(pair, mine, its) for (pair, mine), its in zip(told, asked, strict=True) if mine != its] == []
