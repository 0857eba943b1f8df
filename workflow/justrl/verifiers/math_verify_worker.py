r"""The work of a symbolic grader's worker: parse the answer and the gold answer, then compare their values.

The worker doesn't search for a value in an answer. `undress` strips the formatting, and `answer_reader` parses the
whole text or nothing. Text next to a value must be a unit; otherwise the answer is unparsed. Text becomes SymPy objects
through constructors only and never reaches Python's `eval`.

Numbers must be equal exactly, or to the digits given if one is a decimal of six digits or more. Lists are equal as
multisets, tuples in order, and sets without duplicates. `(a,b)` is a tuple or an interval, depending on the other side.
A unit on one side only is ignored, but two units must give the same amount. Likewise, an answer may omit the base or
the modulus of the gold answer's number. An equation stands for its right side if its left side is a name.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import sympy

from justrl.verifiers.answer_reader import (
    DOTS,
    AnswerReader,
    Collection,
    Equation,
    Matrix,
    Part,
    Quantity,
    Ratio,
    Reals,
    Relation,
    Value,
    Word,
    bare_word,
    points,
    same_expression,
)
from justrl.verifiers.answer_tokens import thousands_joined
from justrl.verifiers.dress import undress
from justrl.verifiers.expression import TooLargeError
from justrl.verifiers.latex_reader import NotRead
from justrl.verifiers.units import DEGREE, KNOWN, PERCENT, may_be_unit

# A space between two digits separates two numbers, so it is kept.
_SPACE = re.compile(r"(?<![0-9]) +| +(?![0-9])")
# Other pairs of capitals are labels.
_SHORT_WORDS = frozenset(["no", "on", "up", "in", "by", "to"])
_LOG_BASES = (None, sympy.Integer(10))
# Letters of multiple-choice answers: `B`, `\text{(B)}`, `(B) 12`, `Option B`.
_CHOICE_MARK = re.compile(r"\\text\{([^{}]*)\}")
_CHOICE = re.compile(r"\(?\s*([A-J])\s*\)?")
_CHOSEN = re.compile(r"(?:(?i:(?:the )?(?:option|choice|answer)(?: is)?)\s*:?\s*)?\(?\s*([A-J])\s*\)?")
# Excludes a sum or product that contains the letter: the text after the letter must be the value of that choice.
_CHOSEN_WITH_CONTENT = re.compile(
    r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:])(?:\s+|(?=[\w\\$(]))(?!\\(?:cdot|times|div)|[+*/^_=])(.+)", re.DOTALL
)

_tidy = lru_cache(maxsize=1024)(undress)


# The gold answer is parsed again for each answer to it.
@lru_cache(maxsize=1024)
def _read(text: str) -> tuple[tuple[int, Value], ...]:
    """All readings of a tidy answer, each with its logarithm base as an index (0: any).

    Raises NotRead if there are none.
    """
    texts = [text] if (joined := thousands_joined(text)) is None else [joined, text]
    bases = _LOG_BASES if "log" in text else _LOG_BASES[:1]
    found: list[tuple[int, Value]] = []
    failure: Exception = NotRead("nothing")
    if word := bare_word(text):
        found.append((0, word))
    for place, base in enumerate(bases):
        for one in texts:
            try:
                found.append((place + 1 if len(bases) > 1 else 0, AnswerReader(base).read(one)))
            except (NotRead, TypeError, AttributeError, ZeroDivisionError, OverflowError) as error:
                failure = error
    if not found:
        raise NotRead("no reading") from failure
    return tuple(found)


def compare(pair: list[str]) -> str:
    """Outcome for (answer, gold): "correct", "wrong", "unparsed", or "timeout" if a number is too large."""
    answer, gold = (_tidy(text) for text in pair)
    if not answer:
        return "unparsed"
    if _SPACE.sub("", answer) == _SPACE.sub("", gold):
        return "correct"
    try:
        if (chosen := _same_choice(gold, answer, _is_single)) is not None:
            return "correct" if chosen else "wrong"
        if (spelt := _both_words(gold, answer)) is not None:
            return "correct" if spelt else "wrong"
        given = _read(answer)
    except NotRead:
        return "unparsed"
    except TooLargeError:
        return "timeout"
    try:
        wanted = _read(gold)
    except (NotRead, TooLargeError):
        return "wrong"
    for base, left in wanted:
        for other, right in given:
            if _contradicts(right) or (base and other and base != other and "log" in answer and "log" in gold):
                continue
            try:
                if _same(left, right):
                    return "correct"
            except TooLargeError:
                return "timeout"
            except (NotRead, TypeError, AttributeError, ValueError, ZeroDivisionError, OverflowError):
                continue  # an odd pair of values that cannot be compared
    return "wrong"


def _same_choice(gold: str, answer: str, is_single: Callable[[str], bool]) -> bool | None:
    """Whether an answer chooses the letter of the gold answer.

    None if the gold is not a letter or the answer not a choice. Any text after the letter must be one value
    (`is_single`), that of the choice.
    """
    wanted = _CHOICE.fullmatch(_unmarked(gold))
    if wanted is None:
        return None
    plain = _unmarked(answer)
    if match := _CHOSEN.fullmatch(plain):
        return match[1] == wanted[1]
    if (match := _CHOSEN_WITH_CONTENT.fullmatch(plain)) and is_single(match[3]):
        return (match[1] or match[2]) == wanted[1]
    return None


def _unmarked(text: str) -> str:
    return " ".join(_CHOICE_MARK.sub(r"\1", text).split())


def _both_words(gold: str, answer: str) -> bool | None:
    """Whether two words are the same.

    None unless both are words, or if they may be products of one or two small letters.
    """
    one, other = bare_word(gold), bare_word(answer)
    if one is None or other is None or ((one.text + other.text).islower() and len(one.text) < 3):
        return None
    return _same_word(one.text, other.text)


def _is_single(text: str) -> bool:
    """Whether a tidy text is a single value: a quantity or a noun."""
    try:
        values = [value for _, value in _read(text)]
    except (NotRead, TooLargeError):
        return False
    return all(may_be_unit(value.text) if isinstance(value, Word) else isinstance(value, Quantity) for value in values)


def _contradicts(value: Value) -> bool:
    if isinstance(value, Collection):
        return any(_contradicts(item) for item in value.items)
    return isinstance(value, Equation) and (not value.holds or _contradicts(value.value))


def _same(wanted: Value, given: Value) -> bool:
    """Whether two values are equal, in any combination of forms."""
    if isinstance(wanted, Equation) or isinstance(given, Equation):
        return _same_equation(wanted, given)
    if isinstance(wanted, Word) and isinstance(given, Word):
        return _same_word(wanted.text, given.text)
    if isinstance(wanted, Quantity) and isinstance(given, Quantity):
        return _same_quantity(wanted, given)
    if isinstance(wanted, Reals) or isinstance(given, Reals):
        return _same_reals(wanted, given)
    if isinstance(wanted, Relation) and isinstance(given, Relation):
        factor = _ratio(wanted.difference, given.difference)
        return wanted.kind == given.kind and factor is not None and (factor > 0 or wanted.kind == "unequal")
    if isinstance(wanted, Collection) and isinstance(given, Collection):
        return _same_collection(wanted, given)
    if isinstance(wanted, Ratio) or isinstance(given, Ratio):
        return _same_ratio(wanted, given)
    if isinstance(wanted, Matrix) and isinstance(given, Matrix):
        return len(wanted.rows) == len(given.rows) and all(map(_in_order, wanted.rows, given.rows))
    if isinstance(wanted, Matrix) != isinstance(given, Matrix):
        return _in_order(_point(wanted), _point(given))
    # A set of one element equals that element.
    if isinstance(given, Collection) and given.brackets == "{}" and len(given.items) == 1:
        return _same(wanted, given.items[0])
    if isinstance(wanted, Collection) and wanted.brackets == "{}" and len(wanted.items) == 1:
        return _same(wanted.items[0], given)
    return False


def _point(value: Value) -> tuple[Value, ...]:
    """The coordinates of a point, written in brackets or as a column."""
    if isinstance(value, Matrix) and all(len(row) == 1 for row in value.rows):
        return tuple(row[0] for row in value.rows)
    return value.items if isinstance(value, Collection) and value.brackets == "()" else (value, DOTS)


def _same_equation(wanted: Value, given: Value) -> bool:
    if isinstance(wanted, Equation) and isinstance(given, Equation):
        if wanted.name and wanted.name == given.name:
            return _same(wanted.value, given.value)
        if wanted.difference is None or given.difference is None:
            return not (wanted.name and given.name) and _same(wanted.value, given.value)
        return _ratio(wanted.difference, given.difference) is not None
    equation, other = (wanted, given) if isinstance(wanted, Equation) else (given, wanted)
    if not isinstance(equation, Equation):
        return False
    # An equation without a name has a value only if it has no variables.
    if not equation.name and equation.difference is not None and equation.difference.free_symbols:
        return False
    return _same(equation.value, other) if equation is wanted else _same(other, equation.value)


def _ratio(one: sympy.Expr, other: sympy.Expr) -> sympy.Expr | None:
    """The constant ratio of two expressions, or None if they are not proportional."""
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    ratios = [(one.subs(point) / other.subs(point)).evalf(30) for point in points(symbols)]
    ratios = [ratio for ratio in ratios if ratio.is_real and ratio.is_finite and ratio != 0]
    if len(ratios) < 2 or any(abs(ratio / ratios[0] - 1) > sympy.Float("1e-18", 10) for ratio in ratios):
        return None
    return ratios[0]


def _same_word(one: str, other: str) -> bool:
    """Whether two words are equal, ignoring case except in labels such as `AB`."""
    if min(len(one), len(other)) < 3 and (one.isupper() or other.isupper()) and one.casefold() not in _SHORT_WORDS:
        return one == other
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()


def _same_quantity(wanted: Quantity, given: Quantity) -> bool:
    if given.modulus is not None and (wanted.modulus is None or not same_expression(wanted.modulus, given.modulus)):
        return False
    tolerance = max(wanted.tolerance, given.tolerance)
    if bool(wanted.base) != bool(given.base) and given.base != 10:
        return bool(wanted.base) and wanted.digits == given.digits
    same_number_given = same_expression(wanted.value, given.value, tolerance)
    if wanted.unit is None or given.unit is None:
        return same_number_given or _same_amount(wanted, given)
    if wanted.unit.dimension == given.unit.dimension:
        scale = sympy.Rational(wanted.unit.size.numerator, wanted.unit.size.denominator)
        other = sympy.Rational(given.unit.size.numerator, given.unit.size.denominator)
        return same_expression(wanted.value * scale, given.value * other, tolerance * wanted.unit.size)
    return _in_radians(wanted, given)


def _same_amount(wanted: Quantity, given: Quantity) -> bool:
    """Whether `35\\%` equals 0.35, or 90 degrees `\\frac{\\pi}{2}`: a percentage or an angle on one side only."""
    sides = [side for side in (wanted, given) if side.unit is not None]
    if len(sides) != 1 or (wanted.unit or given.unit) not in (PERCENT, DEGREE):
        return False
    factor = sympy.Rational(1, 100) if sides[0].unit == PERCENT else sympy.pi / 180
    other = given if sides[0] is wanted else wanted
    return (sides[0].unit == PERCENT or other.value.has(sympy.pi)) and same_expression(
        sides[0].value * factor, other.value
    )


def _in_radians(wanted: Quantity, given: Quantity) -> bool:
    values = []
    for side in (wanted, given):
        if side.unit not in (DEGREE, KNOWN["radian"]):
            return False
        values.append(side.value * (sympy.pi / 180 if side.unit == DEGREE else 1))
    return same_expression(*values)


def _in_order(wanted: tuple[Value, ...], given: tuple[Value, ...]) -> bool:
    return len(wanted) == len(given) and all(map(_same, wanted, given))


def _same_collection(wanted: Collection, given: Collection) -> bool:
    """Compare tuples and intervals in order, sets without duplicates, and lists as multisets."""
    kinds = {wanted.brackets, given.brackets}
    if kinds - {"", "{}"}:
        return len(kinds) == 1 and _in_order(wanted.items, given.items)
    if given.named and not wanted.named:
        return _in_order(wanted.items, given.items)
    if DOTS in (*wanted.items, *given.items):
        return _in_order(wanted.items, given.items)
    one, other = list(wanted.items), list(given.items)
    if kinds == {"{}"}:
        one, other = _distinct(one), _distinct(other)
    return _paired(one, other, _same)


def _paired(one: Sequence[Any], other: Sequence[Any], same: Callable[[Any, Any], bool]) -> bool:
    """Whether each item of one list has an item of its own in the other that is the same."""
    if len(one) != len(other):
        return False
    rest = list(other)
    for item in one:
        match = next((place for place, candidate in enumerate(rest) if same(item, candidate)), None)
        if match is None:
            return False
        del rest[match]
    return True


def _distinct(items: list[Value]) -> list[Value]:
    kept: list[Value] = []
    for item in items:
        if not any(_same(item, other) for other in kept):
            kept.append(item)
    return kept


def _same_reals(wanted: Value, given: Value) -> bool:
    reader = AnswerReader()
    one, other = reader.reals(wanted), reader.reals(given)
    if one.variable and other.variable and one.variable != other.variable:
        return False
    return _paired(one.parts, other.parts, _same_part)


def _same_part(one: Part, other: Part) -> bool:
    return (
        (one.low_in, one.high_in) == (other.low_in, other.high_in)
        and same_expression(one.low, other.low)
        and same_expression(one.high, other.high)
    )


def _same_ratio(wanted: Value, given: Value) -> bool:
    """Whether two ratios are proportional; a ratio of two parts also equals their quotient."""
    first, second = (_parts(side) for side in (wanted, given))
    if len(first) != len(second):
        return False
    return all(same_expression(a * second[0], b * first[0]) for a, b in zip(first, second, strict=True))


def _parts(value: Value) -> tuple[sympy.Expr, ...]:
    if isinstance(value, Ratio):
        return value.parts
    return (value.value, sympy.Integer(1)) if isinstance(value, Quantity) else ()


def warm_up() -> None:
    """Load tables and the parts of SymPy that load lazily, so that their time isn't charged to the first item."""
    compare(["\\frac{1}{2}+\\sqrt{2}", "\\sqrt{2}+0.5"])
    compare(["\\sin(x)+e^x", "e^{x}+\\cos x"])
    compare(["(1,2)", "\\{1,2\\}"])
