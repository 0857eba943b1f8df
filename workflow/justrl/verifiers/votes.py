r"""The vote of an answer in maj@k: its value if it is a plain number or a list of numbers, else its text."""

import re
from collections.abc import Hashable
from fractions import Fraction

# Longer than any answer needs, and below the length at which Python refuses to parse an integer.
_WHOLE = r"[0-9]{1,300}"
_DECIMAL = rf"(?:{_WHOLE}(?:\.[0-9]{{0,300}})?|\.[0-9]{{1,300}})"
_SIGNED = rf"[+-]?{_DECIMAL}"
# In LaTeX, `\frac` takes a group in braces or the next digit.
_PART = rf"(?:\{{({_SIGNED})\}}|([0-9]))"
_FRACTION = re.compile(rf"([+-]?)\\[dtc]?frac{_PART}{_PART}")
_RATIO = re.compile(rf"({_SIGNED})(?:/({_SIGNED}))?")
_LIST = re.compile(r"(\\?[(\[{])?(.*?)(\\?[)\]}])?", re.DOTALL)
# Spacing, bracket sizes and digit grouping.
_DRESS = re.compile(r"\\(?:[,;:! ]|left(?![a-z])|right(?![a-z]))|\{,\}|\s|\$")


def vote(answer: str) -> Hashable:
    r"""Key under which an answer is counted.

    `07`, `7.0` and `\frac{14}{2}` have the same key, and so have `(1, 2)` and `(1,2.0)`.
    """
    plain = _DRESS.sub("", answer).replace("\N{MINUS SIGN}", "-")
    if (number := _number(plain.removesuffix("."))) is not None:
        return number
    match = _LIST.fullmatch(plain)
    if match and "," in match[2]:
        numbers = [_number(part) for part in match[2].split(",")]
        if None not in numbers:
            return match[1] or "", *numbers, match[3] or ""
    return " ".join(answer.split())


def _number(text: str) -> Fraction | None:
    sign = 1
    if match := _FRACTION.fullmatch(text):
        sign = -1 if match[1] == "-" else 1
        top, bottom = match[2] or match[3], match[4] or match[5]
    elif match := _RATIO.fullmatch(text):
        top, bottom = match[1], match[2] or "1"
    else:
        return None
    below = Fraction(bottom)
    return sign * Fraction(top) / below if below else None
