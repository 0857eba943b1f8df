"""Completions graded per second, by each rule-based grader.

    python bench/grading_speed.py [--questions 200] [--samples 32] [--length 15000] [--processes 2]

Makes completions of `--length` characters for reference answers in the forms of the nine benchmarks (integers,
fractions, roots, tuples, polynomials, powers of ten, words). Half of them are correct, often in another form, four in
ten are wrong, and one in ten has no box. "distinct" grades one sample of each question with workers already running,
per second of elapsed time and of processor time (all processes; independent of other load). "avg@k" grades `--samples`
samples of each question, whose answers repeat, as in an evaluation.
"""

import argparse
import os
import random
import resource
import time

from justrl.verifiers import get_grader

GRADERS = ("strict", "paper", "paper_rules", "symbolic")
SENTENCES = r"so we have the sum of all roots and then $x^2 + {y}$ must be $\frac{a}{b}$ which cannot be . Wait ,"
WORDS = SENTENCES.split()


def make_question(chance: random.Random) -> tuple[str, list[str], list[str]]:
    """A reference answer, correct answers in several forms, and wrong ones."""
    a, b, c = chance.randint(2, 99), chance.randint(2, 99), chance.choice([2, 3, 5, 6, 7, 10, 11])
    kind = chance.choices(
        ["integer", "fraction", "root", "tuple", "polynomial", "power", "text"], [50, 15, 12, 6, 10, 4, 3]
    )[0]
    if kind == "integer":
        return f"{a * b}", [f"{a * b}", f" {a * b} ", f"{a * b}.0"], [f"{a * b + 1}", f"{a}\\cdot {b + 1}", "0"]
    if kind == "fraction":
        d = a + b
        return (
            f"\\frac{{{a}}}{{{d}}}",
            [f"\\dfrac{{{a}}}{{{d}}}", f"{a}/{d}"],
            [f"\\frac{{{b}}}{{{d}}}", f"{a / d:.2f}"],
        )
    if kind == "root":
        right = [f"{b}+{a}\\sqrt{{{c}}}", f"\\sqrt{{{a * a * c}}}+{b}", f"{a} \\sqrt {{{c}}} + {b}"]
        return f"{a}\\sqrt{{{c}}}+{b}", right, [f"{a}\\sqrt{{{c}}}-{b}", f"{a}\\sqrt{{{c + 2}}}+{b}"]
    if kind == "tuple":
        return f"({a}, {b}]", [f"({a},{b}]", f"\\left({a}, {b}\\right]"], [f"[{a},{b}]", f"({b},{a}]"]
    if kind == "polynomial":
        right = [f"(x+{a})(x+{b})", f"{a * b} + {a + b}x + x^2"]
        return f"x^2+{a + b}x+{a * b}", right, [f"(x+{a})(x-{b})", f"x^2+{a}x+{b}"]
    if kind == "power":
        return f"{a}e{b}", [f"{a} \\times 10^{{{b}}}", f"{a}e{b}"], [f"{a} \\times 10^{{{b + 1}}}"]
    return "\\text{even}", ["\\text{even}", "even"], ["\\text{odd}"]


def make_completion(chance: random.Random, right: list[str], wrong: list[str], length: int) -> str:
    """A chain of thought of about `length` characters, with or without a box at its end."""
    text = " ".join(chance.choices(WORDS, k=max(1, length // 5)))[:length]
    fate = chance.random()
    if fate < 0.1:
        return text
    return f"{text}\nFinal answer: \\boxed{{{chance.choice(right if fate < 0.6 else wrong)}}}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--samples", type=int, default=32, help="completions of each question")
    parser.add_argument("--length", type=int, default=15_000, help="characters of a completion")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="workers of a grader")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    chance = random.Random(arguments.seed)
    questions = [make_question(chance) for _ in range(arguments.questions)]
    pairs = [
        [(make_completion(chance, right, wrong, arguments.length), gold) for gold, right, wrong in questions]
        for _ in range(arguments.samples)
    ]
    everything = [pair for column in pairs for pair in column]
    print(
        f"{arguments.questions} questions x {arguments.samples} samples of {arguments.length} characters, "
        f"{arguments.processes} worker processes, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    )
    print(f"{'grader':<12} {'distinct/s':>11} {'per cpu s':>10} {'avg@k/s':>9} {'correct':>8} {'timeout':>8}")
    for name in GRADERS:
        options = {"processes": arguments.processes} if name in ("paper_rules", "symbolic") else {}
        idle = measure(name, options, [])[1]
        distinct, busy, _ = measure(name, options, pairs[0])
        repeated, busy_longer, grades = measure(name, options, everything)
        # Without workers, every completion costs the same, and one of each question is too short to measure.
        per_second = len(pairs[0]) / (busy - idle) if options else len(everything) / (busy_longer - idle)
        correct = sum(grade.correct for grade in grades) / len(grades)
        gave_up = sum(grade.outcome == "timeout" for grade in grades)
        print(
            f"{name:<12} {len(pairs[0]) / distinct:>11.0f} {per_second:>10.0f} "
            f"{len(everything) / repeated:>9.0f} {correct:>8.1%} {gave_up:>8}"
        )


def measure(name: str, options: dict, pairs: list[tuple[str, str]]) -> tuple[float, float, list]:
    """Elapsed seconds of grading, processor seconds including start and end of the workers, and the grades."""
    processes = options.get("processes", 1)
    before = processor_seconds()
    with get_grader(name, **options) as grader:
        # Start the workers: an evaluation pays for their imports once.
        grader.grade_many([(f"\\boxed{{(y+{n})(y+2)}}", f"y^2+{n + 2}y+{2 * n}") for n in range(2 * processes)])
        start = time.perf_counter()
        grades = grader.grade_many(pairs)
        seconds = time.perf_counter() - start
    return seconds, processor_seconds() - before, grades


def processor_seconds() -> float:
    """Processor time of this process and of its finished child processes."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
