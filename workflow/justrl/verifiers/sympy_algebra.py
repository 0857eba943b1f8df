"""Evaluate expressions as SymPy objects and compare two of them. Runs only in worker processes (workers.py)."""

from fractions import Fraction
from typing import Any

import sympy

from justrl.verifiers.expression import (
    MAX_EXPONENT,
    ExpressionError,
    TooLargeError,
    check_factorial,
    check_power,
    difference_of,
    evaluate,
)


class SympyAlgebra:
    """Builds SymPy objects with their constructors; refuses numbers that are too large to compute."""

    def integer(self, value: int) -> sympy.Expr:
        return sympy.Integer(value)

    def decimal(self, text: str) -> sympy.Expr:
        # SymPy computes the full power of ten.
        check_power(Fraction(10), int(text.lower().partition("e")[2] or 0))
        return sympy.Float(text)

    def imaginary_unit(self) -> sympy.Expr:
        return sympy.I

    def symbol(self, name: str) -> sympy.Expr:
        return sympy.pi if name == "pi" else sympy.Symbol(name)

    def function(self, name: str, argument: sympy.Expr) -> sympy.Expr:
        return {"sqrt": sympy.sqrt, "ln": sympy.ln, "csc": sympy.csc}[name](argument)

    def factorial(self, value: sympy.Expr, step: int) -> sympy.Expr:
        if value.is_Integer:
            check_factorial(int(value))
        return (sympy.factorial if step == 1 else sympy.factorial2)(value)

    def power(self, base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        if base.is_Rational and exponent.is_Rational:
            check_power(Fraction(int(base.p), int(base.q)), int(abs(exponent)))
        elif base.is_number and exponent.is_number and not base.is_Float and abs(complex(exponent)) > MAX_EXPONENT:
            raise TooLargeError("an exponent is too large")
        return base**exponent

    def divide(self, left: sympy.Expr, right: sympy.Expr) -> sympy.Expr:
        return left / right

    def multiply(self, left: sympy.Expr, right: sympy.Expr) -> sympy.Expr:
        return left * right


def warm_up() -> None:
    """Load the parts of SymPy that load lazily, so that their time isn't charged to the first item."""
    equal(["sqrt(2)*(x+1)", "sqrt(2)*x+sqrt(8)/2"])


def equal(pair: list[str]) -> bool | None:
    """Whether the difference of two expressions simplifies to zero. None if a limit was exceeded.

    Text that is not an expression, and arithmetic that SymPy refuses, make the two unequal.
    """
    try:
        difference = evaluate(difference_of(*pair), SympyAlgebra())
        if _clearly_not_zero(difference):
            return False
        return bool(sympy.simplify(difference) == 0)
    except TooLargeError:
        return None
    except (MemoryError, RecursionError):
        raise
    except ExpressionError:
        return False
    except Exception:  # SymPy raises many types on odd input, and all mean that it found no equality
        return False


def _clearly_not_zero(value: Any) -> bool:
    """Whether a number is further from zero than its numerical error allows. Saves simplifying it."""
    if not value.is_number or value.has(sympy.Float):
        return False
    approximation = value.evalf(20, maxn=100)
    return bool(approximation.is_number and approximation.is_finite and abs(approximation) > 1e-9)
