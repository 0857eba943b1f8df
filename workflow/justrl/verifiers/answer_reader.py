r"""Parse a whole answer into one value (a quantity, word, list, matrix, equation, ...), or raise `NotRead`.

Two SymPy expressions are equal if they agree, as numbers, to 1,500 digits, or, as formulas, at fixed sample points.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

import sympy

from justrl.verifiers.answer_tokens import (
    ABOUT,
    CLOSE,
    EQUAL,
    LESS,
    MORE,
    OPEN,
    RELATIONS,
    UNEQUAL,
    both_signs,
    closes,
    is_name,
    joined,
    list_items,
    sides_of,
    split,
    take_modulus,
    take_unit,
)
from justrl.verifiers.latex_reader import NotRead, Token, read_expression, tokenize
from justrl.verifiers.plain_values import decimal_tolerance, same_number
from justrl.verifiers.units import Unit

_CURLY = {"\\{": "{", "\\lbrace": "{", "\\}": "}", "\\rbrace": "}", "\\langle": "<", "\\rangle": ">"}
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*[A-Za-z]|[A-Z]")
_MATRIX = re.compile(r"\\begin\{([bpvBV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_BASED = re.compile(r"\(?([0-9A-Z]+)\)?_(?:\{([0-9]+)\}|([0-9]))")
_DECIMAL = re.compile(r"-?([0-9]*\.[0-9]+)(?:\\(?:times|cdot)10\^(?:\{(-?[0-9]+)\}|([0-9])))?")
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


@dataclass
class AnswerReader:
    """Parses answers, with one base for logarithms that name none."""

    log_base: sympy.Expr | None = None

    def read(self, text: str) -> Value:
        """Parse a whole answer, already stripped of formatting (`dress.undress`)."""
        if match := _MATRIX.fullmatch(text.strip()):
            rows = [row.split("&") for row in match[2].split("\\\\") if row.strip()]
            if len(rows) == 1 and len(rows[0]) == 1:
                return self.read(rows[0][0])
            return Matrix(tuple(tuple(self.value(tokenize(cell)) for cell in row) for row in rows))
        return self.value(tokenize(text))

    def value(self, tokens: list[Token]) -> Value:
        """Parse tokens as a list, a set of reals, a relation or a single value."""
        if not tokens:
            raise NotRead("nothing is left")
        if (words := _words(tokens)) is not None:
            return words
        if len(parts := split(tokens, {"\\cup"})) > 1:
            return Reals(tuple(part for one in parts for part in self.reals(self.value(one)).parts))
        items, conjunction = list_items(tokens)
        if len(items) > 1:
            return self.listed(items, conjunction)
        tokens = items[0]
        if any(token.text in ("\\pm", "\\mp") for token in tokens):
            return self.listed(both_signs(tokens), "")
        sides, relations = sides_of(tokens)
        return self.relation(sides, relations) if relations else self.single(tokens)

    def listed(self, items: list[list[Token]], conjunction: str) -> Value:
        """Parse a list without brackets. Inequalities become their union (`or`) or their intersection (`and`)."""
        values: list[Value] = []
        for item in items:
            value = (bare_word(item[0].text) if len(item) == 1 and len(item[0].text) > 2 else None) or self.value(item)
            values += value.items if isinstance(value, Collection) and not value.brackets else [value]
        sets = [value for value in values if isinstance(value, Reals) and value.variable]
        if len(sets) == len(values) and len({one.variable for one in sets}) == 1:
            parts = tuple(part for one in sets for part in one.parts)
            common = _common(parts) if conjunction != "or" else None
            if common is None and conjunction == "and":
                raise NotRead("inequalities that are no interval")
            return Reals(parts if common is None else (common,), sets[0].variable)
        names = [re.sub(r"_.*", "", value.name) for value in values if isinstance(value, Equation) and value.name]
        named = len(names) == len(values) and len(set(names)) == len(names)
        return Collection("", tuple(values), named)

    def relation(self, sides: list[list[Token]], relations: list[str]) -> Value:
        """Parse `name = value`, an equation, an approximation or an inequality."""
        if relations[0] in ABOUT and not sides[0]:
            sides, relations = sides[1:], relations[1:]
            if not relations:
                return self.single(sides[0])
        if not all(sides):
            raise NotRead("a relation without one of its sides")
        about = next((place for place, sign in enumerate(relations) if sign in ABOUT), None)
        if about is not None:
            return self.approximation(sides, relations, about)
        if relations == ["\\in"]:
            return Equation(joined(sides[0]), self.value(sides[1]), None)
        if all(sign in EQUAL for sign in relations):
            return self.equation(sides)
        return self.inequality(sides, relations)

    def approximation(self, sides: list[list[Token]], relations: list[str], about: int) -> Value:
        """The value left of an "about equal" sign.

        `holds` is True if the right side is that value to the digits given.
        """
        before = sides[: about + 1]
        if is_name(before[-1]):
            return self.relation(sides, [*relations[:about], "=", *relations[about + 1 :]])
        value = self.relation(before, relations[:about]) if about else self.single(before[0])
        inner = value.value if isinstance(value, Equation) else value
        if not isinstance(inner, Quantity):
            raise NotRead("about equal to what is no number")
        holds = all(self.near(inner, self.single(side)) for side in sides[about + 1 :])
        return Equation(value.name if isinstance(value, Equation) else "", inner, None, holds)

    def near(self, exact: Quantity, given: Value) -> bool:
        """Whether `exact` agrees with `given`, to the digits that `given` is written with."""
        if not isinstance(given, Quantity) or not (exact.value.is_number and given.value.is_number):
            return False
        places = re.fullmatch(r"-?[0-9]*\.?([0-9]*)", given.digits)
        if places is None:
            return bool(abs(exact.value - given.value).evalf(30) <= abs(given.value) / 100)
        unit = sympy.Rational(1, 10 ** len(places[1]))
        beyond = abs(exact.value).evalf(30) - abs(given.value)
        # Rounded or truncated.
        return _agree(exact, given) or bool(-unit / 2 <= beyond < unit and exact.value * given.value >= 0)

    def equation(self, sides: list[list[Token]]) -> Value:
        if is_name(sides[-1]) and not is_name(sides[0]):
            sides = sides[::-1]
        values: list[Value | None] = []
        for side in sides:
            try:
                values.append(self.value(side))
            except NotRead:
                values.append(None)
        last = values[-1]
        if last is None:
            raise NotRead("a side that is not read")
        for side, value in zip(sides[:-1], values[:-1], strict=True):
            if not is_name(side) and not (isinstance(value, Quantity) and isinstance(last, Quantity)):
                raise NotRead("a side that is neither a name nor a number")
        numbers = [one for one in values if isinstance(one, Quantity) and one.value.is_number]
        holds = all(_agree(one, numbers[-1]) for one in numbers)
        first = values[0]
        difference = None
        if isinstance(first, Quantity) and isinstance(last, Quantity):
            difference = first.value - last.value
        if difference is not None and len(numbers) == len(sides):
            return Equation("", last, None, holds)
        return Equation(joined(sides[0]) if is_name(sides[0]) else "", last, difference, holds)

    def inequality(self, sides: list[list[Token]], relations: list[str]) -> Value:
        ends = [self.quantity(side).value for side in sides]
        if all(sign in MORE for sign in relations):
            ends, relations = ends[::-1], relations[::-1]
            strict = [MORE[sign] for sign in relations]
        elif all(sign in LESS for sign in relations):
            strict = [LESS[sign] for sign in relations]
        elif len(relations) == 1 and relations[0] in UNEQUAL:
            return _all_but(ends) or Relation(ends[0] - ends[1], "unequal")
        else:
            raise NotRead("a chain of other relations")
        if (reals := _half_line(ends, strict)) is not None:
            return reals
        if len(ends) == 3 and ends[1].is_Symbol and ends[0].is_number and ends[2].is_number:
            return Reals((Part(ends[0], not strict[0], ends[2], not strict[1]),), str(ends[1]))
        if len(ends) == 2:
            return Relation(ends[1] - ends[0], "above" if strict[0] else "not below")
        raise NotRead("a chain of inequalities")

    def single(self, tokens: list[Token]) -> Value:
        """Parse a value in brackets, a ratio, or a quantity."""
        first, last = tokens[0], tokens[-1]
        if first.text in OPEN and last.text in CLOSE and closes(tokens):
            brackets = _CURLY.get(first.text, first.text) + _CURLY.get(last.text, last.text)
            inner = tokens[1:-1]
            if brackets == "{}" and first.kind == "command":
                return self.braces(inner)
            items = split(inner, {",", ";"})
            if len(items) > 1 and brackets in ("()", "[]", "(]", "[)", "<>"):
                return self.bracketed(brackets, [self.value(item) for item in items])
            if brackets == "()" and inner and not any(token.text in RELATIONS for token in inner):
                return self.value(inner)
        if joined(tokens) in ("\\emptyset", "\\varnothing"):
            return Collection("{}", ())
        if len(tokens) == 1 and first.text == "\\dots":
            return DOTS
        if len(parts := split(tokens, {":"})) > 1 and all(parts):
            return Ratio(tuple(self.quantity(part).value for part in parts))
        return self.quantity(tokens)

    def bracketed(self, brackets: str, items: list[Value]) -> Value:
        flat = tuple(items)
        if brackets in ("(]", "[)"):
            if len(flat) != 2:
                raise NotRead("an interval has two ends")
            self.reals(Collection(brackets, flat))
        return Collection("()" if brackets == "<>" else brackets, flat)

    def braces(self, inner: list[Token]) -> Value:
        if not inner:
            return Collection("{}", ())
        parts = split(inner, {"|", "\\mid", "\\vert", ":"})
        if len(parts) == 2:
            value = self.value(parts[1])
            if isinstance(value, Reals) and value.variable and joined(split(parts[0], {"\\in"})[0]) == value.variable:
                return Reals(value.parts)
            raise NotRead("a set with a condition")
        value = self.value(inner)
        return Collection("{}", value.items if isinstance(value, Collection) and not value.brackets else (value,))

    def reals(self, value: Value) -> Reals:
        """Convert a value to a set of reals. Raises NotRead if it is not one."""
        if isinstance(value, Reals):
            return value
        if isinstance(value, Equation) and isinstance(value.value, Collection):
            return Reals(self.reals(value.value).parts, value.name)
        if isinstance(value, Collection) and all(isinstance(item, Quantity) for item in value.items):
            ends = [item.value for item in value.items if isinstance(item, Quantity)]
            if value.brackets == "{}":
                return Reals(tuple(Part(end, True, end, True) for end in ends))
            if len(ends) == 2 and value.brackets in ("()", "[]", "(]", "[)"):
                low, high = ends
                if not (low - high).is_number or (low - high).is_extended_negative:
                    return Reals((Part(low, value.brackets[0] == "[", high, value.brackets[1] == "]"),))
        raise NotRead("no set of reals")

    def quantity(self, tokens: list[Token]) -> Quantity:
        """Parse a value and its suffix: a unit, a multiple, a base or a modulus."""
        tokens, modulus = take_modulus(tokens)
        tokens, unit, multiple = take_unit(tokens)
        text = joined(tokens)
        if match := _BASED.fullmatch(text):
            base = int(match[2] or match[3])
            if multiple != 1:
                raise NotRead("a multiple of a number in a base")
            try:
                return Quantity(sympy.Integer(int(match[1], base)), unit, digits=match[1], base=base)
            except ValueError as error:
                if match[1].isdigit():
                    raise NotRead("a digit that the base has not") from error
        value = read_expression(tokens, self.log_base) * multiple
        if value.has(sympy.nan, sympy.zoo):
            raise NotRead("no number")
        tolerance = decimal_tolerance(text) if _DECIMAL.fullmatch(text) else Fraction(0)
        by = None if modulus is None else read_expression(modulus, self.log_base)
        return Quantity(value, unit, tolerance * multiple, text, modulus=by)


def _half_line(ends: list[sympy.Expr], strict: list[bool]) -> Reals | None:
    """The reals where `low < high`: both sides linear in one variable, or one an Abs of that. Else None."""
    if len(ends) != 2:
        return None
    (low, high), inside = ends, not strict[0]
    for bound, size, within in ((high, low, True), (low, high, False)):
        if isinstance(size, sympy.Abs) and bound.is_positive:
            first, second = (
                _bounded(size.args[0] + sign * bound, inside, sign * (1 if within else -1)) for sign in (1, -1)
            )
            if first is None or second is None:
                return None
            middle = _common((first.parts[0], second.parts[0])) if within else None
            return Reals((middle,) if middle else (*first.parts, *second.parts), first.variable)
    return _bounded(high - low, inside, 1)


def _bounded(difference: sympy.Expr, inside: bool, sign: int) -> Reals | None:
    """The half-line on which a linear expression is positive (`sign` 1) or negative (`sign` -1)."""
    if len(difference.free_symbols) != 1:
        return None
    (variable,) = difference.free_symbols
    slope, rest = difference.diff(variable), difference.subs(variable, 0)
    if not (slope.is_number and slope.is_extended_real and rest.is_extended_real) or slope.is_zero:
        return None
    number, oo = -rest / slope, sympy.oo
    above = Part(number, inside, oo, False)
    return Reals((above if slope * sign > 0 else Part(-oo, False, number, inside),), str(variable))


def _all_but(ends: list[sympy.Expr]) -> Reals | None:
    symbols, numbers = [end for end in ends if end.is_Symbol], [end for end in ends if end.is_number]
    if len(symbols) != 1 or len(numbers) != 1:
        return None
    number, oo = numbers[0], sympy.oo
    return Reals((Part(-oo, False, number, False), Part(number, False, oo, False)), str(symbols[0]))


def _agree(one: Quantity, other: Quantity) -> bool:
    return same_expression(one.value, other.value, max(one.tolerance, other.tolerance))


def _words(tokens: list[Token]) -> Word | None:
    if all(token.kind == "text" for token in tokens):
        words = [token.text for token in tokens]
        return None if {"or", "and"} & {word.lower() for word in words} else Word(" ".join(words))
    return None


def bare_word(text: str) -> Word | None:
    """An answer of letters only as a word, else None."""
    return Word(" ".join(text.split())) if _WORDS.fullmatch(text.strip()) else None


def _common(parts: tuple[Part, ...]) -> Part | None:
    """The intersection of two half-lines, or None if it is not an interval."""
    low = [part for part in parts if part.low != -sympy.oo]
    high = [part for part in parts if part.high != sympy.oo]
    if len(parts) != 2 or len(low) != 1 or len(high) != 1 or not (low[0].low - high[0].high).is_negative:
        return None
    return Part(low[0].low, low[0].low_in, high[0].high, high[0].high_in)


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
