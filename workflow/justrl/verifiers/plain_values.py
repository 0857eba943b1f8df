r"""Compare answers that are plain numbers, exactly and without SymPy.

Most answers are integers, fractions or decimals, alone or in a pair of brackets. They can be decided without computer
algebra, a thousand times faster and with the same outcome as `math_verify_worker.compare`. That function handles all
other notations, and compares numbers by the same rule.
"""

import re
from fractions import Fraction

_INTEGER = r"(?:0|[1-9][0-9]{0,11})"
_NUMBER = re.compile(
    rf"(-?)(?:\\[dt]?frac\{{(-?{_INTEGER})\}}\{{([1-9][0-9]{{0,11}})\}}|({_INTEGER})/([1-9][0-9]{{0,11}})"
    rf"|({_INTEGER}(?:\.[0-9]{{1,6}})?))"
)
# Without `e` and `i`, which are numbers.
_ASSIGNMENT = re.compile(r"\s*[abckm-z]\s*=\s*")
_LIST = re.compile(r"([(\[])([^()\[\]]*,[^()\[\]]*)([)\]])")
_SIZES = re.compile(r"\\(?:left|right)\s*(?=[(\[)\]])")
# A decimal with this many digits may be rounded; a shorter one is exact.
_ROUNDED_DIGITS = 6
_DIGITS_GIVEN = re.compile(r"-?([0-9]*)\.([0-9]+)(?:\\(?:times|cdot)10\^\{?(-?[0-9]+)\}?)?")


def same_number(one: Fraction, other: Fraction, tolerance: Fraction) -> bool:
    """Whether two numbers are equal within `tolerance` (`decimal_tolerance`), or exactly if it is 0."""
    return abs(one - other) <= tolerance


def decimal_tolerance(text: str) -> Fraction:
    """Half a unit in the last place of a decimal with at least six significant digits; 0 for any other number."""
    match = _DIGITS_GIVEN.fullmatch(text)
    if match is None or len((match[1] + match[2]).lstrip("0")) < _ROUNDED_DIGITS:
        return Fraction(0)
    exponent = min(int(match[3] or 0), 10_000) - len(match[2])
    return Fraction(10) ** max(exponent, -10_000) / 2


def compare_plain(answer: str, gold: str) -> str | None:
    """Return "correct" or "wrong" for an answer, or None if it takes more than arithmetic to decide."""
    # `x=5` answers 5, but not `y=5`, because a gold answer with a letter isn't plain.
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
    """The brackets ("" around a single number) and the numbers with their tolerances; None if the text is not plain."""
    text = _SIZES.sub("", text.strip().removesuffix(".")).strip()
    match = _LIST.fullmatch(text)
    numbers = [_number(part) for part in (match[2].split(",") if match else [text])]
    known = [number for number in numbers if number is not None]
    return (match[1] + match[3] if match else "", known) if len(known) == len(numbers) else None


def _is_interval(numbers: list[tuple[Fraction, Fraction]]) -> bool:
    return len(numbers) == 2 and numbers[0] < numbers[1]


def _unassigned(text: str) -> str:
    """Strip a leading `x=` unless a list follows."""
    match = _ASSIGNMENT.match(text)
    return text[match.end() :] if match and _LIST.search(text) is None else text


def _number(text: str) -> tuple[Fraction, Fraction] | None:
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    sign, top, bottom, left, right, plain = match.groups()
    value = Fraction(plain) if plain else Fraction(int(top or left), int(bottom or right))
    return (-value if sign else value), decimal_tolerance(plain or "")
