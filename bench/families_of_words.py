"""Answer families for `grader_campaign`: answers with words or steps next to a value.

They were written from the benchmarks' reference answers and from LaTeX notation, before the grader's code was read.
Equality is known by construction.
"""

from random import Random

from families_of_numbers import Draw, Family

# All of these units are different.
UNITS = (
    "cm",
    "m",
    "km",
    "kg",
    "g",
    "s",
    "hours",
    "minutes",
    "days",
    "inches",
    "feet",
    "dollars",
    "miles",
    "liters",
    "years",
)
THINGS = (
    "apples",
    "students",
    "ways",
    "marbles",
    "triangles",
    "pages",
    "coins",
    "people",
    "units",
    "square units",
    "books",
)


def units(rng: Random) -> Draw:
    """A number with a unit. The unit may be left out; another unit or another number is wrong."""
    number = rng.randrange(2, 5000)
    first, second = rng.sample(UNITS, 2)
    power = rng.choice(("", "", "^2", "^3"))
    dress = rng.choice(
        (r"\text{{ {}}}", r"\ \text{{{}}}", r"\,\text{{{}}}", r" \mathrm{{ {}}}", r"\mbox{{ {}}}", r"~\text{{{}}}")
    )
    gold = rf"{number}\text{{ {first}}}{power}"
    equal = rng.random() < 0.5
    if equal:
        thing = rng.choice(THINGS)
        ways = (
            (gold, f"{number}{dress.format(first)}{power}"),
            (gold, str(number)),
            (str(number), f"{number}{dress.format(first)}{power}"),
        )
        ways += ((str(number), f"{number}{dress.format(thing)}"),)
    else:
        wrong_power = "^3" if power == "^2" else "^2"
        ways = (
            (gold, f"{number}{dress.format(second)}{power}"),
            (gold, f"{number}{dress.format(first)}{wrong_power}"),
            (gold, f"{number + 1}{dress.format(first)}{power}"),
            (str(number), f"{number + 1}{dress.format(first)}{power}"),
            (str(number), f"{number * 10}{dress.format(second)}"),
        )
    return Draw(*rng.choice(ways), equal)


MULTIPLES = {"million": 10**6, "billion": 10**9, "thousand": 10**3, "dozen": 12, "hundred": 100, "trillion": 10**12}


def multiples(rng: Random) -> Draw:
    """A number word after the digits, which multiplies them."""
    word = rng.choice(tuple(MULTIPLES))
    number = rng.randrange(2, 100)
    answer = rng.choice((rf"{number}\text{{ {word}}}", rf"{number} \text{{ {word}}}", rf"{number}\ \mathrm{{{word}}}"))
    if rng.random() < 0.5:
        return Draw(str(number * MULTIPLES[word]), answer, True)
    return Draw(str(rng.choice((number, number * MULTIPLES[word] + 1, number * MULTIPLES[word] * 10))), answer, False)


WORDS = (
    "east",
    "west",
    "ellipse",
    "circle",
    "hyperbola",
    "even",
    "odd",
    "yes",
    "no",
    "Evelyn",
    "Navin",
    "Alice",
    "Bob",
    "Monday",
    "infinite",
    "none",
)


def words(rng: Random) -> Draw:
    """A word or a name, in a font or not, and in other letter case."""
    first, second = rng.sample(WORDS, 2)
    equal = rng.random() < 0.5
    shown = (
        first
        if equal
        else rng.choice((second, f"not {first}", first[1:] + first[0], f"{first} or {second}", f"{first} and {second}"))
    )
    shown = rng.choice((shown, shown, shown.capitalize(), shown.lower(), shown.upper()))
    return Draw(
        rf"\text{{{first}}}",
        rng.choice((r"\text{{{}}}", "{}", r"\textbf{{{}}}", r"\mathrm{{{}}}", r"\text{{ {} }}")).format(shown),
        equal,
    )


def choices(rng: Random) -> Draw:
    """The letter of a choice: with brackets, with a word before it, with its value after it."""
    letters = "ABCDE"
    right, wrong = rng.sample(letters, 2)
    equal = rng.random() < 0.5
    letter = right if equal else wrong
    ways = [
        letter,
        f"({letter})",
        rf"\text{{{letter}}}",
        rf"\text{{({letter})}}",
        rf"\textbf{{({letter})}}",
        rf"\textbf{{({letter})}}\ {rng.randrange(2, 99)}",
        rf"\mathrm{{{letter}}}",
        rf"\text{{Option {letter}}}",
        rf"\text{{option ({letter})}}",
        f"{letter}.",
    ]
    if not equal:
        ways += [rf"{right}, {wrong}", rf"{right} \text{{ or }} {wrong}", rf"\text{{not {right}}}", f"{right}{wrong}"]
    return Draw(rng.choice((right, rf"\text{{({right})}}", rf"\text{{{right}}}")), rng.choice(ways), equal)


HEDGES = (
    r"{0}\text{{ or {1}}}",
    r"{0}\text{{ or }}{1}",
    r"{0} \text{{ and }} {1}",
    r"{0}, {1}",
    r"{0}\text{{ or more}}",
    r"{0}\text{{ at most}}",
    r"\text{{at least }} {0}",
    r"\text{{at most }} {0}",
    r"\text{{not }} {0}",
    r"\text{{less than }} {0}",
    r"\text{{more than }} {0}",
    r"\neq {0}",
    r"x \neq {0}",
    r"> {0}",
    r"\leq {0}",
    r"{0}\text{{ plus {1}}}",
    r"{0}\text{{ times {1}}}",
    r"{0}\text{{ minus {1}}}",
    r"{0}\text{{ over {1}}}",
    r"{0}\text{{ squared}}",
    r"{0}\text{{ cubed}}",
    r"{0}\text{{ factorial}}",
    r"{0}\text{{ is wrong}}",
    r"{0}\text{{ is not the answer}}",
    r"{0}\text{{ if }} n > 2",
    r"{0} \text{{ when }} x=1",
    r"{0}\text{{ to }}{1}",
    r"{0}\text{{ mod }}{1}",
    r"{0} \pmod{{{1}}}",
    r"{0} \mathrm{{ or }} {1}",
    r"{0}\mbox{{ or {1}}}",
    r"{0} \text{{ unless }} n=0",
    r"{0}?",
    r"{0}\text{{ half}}",
    r"{0}\text{{ thirds}}",
    r"{0}\text{{ twice}}",
    r"{0} \lor {1}",
    r"{0} \to {1}",
    r"{0}-{1}",
    r"{0}+{1}",
    r"{0}!",
    r"{0}'",
    r"{0}''",
    r"{0}^2",
    r"\dot{{{0}}}",
    r"{0}i",
    r"{0}x",
    r"{0}_{1}",
    r"\cancel{{{0}}}",
    r"{0}\infty",
    r"{0}, \ldots",
    r"{0}/{1}",
    r"\sqrt{{{0}}}",
)


def hedges(rng: Random) -> Draw:
    """The reference answer with an alternative, condition, negation or operation, in words or symbols: always wrong."""
    first, second = rng.sample(range(3, 500), 2)
    gold = rng.choice((str(first), str(first), rf"\frac{{{first}}}{{{first + second}}}"))
    hedge = rng.choice(HEDGES)
    if gold != str(first) and hedge in (r"{0}!", r"{0}'"):
        hedge = r"{0}-{1}"
    return Draw(gold, hedge.format(gold, second), False)


def chains(rng: Random) -> Draw:
    """A computation that ends with its value, or with a rounded value."""
    a, b = rng.randrange(2, 100), rng.randrange(2, 100)
    equal = rng.random() < 0.5
    off = 0 if equal else rng.choice((1, -1, 10))
    if rng.random() < 0.6:
        ways = (
            f"{a}+{b}={a + b + off}",
            f"m+n={a}+{b}={a + b + off}",
            rf"{a} + {b} = \mathbf{{{a + b + off}}}",
            f"x = {a + b + off}",
        )
        return Draw(str(a + b), rng.choice(ways), equal)
    bottom = rng.choice((3, 7, 9, 11, 13))
    top = a if a % bottom else a + 1
    rounded = f"{top / bottom:.3f}" if equal else f"{top / bottom + rng.choice((0.01, 0.1, 1)):.3f}"
    return Draw(rf"\frac{{{top}}}{{{bottom}}}", rf"\frac{{{top}}}{{{bottom}}} \approx {rounded}", equal)


WORDED: dict[str, Family] = {
    "units": units,
    "number words": multiples,
    "words": words,
    "choices": choices,
    "hedges": hedges,
    "chains": chains,
}
