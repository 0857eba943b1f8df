"""Answer families for `grader_campaign`: answers whose value is one number.

They were written from the benchmarks' reference answers and from LaTeX notation, before the grader's code was read.
Equality is known by construction, never computed by a grader or by SymPy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from random import Random


@dataclass(frozen=True)
class Draw:
    """A reference answer, the content of a box, and whether the two are equal."""

    gold: str
    answer: str
    equal: bool


Family = Callable[[Random], Draw]

SQUAREFREE = (2, 3, 5, 6, 7, 10, 11, 13, 14, 15, 17, 19, 21, 22, 23)
DRESS = (
    "{}",
    " {} ",
    "{}.",
    r"\mathbf{{{}}}",
    r"\boldsymbol{{{}}}",
    r"\mathrm{{{}}}",
    r"\mathit{{{}}}",
    r"\text{{{}}}",
    r"\textbf{{{}}}",
    r"\textit{{{}}}",
    r"\mathsf{{{}}}",
    r"\texttt{{{}}}",
    r"\bm{{{}}}",
    r"\displaystyle {}",
    r"\Large {}",
    r"\small{{{}}}",
    r"\color{{red}}{{{}}}",
    r"\textcolor{{blue}}{{{}}}",
    r"\underline{{{}}}",
    r"\fbox{{{}}}",
    r"\boxed{{{}}}",
    "${}$",
    r"\({}\)",
    r"\[ {} \]",
    "**{}**",
    "`{}`",
    r"\,{}\,",
    r"\quad {}",
    r"\;{}\;",
    "~{}",
    "{}\\\\",
    "{{{}}}",
    r"\left({}\right)",
    "({})",
    "\u200b{}",
    "{}\u00a0",
)


def other(rng: Random, number: int) -> int:
    """A whole number other than `number`: a near one, or one with a changed digit, sign or magnitude."""
    place = 10 ** rng.randrange(len(str(abs(number))))
    wrong = rng.choice((number + 1, number - 1, number + place, number - place, -number, number * 10))
    return wrong if wrong != number else number + 1


def whole_numbers(rng: Random) -> Draw:
    """A whole number in various fonts, sizes, colours, spaces, Markdown and delimiters."""
    gold = rng.choice((rng.randrange(-99, 1000), rng.randrange(-(10**9), 10**9)))
    equal = rng.random() < 0.5
    shown = str(gold if equal else other(rng, gold))
    if rng.random() < 0.2:
        shown = shown.replace("-", rng.choice(("−", "–", "- ")))
    return Draw(str(gold), rng.choice(DRESS).format(shown), equal)


def grouped_digits(rng: Random) -> Draw:
    """Digits in groups of three, with the separators of typesetting."""
    gold = rng.randrange(1000, 10**10)
    equal = rng.random() < 0.5
    comma = rng.choice((",", "{,}", r",\!", r"\,", r"\ ", "~", " ", r"\;", "\u202f"))
    shown = f"{gold if equal else abs(other(rng, gold)) + 3 * (other(rng, gold) < 0):,}".replace(",", comma)
    if not equal and int("".join(c for c in shown if c.isdigit())) == gold:
        return Draw(str(gold), str(gold + 1), False)
    golden = rng.choice((str(gold), f"{gold:,}", f"{gold:,}".replace(",", r",\!")))
    return Draw(golden, shown, equal)


def _fraction(rng: Random, value: Fraction) -> str:
    """One of the ways to write `value` exactly."""
    top, bottom = abs(value.numerator), value.denominator
    times = rng.choice((1, 1, 1, 2, 3, 7))
    a, b = top * times, bottom * times
    sign = "-" if value < 0 else ""
    ways = [
        rf"{sign}\frac{{{a}}}{{{b}}}",
        rf"{sign}\dfrac{{{a}}}{{{b}}}",
        rf"{sign}\tfrac{{{a}}}{{{b}}}",
        f"{sign}{a}/{b}",
    ]
    ways += [
        rf"\frac{{{sign}{a}}}{{{b}}}",
        rf"{sign}\cfrac{{{a}}}{{{b}}}",
        rf"{sign}{{{a} \over {b}}}",
        rf"{sign}{a} \div {b}",
    ]
    if sign:
        ways += [rf"\frac{{{a}}}{{-{b}}}", rf"-\left(\frac{{{a}}}{{{b}}}\right)"]
    if a < 10 and b < 10:
        ways += [rf"{sign}\frac{a}{b}", rf"{sign}\frac {a} {b}", rf"{sign}\frac{a}{{{b}}}"]
    if top > bottom > 1:
        ways += [rf"{sign}{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}"] * 2
        ways += [rf"{sign}{top // bottom} \dfrac{{{top % bottom}}}{{{bottom}}}"]
    if bottom == 1:
        ways += [f"{sign}{top}", f"{sign}{top}.0"]
    if 10**6 % bottom == 0:
        decimal = f"{top * (10**6 // bottom):07d}"
        ways += [f"{sign}{decimal[:-6]}.{decimal[-6:].rstrip('0') or '0'}"] * 2
    return rng.choice(ways)


def fractions(rng: Random) -> Draw:
    """Fractions, reduced or not, mixed numbers, exact decimals; wrong: a changed numerator or denominator."""
    bottom = rng.choice((rng.randrange(2, 13), rng.choice((2, 4, 5, 8, 20, 25, 40)), rng.randrange(13, 400)))
    gold = Fraction(rng.choice((-1, 1)) * rng.randrange(1, 40 * bottom), bottom)
    equal = rng.random() < 0.5
    value = gold
    if not equal:
        near = Fraction(gold.numerator, gold.denominator + 1)
        value = rng.choice((gold + Fraction(1, bottom), -gold, 1 / gold, near, gold + 1, gold * 10))
    return Draw(_fraction(rng, gold), _fraction(rng, value), equal or value == gold)


def _digits(rng: Random, digits: int, power: int) -> str:
    """`digits`, with the point after the first one, times ten to the `power`, in one of the usual notations."""
    text = str(digits)
    mantissa = text[0] + ("." + text[1:] if len(text) > 1 else "")
    if abs(power) > 12 or rng.random() < 0.6:
        ways = (
            f"{mantissa}e{power}",
            rf"{mantissa} \times 10^{{{power}}}",
            rf"{mantissa}\cdot 10^{{{power}}}",
            f"{mantissa}E{power}",
        )
        return rng.choice(ways)
    if power >= len(text) - 1:
        return text + "0" * (power - len(text) + 1)
    if power >= 0:
        return f"{text[: power + 1]}.{text[power + 1 :]}"
    return f"0.{'0' * (-power - 1)}{text}"


def decimals(rng: Random) -> Draw:
    """A number of a few digits, from 1e-30 to 1e30; wrong: a changed digit or order of magnitude."""
    length = rng.randrange(1, 6)
    digits = rng.randrange(10 ** (length - 1), 10**length)
    power = rng.choice((rng.randrange(-30, 31), rng.randrange(-4, 6)))
    if rng.random() < 0.5:
        return Draw(_digits(rng, digits, power), _digits(rng, digits, power), True)
    if rng.random() < 0.3:
        return Draw(_digits(rng, digits, power), _digits(rng, digits, power + rng.choice((-3, -2, -1, 1, 2, 3))), False)
    place = 10 ** rng.randrange(length)
    wrong = digits + rng.choice((place, -place))
    if len(str(wrong)) != length or wrong <= 0:
        wrong = 5 * 10 ** (length - 1) if digits < 5 * 10 ** (length - 1) else 10 ** (length - 1)
    return Draw(_digits(rng, digits, power), _digits(rng, wrong, power), wrong == digits)


def percentages(rng: Random) -> Draw:
    """A percentage, with and without its sign."""
    tenths = rng.randrange(1, 1000)
    equal = rng.random() < 0.5
    shown = tenths if equal else abs(other(rng, tenths)) + (1 if other(rng, tenths) == -tenths else 0)
    if not equal and shown in (tenths, 10 * tenths, tenths / 10):
        shown = tenths + 1

    def write(value: int, signs: tuple[str, ...]) -> str:
        text = f"{value / 10:.1f}".removesuffix(".0")
        return text + rng.choice(signs)

    signs = (r"\%", "%", r" \%", r"\,\%", r"\text{ percent}", "", r"\text{\%}")
    return Draw(write(tenths, (r"\%", "%", r" \%")), write(shown, signs), equal)


def _surd(rng: Random, terms: list[tuple[Fraction, int]]) -> str:
    """A sum of rational multiples of square roots (root 1: the rational part), in any order and several notations."""
    terms = [t for t in terms if t[0]]
    rng.shuffle(terms)
    text = ""
    for coefficient, root in terms:
        a, b = abs(coefficient.numerator), coefficient.denominator
        top = str(a)
        if root > 1:
            roots = (
                [rf"\sqrt{{{root}}}", rf"{root}^{{1/2}}", rf"{root}^{{\frac{{1}}{{2}}}}"]
                if a == 1
                else [rf"\sqrt{{{root}}}"]
            )
            times = rng.choice(("", " ", r" \cdot "))
            top = ("" if a == 1 else f"{a}{times}") + rng.choice(roots)
            if rng.random() < 0.2:
                top = rf"\sqrt{{{a * a * root}}}"
        if b > 1:
            top = rng.choice(
                (rf"\frac{{{top}}}{{{b}}}", rf"\dfrac{{{top}}}{{{b}}}", rf"\frac{{1}}{{{b}}} \cdot {top}", f"{top}/{b}")
            )
        text += ("-" if coefficient < 0 else "+" if text else "") + top
    return text or "0"


def surds(rng: Random) -> Draw:
    """a + b sqrt(c) + d sqrt(e), reordered, and with squares moved under the root."""
    root, more = rng.sample(SQUAREFREE, 2)
    terms = [
        (Fraction(rng.randrange(-9, 10), rng.choice((1, 1, 2, 3))), 1),
        (Fraction(rng.randrange(1, 12), rng.choice((1, 1, 2, 3, 5))), root),
    ]
    if rng.random() < 0.4:
        terms.append((Fraction(rng.choice((-3, -2, -1, 1, 2, 5))), more))
    equal = rng.random() < 0.5
    wrong = list(terms)
    if not equal:
        at = rng.randrange(len(terms))
        coefficient, of = terms[at]
        wrong[at] = rng.choice(((coefficient + 1, of), (-coefficient - 1, of), (coefficient + Fraction(1, 7), of)))
        if (of == 1 and rng.random() < 0.5) or wrong[at] == terms[at]:
            wrong[at] = (coefficient + 2, of)
    return Draw(_surd(rng, terms), _surd(rng, wrong), equal)


def denominators(rng: Random) -> Draw:
    r"""a / sqrt(b) and its rationalised form, roots of fractions, cube roots, powers with fractions as exponents."""
    a, b, n = rng.randrange(1, 20), rng.choice(SQUAREFREE), rng.choice((3, 4, 5))
    c = a if (equal := rng.random() < 0.5) else a + rng.choice((1, 2))
    pairs = (
        (rf"\frac{{{a}}}{{\sqrt{{{b}}}}}", rf"\frac{{{c}\sqrt{{{b}}}}}{{{b}}}"),
        (rf"\frac{{{a}\sqrt{{{b}}}}}{{{b}}}", rf"{c}/\sqrt{{{b}}}"),
        (rf"\sqrt{{\frac{{{a}}}{{{b}}}}}", rf"\frac{{\sqrt{{{c * b}}}}}{{{b}}}"),
        (rf"\sqrt{{\frac{{{a}}}{{{b}}}}}", rf"\frac{{\sqrt{{{c}}}}}{{\sqrt{{{b}}}}}"),
        (rf"{a}\sqrt[{n}]{{{b}}}", rf"\sqrt[{n}]{{{c**n * b}}}"),
        (rf"\frac{{{a}}}{{\sqrt[{n}]{{{b}}}}}", rf"{c} \cdot {b}^{{-1/{n}}}"),
        (rf"\frac{{{a}}}{{\sqrt{{{b + 25}}}-5}}", rf"\frac{{{c}(\sqrt{{{b + 25}}}+5)}}{{{b}}}"),
    )
    gold, answer = rng.choice(pairs)
    return Draw(gold, answer, equal)


def multiples_of_pi(rng: Random) -> Draw:
    """A rational multiple of pi or e, and numbers near it."""
    name = rng.choice((r"\pi", r"\pi", "e"))
    a, b = rng.randrange(1, 30), rng.choice((1, 2, 3, 4, 6, 7))
    value = Fraction(a, b)
    equal = rng.random() < 0.5
    wrong = value if equal else rng.choice((value + 1, value + Fraction(1, b), value * 2))
    c, d = wrong.numerator, wrong.denominator
    ways = [
        rf"\frac{{{c}{name}}}{{{d}}}",
        rf"\frac{{{c}}}{{{d}}}{name}",
        rf"{c}{name}/{d}",
        rf"{c} \cdot \frac{{{name}}}{{{d}}}",
    ]
    if d == 1:
        ways = [f"{c}{name}" if c > 1 else name, rf"{c} \cdot {name}", rf"{name} \cdot {c}", rf"{c} {name}"]
    gold = (rf"\frac{{{value.numerator} {name}}}{{{value.denominator}}}") if b > 1 else f"{a}{name}"
    return Draw(gold, rng.choice(ways), equal)


def large_powers(rng: Random) -> Draw:
    """Powers and factorials too close to be distinguished as floating-point numbers."""
    base, power = rng.choice((2, 3, 5, 6, 7, 10, 12, 2024)), rng.randrange(30, 3000)
    equal = rng.random() < 0.5
    shift = 0 if equal else rng.choice((-1, 1, 2))
    pairs = [
        (f"{base}^{{{power}}}", rf"{base}^{{{power - 1 + shift}}} \cdot {base}"),
        (f"{base}^{{{power}}}", rf"{base} \times {base}^{{{power - 1 + shift}}}"),
        (rf"\frac{{1}}{{{base}^{{{power}}}}}", f"{base}^{{-{power + shift}}}"),
        (rf"\left(\frac{{1}}{{{base}}}\right)^{{{power}}}", rf"\frac{{1}}{{{base}^{{{power + shift}}}}}"),
        (f"{base}^{{{2 * power}}}", f"{base * base}^{{{power + shift}}}"),
        (f"1-{base}^{{-{power}}}", rf"\frac{{{base}^{{{power}}}-1}}{{{base}^{{{power + shift}}}}}"),
    ]
    if power < 200:
        pairs.append((f"{power}!", rf"{power} \cdot {power - 1 + shift}!"))
        pairs.append((rf"\frac{{1}}{{{power}!}}", rf"\frac{{1}}{{{power} \cdot {power - 1 + shift}!}}"))
    gold, answer = rng.choice(pairs)
    return Draw(gold, answer, equal)


def recurring_decimals(rng: Random) -> Draw:
    """A recurring decimal and its fraction."""
    length = rng.choice((1, 1, 2, 3))
    lead = rng.choice(("", "", "1", "04", "5"))
    block = f"{rng.randrange(1, 10**length - 1):0{length}d}"
    front = rng.randrange(0, 3)
    scale = 10 ** len(lead)
    value = front + Fraction(int(lead or 0), scale) + Fraction(int(block), (10**length - 1) * scale)
    equal = rng.random() < 0.5
    wrong = (
        value if equal else rng.choice((value + Fraction(1, 9 * scale), value + 1, Fraction(f"{front}.{lead}{block}")))
    )
    mark = rng.choice((r"\overline", r"\overline", r"\bar"))
    recurring = f"{front}.{lead}{mark}{{{block}}}"
    fraction = rf"\frac{{{wrong.numerator}}}{{{wrong.denominator}}}"
    return Draw(*((recurring, fraction) if rng.random() < 0.5 else (fraction, recurring)), equal)


def counting(rng: Random) -> Draw:
    """Binomial coefficients, factorials, permutations and products, and their values."""
    n = rng.randrange(3, 13)
    k = rng.randrange(1, n)
    value = rng.choice(("binomial", "factorial", "sum", "double"))
    if value == "binomial":
        number = math.comb(n, k)
        ways = (
            rf"\binom{{{n}}}{{{k}}}",
            rf"\dbinom{{{n}}}{{{k}}}",
            rf"{{{n} \choose {k}}}",
            rf"\frac{{{n}!}}{{{k}!{n - k}!}}",
            f"C({n},{k})",
        )
    elif value == "factorial":
        number = math.factorial(n)
        ways = (f"{n}!", rf"{n} \cdot {n - 1}!", rf"{n} \times {n - 1} \times {n - 2}!" if n > 3 else f"{n}!")
    elif value == "sum":
        number = math.factorial(n) - math.factorial(k)
        ways = (f"{n}! - {k}!", f"-{k}!+{n}!")
    else:
        number = math.prod(range(n, 0, -2))
        ways = (f"{n}!!", rf"\left({n}\right)!!")
    if rng.random() < 0.5:
        return (
            Draw(str(number), rng.choice(ways), True)
            if rng.random() < 0.5
            else Draw(rng.choice(ways), str(number), True)
        )
    return Draw(str(number + rng.choice((1, -1, number))), rng.choice(ways), False)


def logarithms(rng: Random) -> Draw:
    """Sums and multiples of logarithms, and logarithms that are whole numbers."""
    a, b, k = rng.randrange(2, 15), rng.randrange(2, 15), rng.randrange(2, 5)
    equal = rng.random() < 0.5
    off = 0 if equal else 1
    pairs = (
        (rf"\ln {a * b}", rf"\ln {a} + \ln {b + off}"),
        (rf"{k}\ln {a}", rf"\ln {a**k + off}"),
        (rf"\ln\frac{{{a}}}{{{b}}}", rf"\ln {a} - \ln {b + off}"),
        (str(k), rf"\log_{{{a}}} {a**k + off}"),
        (rf"\log_{{{a}}} {b}", rf"\frac{{\ln {b}}}{{\ln {a + off}}}"),
        (rf"\frac{{\ln {b}}}{{{k}}}", rf"\frac{{1}}{{{k}}}\ln({b + off})"),
        (rf"e^{{{k}}}", rf"\exp({k + off})"),
    )
    gold, answer = rng.choice(pairs)
    return Draw(gold, answer, equal)


SINE_OF = {0: "0", 30: r"\frac{1}{2}", 45: r"\frac{\sqrt{2}}{2}", 60: r"\frac{\sqrt{3}}{2}", 90: "1"}
RADIANS = {0: "0", 30: r"\frac{\pi}{6}", 45: r"\frac{\pi}{4}", 60: r"\frac{\pi}{3}", 90: r"\frac{\pi}{2}"}


def angles(rng: Random) -> Draw:
    """Sines and cosines of angles in degrees and radians, and the angles themselves."""
    x = rng.choice(tuple(SINE_OF))
    acute = rng.randrange(1, 89)
    degree = rng.choice((r"^\circ", r"^{\circ}", "°", r"\degree"))
    equal = rng.random() < 0.5
    y = x if equal else rng.choice([other_angle for other_angle in SINE_OF if other_angle != x])
    z = acute if equal else acute + 1 if acute != 44 else 47
    pairs = [
        (SINE_OF[x], rf"\sin {y}{degree}"),
        (SINE_OF[x], rf"\cos {90 - y}{degree}"),
        (SINE_OF[x], rf"\sin {RADIANS[y]}"),
        (rf"\sin {acute}^\circ", rf"\cos {90 - z}{degree}"),
        (rf"2\cos {acute}^\circ", rf"2\cos\frac{{{z}\pi}}{{180}}"),
        (rf"{acute}^\circ", f"{z}{degree}"),
        (rf"{acute}^\circ", rf"{z}\text{{ degrees}}"),
        (rf"\tan {acute}^\circ", rf"\frac{{\sin {z}{degree}}}{{\cos {z}{degree}}}"),
    ]
    if not equal:
        pairs += [(rf"\sin {acute}", rf"\sin {acute}{degree}"), (rf"\tan {acute}{degree}", rf"\tan {acute}")]
    gold, answer = rng.choice(pairs)
    return Draw(gold, answer, equal)


def complex_numbers(rng: Random) -> Draw:
    """a + bi in various orders and fonts; wrong: the conjugate, or the parts exchanged."""
    a, b = rng.randrange(-20, 21), rng.choice((-1, 1)) * rng.randrange(1, 21)
    equal = rng.random() < 0.5
    c, d = (a, b) if equal else rng.choice(((a, -b), (a + 1, b), (a, b + 22), (-a - 1, b), (b, a + 50)))

    def write(real: int, imaginary: int, unit: str) -> str:
        times = rng.choice(("", "", " ", r"\,", r" \cdot "))
        part = f"{abs(imaginary) if abs(imaginary) > 1 else ''}{times if abs(imaginary) > 1 else ''}{unit}"
        sign = "-" if imaginary < 0 else "+"
        if not real:
            return ("-" if imaginary < 0 else "") + part
        gap = rng.choice(("", " "))
        swapped = f"{'-' if imaginary < 0 else ''}{part}{gap}{'-' if real < 0 else '+'}{gap}{abs(real)}"
        return rng.choice((f"{real}{gap}{sign}{gap}{part}", swapped))

    return Draw(write(a, b, "i"), write(c, d, rng.choice(("i", "i", r"\mathrm{i}", r"\mathit{i}"))), equal)


NUMBERS: dict[str, Family] = {
    "whole numbers in dress": whole_numbers,
    "grouped digits": grouped_digits,
    "fractions, mixed numbers, decimals": fractions,
    "decimals of any size": decimals,
    "percentages": percentages,
    "sums of roots": surds,
    "roots below and powers": denominators,
    "multiples of pi and e": multiples_of_pi,
    "powers too large for floating point": large_powers,
    "recurring decimals": recurring_decimals,
    "binomials and factorials": counting,
    "logarithms": logarithms,
    "angles": angles,
    "complex numbers": complex_numbers,
}
