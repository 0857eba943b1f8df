"""The user message of a question, and the question of a user message: two exact inverses.

The suffix is the authors'; it is joined by two newlines in their training data and by one space in their evaluation
(`evals/gen_vllm.py`), so the separator is an argument everywhere.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from justrl.errors import UserError

DEFAULT_SUFFIX = r"Please reason step by step, and put your final answer within \boxed{}."
DEFAULT_SEPARATOR = "\n\n"


def build_messages(
    question: str, suffix: str = DEFAULT_SUFFIX, separator: str = DEFAULT_SEPARATOR
) -> list[dict[str, str]]:
    """Return the messages sent for `question`: one user message, no system prompt (the paper's set-up).

    The model's own chat template is applied later, by its tokenizer; this is what goes into it.
    """
    if not isinstance(question, str):
        raise UserError(f"a question must be text, got {type(question).__name__}: {question!r:.80}")
    return [{"role": "user", "content": f"{question}{separator}{suffix}"}]


def question_of(
    prompt: str | Iterable[Mapping[str, Any]], suffix: str = DEFAULT_SUFFIX, separator: str = DEFAULT_SEPARATOR
) -> str:
    """Return the question of a prompt made by `build_messages` with the same suffix and separator.

    `prompt` is the message list or its user message's text. Exactly one suffix is taken off, so a question that itself
    ends with the suffix comes back whole. Text without the suffix comes back as it is.
    """
    return user_content(prompt).removesuffix(separator + suffix)


def user_content(prompt: str | Iterable[Mapping[str, Any]]) -> str:
    """Return the text of the only user message; a plain string is its own text, a system message is left out.

    Raises UserError where there is no user message or more than one, since a conversation is not a question, and where
    it is no text (an image).
    """
    if isinstance(prompt, str):
        return prompt
    messages = list(prompt)
    users = [message["content"] for message in messages if message["role"] == "user"]
    if len(users) != 1:
        roles = [message["role"] for message in messages]
        raise UserError(f"a prompt must hold exactly one user message, this one has the roles {roles}")
    return _text_of(users[0])


def _text_of(content: Any) -> str:
    """The text of a message: text as it is, or a list of parts (`{type: text, text: ...}`), joined."""
    if isinstance(content, str):
        return content
    texts = [_part_text(part) for part in (content if isinstance(content, list) else [content])]
    found = [text for text in texts if isinstance(text, str)]
    if not found or len(found) < len(texts):
        raise UserError(f"the user message of a prompt must be text or parts of text, this one is {content!r:.120}")
    return "".join(found)


def _part_text(part: Any) -> Any:
    """The text of a part of a message; None where it is no text."""
    if isinstance(part, Mapping):
        return part.get("text") if part.get("type", "text") == "text" else None
    return part
