r"""`symbolic` on answers whose verdict is known (tests/fixtures/symbolic_answers.tsv), its boxes and its numbers.

A row of the table: "correct" or "not", the gold, the content of the box; a line with `#` names the kind of those below.
"""

from fractions import Fraction
from pathlib import Path

import pytest

from justrl.verifiers import get_grader
from justrl.verifiers.plain_values import decimal_tolerance

TABLE = Path(__file__).parents[1] / "fixtures" / "symbolic_answers.tsv"


def _kinds() -> dict[str, list[tuple[str, str, str]]]:
    kinds: dict[str, list[tuple[str, str, str]]] = {}
    for line in TABLE.read_text(encoding="utf-8").split("\n"):
        if line.startswith("# "):
            rows = kinds.setdefault(line[2:], [])
        elif line:
            verdict, gold, answer = line.split("\t")
            rows.append((verdict, gold, answer))
    return kinds


KINDS = _kinds()


@pytest.fixture(scope="module")
def grader():
    with get_grader("symbolic", processes=2, timeout=10.0) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_a_kind(grader, kind):
    rows = KINDS[kind]
    grades = grader.grade_many([(f"Hence \\boxed{{{answer}}}.", gold) for _, gold, answer in rows])
    wrong = [
        (row, str(grade.outcome))
        for row, grade in zip(rows, grades, strict=True)
        if grade.correct != (row[0] == "correct")
    ]
    assert wrong == []


def test_the_table_is_whole():
    assert len(KINDS) == 17 and sum(map(len, KINDS.values())) > 550
    assert {verdict for rows in KINDS.values() for verdict, _, _ in rows} == {"correct", "not"}


@pytest.mark.parametrize(
    ("completion", "outcome"),
    [
        (r"so \boxed {5}", "correct"),
        ("so \\boxed\n{5}", "correct"),
        (r"so $\boxed   {5}$", "correct"),
        (r"so \boxed {6}", "wrong"),
        (r"\boxed{\boxed{5}}", "correct"),
        (r"\boxed{\boxed{5}\text{ or 7}}", "wrong"),
        (r"\boxed{7}, no: \boxed{5}", "correct"),
        (r"\boxed 5", "unparsed"),
    ],
)
def test_the_box_that_is_read(grader, completion, outcome):
    assert grader.grade(completion, "5").outcome == outcome


@pytest.mark.parametrize(
    "behind", [r"\text{ or 7}", r"\text{ and 7}", r"\text{ is wrong}", r"\text{ times 7}", ", 7", "'"]
)
@pytest.mark.parametrize(
    "gold",
    ["5", r"\frac{1}{2}", "2,3", "(3,4]", r"\text{(C)}", r"\text{east}", r"90^\circ", "x=5", r"\boxed{204}", "52_8"],
)
def test_what_stands_behind_a_gold_is_never_passed_over(grader, gold, behind):
    assert not grader.grade(f"\\boxed{{{gold}{behind}}}", gold).correct


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [
        ("5", Fraction(0)),
        ("123456", Fraction(0)),
        ("0.33333", Fraction(0)),
        ("0.333333", Fraction(1, 2 * 10**6)),
        ("-12.3456", Fraction(1, 2 * 10**4)),
        ("0.0012345", Fraction(0)),
        (r"1.23456\times10^{-3}", Fraction(1, 2 * 10**8)),
    ],
)
def test_the_tolerance_of_a_decimal_is_half_a_unit_of_its_last_digit(text, tolerance):
    assert decimal_tolerance(text) == tolerance
