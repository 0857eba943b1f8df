"""Powers and binomial coefficients in SymPy that refuse undefined values and results too large to compute."""

import sympy

from justrl.verifiers.expression import TooLargeError

MAX_BITS = 200_000
MAX_FACTORIAL = 5_000


class NotRead(ValueError):
    """The text is not a value in a notation that the reader knows."""


def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    """Compute a power. Raises TooLargeError if the result is too large, NotRead for a division by zero."""
    if base.is_Rational and exponent.is_Rational and base not in (0, 1, -1):
        bits = int(base.p).bit_length() + int(base.q).bit_length()
        if abs(exponent) * max(1, bits - 2) > MAX_BITS:
            raise TooLargeError("a power is too large")
    elif base.is_number and exponent.is_number and exponent.is_Rational and abs(exponent) > 10_000:
        return sympy.Pow(base, exponent, evaluate=False)
    if base == 0 and exponent.is_negative:
        raise NotRead("division by zero")
    if exponent.is_number and not exponent.is_Rational and base.is_number and abs(complex(exponent.evalf(15))) > 1e6:
        raise TooLargeError("an exponent is too large")
    return base**exponent


def binomial(upper: sympy.Expr, lower: sympy.Expr) -> sympy.Expr:
    if upper.is_number and lower.is_number and not (lower.is_Integer and upper in sympy.Range(MAX_FACTORIAL + 1)):
        raise TooLargeError("a binomial coefficient is too large")
    return sympy.binomial(upper, lower)
