r"""Test the graders on answers whose equality is known by construction, and count their errors by family.

    python bench/grader_campaign.py --count 100000 --cheap 100000 --seed 0

The families (families_of_numbers.py, families_of_forms.py, families_of_words.py) were written from the benchmarks'
reference answers and from LaTeX notation, before the code of the grader under test was read. Each draws reference
answers, and answers that are equal or not by construction. Two more families embed a reference answer in something
else: `hostile` in relations, unknown commands and towers of powers, and `alternatives` next to another value. For
`strict`, `paper_rules` and `symbolic`, the output lists false accepts, false rejects and undecided answers by family
(hangs are undecided, since all limits apply). An exception ends the campaign.

No accepts in 100,000 unequal answers bounds the rate of false accepts at 3 in 100,000 (95%, the rule of three), for
answers like those drawn here. Exit status 1 if `strict` or `symbolic` accepts an unequal answer, or if `symbolic`
rejects 1% or more of a family's equal answers. `paper_rules` accepts what the authors' grader accepts (docs/recipe.md,
Graders), and rejects some equal forms like it; `strict` rejects everything but the identical text.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from random import Random

from families_of_forms import FORMS
from families_of_numbers import NUMBERS, Draw, Family
from families_of_words import WORDED

from justrl.verifiers import get_grader

PART = 5000
MOST_REJECTED = 0.01
SHOWN = 5

# Each contains the reference answer, and none is equal to it.
HOSTILE = [
    "\\neq {}", "x \\neq {}", "> {}", "x > {}", "\\leq {}", "\\not {}", "\\not= {}", "\\neg {}", "\\foo 3 {}",
    "\\foo{{3}} {}", "{}=-17", "-17={}", "17 \\to {}", "17 \\Rightarrow {}", "\\cancel{{7}} {}",
    "\\phantom{{{}}}", "{}+\\phantom{{1}}1", "\\text{{not }} {}", "-17-{}", "|{}|+17", "\\infty-{}", "{}^{{17}}",
    "{} \\mod 17", "{} \\approx 170000", "\\sqrt[17]{{{}}}", "\\begin{{pmatrix}} {} \\\\ 17 \\end{{pmatrix}}",
    "9^{{9^{{9^{{9}}}}}}+{}", "ln(ln(ln({})))",
]  # fmt: skip
ALTERNATIVES = ["{}, 1717", "1717,{}", "\\{{{}, 1717\\}}", "{}\\text{{ or 1717}}", "{}\\text{{ or }}1717", "{}; 1717",
                "{}\\text{{ and 1717}}", "{}\\mathrm{{ or 1717}}", "1717\\text{{ or }}{}"]  # fmt: skip
DRAWN: dict[str, Family] = {**NUMBERS, **FORMS, **WORDED}


def hostile(rng: Random) -> Draw:
    """A number inside an expression that is not a number, or is another one."""
    gold = str(rng.randint(1000, 99_999))
    return Draw(gold, rng.choice(HOSTILE).format(gold), False)


def alternatives(rng: Random) -> Draw:
    """A reference answer of any family, next to another value."""
    gold = DRAWN[rng.choice(list(DRAWN))](rng).gold
    return Draw(gold, rng.choice(ALTERNATIVES).format(gold), False)


FAMILIES: dict[str, Family] = {**DRAWN, "hostile": hostile, "alternatives": alternatives}


def draw(count: int, seed: int) -> list[tuple[str, Draw]]:
    """`count` answers with the names of their families, which take turns."""
    chances = {name: Random(f"{seed} {name}") for name in FAMILIES}
    names = list(FAMILIES)
    return [(name, FAMILIES[name](chances[name])) for name in (names[i % len(names)] for i in range(count))]


def run(name: str, cases: list[tuple[str, Draw]], timeout: float) -> tuple[Counter, dict[str, list[Draw]]]:
    """Counts of verdicts by (family, kind), and the falsely accepted answers by family."""
    counts: Counter = Counter()
    accepted: dict[str, list[Draw]] = defaultdict(list)
    limits = {} if name == "strict" else {"processes": 2, "timeout": timeout}  # strict compares only text
    with get_grader(name, **limits) as grader:
        grades = grader.grade_many([(f"so \\boxed{{{one.answer}}}.", one.gold) for _, one in cases])
    for (family, one), grade in zip(cases, grades, strict=True):
        counts[family, "equal" if one.equal else "not equal"] += 1
        if grade.outcome == "timeout":
            counts[family, "undecided"] += 1
        elif grade.correct != one.equal:
            counts[family, "false reject" if one.equal else "false accept"] += 1
            if grade.correct:
                accepted[family].append(one)
    return counts, accepted


def report(name: str, counts: Counter, accepted: dict[str, list[Draw]], seconds: float) -> bool:
    """Print a grader's table; returns whether it meets the requirements of the campaign."""
    kinds = ("equal", "not equal", "false reject", "false accept", "undecided")
    total = {kind: sum(counts[family, kind] for family in FAMILIES) for kind in kinds}
    answers = total["equal"] + total["not equal"]
    print(f"{name}: {answers:,} answers in {seconds:,.0f} s, {', '.join(f'{n:,} {what}' for what, n in total.items())}")
    within = not total["false accept"]
    for family in FAMILIES:
        of = {kind: counts[family, kind] for kind in kinds}
        share = of["false reject"] / max(1, of["equal"])
        within &= name == "strict" or share < MOST_REJECTED
        print(
            f"  {family}: {of['false accept']} of {of['not equal']:,} accepted, "
            f"{of['false reject']} of {of['equal']:,} rejected ({100 * share:.2f}%), {of['undecided']} undecided"
        )
        for one in accepted[family][:SHOWN]:
            print(f"    accepted against {one.gold!r}: {one.answer!r}")
    sys.stdout.flush()
    return within or name == "paper_rules"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="answers to draw for symbolic")
    parser.add_argument("--cheap", type=int, default=10_000, help="answers to draw for strict and paper_rules")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=1.0, help="processor seconds for one comparison")
    arguments = parser.parse_args()
    within = True
    for name, count in (("strict", arguments.cheap), ("paper_rules", arguments.cheap), ("symbolic", arguments.count)):
        began = time.monotonic()
        counts: Counter = Counter()
        accepted: dict[str, list[Draw]] = defaultdict(list)
        for start in range(0, count, PART):  # each part has its own seed, so memory does not grow
            found, wrong = run(name, draw(min(PART, count - start), arguments.seed + start), arguments.timeout)
            counts += found
            for family, ones in wrong.items():
                accepted[family] += ones
        within &= report(name, counts, accepted, time.monotonic() - began)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
