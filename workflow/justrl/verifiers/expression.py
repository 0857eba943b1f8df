"""A small, safe parser of arithmetic: text to a value, without passing the text to Python.

SymPy's `parse_expr` and `sympify` pass their argument to `eval`. Here a tokenizer and a precedence parser call
constructors instead, with limits on length, nesting and the size of numbers. The language is the one that SymPy's
parser accepts in a normalised answer (`standard_transformations` and `implicit_multiplication_application`), as far as
answers of at most two letters use it: integers, decimals, `2j`, one-letter symbols, `pi`, `sqrt( )`, `ln( )`, `csc( )`,
`+ - * /`, `^` or `**`, `!`, `!!`, and implicit multiplication, which has the precedence of `*` (`1/2x` is `x/2`, and
`ab` in `1/ab` is two symbols). Other Python syntax (comparisons, tuples, indexing, calls of other functions) is
refused.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

MAX_LENGTH = 2000
MAX_DEPTH = 60
MAX_BITS = 20_000
MAX_EXPONENT = 10_000
MAX_FACTORIAL = 2_000

FUNCTIONS = frozenset({"sqrt", "ln", "csc"})
# Python keywords, and names that SymPy's parser would look up among the functions and constants of SymPy and Python.
# None of them can make two answers equal that are not equal already, so they have no meaning here.
_REFUSED = "as if in is or all eye ff fft frac fu gff hn1 hn2 id im jn li nan ntt oo re rf yn zoo"
REFUSED_NAMES = frozenset(_REFUSED.split())

_DIGITS = "[0-9](?:_?[0-9])*"
_EXPONENT = f"[eE][-+]?{_DIGITS}"
_TOKEN = re.compile(
    rf"(?P<decimal>(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:{_EXPONENT})?|{_DIGITS}{_EXPONENT})(?P<j1>[jJ]?)"
    rf"|(?P<integer>0(?:_?0)*|[1-9](?:_?[0-9])*)(?P<j2>[jJ]?)"
    r"|(?P<name>\w+)|(?P<operator>\*\*|!!?|[-+*/^()])"
)


class ExpressionError(ValueError):
    """The text is not in the language."""


class TooLargeError(ValueError):
    """The text, or a value in it, exceeds the limits, so its value is unknown."""


class NotRationalError(ValueError):
    """The value is not a rational number that exact arithmetic can compute."""


@dataclass(frozen=True, slots=True)
class Token:
    """A lexical unit: kind is integer, decimal, imaginary, name, letter (of a longer name) or operator."""

    kind: str
    text: str


class Algebra(Protocol):
    """Builds the parser's values. Each method may raise TooLargeError."""

    def integer(self, value: int) -> Any: ...
    def decimal(self, text: str) -> Any: ...
    def imaginary_unit(self) -> Any: ...
    def symbol(self, name: str) -> Any: ...
    def function(self, name: str, argument: Any) -> Any: ...
    def factorial(self, value: Any, step: int) -> Any: ...
    def power(self, base: Any, exponent: Any) -> Any: ...
    def divide(self, left: Any, right: Any) -> Any: ...
    def multiply(self, left: Any, right: Any) -> Any: ...


def evaluate(text: str, algebra: Algebra) -> Any:
    """Evaluate `text` in `algebra`. Raises ExpressionError, TooLargeError, or any error of the algebra."""
    if len(text) > MAX_LENGTH:
        raise TooLargeError(f"expression of {len(text)} characters, at most {MAX_LENGTH} are read")
    return _Parser(tokenize(text), algebra).parse()


def difference_of(left: str, right: str) -> str:
    """Text that evaluates to zero if both texts are equal.

    As upstream, one text can close brackets that the other opens.
    """
    return f"({left})-({right})"


def tokenize(text: str) -> list[Token]:
    """Split `text` into tokens, and names into symbols. Raises ExpressionError at the first unknown character."""
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"unexpected character {text[position]!r}")
        position = match.end()
        kind = match.lastgroup if match.lastgroup in ("name", "operator") else "number"
        if kind == "number":
            number = match["decimal"] or match["integer"]
            tokens.append(Token("decimal" if match["decimal"] else "integer", number))
            if match["j1"] or match["j2"]:
                tokens += [Token("operator", "*"), Token("imaginary", "")]
        elif kind == "name":
            symbols = _split_name(match["name"])
            # A factorial after a run of letters applies to all of them.
            bracket = len(symbols) > 1 and text.startswith("!", position)
            tokens += [Token("operator", "("), *symbols, Token("operator", ")")] if bracket else symbols
        else:
            tokens.append(Token("operator", "**" if match["operator"] == "^" else match["operator"]))
    return tokens


def _split_name(name: str) -> list[Token]:
    if name in REFUSED_NAMES:
        raise ExpressionError(f"the name {name!r} has no meaning here")
    if name in FUNCTIONS or name == "pi" or len(name) == 1 or "_" in name or _is_greek_letter(name):
        return [Token("name", name)]
    tokens = []
    for part in re.findall(r"[0-9]+|.", name, re.DOTALL):
        if part.isdigit():
            if not part.isascii() or (part[0] == "0" and len(part) > 1):
                raise ExpressionError(f"the digits {part!r} are no number")
            tokens.append(Token("integer", part))
        else:
            tokens.append(Token("letter", part))
    return tokens


def _is_greek_letter(name: str) -> bool:
    try:
        return bool(unicodedata.lookup(f"GREEK SMALL LETTER {name}"))
    except KeyError:
        return False


class _Parser:
    """Precedence as in Python: sum, product (also implicit), sign, power (right-associative), factorial, atom."""

    def __init__(self, tokens: list[Token], algebra: Algebra) -> None:
        self.tokens = tokens
        self.algebra = algebra
        self.position = 0
        self.depth = 0

    def parse(self) -> Any:
        value = self.sum()
        if self.position < len(self.tokens):
            raise ExpressionError(f"unexpected {self.tokens[self.position].text!r}")
        return value

    def peek(self) -> Token | None:
        return self.tokens[self.position] if self.position < len(self.tokens) else None

    def accept(self, *operators: str) -> str | None:
        token = self.peek()
        if token is not None and token.kind == "operator" and token.text in operators:
            self.position += 1
            return token.text
        return None

    def sum(self) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLargeError(f"more than {MAX_DEPTH} nested brackets")
        value = self.product()
        while operator := self.accept("+", "-"):
            other = self.product()
            value = value + other if operator == "+" else value - other
        self.depth -= 1
        return value

    def product(self) -> Any:
        value = self.signed()
        while True:
            if operator := self.accept("*", "/"):
                other = self.signed()
                combine = self.algebra.multiply if operator == "*" else self.algebra.divide
                value = combine(value, other)
            elif (token := self.peek()) is not None and (token.kind != "operator" or token.text == "("):
                value = self.algebra.multiply(value, self.power())
            else:
                return value

    def signed(self) -> Any:
        negative = False
        while sign := self.accept("+", "-"):
            negative ^= sign == "-"
        value = self.power()
        return -value if negative else value

    def power(self) -> Any:
        base = self.postfix()
        if not self.accept("**"):
            return base
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLargeError(f"more than {MAX_DEPTH} stacked powers")
        exponent = self.signed()
        self.depth -= 1
        return self.algebra.power(base, exponent)

    def postfix(self) -> Any:
        start = self.position
        value = self.atom()
        if sign := self.accept("!", "!!"):
            if start and self.tokens[start].text == "(" and self.tokens[start - 1].kind == "name":
                raise ExpressionError("SymPy takes the k of k(d-k)! for a function and fails")
            value = self.algebra.factorial(value, len(sign))
            if self.accept("!", "!!"):
                raise ExpressionError("more than two factorial signs")
        return value

    def atom(self) -> Any:
        if self.accept("("):
            value = self.sum()
            if not self.accept(")"):
                raise ExpressionError("a bracket is not closed")
            return value
        token = self.peek()
        if token is None or token.kind == "operator":
            raise ExpressionError("a value is missing")
        self.position += 1
        if token.kind == "integer":
            digits = token.text.replace("_", "")
            return self.algebra.integer(int(digits))
        if token.kind == "decimal":
            return self.algebra.decimal(token.text.replace("_", ""))
        if token.kind == "imaginary":
            return self.algebra.imaginary_unit()
        if token.text in FUNCTIONS:
            if not self.accept("("):
                raise ExpressionError(f"{token.text} without a bracket")
            argument = self.sum()
            if not self.accept(")"):
                raise ExpressionError("a bracket is not closed")
            return self.algebra.function(token.text, argument)
        return self.algebra.symbol(token.text)


class RationalAlgebra:
    """Exact rational arithmetic, fast enough for the calling process. Raises NotRationalError for all other values."""

    def integer(self, value: int) -> Fraction:
        return Fraction(value)

    def _not_rational(self, *_: Any) -> Fraction:
        raise NotRationalError("a decimal (to SymPy a binary fraction), the imaginary unit, a symbol or a function")

    decimal = imaginary_unit = symbol = function = _not_rational

    def factorial(self, value: Fraction, step: int) -> Fraction:
        if value.denominator != 1 or value < 0:
            raise NotRationalError("factorial of a fraction or negative number")
        check_factorial(int(value))
        product = 1
        for factor in range(int(value), 1, -step):
            product *= factor
        return Fraction(product)

    def power(self, base: Fraction, exponent: Fraction) -> Fraction:
        if exponent.denominator != 1 or (base == 0 and exponent < 0):
            raise NotRationalError("a root, or division by zero")
        check_power(base, int(exponent))
        return base ** int(exponent)

    def divide(self, left: Fraction, right: Fraction) -> Fraction:
        if right == 0:
            raise NotRationalError("division by zero")
        return self.multiply(left, 1 / right)

    def multiply(self, left: Fraction, right: Fraction) -> Fraction:
        product = left * right
        if bits(product) > MAX_BITS * 2:
            raise TooLargeError("a product is too long")
        return product


def bits(value: Fraction) -> int:
    """Size of a fraction: bits of its numerator plus bits of its denominator."""
    return value.numerator.bit_length() + value.denominator.bit_length()


def check_power(base: Fraction, exponent: int) -> None:
    """Raise TooLargeError if a power would need more than MAX_BITS bits."""
    if base in (0, 1, -1):
        return
    if abs(exponent) * max(1, bits(base) - 2) > MAX_BITS:
        raise TooLargeError("a power is too large")


def check_factorial(value: int) -> None:
    """Raise TooLargeError for the factorial of a number above MAX_FACTORIAL."""
    if value > MAX_FACTORIAL:
        raise TooLargeError(f"factorial of more than {MAX_FACTORIAL}")
