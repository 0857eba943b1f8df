r"""Letters of a multiple choice: `B`, `\text{(B)}`, `(B) 12`, `Option B`."""

import re
from collections.abc import Callable

_MARK = re.compile(r"\\text\{([^{}]*)\}")
_GOLD = re.compile(r"\(?\s*([A-J])\s*\)?")
_ANSWER = re.compile(r"(?:(?i:(?:the )?(?:option|choice|answer)(?: is)?)\s*:?\s*)?\(?\s*([A-J])\s*\)?")
# No sum or product of the letter: what stands behind it is the choice's own value.
_WITH_CONTENT = re.compile(
    r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:])(?:\s+|(?=[\w\\$(]))(?!\\(?:cdot|times|div)|[+*/^_=])(.+)", re.DOTALL
)


def same_choice(gold: str, answer: str, is_single: Callable[[str], bool]) -> bool | None:
    """Whether an answer chooses the gold's letter; None if the gold is no letter or the answer no choice.

    What stands behind the letter must be one value (`is_single`): the choice's own.
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
