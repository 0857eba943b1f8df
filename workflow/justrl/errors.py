"""What the user can put right: one exception, and the guess at what was meant."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can fix: the message names the thing, its value and the way out."""


def did_you_mean(name: str, known: Iterable[object]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, or all of them."""
    names = list(dict.fromkeys(str(key) for key in known))
    close = difflib.get_close_matches(str(name), names, n=1)
    return f": did you mean {close[0]}?" if close else f" (known: {', '.join(names)})"
