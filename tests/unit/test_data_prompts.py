"""The prompt of a question and the question of a prompt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl.data.prompts import DEFAULT_SEPARATOR, DEFAULT_SUFFIX, apply_chat_template, extract_question
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
    assert apply_chat_template("What is 1+1?") == [
        {
            "role": "user",
            "content": "What is 1+1?\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
        }
    ]


@given(texts)
def test_extracting_inverts_formatting(question: str) -> None:
    messages = apply_chat_template(question)
    assert extract_question(messages) == question
    assert extract_question(messages[0]["content"]) == question


@given(texts, texts, st.text())
def test_extracting_inverts_formatting_for_any_suffix(question: str, suffix: str, separator: str) -> None:
    messages = apply_chat_template(question, suffix, separator)
    assert extract_question(messages, suffix, separator) == question


@given(texts)
def test_formatting_inverts_extracting_where_the_suffix_is(question: str) -> None:
    prompt = question + TAIL
    assert apply_chat_template(extract_question(prompt))[0]["content"] == prompt


@given(texts.filter(lambda text: not text.endswith(TAIL)))
def test_text_without_the_suffix_comes_back_as_it_is(text: str) -> None:
    assert extract_question(text) == text


def test_a_system_message_is_left_out_and_arrays_are_read() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *apply_chat_template("Why?")]
    assert extract_question(messages) == "Why?"
    assert extract_question(np.array(messages, dtype=object)) == "Why?"


@pytest.mark.parametrize("roles", [[], ["assistant"], ["user", "assistant", "user"]])
def test_a_conversation_is_no_question(roles: list[str]) -> None:
    with pytest.raises(UserError, match="exactly one user message"):
        extract_question([{"role": role, "content": "x"} for role in roles])


def test_a_question_must_be_text() -> None:
    with pytest.raises(UserError, match="must be text, got int"):
        apply_chat_template(7)
