"""The values of answers: quantity, word, list, matrix, ratio, equation, set of reals, relation."""

from dataclasses import dataclass
from fractions import Fraction

import sympy

from justrl.verifiers.units import Unit


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
