r"""One side of the benchmark row "symbolic grading": the answers of an evaluation, graded by us or by math-verify.

    python bench/symbolic_grading.py ours          (or theirs; prints seconds and verdicts as JSON)

The evaluation is generated, half as large as the paper's (100 questions with 32 samples, 723 with 4): reference answers
in the forms of its nine benchmarks, completions of 5,000 characters, two thirds of them correct as with the paper's
models, one in twenty without a box. Samples of a question repeat each other's answers, and most correct ones are
identical to the reference answer. Each side runs in a separate process; its imports, and the start and end of our
workers, are included.
"""

import argparse
import json
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

ASKED = ((100, 32), (723, 4))
LENGTH = 5_000
FORMULAS = r"so we have the sum of all roots and then $x^2 + {y}$ must be $\frac{a}{b}$ which cannot be . Wait ,"

# Forms on which the two differ, with the reason why ours is right. All other verdicts must be equal.
DIFFERENCES = {
    "full stop": "`641.` in the box is a number at the end of a sentence; math-verify reads no value in it",
    "power of ten": "a gold `1.7e25` (Minerva's spelling) is a number; math-verify takes its e for Euler's",
}


@dataclass(frozen=True)
class Sample:
    """A completion, its reference answer, the form of its answer ("" without a box), and whether it is correct."""

    completion: str
    gold: str
    form: str
    right: bool


# A reference answer; equal answers by form; a function that makes the i-th wrong answer (i from 1), with its form.
Question = tuple[str, list[tuple[str, str]], Callable[[int], tuple[str, str]]]


def integer(chance: random.Random) -> Question:
    """A number up to 999, as in AIME."""
    n = chance.randint(1, 999)
    equal = [("assignment", f"x={n}"), ("full stop", f"{n}."), ("decimal", f"{n}.0"), ("styled", f"\\mathbf{{{n}}}")]
    return str(n), equal, lambda i: ("integer", str(n + i * chance.choice([1, -1]) * (n % 7 + 1)))


def fraction(chance: random.Random) -> Question:
    """A fraction, in lowest terms or not."""
    a, b = chance.randint(1, 99), chance.randint(2, 99)
    equal = [("dfrac", f"\\dfrac{{{a}}}{{{b}}}"), ("slash", f"{a}/{b}"), ("doubled", f"\\frac{{{2 * a}}}{{{2 * b}}}")]
    return f"\\frac{{{a}}}{{{b}}}", equal, lambda i: ("fraction", f"\\frac{{{a + i}}}{{{b}}}")


def root(chance: random.Random) -> Question:
    """An integer and a multiple of a square root."""
    a, b, c = chance.randint(2, 20), chance.randint(1, 40), chance.choice([2, 3, 5, 7, 11])
    equal = [("order", f"{b}+{a}\\sqrt{{{c}}}"), ("inside", f"\\sqrt{{{a * a * c}}}+{b}")]
    return f"{a}\\sqrt{{{c}}}+{b}", equal, lambda i: ("root", f"{a + i}\\sqrt{{{c}}}+{b}")


def decimal(chance: random.Random) -> Question:
    """A measured number, as in Minerva."""
    a = chance.randint(101, 999) / 100
    equal = [("zero", f"{a:.3f}"), ("fraction", f"\\frac{{{round(a * 100)}}}{{100}}")]
    return f"{a:.2f}", equal, lambda i: ("decimal", f"{a + i / 4:.2f}")


def scientific(chance: random.Random) -> Question:
    """A number with a power of ten."""
    a, power = chance.randint(11, 99) / 10, chance.randint(5, 33)
    equal = [("power of ten", f"{a} \\times 10^{{{power}}}"), ("power of ten", f"{a}\\cdot 10^{{{power}}}")]
    return f"{a}e{power}", equal, lambda i: ("wrong power of ten", f"{a} \\times 10^{{{power + i}}}")


def polynomial(chance: random.Random) -> Question:
    """A polynomial of the second degree."""
    a, b = chance.randint(1, 20), chance.randint(1, 20)
    equal = [
        ("factors", f"(x+{a})(x+{b})"),
        ("order", f"{a * b}+{a + b}x+x^2"),
        ("spaces", f"x^2 + {a + b}x + {a * b}"),
    ]
    return f"x^2+{a + b}x+{a * b}", equal, lambda i: ("polynomial", f"x^2+{a + b + i}x+{a * b}")


def pair(chance: random.Random) -> Question:
    """Two coordinates."""
    a, b = chance.randint(-9, 9), chance.randint(2, 9)
    equal = [("spaces", f"({a}, \\frac{{1}}{{{b}}})"), ("sized", f"\\left({a},\\frac{{1}}{{{b}}}\\right)")]
    return f"({a},\\frac{{1}}{{{b}}})", equal, lambda i: ("pair", f"({a + i},\\frac{{1}}{{{b}}})")


def interval(chance: random.Random) -> Question:
    """A half-open interval."""
    a, width = chance.randint(-9, 9), chance.randint(1, 20)
    equal = [("spaces", f"({a}, {a + width}]"), ("sized", f"\\left({a},{a + width}\\right]")]
    return f"({a},{a + width}]", equal, lambda i: ("interval", f"({a},{a + width + i}]")


def word(chance: random.Random) -> Question:
    """A name or a word."""
    words = ["even", "odd", "east", "Evelyn", "circle", "ellipse", "neither"]
    gold = chance.choice(words)
    return (
        f"\\text{{{gold}}}",
        [("bare word", gold)],
        lambda i: (
            "wrong word",
            f"\\text{{{words[(words.index(gold) + i) % len(words)] if i < len(words) else 'none'}}}",
        ),
    )


# Shares of the forms among the paper's reference answers, in percent.
COMPETITION = {integer: 72, fraction: 14, root: 12, pair: 2}
EXERCISES = {
    integer: 52,
    fraction: 16,
    root: 6,
    decimal: 9,
    scientific: 3,
    polynomial: 9,
    pair: 2,
    interval: 1,
    word: 2,
}


def draw(seed: int = 0) -> list[Sample]:
    """All samples of the evaluation, question by question."""
    chance = random.Random(seed)
    text = " ".join(chance.choices(FORMULAS.split(), k=100_000))
    samples = []
    for (questions, times), shares in zip(ASKED, (COMPETITION, EXERCISES), strict=True):
        for kind in chance.choices(list(shares), list(shares.values()), k=questions):
            question, skill = kind(chance), chance.betavariate(1.4, 0.6)
            samples += [_sample(chance, question, skill, text) for _ in range(times)]
    return samples


def _sample(chance: random.Random, question: Question, skill: float, text: str) -> Sample:
    gold, equal, wrong = question
    start = chance.randrange(len(text) - LENGTH)
    reasoning = text[start : start + LENGTH]
    if chance.random() < 0.05:
        return Sample(reasoning, gold, "", False)
    right = chance.random() < skill
    if right:
        form, answer = ("verbatim", gold) if chance.random() < 0.7 else chance.choice(equal)
    else:
        # Most wrong samples agree on one of the first few wrong answers.
        form, answer = wrong(chance.choices(range(1, 13), [1 / i for i in range(1, 13)])[0])
    return Sample(f"{reasoning}\nThe final answer is \\boxed{{{answer}}}.", gold, form, right)


def ours(samples: list[Sample]) -> list[bool]:
    """Verdicts of the symbolic grader, including the start and end of its workers."""
    from justrl.verifiers import get_grader

    with get_grader("symbolic") as grader:
        return [grade.correct for grade in grader.grade_many((one.completion, one.gold) for one in samples)]


def theirs(samples: list[Sample]) -> list[bool]:
    """Verdicts of math-verify as an experienced user calls it: only on the last box."""
    from math_verify import parse, verify

    verdicts = []
    for one in samples:
        _, box, answer = one.completion.rpartition("\\boxed{")
        right = box and verify(parse(f"${one.gold}$"), parse(f"$\\boxed{{{answer.rstrip('.')}$"))
        verdicts.append(bool(right))
    return verdicts


def agree(samples: list[Sample], one: list[bool], other: list[bool]) -> bool:
    """True if our verdicts equal math-verify's, except on `DIFFERENCES`, where ours must be right."""
    return len(samples) == len(one) == len(other) and all(
        mine == theirs or (sample.form in DIFFERENCES and mine == sample.right)
        for sample, mine, theirs in zip(samples, one, other, strict=True)
    )


def main() -> None:
    """Generate, grade, and print the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=["ours", "theirs"])
    samples = draw()
    side = {"ours": ours, "theirs": theirs}[parser.parse_args().side]
    elapsed, seconds = time.perf_counter(), _processor_seconds()
    verdicts = side(samples)
    took = {"elapsed": time.perf_counter() - elapsed, "seconds": _processor_seconds() - seconds}
    print(json.dumps({**took, "verdicts": verdicts}))


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
