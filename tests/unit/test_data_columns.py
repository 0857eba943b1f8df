"""Questions and golds out of every known kind of column."""

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl.data import tables
from justrl.data.golds import clean_gold
from justrl.errors import UserError


@pytest.mark.parametrize(
    ("found", "asked", "expected"),
    [
        (["prompt", "question"], None, "question"),
        (["problem", "prompt"], None, "problem"),
        (["prompt", "extra"], None, "prompt"),
        (["prompt", "extra"], "extra", "extra"),
        (["extra"], "extra.field", "extra.field"),
    ],
)
def test_the_question_column_is_found(found: list[str], asked: str | None, expected: str) -> None:
    assert tables.pick_column(found, tables.QUESTION_COLUMNS, asked, "question", "file") == expected


def test_an_answer_goes_before_a_worked_solution() -> None:
    assert tables.pick_column(["solution", "answer"], tables.ANSWER_COLUMNS, None, "answer", "file") == "answer"


def test_unknown_columns_are_named_with_what_is_accepted() -> None:
    with pytest.raises(UserError) as error:
        tables.pick_column(["query", "label"], tables.QUESTION_COLUMNS, None, "question", "data.parquet")
    for word in ("data.parquet", "query, label", "question, problem, prompt", "--question-column"):
        assert word in str(error.value)
    with pytest.raises(UserError, match=r"no column 'q'.*it has query, label"):
        tables.pick_column(["query", "label"], tables.QUESTION_COLUMNS, "q", "question", "data.parquet")


def message(content: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a", None], ["a", None]),
        ([[message("a")], [message("b")]], ["a", "b"]),
        ([[message("a")], None], ["a", None]),
        ([[message("be brief", "system"), message("a")], [message("b")]], ["a", "b"]),
    ],
)
def test_questions_are_text_or_messages(values: list, expected: list) -> None:
    assert tables.question_texts(pa.array(values)) == expected


def test_messages_of_a_slice_are_those_of_its_rows() -> None:
    column = pa.array([[message(str(i))] for i in range(10)]).slice(4, 3)
    assert tables.question_texts(column) == ["4", "5", "6"]


@pytest.mark.parametrize("values", [[1, 2], [["a"]], [{"role": "user", "content": "a"}]])
def test_other_question_columns_are_refused(values: list) -> None:
    with pytest.raises(UserError, match="a question column must hold text or lists"):
        tables.question_texts(pa.array(values))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["34", None], ["34", None]),
        ([34, -1], ["34", "-1"]),
        ([27.0, 1.5, -3.0], ["27", "1.5", "-3"]),
        ([{"ground_truth": "7", "style": "rule"}], ["7"]),
        ([{"ground_truth": 2**62}], [str(2**62)]),
        ([["$69$", "$84$"], ["2"]], ["$69$,$84$", "2"]),
        ([[1, 2]], ["1,2"]),
    ],
)
def test_golds_become_text(values: list, expected: list) -> None:
    assert tables.answer_texts(pa.array(values)) == expected


@pytest.mark.parametrize("value", [2.0**60, float("inf")])
def test_a_gold_that_has_lost_digits_is_refused(value: float) -> None:
    with pytest.raises(UserError, match="lost digits"):
        tables.answer_texts(pa.array([value]))


def test_a_struct_without_ground_truth_is_refused() -> None:
    with pytest.raises(UserError, match="needs a field ground_truth"):
        tables.answer_texts(pa.array([{"style": "rule"}]))
    with pytest.raises(UserError, match="no field 'truth'"):
        tables.take_column(pa.table({"reward_model": [{"style": "rule"}]}), "reward_model.truth")


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        (r"\boxed{204}", "204"),
        (r" \boxed{\frac{1}{2}} ", r"\frac{1}{2}"),
        (r"so \boxed{1} or rather \boxed{2}", "2"),
        (r"\boxed{2", r"\boxed{2"),
        (r"$\frac{1}{2 n+2}$", r"\frac{1}{2 n+2}"),
        ("$69$,$84$", "69,84"),
        ("$221,$8$", "221,8"),
        (r"$(-\infty, 0) \cup\{1\}$.", r"(-\infty, 0) \cup\{1\}"),
        (r"x_{0}+$ $\dot{x}_{0}", r"x_{0}+ \dot{x}_{0}"),
        (r"\$18.90", r"\$18.90"),
        (r"\\$5", r"\\5"),
        (r"$\$32,\!348$", r"\$32,\!348"),
        ("3.", "3."),
        ("5.4 \\text{ cents}", "5.4 \\text{ cents}"),
        ("  025\n", "025"),
    ],
)
def test_golds_are_unboxed_and_undollared(gold: str, expected: str) -> None:
    assert clean_gold(gold) == expected


@given(st.text(alphabet="$\\.ab {}") | st.text())
def test_cleaning_leaves_no_delimiter_and_nothing_else_to_clean(gold: str) -> None:
    cleaned = clean_gold(gold)
    assert cleaned == cleaned.strip()
    # Whatever dollar is left is escaped: the backslashes before it are odd in number.
    assert all(len(match[1]) % 2 for match in re.finditer(r"(\\*)\$", cleaned))
    assert clean_gold(cleaned) == cleaned


@given(st.integers(-(10**40), 10**40))
def test_integers_of_any_size_stay_as_they_are(number: int) -> None:
    assert clean_gold(str(number)) == str(number)
    assert clean_gold(f"\\boxed{{{number}}}") == str(number)
