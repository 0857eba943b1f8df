"""Errors that the user can fix, and suggestions for misspelled names."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An error that the user can fix: the message names the object, its value and the fix."""


def did_you_mean(name: str, known: Iterable[object]) -> str:
    """Return the end of a sentence about an unknown name: the nearest known name, or all known names."""
    names = list(dict.fromkeys(str(key) for key in known))
    close = difflib.get_close_matches(str(name), names, n=1)
    return f": did you mean {close[0]}?" if close else f" (known: {', '.join(names)})"
