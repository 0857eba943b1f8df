r"""Comparing answers that are plain numbers, exactly and without SymPy.

Most answers are integers, fractions or decimals, alone or in a pair of brackets. Of those a verdict needs no computer
algebra: it is the same that `math_verify_worker.compare` gives, a thousand times sooner. Whatever is written in another
way is left to that, which compares numbers by the same function.
"""

import re
from fractions import Fraction

_INTEGER = r"(?:0|[1-9][0-9]{0,11})"
_NUMBER = re.compile(
    rf"(-?)(?:\\[dt]?frac\{{(-?{_INTEGER})\}}\{{([1-9][0-9]{{0,11}})\}}|({_INTEGER})/([1-9][0-9]{{0,11}})"
    rf"|({_INTEGER}(?:\.[0-9]{{1,6}})?))"
)
# Not `e` and `i`, which are numbers.
_ASSIGNMENT = re.compile(r"\s*[abckm-z]\s*=\s*")
_LIST = re.compile(r"([(\[])([^()\[\]]*,[^()\[\]]*)([)\]])")
_SIZES = re.compile(r"\\(?:left|right)\s*(?=[(\[)\]])")
# A decimal of so many digits may be a rounded value; a shorter one is what it says.
_ROUNDED_DIGITS = 6
_DIGITS_GIVEN = re.compile(r"-?([0-9]*)\.([0-9]+)(?:\\(?:times|cdot)10\^\{?(-?[0-9]+)\}?)?")


def same_number(one: Fraction, other: Fraction, tolerance: Fraction) -> bool:
    """Equality of two numbers: exactly, or within what the digits given leave open (`decimal_tolerance`)."""
    return abs(one - other) <= tolerance


def decimal_tolerance(text: str) -> Fraction:
    """Half a unit in the last place of a decimal with six digits that count, or more; 0 of any other number."""
    match = _DIGITS_GIVEN.fullmatch(text)
    if match is None or len((match[1] + match[2]).lstrip("0")) < _ROUNDED_DIGITS:
        return Fraction(0)
    exponent = min(int(match[3] or 0), 10_000) - len(match[2])
    return Fraction(10) ** max(exponent, -10_000) / 2


def compare_plain(answer: str, gold: str) -> str | None:
    """Outcome for an answer: "correct" or "wrong", or None where it takes more than arithmetic to tell."""
    # `x=5` answers 5, but not `y=5`: a gold with a letter is not plain.
    given, wanted = _read(_unassigned(answer)), _read(gold)
    if given is None or wanted is None or given[0] != wanted[0]:
        return None
    if given[0] in ("(]", "[)") and not (_is_interval(given[1]) and _is_interval(wanted[1])):
        return None
    if len(given[1]) != len(wanted[1]):
        return "wrong"
    pairs = zip(given[1], wanted[1], strict=True)
    return "correct" if all(same_number(a, b, max(ta, tb)) for (a, ta), (b, tb) in pairs) else "wrong"


def _read(text: str) -> tuple[str, list[tuple[Fraction, Fraction]]] | None:
    """The brackets ("" around a number) and the numbers of a text with their tolerances, or None if it is not plain."""
    text = _SIZES.sub("", text.strip().removesuffix(".")).strip()
    match = _LIST.fullmatch(text)
    numbers = [_number(part) for part in (match[2].split(",") if match else [text])]
    known = [number for number in numbers if number is not None]
    return (match[1] + match[3] if match else "", known) if len(known) == len(numbers) else None


def _is_interval(numbers: list[tuple[Fraction, Fraction]]) -> bool:
    return len(numbers) == 2 and numbers[0] < numbers[1]


def _unassigned(text: str) -> str:
    """What stands behind `x=`, if that is a number; the text otherwise."""
    match = _ASSIGNMENT.match(text)
    return text[match.end() :] if match and _LIST.search(text) is None else text


def _number(text: str) -> tuple[Fraction, Fraction] | None:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    sign, top, bottom, left, right, plain = match.groups()
    value = Fraction(plain) if plain else Fraction(int(top or left), int(bottom or right))
    return (-value if sign else value), decimal_tolerance(plain or "")
