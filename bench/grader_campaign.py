r"""Attack the graders with answers whose verdict is known by construction, and count what they get wrong.

    python bench/grader_campaign.py --count 2000 --cheap 10000 --seed 0

Golds are drawn (integers, fractions, roots, intervals, words); of each an equal answer, a different one and a hostile
one are made: the last has the gold in it and is not it. Printed are, for `strict`, `paper_rules` and `symbolic`: false
accepts, false rejects and answers not decided (hangs are among them: all limits apply). Exit status 1 where `strict` or
`symbolic` accepts what is not equal; an exception ends the campaign. `paper_rules` accepts what the authors' grader
accepts (docs/recipe.md, Graders), and rejects some equal forms as that does; `strict` rejects all but the very text.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

from justrl.verifiers import get_grader

# A drawn gold, an equal answer and a different one.
Case = tuple[str, str, str]
PART = 5000


def _integer(chance: random.Random) -> Case:
    value = chance.randint(1000, 99_999)
    equal = [
        f"{value:,}",
        f"{value}.0",
        f"x={value}",
        f"x={value:,}",
        f"{value}\\text{{ cm}}",
        f"\\frac{{{2 * value}}}{{2}}",
    ]
    other = [str(value + 1), f"-{value}", f"{value}0", f"x={value - 1:,}", f"\\frac{{{value}}}{{2}}", f"{value}!"]
    return str(value), chance.choice(equal), chance.choice(other)


def _fraction(chance: random.Random) -> Case:
    bottom = chance.choice([2, 4, 5, 8])
    top = bottom * chance.randint(1, 9) + 1
    equal = [f"{top}/{bottom}", f"\\dfrac{{{top}}}{{{bottom}}}", str(top / bottom), f"x=\\frac{{{top}}}{{{bottom}}}"]
    other = [f"\\frac{{{bottom}}}{{{top}}}", f"\\frac{{{top + 1}}}{{{bottom}}}", f"-{top}/{bottom}", str(top)]
    return f"\\frac{{{top}}}{{{bottom}}}", chance.choice(equal), chance.choice(other)


def _root(chance: random.Random) -> Case:
    factor, inside = chance.randint(2, 9), chance.choice([2, 3, 5, 7])
    equal = [f"\\sqrt{{{factor**2 * inside}}}", f"{factor}\\cdot\\sqrt {inside}", f"\\sqrt{{{inside}}}\\cdot {factor}"]
    other = [f"{factor}\\sqrt[3]{{{inside}}}", f"\\sqrt{{{factor * inside}}}", f"{factor}+\\sqrt{{{inside}}}"]
    return f"{factor}\\sqrt{{{inside}}}", chance.choice(equal), chance.choice(other)


def _interval(chance: random.Random) -> Case:
    low = chance.randint(-9, 9)
    high = low + chance.randint(1, 9)
    equal = [f"({low}, {high}]", f"\\left({low},{high}\\right]", f"({low},\\frac{{{2 * high}}}{{2}}]"]
    other = [f"[{low},{high}]", f"({low},{high})", f"({low},{high + 1}]", f"({high},{low}]", f"\\{{{low},{high}\\}}"]
    return f"({low},{high}]", chance.choice(equal), chance.choice(other)


def _word(chance: random.Random) -> Case:
    word = "".join(chance.sample("abdghkmnoprstuw", chance.randint(3, 8)))
    shuffled = word[1:] + word[0]
    return (
        word,
        chance.choice([word, f"\\text{{{word}}}", word.upper()]),
        chance.choice([shuffled, f"\\text{{{shuffled}}}"]),
    )


KINDS: list[Callable[[random.Random], Case]] = [_integer, _fraction, _root, _interval, _word]

# The gold is in each, and none is the gold.
HOSTILE = [
    "\\neq {}", "x \\neq {}", "> {}", "x > {}", "\\leq {}", "\\not {}", "\\not= {}", "\\neg {}", "\\foo 3 {}",
    "\\foo{{3}} {}", "{}=-17", "-17={}", "17 \\to {}", "17 \\Rightarrow {}", "\\cancel{{7}} {}",
    "\\phantom{{{}}}", "{}+\\phantom{{1}}1", "\\text{{not }} {}", "{}, 17", "\\{{{}, 17\\}}", "-17-{}",
    "17\\cdot {}", "|{}|+17", "\\infty-{}", "{}^{{17}}", "{} \\mod 17", "{}_{{17}}", "{} \\approx 170000",
    "\\sqrt[17]{{{}}}", "\\begin{{pmatrix}} {} \\\\ 17 \\end{{pmatrix}}", "9^{{9^{{9^{{9}}}}}}+{}",
    "ln(ln(ln({})))",
]  # fmt: skip


def draw(count: int, seed: int) -> list[tuple[str, str, str]]:
    """(gold, answer, what it is: "equal", "different" or the hostile form): three for each of `count` golds."""
    chance = random.Random(seed)
    cases = []
    for _ in range(count):
        gold, equal, other = chance.choice(KINDS)(chance)
        form = chance.choice(HOSTILE)
        cases += [(gold, equal, "equal"), (gold, other, "different"), (gold, form.format(gold), form)]
    return cases


def run(name: str, cases: list[tuple[str, str, str]], timeout: float) -> tuple[Counter, list[tuple[str, str, str]]]:
    """Counts of verdicts, and the answers that were accepted and are not equal."""
    counts: Counter = Counter()
    accepted = []
    limits = {} if name == "strict" else {"processes": 2, "timeout": timeout}  # strict compares text, which takes none
    with get_grader(name, **limits) as grader:
        grades = grader.grade_many([(f"so \\boxed{{{answer}}}.", gold) for gold, answer, _ in cases])
    for case, grade in zip(cases, grades, strict=True):
        right = grade.correct == (case[2] == "equal")
        if grade.outcome == "timeout":
            counts["undecided"] += 1
        elif right:
            counts["right"] += 1
        else:
            counts["false reject" if case[2] == "equal" else "false accept"] += 1
            if grade.correct:
                accepted.append(case)
    return counts, accepted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="golds to draw for symbolic, with three answers each")
    parser.add_argument("--cheap", type=int, default=10_000, help="golds to draw for strict and paper_rules")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=1.0, help="processor seconds for one comparison")
    arguments = parser.parse_args()
    fooled = 0
    for name, count in (("strict", arguments.cheap), ("paper_rules", arguments.cheap), ("symbolic", arguments.count)):
        began = time.monotonic()
        counts: Counter = Counter()
        accepted: set[tuple[str, str, str]] = set()
        for start in range(0, count, PART):  # each part has a seed of its own, so that memory does not grow
            cases = draw(min(PART, count - start), arguments.seed + start)
            found, wrong = run(name, cases, arguments.timeout)
            counts += found
            accepted |= set(wrong)
        told = ", ".join(f"{n:,} {what}" for what, n in sorted(counts.items()))
        print(f"{name}: {3 * count:,} answers in {time.monotonic() - began:,.0f} s, {told}", flush=True)
        for gold, answer, what in sorted(accepted)[:20]:
            print(f"  accepted against {gold!r}: {answer!r} ({what})", flush=True)
        fooled += len(accepted) if name != "paper_rules" else 0
    return 1 if fooled else 0


if __name__ == "__main__":
    sys.exit(main())
