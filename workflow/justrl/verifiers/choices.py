r"""Letters of multiple-choice answers: `B`, `\text{(B)}`, `(B) 12`, `Option B`."""

import re
from collections.abc import Callable

_MARK = re.compile(r"\\text\{([^{}]*)\}")
_GOLD = re.compile(r"\(?\s*([A-J])\s*\)?")
_ANSWER = re.compile(r"(?:(?i:(?:the )?(?:option|choice|answer)(?: is)?)\s*:?\s*)?\(?\s*([A-J])\s*\)?")
# Excludes a sum or product that contains the letter: the text after the letter must be the value of that choice.
_WITH_CONTENT = re.compile(
    r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:])(?:\s+|(?=[\w\\$(]))(?!\\(?:cdot|times|div)|[+*/^_=])(.+)", re.DOTALL
)


def same_choice(gold: str, answer: str, is_single: Callable[[str], bool]) -> bool | None:
    """Whether an answer chooses the letter of the gold answer.

    None if the gold is not a letter or the answer not a choice. Any text after the letter must be one value
    (`is_single`), that of the choice.
    """
    wanted = _GOLD.fullmatch(_plain(gold))
    if wanted is None:
        return None
    plain = _plain(answer)
    if match := _ANSWER.fullmatch(plain):
        return match[1] == wanted[1]
    if (match := _WITH_CONTENT.fullmatch(plain)) and is_single(match[3]):
        return (match[1] or match[2]) == wanted[1]
    return None


def _plain(text: str) -> str:
    return " ".join(_MARK.sub(r"\1", text).split())
