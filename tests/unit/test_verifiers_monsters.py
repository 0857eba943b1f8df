r"""No completion hangs, crashes or fools a grader, and none is evaluated as code."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from justrl.verifiers import get_grader

RULE_GRADERS = ("strict", "paper", "paper_rules", "symbolic")
OUTCOMES = {"correct", "wrong", "unparsed", "timeout"}
NINES = "9" * 400

MONSTERS = {
    "tower of powers": "9^{9^{9^{9^9}}}",
    "tower without braces": "9^9^9^9^9",
    "tower in Python": "9**9**9**9**9",
    "power of a root": "\\sqrt{2}**99999999999",
    "power of a sum": "(x+1)**99999",
    "power of a decimal": "1.5**999999999999",
    "nested roots": "\\sqrt{" * 200 + "2" + "}" * 200,
    "factorials": "999999999!",
    "factorial of a factorial": "((((9!)!)!)!)!",
    "binomial": "\\binom{10^{20}}{10^{19}}",
    "sum": "\\sum_{n=1}^{10^{30}} \\frac{1}{n!}",
    "integral": "\\int_0^1 x^{x^{x^{\\sin x}}} dx",
    "product of primes": f"{NINES}*{NINES}/({NINES[:-1]}7)",
    "fractions in fractions": "\\frac{1}{1+" * 300 + "2" + "}" * 300,
    "nested braces": "{" * 100_000 + "5" + "}" * 100_000,
    "nested brackets": "(" * 100_000 + "5" + ")" * 100_000,
    "open braces": "{" * 100_000,
    "megabytes of digits": "9" * 3_000_000,
    "megabytes of words": "the answer is 5, " * 200_000,
    "megabytes of boxes": "\\boxed{" * 300_000,
    "megabytes of spaces": "5" + " " * 2_000_000 + "5",
    "megabytes of commas": "1,234" * 400_000,
    "many terms": "+".join(f"x^{{{power}}}" for power in range(150)),
    "long tuple": "(" + ",".join(map(str, range(3000))) + ")",
    "NUL bytes": "\x00" * 50 + "5",
    "lone surrogates": "5\ud800\udfff",
    "broken LaTeX": "\\frac{\\sqrt{\\left( \\begin{pmatrix} 1 & \\end{cases} }{",
    "macro soup": "\\" * 999,
    "macros that do not close": "\\newcommand{9" * 30,
    "roots that do not close": "\\sqrt[\\end{pmatrix}" * 30,
    "matrices in matrices": "\\begin{pmatrix}1&" * 20 + "\\\\2\\end{pmatrix}" * 20,
    "hats on hats": "\\hat{" * 30 + "x" + "}" * 30,
    "other scripts' digits": "٣٫١٤ ५ ５ Ⅷ ½ 五",
    "right to left": "\u202e5\u202c",
    "combining marks": "5" + "\u0301" * 500,
    "code": "__import__('os').system('touch justrl_was_here')",
    "code in braces": "{().__class__.__bases__[0].__subclasses__()}",
    "lambda": "lambda: exec(\"open('justrl_was_here','w')\")",
    "format fields": "{0.__class__} %s %n {question}",
    "infinity": "\\infty - \\infty",
    "not a number": "nan",
    "division by zero": "\\frac{1}{0}",
    "matrix": "\\begin{pmatrix}" + "1 & " * 200 + "\\end{pmatrix}" * 3,
    "units": "5" + " meters^9" * 300,
    "exponent of ten": "1e999999999",
    "underscored digits": "1_0" * 100,
}

GOLDS = ("5", "\\frac{1}{2}", "\\sqrt{5}+x", "(1,2]")


@pytest.fixture(scope="module")
def graders():
    """One of each rule grader, those with workers limited to a quarter of a second."""
    made = {"strict": get_grader("strict"), "paper": get_grader("paper")}
    made |= {name: get_grader(name, processes=2, timeout=0.25) for name in ("paper_rules", "symbolic")}
    yield made
    for grader in made.values():
        grader.close()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", RULE_GRADERS)
def test_monsters_are_graded_one_by_one(graders, name):
    """Each monster boxed, bare, and after half a megabyte of text."""
    shapes = [("\\boxed{", "}"), ("", ""), ("so " * 200_000 + "\\boxed{", "}.")]
    cases = {
        (before + monster + after, gold): label
        for label, monster in MONSTERS.items()
        for before, after in shapes
        # Only a gold that is no integer takes paper_rules as far as SymPy.
        for gold in (("5", "\\sqrt{5}") if name == "paper_rules" else ("5",))
    }
    grades = graders[name].grade_many(list(cases))
    assert {str(grade.outcome) for grade in grades} <= OUTCOMES
    # Units are dropped, however many there are: that one is right.
    assert {label for label, grade in zip(cases.values(), grades, strict=True) if grade.correct} <= {"units"}
    # A grader that has met monsters still knows right from wrong.
    assert [str(grade.outcome) for grade in graders[name].grade_many([("\\boxed{5}", "5"), ("\\boxed{4}", "5")])] == [
        "correct",
        "wrong",
    ]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", RULE_GRADERS)
def test_monsters_as_golds_are_no_harm_either(graders, name):
    short = [monster for monster in MONSTERS.values() if len(monster) < 10_000]
    grades = graders[name].grade_many([("\\boxed{\\frac{10}{2}}", monster) for monster in short])
    assert {str(grade.outcome) for grade in grades} <= OUTCOMES


FRAGMENTS = r"""
\boxed{ \frac \sqrt \left( \right] \text{ \begin{pmatrix} \end{pmatrix} ^ _ { } ( ) [ ] 9 99 0 x y pi \pi e i + - * **
/ ! = , . % \% $ & \\ \ ٣ sqrt( ln( 1e9 1_0 cm million \circ \infty \int \sum_{n=1}^{99} \lim_{x\to0} mod \cup
"""
PIECES = st.sampled_from([*FRAGMENTS.split(), " ", "\n", " or ", "\x00", "\ud800"])
SOUP = st.lists(PIECES, max_size=30).map("".join)


@pytest.mark.timeout(240)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(SOUP | st.text(), st.sampled_from(GOLDS) | SOUP), min_size=1, max_size=8))
def test_generated_monsters(graders, pairs):
    for before, after in (("", ""), ("\\boxed{", "}")):
        boxed = [(before + completion + after, gold) for completion, gold in pairs]
        for grader in graders.values():
            grades = grader.grade_many(boxed)
            assert len(grades) == len(boxed)
            for grade in grades:
                assert grade.outcome in OUTCOMES
                if grade.extracted is not None:
                    grade.extracted.encode("utf-8")


@pytest.mark.timeout(120)
def test_a_small_campaign_fools_symbolic_with_nothing():
    """bench/grader_campaign.py makes answers whose verdict is known by construction; it prints what is wrong."""
    campaign = Path(__file__).parents[2] / "bench" / "grader_campaign.py"
    result = subprocess.run(
        [sys.executable, campaign, "--count", "360", "--cheap", "360", "--seed", "7"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    table = result.stdout.partition("symbolic: 360 answers")[2]
    assert table.count(" accepted, ") == 36 and "0 false reject, 0 false accept" in table, table


WATCHED = """
import sys
watching, seen = False, []

def watch(event, arguments):
    if watching and event in ("compile", "exec", "os.system", "subprocess.Popen", "open", "os.exec"):
        code = arguments[0]
        name = getattr(code, "co_filename", arguments[1] if event == "compile" else "")
        # Modules that are imported late are compiled from, or loaded for, a file.
        if event not in ("compile", "exec") or str(name).startswith("<") and "frozen" not in str(name):
            seen.append((event, str(code)[:100]))

sys.addaudithook(watch)
from justrl.verifiers import expression, math_verify_worker, sympy_algebra
sympy_algebra.warm_up()
math_verify_worker.warm_up()
answers = sys.argv[1:]
for answer in answers:
    math_verify_worker.compare([answer, "2"])
    sympy_algebra.equal([answer, "2"])
watching = True
for answer in answers:
    print(math_verify_worker.compare([answer, "5"]), sympy_algebra.equal([answer, "5"]))
watching = False
foreign = [event for event in seen if event[0] != "open"]
assert not foreign, foreign
# The hook works: it sees what it is meant to see.
watching = True
eval("1+1")
watching = False
assert seen and seen[-1][0] in ("exec", "compile"), seen
"""


def test_nothing_is_evaluated_in_a_worker():
    """An audit hook watches the workers' own functions: no text is compiled or run, and no program started."""
    answers = ["5", "4.5", "10/2", "2+3", "x+\\frac{1}{2}", "\\sqrt{25}", "1e3", "(1+4)", MONSTERS["code"],
               MONSTERS["lambda"], MONSTERS["code in braces"], "50\\%", "sqrt(25)", "5 apples"]  # fmt: skip
    result = subprocess.run([sys.executable, "-c", WATCHED, *answers], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "correct True"
