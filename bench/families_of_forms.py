"""Answer families for `grader_campaign`: answers of several numbers, or of a number with words.

They were written from the benchmarks' reference answers and from LaTeX notation, before the grader's code was read.
Equality is known by construction.
"""

from fractions import Fraction
from random import Random

from families_of_numbers import Draw, Family

OPEN, SHUT = {True: "(", False: "["}, {True: ")", False: "]"}
MATRICES = ("pmatrix", "bmatrix", "pmatrix")


def _number(rng: Random, value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    top, bottom = abs(value.numerator), value.denominator
    if bottom == 1:
        return f"{sign}{top}"
    return rng.choice(
        (rf"{sign}\frac{{{top}}}{{{bottom}}}", f"{sign}{top}/{bottom}", rf"{sign}\dfrac{{{top}}}{{{bottom}}}")
    )


def _values(rng: Random, count: int) -> list[Fraction]:
    """`count` different values."""
    found: list[Fraction] = []
    while len(found) < count:
        value = Fraction(rng.randrange(-30, 31), rng.choice((1, 1, 1, 2, 3, 5)))
        found += [value] if value not in found else []
    return found


def _joined(rng: Random, values: list[Fraction]) -> str:
    comma = rng.choice((",", ", ", r",\ ", r",\, ", " , "))
    return comma.join(_number(rng, v) for v in values)


def intervals(rng: Random) -> Draw:
    """An interval, in brackets or as inequalities from either side; wrong: an end changed, opened or closed."""
    low, high = sorted(_values(rng, 2))
    left, right = rng.random() < 0.5, rng.random() < 0.5
    equal = rng.random() < 0.5
    a, b, c, d = low, high, left, right
    if not equal:
        a, b, c, d = rng.choice(
            (
                (low - 1, high, left, right),
                (low, high + 1, left, right),
                (low, high, not left, right),
                (low, high, left, not right),
            )
        )
    gold = f"{OPEN[left]}{_number(rng, low)},{_number(rng, high)}{SHUT[right]}"
    less, at_most = ("<", rng.choice((r"\le", r"\leq", r"\leqslant", "≤")))
    more, at_least = (">", rng.choice((r"\ge", r"\geq", r"\geqslant")))
    ways = (
        f"{OPEN[c]}{_number(rng, a)}, {_number(rng, b)}{SHUT[d]}",
        rf"\left{OPEN[c]}{_number(rng, a)}, {_number(rng, b)}\right{SHUT[d]}",
        rf"x \in {OPEN[c]}{_number(rng, a)},{_number(rng, b)}{SHUT[d]}",
        f"{_number(rng, a)} {less if c else at_most} x {less if d else at_most} {_number(rng, b)}",
        f"{_number(rng, b)} {more if d else at_least} x {more if c else at_least} {_number(rng, a)}",
    )
    return Draw(gold, rng.choice(ways), equal)


def unions(rng: Random) -> Draw:
    """Two disjoint intervals in either order, and rays."""
    a, b, c, d = sorted(_values(rng, 4))
    equal = rng.random() < 0.5
    off = 0 if equal else Fraction(rng.choice((1, 2)), 3)
    if rng.random() < 0.5:
        gold = rf"(-\infty,{_number(rng, b)})\cup({_number(rng, c)},\infty)"
        low, high = _number(rng, b - off), _number(rng, c)
        ways = (
            rf"(-\infty, {low}) \cup ({high}, \infty)",
            rf"\left({high}, \infty\right) \cup \left(-\infty, {low}\right)",
            rf"({high}, +\infty) \cup (-\infty, {low})",
            rf"x < {low} \text{{ or }} x > {high}",
        )
        return Draw(gold, rng.choice(ways), equal)
    gold = rf"[{_number(rng, a)},{_number(rng, b)}) \cup ({_number(rng, c)},{_number(rng, d)}]"
    first = f"[{_number(rng, a)}, {_number(rng, b)})"
    second = f"({_number(rng, c - off)}, {_number(rng, d)}]"
    return Draw(gold, rng.choice((rf"{first} \cup {second}", rf"{second}\cup {first}")), equal)


def inequalities(rng: Random) -> Draw:
    """One bound on one variable, from either side; wrong: another relation or another bound."""
    name = rng.choice(("x", "k", "n", "a", "t"))
    bound = _values(rng, 1)[0]
    upward, strict = rng.random() < 0.5, rng.random() < 0.5
    equal = rng.random() < 0.5
    other_bound, up, sharp = bound, upward, strict
    if not equal:
        other_bound, up, sharp = rng.choice(
            ((bound + 1, upward, strict), (bound, not upward, strict), (bound, upward, not strict))
        )
    forms = {
        (True, True): (">", "<"),
        (True, False): (r"\ge", r"\le"),
        (False, True): ("<", ">"),
        (False, False): (r"\leq", r"\geq"),
    }
    gold = f"{name} {forms[upward, strict][0]} {_number(rng, bound)}"
    there, back = forms[up, sharp]
    value = _number(rng, other_bound)
    return Draw(
        gold, rng.choice((f"{name} {there} {value}", f"{value} {back} {name}", f"{name}{there} {value}")), equal
    )


def tuples(rng: Random) -> Draw:
    """A point; the order of its coordinates matters."""
    values = _values(rng, rng.randrange(2, 5))
    equal = rng.random() < 0.5
    wrong = list(values)
    if not equal:
        change = rng.choice(("swap", "one", "short"))
        if change == "swap":
            wrong[0], wrong[1] = wrong[1], wrong[0]
        elif change == "one":
            wrong[rng.randrange(len(wrong))] += 1
        else:
            wrong = [*wrong, wrong[0] + 1]
    inner = _joined(rng, wrong)
    gold = f"({_joined(rng, values)})"
    ways = (
        f"({inner})",
        rf"\left({inner}\right)",
        rf"\left( {inner} \right)",
        rf"\big({inner}\big)",
        rf"\langle {inner} \rangle",
    )
    return Draw(gold, rng.choice(ways), equal)


def matrices(rng: Random) -> Draw:
    """A column vector or a 2 x 2 matrix, in either kind of brackets."""
    values = _values(rng, 4 if rng.random() < 0.5 else 3)
    equal = rng.random() < 0.5
    wrong = list(values)
    if not equal:
        at = rng.randrange(len(values) - 1)
        if rng.random() < 0.5:
            wrong[at], wrong[at + 1] = wrong[at + 1], wrong[at]
        else:
            wrong[at] -= 1

    def write(entries: list[Fraction], kind: str) -> str:
        cells = [_number(rng, e) for e in entries]
        body = rf"{cells[0]} & {cells[1]} \\ {cells[2]} & {cells[3]}" if len(cells) == 4 else r" \\ ".join(cells)
        return rf"\begin{{{kind}}} {body} \end{{{kind}}}"

    return Draw(write(values, "pmatrix"), write(wrong, rng.choice(MATRICES)), equal)


def lists(rng: Random) -> Draw:
    """Values in any order: listed, in braces, with "and" or x = before each; wrong: one dropped, repeated, changed."""
    values = _values(rng, rng.randrange(2, 6))
    if rng.random() < 0.2:
        values.append(values[0])
    equal = rng.random() < 0.5
    wrong = list(values)
    if not equal:
        change = rng.choice(("drop", "repeat", "one"))
        if change == "drop":
            wrong.pop()
        elif change == "repeat":
            wrong.append(wrong[-1])
        else:
            wrong[0] += Fraction(1, 7)
    rng.shuffle(wrong)
    gold = _joined(rng, values)
    ways = [
        _joined(rng, wrong),
        rng.choice((";", "; ")).join(_number(rng, v) for v in wrong),
        ", ".join(f"x={_number(rng, v)}" for v in wrong),
    ]
    if len(wrong) > 1:
        ways += [rf"{_joined(rng, wrong[:-1])} \text{{ and }} {_number(rng, wrong[-1])}"]
    if len(set(values)) == len(values) == len(set(wrong)) or (
        not equal and len(set(values)) == len(values) and set(wrong) != set(values)
    ):
        ways += [rf"\{{{_joined(rng, wrong)}\}}", rf"\left\{{{_joined(rng, wrong)}\right\}}"]
    return Draw(gold, rng.choice(ways), equal)


def plus_minus(rng: Random) -> Draw:
    """a plus or minus sqrt(b), and both values listed; only one of the two is wrong."""
    a, b = rng.randrange(1, 20), rng.choice((2, 3, 5, 7, 11, 19))
    if rng.random() < 0.3:
        gold, both, one = (
            rf"\pm {a}",
            (f"{a}, -{a}", f"-{a},{a}", rf"\pm{a}", rf"\{{-{a},{a}\}}"),
            (str(a), f"-{a}", f"{a},{a}", rf"\pm {a + 1}"),
        )
    else:
        gold = rf"{a} \pm \sqrt{{{b}}}"
        plus, minus = rf"{a}+\sqrt{{{b}}}", rf"{a}-\sqrt{{{b}}}"
        both = (
            f"{plus}, {minus}",
            f"{minus},{plus}",
            rf"{a}\pm\sqrt{{{b}}}",
            rf"\{{{plus},{minus}\}}",
            rf"{plus} \text{{ and }} {minus}",
        )
        one = (plus, minus, rf"{a} \pm \sqrt{{{b + 1}}}", rf"-{a} \pm \sqrt{{{b}}}", f"{plus}, {plus}")
    equal = rng.random() < 0.5
    return Draw(gold, rng.choice(both if equal else one), equal)


def _product(roots: list[int]) -> list[int]:
    """The coefficients of the product of (x - root), lowest degree first."""
    coefficients = [1]
    for root in roots:
        up, down = [0, *coefficients], [-root * c for c in coefficients] + [0]
        coefficients = [a + b for a, b in zip(up, down, strict=True)]
    return coefficients


def _polynomial(rng: Random, coefficients: list[int], name: str) -> str:
    order = list(range(len(coefficients)))
    order = order[::-1] if rng.random() < 0.5 else rng.sample(order, len(order))
    text = ""
    for power in order:
        factor = coefficients[power]
        if not factor:
            continue
        letters = "" if power == 0 else name if power == 1 else rng.choice((f"{name}^{power}", f"{name}^{{{power}}}"))
        size = str(abs(factor)) if abs(factor) != 1 or not letters else ""
        text += ("-" if factor < 0 else "+" if text else "") + size + letters
    return text or "0"


def polynomials(rng: Random) -> Draw:
    """A polynomial, expanded with its terms in any order, and as a product of factors."""
    name = rng.choice(("x", "n", "t", "k", "r"))
    roots = [rng.choice((-1, 1)) * rng.randrange(1, 10) for _ in range(rng.randrange(1, 4))]
    coefficients = _product(roots)
    equal = rng.random() < 0.5
    wrong = list(coefficients)
    wrong_roots = list(roots)
    if not equal:
        wrong[rng.randrange(len(wrong))] += 1
        wrong_roots[0] += 11
    factors = [f"({name}{-r:+d})" for r in wrong_roots]
    rng.shuffle(factors)
    answer = rng.choice(
        ("".join(factors), r" \cdot ".join(factors), _polynomial(rng, wrong, name), _polynomial(rng, wrong, name))
    )
    return Draw(_polynomial(rng, coefficients, name), answer, equal)


def formulas(rng: Random) -> Draw:
    """Expressions in several variables, as in the physics benchmarks."""
    a, b = rng.randrange(2, 10), rng.randrange(2, 10)
    equal = rng.random() < 0.5
    c = b if equal else b + 1
    pairs = (
        (rf"\frac{{x}}{{{b}}}-\frac{{1}}{{{a}}}", rf"\frac{{{a}x-{c}}}{{{a * b}}}"),
        (rf"e^{{-{b} t}} \cos ({a} t)", rf"\cos({a}t)e^{{-{c}t}}"),
        (rf"\frac{{1}}{{s+{b}}}", rf"(s+{c})^{{-1}}"),
        (rf"\frac{{n(n+{b})}}{{2}}", rf"\frac{{n^2+{c}n}}{{2}}"),
        (f"2^{{n+{b}}}", rf"{2**c} \cdot 2^n"),
        (rf"\sqrt{{{a}}} m v^{{{b}}}", rf"v^{{{c}}} m\sqrt{{{a}}}"),
        (rf"{a} \sin ({b} x) + 1", rf"1+{a}\sin\left({c}x\right)"),
        (rf"{a}*sin(pi*x/{b})", rf"{a}\sin\left(\frac{{\pi x}}{{{c}}}\right)"),
        (rf"\frac{{{a}}}{{m}} t", rf"\frac{{{a + c - b} t}}{{m}}"),
        (rf"x^{{{b}}} y", rf"y \cdot x^{{{c}}}"),
        (rf"\ln x + {b}", rf"{c}+\ln(x)"),
    )
    gold, answer = rng.choice(pairs)
    return Draw(gold, answer, equal)


def equations(rng: Random) -> Draw:
    """The value of a variable, and lines in several forms."""
    m, c = rng.choice((-1, 1)) * rng.randrange(2, 9), rng.choice((-1, 1)) * rng.randrange(1, 20)
    equal = rng.random() < 0.5
    n, d = (m, c) if equal else rng.choice(((m, -c), (-m, c), (m + 1, c), (m, c + 1)))
    name = rng.choice(("x", "k", "N", "a", "r", r"\alpha", "x_1"))
    if rng.random() < 0.4:
        pairs = (
            (f"{name}={c}", str(d)),
            (str(c), f"{name} = {d}"),
            (f"{name}={c}", f"{name} = {d}"),
            (str(c), f"{d} = {name}"),
        )
        if d == c and not equal:
            return Draw(str(c), str(c + 1), False)
        gold, answer = rng.choice(pairs)
        return Draw(gold, answer, d == c)
    ways = (
        f"y = {n}x {d:+d}",
        f"y={d}{n:+d}x",
        f"{n}x-y{d:+d}=0",
        f"{n}x - y = {-d}",
        f"y {-d:+d} = {n}x",
        f"{2 * n}x-2y{2 * d:+d}=0",
    )
    return Draw(f"y={m}x{c:+d}", rng.choice(ways), equal)


def functions(rng: Random) -> Draw:
    """A function given by its formula; wrong: another formula, or the derivative's."""
    name, letter = rng.choice(("f", "g", "h", "P")), rng.choice(("x", "n", "t"))
    a, b = rng.randrange(2, 12), rng.randrange(1, 12)
    rule = f"{a}{letter}+{b}"
    equal = rng.random() < 0.5
    if equal:
        ways = (
            f"{name}({letter}) = {b}+{a}{letter}",
            rf"{name}({letter})={a} {letter} + {b}",
            rf"{name}\left({letter}\right)={rule}",
            rule,
        )
    else:
        ways = (
            f"{name}'({letter})={rule}",
            rf"{name}^{{\prime}}({letter})={rule}",
            f"{name}({letter})={a + 1}{letter}+{b}",
            f"{name}({letter})={a}{letter}-{b}",
            f"{name}''({letter})={rule}",
            rf"{name}({letter})\neq {rule}",
            f"{name}^{{-1}}({letter})={rule}",
        )
    return Draw(f"{name}({letter})={rule}", rng.choice(ways), equal)


def bases(rng: Random) -> Draw:
    """A number in another base."""
    base = rng.randrange(3, 10)
    digits = str(rng.randrange(1, base)) + "".join(str(rng.randrange(base)) for _ in range(rng.randrange(1, 5)))
    equal = rng.random() < 0.5
    gold = rng.choice((f"{digits}_{base}", f"{digits}_{{{base}}}"))
    if equal:
        ways = (f"{digits}_{base}", f"{digits}_{{{base}}}", f"{digits}", rf"{digits}_{{\text{{{base}}}}}")
    else:
        wrong = str(int(digits) + 1) if digits[-1] != "9" else digits[:-1] + "0"
        ways = (f"{digits}_{{{base + 1}}}", f"{digits}_{base - 1}", f"{wrong}_{base}", wrong, f"{digits}_{{10}}")
    return Draw(gold, rng.choice(ways), equal)


def ratios(rng: Random) -> Draw:
    """Ratios, scaled by a common factor."""
    a, b, k = rng.randrange(1, 20), rng.randrange(1, 20), rng.randrange(1, 5)
    equal = rng.random() < 0.5
    c, d = (a * k, b * k) if equal else rng.choice(((a + 1, b), (a, b + 1), (b, a) if a != b else (a + 2, b)))
    return Draw(f"{a}:{b}", rng.choice((f"{c}:{d}", f"{c} : {d}", rf"{c}\colon {d}")), equal)


def sequences(rng: Random) -> Draw:
    """A sequence with dots; the dots matter."""
    start, step = rng.randrange(0, 10), rng.randrange(1, 5)
    end = start + step * rng.randrange(5, 40)
    dots = (r"\ldots", r"\dots", r"\cdots", "...", r"\dotsc")
    gold = rf"{start},{start + step},\ldots,{end}"
    if rng.random() < 0.5:
        return Draw(gold, f"{start}, {start + step}, {rng.choice(dots)}, {end}", True)
    ways = (
        f"{start},{start + step},{end}",
        rf"{start},{start + step},\ldots",
        rf"{start},{start + step + 1},\ldots,{end}",
        rf"{start},{start + step},\ldots,{end + step}",
    )
    return Draw(gold, rng.choice(ways), False)


FORMS: dict[str, Family] = {
    "intervals": intervals,
    "unions of intervals": unions,
    "inequalities": inequalities,
    "tuples": tuples,
    "matrices": matrices,
    "lists": lists,
    "plus or minus": plus_minus,
    "polynomials": polynomials,
    "formulas": formulas,
    "equations": equations,
    "functions and derivatives": functions,
    "bases": bases,
    "ratios": ratios,
    "sequences": sequences,
}
