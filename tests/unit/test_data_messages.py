"""The prompt of a question and the question of a prompt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl.data.messages import DEFAULT_SEPARATOR, DEFAULT_SUFFIX, build_messages, question_of
from justrl.errors import UserError

TAIL = DEFAULT_SEPARATOR + DEFAULT_SUFFIX
# Text that ends with pieces of the instruction is what an inverse gets wrong.
texts = st.builds(
    lambda text, end, times: text + end * times,
    st.text(),
    st.sampled_from(["", TAIL, DEFAULT_SUFFIX, DEFAULT_SEPARATOR, "\n", " ", TAIL[:-1], TAIL[1:]]),
    st.integers(0, 3),
)


def test_prompt_is_the_papers() -> None:
    assert build_messages("What is 1+1?") == [
        {
            "role": "user",
            "content": "What is 1+1?\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        }
    ]


@given(texts)
def test_extracting_inverts_formatting(question: str) -> None:
    messages = build_messages(question)
    assert question_of(messages) == question
    assert question_of(messages[0]["content"]) == question


@given(texts, texts, st.text())
def test_extracting_inverts_formatting_for_any_suffix(question: str, suffix: str, separator: str) -> None:
    messages = build_messages(question, suffix, separator)
    assert question_of(messages, suffix, separator) == question


@given(texts)
def test_formatting_inverts_extracting_where_the_suffix_is(question: str) -> None:
    prompt = question + TAIL
    assert build_messages(question_of(prompt))[0]["content"] == prompt


@given(texts.filter(lambda text: not text.endswith(TAIL)))
def test_text_without_the_suffix_comes_back_as_it_is(text: str) -> None:
    assert question_of(text) == text


def test_a_system_message_is_left_out_and_arrays_are_read() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *build_messages("Why?")]
    assert question_of(messages) == "Why?"
    assert question_of(np.array(messages, dtype=object)) == "Why?"


@pytest.mark.parametrize("roles", [[], ["assistant"], ["user", "assistant", "user"]])
def test_a_conversation_is_no_question(roles: list[str]) -> None:
    with pytest.raises(UserError, match="exactly one user message"):
        question_of([{"role": role, "content": "x"} for role in roles])


def test_a_question_must_be_text() -> None:
    with pytest.raises(UserError, match="must be text, got int"):
        build_messages(7)
