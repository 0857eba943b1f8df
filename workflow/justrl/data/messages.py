"""Build the user message of a question, and recover the question from it: two exact inverses.

The suffix is the authors'. Two newlines join it in their training data and one space in their evaluation
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

    The model's tokenizer applies its own chat template to them later.
    """
    if not isinstance(question, str):
        raise UserError(f"a question must be text, got {type(question).__name__}: {question!r:.80}")
    return [{"role": "user", "content": f"{question}{separator}{suffix}"}]


def question_of(
    prompt: str | Iterable[Mapping[str, Any]], suffix: str = DEFAULT_SUFFIX, separator: str = DEFAULT_SEPARATOR
) -> str:
    """Return the question of a prompt made by `build_messages` with the same suffix and separator.

    `prompt` is the message list or the text of its user message. Exactly one suffix is removed, so a question that
    itself ends with the suffix is recovered whole. Text without the suffix is returned unchanged.
    """
    return user_content(prompt).removesuffix(separator + suffix)


def user_content(prompt: str | Iterable[Mapping[str, Any]]) -> str:
    """Return the text of the only user message. A plain string is returned unchanged, and a system message is ignored.

    Raises UserError if there is not exactly one user message, since a conversation is not a question, or if the message
    isn't text (an image).
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
    """Return the text of a message: a string, or the joined parts of a list (`{type: text, text: ...}`)."""
    if isinstance(content, str):
        return content
    texts = [_part_text(part) for part in (content if isinstance(content, list) else [content])]
    found = [text for text in texts if isinstance(text, str)]
    if not found or len(found) < len(texts):
        raise UserError(f"the user message of a prompt must be text or parts of text, this one is {content!r:.120}")
    return "".join(found)


def _part_text(part: Any) -> Any:
    """Return the text of a message part; None if it is not text."""
    if isinstance(part, Mapping):
        return part.get("text") if part.get("type", "text") == "text" else None
    return part
