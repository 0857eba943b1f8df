"""The values of answers: quantity, word, list, matrix, ratio, equation, set of reals, relation; equal expressions.

Two SymPy expressions are equal if they are, as numbers, to 1,500 digits, or, as formulas, at fixed sample points.
"""

from dataclasses import dataclass
from fractions import Fraction

import sympy

from justrl.verifiers.plain_values import same_number
from justrl.verifiers.units import Unit

_DIGITS = 30
# Values that agree in the first 30 digits are compared to this many, plus more if their numbers are long
# (`\sqrt{10^{99}+1}`).
_MANY_DIGITS = 1_500
# Primes for the sample points, so that unequal formulas don't agree there by chance.
_PRIMES = (11, 17, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79)
_ROUNDS = 3


@dataclass(frozen=True)
class Quantity:
    """A value with its unit, base, modulus, digits as written, and rounding tolerance."""

    value: sympy.Expr
    unit: Unit | None = None
    tolerance: Fraction = Fraction(0)
    digits: str = ""
    base: int = 0
    modulus: sympy.Expr | None = None


@dataclass(frozen=True)
class Word:
    """Words, as written."""

    text: str


# The items that a sequence leaves out.
DOTS = Word("\\dots")


@dataclass(frozen=True)
class Collection:
    """Values in `brackets` ("" for none; "<>" is read as "()").

    `named` if each item is an equation with its own name.
    """

    brackets: str
    items: tuple["Value", ...]
    named: bool = False


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple["Value", ...], ...]


@dataclass(frozen=True)
class Ratio:
    parts: tuple[sympy.Expr, ...]


@dataclass(frozen=True)
class Equation:
    """A chain of equal sides: `name` is the left side if it is a name, else ""; `value` is the right side."""

    name: str
    value: "Value"
    difference: sympy.Expr | None
    holds: bool = True


@dataclass(frozen=True)
class Part:
    """An interval: its ends and whether each end is included."""

    low: sympy.Expr
    low_in: bool
    high: sympy.Expr
    high_in: bool


@dataclass(frozen=True)
class Reals:
    """A union of intervals; `variable` is its variable if the answer names one, else ""."""

    parts: tuple[Part, ...]
    variable: str = ""


@dataclass(frozen=True)
class Relation:
    """An inequality that is not an interval.

    `difference` is positive ("above"), not negative ("not below") or not zero ("unequal").
    """

    difference: sympy.Expr
    kind: str


Value = Quantity | Word | Collection | Matrix | Ratio | Equation | Reals | Relation


def same_expression(one: sympy.Expr, other: sympy.Expr, tolerance: Fraction = Fraction(0)) -> bool:
    """Whether two values are equal; for numbers, within `tolerance`."""
    if one == other:
        return True
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if not symbols:
        return _same_constant(one, other, tolerance)
    seen = [_same_at(one, other, point) for point in points(symbols)]
    return False not in seen and True in seen


def points(symbols: list[sympy.Symbol]) -> list[dict[sympy.Symbol, sympy.Expr]]:
    """Sample points with positive coordinates, then points with one negative coordinate each."""
    made = [
        {s: sympy.Rational(_PRIMES[(i + 5 * turn) % len(_PRIMES)] + turn, 13 + i) for i, s in enumerate(symbols)}
        for turn in range(_ROUNDS)
    ]
    return made + [made[0] | {symbol: -made[1][symbol]} for symbol in symbols[:4]]


def _same_at(one: sympy.Expr, other: sympy.Expr, point: dict[sympy.Symbol, sympy.Expr]) -> bool | None:
    """Whether two values agree at a point.

    None if the point is inconclusive: a pole, or a complex value that depends on the branch.
    """
    exact = [expression.subs(point) for expression in (one, other)]
    first, second = (value.evalf(_DIGITS) for value in exact)
    if not (first.is_number and second.is_number and first.is_finite and second.is_finite):
        return None
    off_line = not (first.is_real and second.is_real)
    if off_line and (not (one.has(sympy.I) or other.has(sympy.I)) or min(point.values()) < 0):
        return None
    return _same_constant(exact[0], exact[1], Fraction(0))


def _same_constant(one: sympy.Expr, other: sympy.Expr, tolerance: Fraction) -> bool:
    if one.is_Rational and other.is_Rational:
        return same_number(Fraction(int(one.p), int(one.q)), Fraction(int(other.p), int(other.q)), tolerance)
    if one.is_infinite or other.is_infinite:
        return bool(one == other)
    first, second = one.evalf(_DIGITS), other.evalf(_DIGITS)
    if not (first.is_finite and second.is_finite):
        return False
    size = max(abs(first), abs(second))
    near = abs(first - second)
    allowed = sympy.Rational(tolerance.numerator, tolerance.denominator)
    if near > max(allowed, size * sympy.Float("1e-20", 10)):
        return False
    if tolerance and near <= allowed:
        return True
    digits = _MANY_DIGITS + 4 * max(_length(one), _length(other))
    difference = abs(one.evalf(digits) - other.evalf(digits))
    return bool(difference <= size * sympy.Float(10, digits) ** (20 - digits))


def _length(value: sympy.Expr) -> int:
    """Approximate number of digits in an expression's numbers. Two different values can agree in that many digits."""
    return sum((int(abs(n.p)).bit_length() + int(n.q).bit_length()) // 3 for n in value.atoms(sympy.Rational))
