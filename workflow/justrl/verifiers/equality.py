"""Whether two SymPy expressions have the same value: numbers to a hundred digits, formulas at points drawn once."""

from fractions import Fraction

import sympy

from justrl.verifiers.plain_values import same_number

_DIGITS = 30
_DEPTH = 400
# Where formulas are compared: no two of these numbers have a relation that formulas of answers have.
_PRIMES = (11, 17, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79)
_ROUNDS = 3


def same_expression(one: sympy.Expr, other: sympy.Expr, tolerance: Fraction = Fraction(0)) -> bool:
    """Equality of two values, of numbers within `tolerance`."""
    if one == other:
        return True
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if not symbols:
        return _same_constant(one, other, tolerance)
    seen = [_same_at(one, other, point) for point in points(symbols)]
    return False not in seen and True in seen


def points(symbols: list[sympy.Symbol]) -> list[dict[sympy.Symbol, sympy.Expr]]:
    """Points with positive coordinates, then each with one coordinate below zero."""
    made = [
        {s: sympy.Rational(_PRIMES[(i + 5 * turn) % len(_PRIMES)] + turn, 13 + i) for i, s in enumerate(symbols)}
        for turn in range(_ROUNDS)
    ]
    return made + [made[0] | {symbol: -made[1][symbol]} for symbol in symbols[:4]]


def _same_at(one: sympy.Expr, other: sympy.Expr, point: dict[sympy.Symbol, sympy.Expr]) -> bool | None:
    """Equality at a point, or None where that does not tell: a pole, or another branch off the real line."""
    first, second = (expression.subs(point).evalf(_DIGITS) for expression in (one, other))
    if not (first.is_number and second.is_number and first.is_finite and second.is_finite):
        return None
    off_line = not (first.is_real and second.is_real)
    if off_line and (not (one.has(sympy.I) or other.has(sympy.I)) or min(point.values()) < 0):
        return None
    return bool(abs(first - second) <= max(abs(first), abs(second)) * sympy.Float("1e-20", 10))


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
    difference = (one - other).evalf(_DIGITS, maxn=_DEPTH)
    return bool(abs(difference) <= size * sympy.Float("1e-100", 10))
