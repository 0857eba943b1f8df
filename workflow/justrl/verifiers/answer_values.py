"""What an answer can say: a quantity, a word, a list, a matrix, a ratio, an equation, a set of reals, a relation."""

from dataclasses import dataclass
from fractions import Fraction

import sympy

from justrl.verifiers.units import Unit


@dataclass(frozen=True)
class Quantity:
    """A value with its unit, its base or modulus, and how far the digits given may be from it."""

    value: sympy.Expr
    unit: Unit | None = None
    tolerance: Fraction = Fraction(0)
    digits: str = ""
    base: int = 0
    modulus: sympy.Expr | None = None


@dataclass(frozen=True)
class Word:
    """Words, as they are written."""

    text: str


# What a sequence leaves out.
DOTS = Word("\\dots")


@dataclass(frozen=True)
class Collection:
    """Values in brackets ("" where there are none, "<>" in pointed ones); `named` if each has a name of its own."""

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
    """A chain of equal sides: the name on the left (if that is one), and what is on the right."""

    name: str
    value: "Value"
    difference: sympy.Expr | None
    holds: bool = True


@dataclass(frozen=True)
class Part:
    """An interval: its ends and whether each belongs to it."""

    low: sympy.Expr
    low_in: bool
    high: sympy.Expr
    high_in: bool


@dataclass(frozen=True)
class Reals:
    """A union of intervals, of `variable` if it is named."""

    parts: tuple[Part, ...]
    variable: str = ""


@dataclass(frozen=True)
class Relation:
    """An inequality that gives no interval: `difference` is above zero, or (`strict` False) not below, or not zero."""

    difference: sympy.Expr
    kind: str


Value = Quantity | Word | Collection | Matrix | Ratio | Equation | Reals | Relation
