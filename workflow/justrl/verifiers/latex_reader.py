r"""A strict parser of formulas, in LaTeX or typed without it: tokens to a SymPy expression.

Anything that it doesn't know raises `NotRead`; nothing is skipped. Decimals become exact fractions. Powers, factorials
and binomial coefficients that are too large to compute raise `TooLargeError`. A function without brackets takes the
factors that follow it, up to a sign of multiplication, division or addition, or another function. Juxtaposition binds
more tightly than `/`. Letters are symbols, except `i` and `e`. A letter before a bracket that holds a single name or
number is a function applied to it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import sympy

from justrl.verifiers.dress import FUNCTION_NAMES
from justrl.verifiers.expression import TooLargeError

MAX_DEPTH = 60
MAX_BITS = 200_000
MAX_FACTORIAL = 5_000
_TOKEN = re.compile(
    r"\s*(?:\\text\s*\{(?P<text>[^{}\\]*)\}|(?P<command>\\[A-Za-z]+\*?|\\[^A-Za-z])"
    r"|(?P<number>[0-9]+(?:\.[0-9]+|\.(?=\s*[-+*/)}]))?|\.[0-9]+)|(?P<name>[A-Za-z]+)|(?P<sign>\S))"
)
_NAMES = frozenset({*FUNCTION_NAMES, "pi", "infty", "inf", "oo", "theta", "alpha", "beta", "lambda", "omega", "sigma"})
_LETTER_NAMES = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi
    varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell odot nabla partial
"""
_GREEK = frozenset(_LETTER_NAMES.split())
_ACCENT_NAMES = """
    dot ddot hat bar vec tilde overline overrightarrow widehat widetilde mathbb mathcal mathfrak mathscr
"""
_ACCENTS = frozenset(_ACCENT_NAMES.split())
_FIGURES = frozenset(["angle", "triangle"])
# Commands that may occur in the name of a value.
NAMING = frozenset(
    {*_GREEK, *_ACCENTS, *_FIGURES, *FUNCTION_NAMES, "pi", "max", "min", "sup", "inf", "gcd", "lcm", "det", "Re", "Im",
     "arg", "deg", "dim", "cdot", "circ", "prime", "mid", "perp", "parallel", "square", "lim", "Pr"}
)  # fmt: skip
_FENCES = {"(": ")", "[": "]", "\\lbrack": "\\rbrack"}
_FUNCTIONS: dict[str, Callable[..., sympy.Expr]] = {
    "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec, "csc": sympy.csc,
    "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan, "arccot": sympy.acot, "asin": sympy.asin,
    "acos": sympy.acos, "atan": sympy.atan, "sinh": sympy.sinh, "cosh": sympy.cosh, "tanh": sympy.tanh,
    "coth": sympy.coth, "ln": sympy.log, "exp": sympy.exp,
}  # fmt: skip
_INVERSE = {"sin": sympy.asin, "cos": sympy.acos, "tan": sympy.atan, "cot": sympy.acot}


class NotRead(ValueError):
    """The text is not a value in a notation that the reader knows."""


@dataclass(frozen=True, slots=True)
class Token:
    """A lexical unit.

    `kind` is text, command, number, name (a run of letters) or sign; `text` omits the markup of its kind.
    """

    kind: str
    text: str


def tokenize(text: str) -> list[Token]:
    """Split a text without formatting into tokens. Raises NotRead on a lone backslash."""
    tokens = []
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise NotRead("a lone backslash")
        tokens.append(Token(match.lastgroup, match[match.lastgroup].strip()))
        position = match.end()
    return tokens


def read_expression(tokens: list[Token], log_base: sympy.Expr | None = None) -> sympy.Expr:
    r"""Parse all tokens as one expression. Raises NotRead or TooLargeError.

    `log_base` is the base of a `\log` that names none (e if None).
    """
    reader = _Reader(tokens, log_base)
    value = reader.sum()
    if reader.position < len(reader.tokens):
        raise NotRead(f"{reader.tokens[reader.position].text!r} next to the value")
    return value


class _Reader:
    def __init__(self, tokens: list[Token], log_base: sympy.Expr | None) -> None:
        self.tokens = [part for token in tokens for part in _letters(token)]
        self.log_base = log_base
        self.position = 0
        self.depth = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> str:
        place = self.position + ahead
        return self.tokens[place].text if place < len(self.tokens) else ""

    def accept(self, *texts: str) -> str:
        if (text := self.peek()) in texts and self.tokens[self.position].kind != "text":
            self.position += 1
            return text
        return ""

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise NotRead(f"{text!r} is missing")

    def sum(self) -> sympy.Expr:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooLargeError(f"more than {MAX_DEPTH} nested groups")
        value = -self.product() if self.accept("-") else (self.accept("+"), self.product())[1]
        while sign := self.accept("+", "-"):
            other = self.product()
            value = value + other if sign == "+" else value - other
        if self.accept("\\choose"):
            value = binomial(value, self.sum())
        self.depth -= 1
        return value

    def product(self) -> sympy.Expr:
        value = self.factors()
        while sign := self.accept("*", "\\cdot", "\\times", "/", "\\div", ":", "\\ast"):
            negative = bool(self.accept("-"))
            other = self.factors()
            other = -other if negative else other
            if sign in ("/", "\\div", ":"):
                if other.is_zero:
                    raise NotRead("division by zero")
                value = value / other
            else:
                value = value * other
        return value

    def factors(self) -> sympy.Expr:
        """Parse adjacent factors. A whole number followed by a fraction of numbers is a mixed number."""
        whole = self.tokens[self.position].kind == "number" and "." not in self.peek() if self.peek() else False
        value = self.factor()
        first = True
        while self.starts_factor():
            kind, text = self.tokens[self.position].kind, self.peek()
            if kind == "number" and self.peek(-1) not in (")", "!"):
                raise NotRead("a number behind a factor")
            other = self.factor()
            mixed = first and whole and value.is_Integer and text in _FRACTIONS and other.is_Rational
            value = value + other if mixed else value * other
            first = False
        return value

    def starts_factor(self) -> bool:
        token = self.tokens[self.position] if self.position < len(self.tokens) else None
        if token is None or token.kind == "text":
            return False
        if token.kind in ("number", "name"):
            return True
        if token.kind == "command":
            return token.text[1:] not in _NOT_FACTORS
        return token.text in "([{" or (token.text == "|" and not self.bars)

    def factor(self) -> sympy.Expr:
        value = self.postfix(self.atom())
        while self.accept("^"):
            if self.degrees():
                value = self.postfix(value * sympy.pi / 180)
                continue
            value = self.postfix(power(value, self.exponent()))
        return value

    def exponent(self) -> sympy.Expr:
        """Parse an exponent; powers of powers are right-associative."""
        value = self.argument()
        if self.peek() == "^" and not self.peek(1).startswith(("\\", "{")):
            self.accept("^")
            return power(value, self.exponent())
        return value

    def degrees(self) -> bool:
        for form in (["\\circ"], ["{", "\\circ", "}"]):
            if [self.peek(i) for i in range(len(form))] == form:
                self.position += len(form)
                return True
        return False

    def postfix(self, value: sympy.Expr) -> sympy.Expr:
        while True:
            if self.accept("!"):
                double = bool(self.accept("!"))
                if value.is_Integer:
                    if value < 0:
                        raise NotRead("factorial of a negative number")
                    if value > MAX_FACTORIAL:
                        raise TooLargeError("a factorial is too large")
                value = sympy.factorial2(value) if double else sympy.factorial(value)
            elif self.accept("\\%", "%"):
                value = value / 100
            else:
                return value

    def argument(self) -> sympy.Expr:
        """Parse the argument of `^`, `\\frac` or `\\sqrt`: a group, a number, or a single letter or command."""
        if self.accept("{"):
            value = self.sum()
            self.expect("}")
            return value
        if self.accept("-"):
            return -self.argument()
        self.accept("+")
        return self.atom()

    def digit(self) -> sympy.Expr:
        r"""Parse an argument of `\frac`; of digits without braces it takes only the first."""
        token = self.tokens[self.position] if self.peek() else Token("", "")
        if token.kind == "number" and len(token.text) > 1:
            if "." in token.text:
                raise NotRead("a decimal without braces")
            self.tokens[self.position] = Token("number", token.text[1:])
            return sympy.Integer(token.text[0])
        return self.argument()

    def atom(self) -> sympy.Expr:
        if self.position >= len(self.tokens):
            raise NotRead("a value is missing")
        token = self.tokens[self.position]
        self.position += 1
        if token.kind == "number":
            number = Fraction(token.text)
            return sympy.Rational(number.numerator, number.denominator)
        if token.kind == "name":
            return self.named(token.text)
        if token.kind == "command":
            return self.command(token.text[1:])
        if token.kind == "sign" and token.text in ("(", "["):
            value = self.sum()
            self.expect(_FENCES[token.text])
            return value
        if token.text == "{" and token.kind == "sign":
            value = self.sum()
            self.expect("}")
            return value
        if token.text == "|":
            return self.absolute("|")
        raise NotRead(f"{token.text!r}")

    def absolute(self, closing: str) -> sympy.Expr:
        self.bars += 1
        value = self.sum()
        self.bars -= 1
        self.expect(closing)
        return sympy.Abs(value)

    def named(self, name: str) -> sympy.Expr:
        if name in FUNCTION_NAMES:
            return self.function(name)
        if name in ("i", "e") and self.peek() not in ("_", "'"):
            return sympy.I if name == "i" else sympy.E
        if name == "pi":
            return sympy.pi
        if name in ("inf", "oo", "infty"):
            return sympy.oo
        if name == "C" and (value := self.combinations()) is not None:
            return value
        return self.symbol(name)

    def symbol(self, name: str) -> sympy.Expr:
        """Parse a symbol with its subscript and primes, or a function of a single name or number."""
        while self.peek() in ("_", "'") or (self.peek() == "^" and self.primes()):
            if self.accept("'"):
                name += "'"
            elif self.accept("_"):
                name += "_" + self.raw_group()
            else:
                name += self.primes(take=True)
        if self.peek() == "(" and self.peek(2) == ")" and self.tokens[self.position + 1].kind in _LONE:
            name += f"({self.peek(1)})"
            self.position += 3
        return sympy.Symbol(name)

    def primes(self, take: bool = False) -> str:
        place, braces = 1, 0
        if self.peek(place) == "{":
            place, braces = 2, 1
        count = 0
        while self.peek(place) in ("\\prime", "'"):
            place, count = place + 1, count + 1
        if not count or (braces and self.peek(place) != "}"):
            return ""
        if take:
            self.position += place + braces
        return "'" * count

    def raw_group(self) -> str:
        if not self.accept("{"):
            self.position += 1
            if self.position > len(self.tokens):
                raise NotRead("a subscript is missing")
            return self.tokens[self.position - 1].text
        inside, depth = "", 1
        while self.position < len(self.tokens):
            text = self.peek()
            self.position += 1
            depth += {"{": 1, "}": -1}.get(text, 0)
            if not depth:
                return inside
            inside += text
        raise NotRead("a subscript does not end")

    def combinations(self) -> sympy.Expr | None:
        """Parse a binomial coefficient `C(n,k)`, `C_n^k` or `C_{n}^{k}`. Returns None if there is none here."""
        start = self.position
        try:
            if self.accept("("):
                upper = self.sum()
                self.expect(",")
                lower = self.sum()
                self.expect(")")
                return binomial(upper, lower)
            if self.accept("_"):
                upper = self.argument()
                self.expect("^")
                lower = self.argument()
                if not (upper.is_number and lower.is_number and lower > upper):
                    return binomial(upper, lower)
        except NotRead:
            pass
        self.position = start
        return None

    def command(self, name: str) -> sympy.Expr:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            if (value := self.derivative()) is not None:
                return value
            top, bottom = self.digit(), self.digit()
            if bottom.is_zero:
                raise NotRead("division by zero")
            return top / bottom
        if name == "sqrt":
            return self.root()
        if name in ("binom", "dbinom", "tbinom"):
            return binomial(self.digit(), self.digit())
        if name in FUNCTION_NAMES:
            return self.function(name)
        if name in ("lfloor", "lceil"):
            value = self.sum()
            self.expect("\\r" + name[1:])
            return (sympy.floor if name == "lfloor" else sympy.ceiling)(value)
        if name in ("lvert", "vert"):
            return self.absolute("\\rvert" if name == "lvert" else "\\vert")
        if name == "pi":
            return sympy.pi
        if name == "infty":
            return sympy.oo
        if name in ("imath", "jmath"):
            return sympy.I
        if name in _GREEK:
            return self.symbol("\\" + name)
        if name in _ACCENTS:
            return self.symbol(f"\\{name}{{{self.raw_group()}}}")
        if name in _FIGURES:
            return self.figure(name)
        raise NotRead(f"\\{name}")

    def derivative(self) -> sympy.Expr | None:
        r"""Parse `\frac{dy}{dx}` as one symbol, since its `d` is not a factor. Returns None for any other fraction."""
        start = self.position
        parts = [self.raw_group() for _ in range(2) if self.peek() == "{"]
        if len(parts) == 2 and _DIFFERENTIAL.fullmatch(parts[0]) and _BY.fullmatch(parts[1]):
            return sympy.Symbol(rf"\frac{{{parts[0]}}}{{{parts[1]}}}")
        self.position = start
        return None

    def figure(self, name: str) -> sympy.Expr:
        points = ""
        while self.position < len(self.tokens) and re.fullmatch("[A-Z]|_|[0-9]|'", self.peek()):
            points += self.peek()
            self.position += 1
        return sympy.Symbol(f"\\{name} {points}")

    def root(self) -> sympy.Expr:
        degree: sympy.Expr = sympy.Integer(2)
        if self.accept("["):
            degree = self.sum()
            self.expect("]")
        if self.peek() and self.tokens[self.position].kind == "number" and len(self.peek()) > 1:
            raise NotRead("a root of digits without braces")
        if degree.is_zero:
            raise NotRead("a root of degree zero")
        return power(self.argument(), 1 / degree)

    def function(self, name: str) -> sympy.Expr:
        base, raised, inverse = self.log_base, None, False
        while sign := self.accept("^", "_"):
            if sign == "_":
                base = self.argument()
            else:
                raised = self.argument()
                inverse = raised == -1 and name in _INVERSE
        value = self.function_argument(name)
        if name == "sqrt":
            return power(value, sympy.Rational(1, 2))
        if name == "lg" or name == "log":
            base = sympy.Integer(10) if name == "lg" and base is None else base
            if value.is_zero:
                raise NotRead("logarithm of zero")
            result = sympy.log(value) / sympy.log(base) if base is not None else sympy.log(value)
        else:
            result = _INVERSE[name](value) if inverse else _FUNCTIONS[name](value)
        return result if raised is None or inverse else power(result, raised)

    def function_argument(self, name: str) -> sympy.Expr:
        if self.peek() in ("(", "[", "{"):
            return self.postfix(self.atom()) if self.peek() != "{" else self.argument()
        value = -self.factor() if self.accept("-") else self.factor()
        while self.starts_factor() and not self.starts_function() and self.peek() not in ("(", "["):
            if self.tokens[self.position].kind == "number":
                raise NotRead("a number behind a factor")
            value = value * self.factor()
        return value

    def starts_function(self) -> bool:
        return self.peek().removeprefix("\\") in FUNCTION_NAMES


_DIFFERENTIAL = re.compile(r"(?:d|\\partial)(?:\^\{?[0-9]\}?)?[A-Za-z0-9\\_{}()]*")
_BY = re.compile(r"(?:d|\\partial)[A-Za-z\\][A-Za-z0-9\\_^{}]*")
_FRACTIONS = frozenset({"\\frac", "\\dfrac", "\\tfrac", "\\cfrac"})
_LONE = frozenset({"number", "name"})
_NOT_FACTORS = frozenset(
    {"cdot", "times", "div", "ast", "choose", "%", "rfloor", "rceil", "rvert", "vert", "}", "rbrack", "circ", "prime"}
)


def _letters(token: Token) -> list[Token]:
    """Split a run of letters into one-letter symbols, unless it is a known name."""
    if token.kind != "name" or token.text in _NAMES:
        name = token.text
        if token.kind == "name" and name in _GREEK:
            return [Token("command", "\\" + name)]
        return [token]
    return [Token("name", letter) for letter in token.text]


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
