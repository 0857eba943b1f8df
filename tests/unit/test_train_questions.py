"""Which questions a step takes, and what is refused as training data."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl.errors import UserError
from justrl.training.reference.rollout import load_questions, step_questions


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 25), st.integers(0, 5))
def test_steps_go_through_shuffled_epochs_without_a_gap(questions, per_step, steps, seed):
    taken = [q for step in range(1, steps + 1) for q in step_questions(step, per_step, questions, seed)]
    assert len(taken) == per_step * steps
    for start in range(0, len(taken), questions):
        epoch = taken[start : start + questions]
        assert len(set(epoch)) == len(epoch)
        if len(epoch) == questions:
            assert sorted(epoch) == list(range(questions))


def test_order_depends_on_the_seed_and_the_epoch():
    first, second, other = step_questions(1, 50, 50, 1), step_questions(2, 50, 50, 1), step_questions(1, 50, 50, 2)
    assert first != second and first != other
    assert sorted(first) == sorted(second) == sorted(other)


class FakeTokenizer:
    """One token per character of the last message."""

    def apply_chat_template(self, messages, **_):
        return [[ord(c) for c in m[-1]["content"]] for m in messages]


def write(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def row(content, gold="1"):
    return {"prompt": [{"role": "user", "content": content}], "reward_model": {"style": "rule", "ground_truth": gold}}


def test_reads_prompts_and_golds(tmp_path):
    questions = load_questions(write(tmp_path / "a.parquet", [row("ab", "7"), row("c", "8")]), FakeTokenizer(), 2)
    assert [(q.prompt, q.gold) for q in questions] == [([97, 98], "7"), ([99], "8")]


def test_names_the_row_that_is_too_long(tmp_path):
    path = write(tmp_path / "a.parquet", [row("ab"), row("abc")])
    with pytest.raises(UserError, match=r"row 1 has 3 prompt tokens, recipe\.max_prompt_length is 2"):
        load_questions(path, FakeTokenizer(), 2)


def test_names_missing_columns_and_empty_files(tmp_path):
    with pytest.raises(UserError, match="no column prompt or reward_model"):
        load_questions(write(tmp_path / "a.parquet", [{"question": "?"}]), FakeTokenizer(), 2)
    empty = pq.read_table(write(tmp_path / "a.parquet", [row("ab")])).slice(0, 0)
    pq.write_table(empty, tmp_path / "b.parquet")
    with pytest.raises(UserError, match="no rows"):
        load_questions(tmp_path / "b.parquet", FakeTokenizer(), 2)
