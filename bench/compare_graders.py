"""Compare the paper_rules grader with the authors' released one, on each reference answer and on changed forms of it.

The authors' grader is not part of this project. Download `evals/utils.py` from thunlp/JustRL, install
`pylatexenc==2.10` on PYTHONPATH, and run

    python bench/compare_graders.py --authors-grader FILE --benchmarks DIR

It prints how many comparisons agree, and every one that does not. The authors' grader has no time limit, so it runs in
worker processes that have one. It evaluates its input; here it receives only reference answers and their changed forms.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from justrl.verifiers import get_grader
from justrl.verifiers.workers import GaveUp, WorkerPool

PATH_VARIABLE = "JUSTRL_AUTHORS_GRADER"


def _replacer(old: str, new: str) -> Callable[[str], str]:
    return lambda gold: gold.replace(old, new)


def _substituter(pattern: str, new: str) -> Callable[[str], str]:
    return lambda gold: re.sub(pattern, new, gold)


def _plus_one(gold: str) -> str:
    return str(int(gold) + 1) if re.fullmatch(r"-?\d+", gold) else f"{gold}+1"


def _commas(separator: str) -> Callable[[str], str]:
    return lambda gold: f"{int(gold):,}".replace(",", separator) if re.fullmatch(r"-?\d{4,}", gold) else gold


def _mixed(gold: str) -> str:
    match = re.fullmatch(r"\\d?frac\{(\d+)\}\{(\d+)\}", gold)
    if not match or int(match[1]) < int(match[2]):
        return gold
    whole, rest = divmod(int(match[1]), int(match[2]))
    return f"{whole}\\frac{{{rest}}}{{{match[2]}}}"


def _fraction(form: str, factor: int = 1) -> Callable[[str], str]:
    def change(gold: str) -> str:
        return re.sub(
            r"\\d?frac\{(-?\d+)\}\{(-?\d+)\}",
            lambda match: form.format(int(match[1]) * factor, int(match[2]) * factor),
            gold,
        )

    return change


def _decimal(digits: int) -> Callable[[str], str]:
    def change(gold: str) -> str:
        match = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold)
        return f"{match[1]}{int(match[2]) / int(match[3]):.{digits}f}" if match else gold

    return change


def _swapped_sum(gold: str) -> str:
    match = re.fullmatch(r"([^-+=,]+)\+([^-+=,]+)", gold)
    return f"{match[2]}+{match[1]}" if match else gold


def _swapped_tuple(gold: str) -> str:
    match = re.fullmatch(r"([(\[]?)([^,]+),(.+?)([)\]]?)", gold)
    return f"{match[1]}{match[3].strip()}, {match[2].strip()}{match[4]}" if match else gold


def _other_brackets(gold: str) -> str:
    return gold.translate(str.maketrans("()[]", "[]()")) if gold[:1] in ("(", "[") else gold


# Each changes a reference answer to another form, correct or wrong. A form that leaves it unchanged does not apply.
FORMS: dict[str, Callable[[str], str]] = {
    "spaces around": lambda gold: f"  {gold} ",
    "newline around": lambda gold: f"\n{gold}\n",
    "spaces inside": _substituter(r"([-+=,])", r" \1 "),
    "no spaces": _replacer(" ", ""),
    "thin spaces": _substituter(r"([-+=,])", r"\\,\1\\, "),
    "dollars": lambda gold: f"${gold}$",
    "dfrac": _replacer("\\frac", "\\dfrac"),
    "tfrac": _replacer("\\frac", "\\tfrac"),
    "cfrac": _replacer("\\frac", "\\cfrac"),
    "frac without braces": _substituter(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2"),
    "frac half braced": _substituter(r"\\frac\{(\d)\}\{", r"\\frac\1{"),
    "slash fraction": _fraction("{}/{}"),
    "bracketed fraction": _fraction("({})/({})"),
    "unreduced fraction": _fraction("\\frac{{{}}}{{{}}}", 2),
    "negated fraction": _fraction("\\frac{{{}}}{{{}}}", -1),
    "decimal": _decimal(6),
    "short decimal": _decimal(2),
    "half as .5": _replacer("\\frac{1}{2}", ".5"),
    "mixed number": _mixed,
    "trailing zeros": _substituter(r"^(-?\d+)$", r"\1.00"),
    "more decimals": _substituter(r"^(-?\d+\.\d+)$", r"\g<1>0"),
    "decimal point": _substituter(r"^(-?\d+)$", r"\1."),
    "leading zero": _substituter(r"^(\d+)$", r"0\1"),
    "plus sign": _substituter(r"^(\d)", r"+\1"),
    "minus sign": lambda gold: gold[1:] if gold.startswith("-") else f"-{gold}",
    "minus apart": _substituter(r"^-", "- "),
    "unicode minus": _replacer("-", "\u2212"),
    "off by one": _plus_one,
    "one added": lambda gold: f"{gold}+1",
    "plus one minus one": lambda gold: f"{gold}+1-1",
    "times one": lambda gold: f"1*({gold})",
    "times two halves": lambda gold: f"\\frac{{2({gold})}}{{2}}",
    "in brackets": lambda gold: f"({gold})",
    "in braces": lambda gold: f"{{{gold}}}",
    "in left right": lambda gold: f"\\left({gold}\\right)",
    "boxed again": lambda gold: f"\\boxed{{{gold}}}",
    "in text": lambda gold: f"\\text{{{gold}}}",
    "in mathrm": lambda gold: f"\\mathrm{{{gold}}}",
    "in mathbf": lambda gold: f"\\mathbf{{{gold}}}",
    "in mbox": lambda gold: f"\\mbox{{{gold}}}",
    "text opened": _substituter(r"\\text\{(.*?)\}", r"\1"),
    "textbf": _replacer("\\text", "\\textbf"),
    "full stop": lambda gold: f"{gold}.",
    "unit in text": lambda gold: f"{gold}\\text{{ cm}}",
    "unit, tight": lambda gold: f"{gold}\\text{{cm}}",
    "unit in mathrm": lambda gold: f"{gold}\\,\\mathrm{{cm}}^2",
    "unit in words": lambda gold: f"{gold} square meters",
    "two units": lambda gold: f"{gold}\\text{{ m}}\\text{{ s}}",
    "years": lambda gold: f"{gold} years",
    "degrees": lambda gold: f"{gold}^\\circ",
    "degrees, braced": lambda gold: f"{gold}^{{\\circ}}",
    "degrees off": _replacer("^\\circ", ""),
    "per cent": lambda gold: f"{gold}\\%",
    "per cent off": _replacer("\\%", ""),
    "dollar sign": lambda gold: f"\\${gold}",
    "x =": lambda gold: f"x={gold}",
    "k = ": lambda gold: f"k = {gold}",
    "f(x) =": lambda gold: f"f(x)={gold}",
    "left side off": _substituter(r"^[^=]*=", ""),
    "approx": lambda gold: f"\\approx {gold}",
    "thousands": _commas(","),
    "thousands, braced": _commas("{,}"),
    "thousands, tight": _commas(",\\!"),
    "thousands, thin": _commas("\\,"),
    "million": _substituter(r"000000$", " million"),
    "power of ten": _substituter(r"^(-?[\d.]+)e(-?\d+)$", r"\1 \\times 10^{\2}"),
    "power of ten, star": _substituter(r"^(-?[\d.]+)e(-?\d+)$", r"\1*10^\2"),
    "sqrt without braces": _substituter(r"\\sqrt\{(\d)\}", r"\\sqrt\1"),
    "sqrt spaced": _substituter(r"\\sqrt\{(\d+)\}", r"\\sqrt {\1}"),
    "sqrt as power": _substituter(r"\\sqrt\{(\d+)\}", r"\1^{1/2}"),
    "sqrt as 0.5 power": _substituter(r"\\sqrt\{(\d+)\}", r"(\1^0.5)"),
    "sqrt in words": _substituter(r"\\sqrt\{(\d+)\}", r"sqrt(\1)"),
    "sqrt unreduced": _substituter(r"(\d+)\\sqrt\{(\d+)\}", r"\\sqrt{\1*\1*\2}"),
    "sqrt off by one": _substituter(r"\\sqrt\{(\d+)\}", r"\\sqrt{1\1}"),
    "cube root": _replacer("\\sqrt{", "\\sqrt[3]{"),
    "cdot": _substituter(r"(\d)( ?)\\(sqrt|pi)", r"\1 \\cdot \\\3"),
    "times": _substituter(r"(\d)( ?)\\(sqrt|pi)", r"\1 \\times \\\3"),
    "star": _substituter(r"(\d)( ?)\\(sqrt|pi)", r"\1*\\\3"),
    "pi as letter": _replacer("\\pi", "\u03c0"),
    "pi in words": _replacer("\\pi", "pi"),
    "pi as number": _replacer("\\pi", "3.14159"),
    "swapped sum": _swapped_sum,
    "swapped tuple": _swapped_tuple,
    "other brackets": _other_brackets,
    "brackets off": _substituter(r"^[(\[](.*)[)\]]$", r"\1"),
    "braces for brackets": _substituter(r"^[(\[](.*)[)\]]$", r"\\{\1\\}"),
    "and": _replacer(",", " and "),
    "or in text": _replacer(",", "\\text{ or }"),
    "semicolons": _replacer(",", ";"),
    "powers unbraced": _substituter(r"\^\{(\w)\}", r"^\1"),
    "powers braced": _substituter(r"\^(\w)", r"^{\1}"),
    "python powers": _substituter(r"\^\{?(\w+)\}?", r"**\1"),
    "subscript braced": _substituter(r"_(\d)", r"_{\1}"),
    "subscript off": _substituter(r"_\{?\d\}?", ""),
    "other letter": _replacer("n", "m"),
    "upper case": str.upper,
    "lower case": str.lower,
    "factorial": lambda gold: f"{gold}!",
    "matrix brackets": _replacer("pmatrix", "bmatrix"),
    "pm as two": _substituter(r"(.*)\\pm (.*)", r"\1+\2, \1-\2"),
    "ninth digits": lambda gold: gold.translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")),
    "full width": lambda gold: gold.translate(str.maketrans("0123456789", "０１２３４５６７８９")),
    "in words": lambda gold: f"the answer is {gold}",
    "twice": lambda gold: f"{gold},{gold}",
    "first part": lambda gold: gold.split(",")[0],
    "empty": lambda gold: "",
    "last brace lost": lambda gold: gold[:-1] if gold.endswith("}") else gold,
}


def theirs(item: list[str]) -> bool:
    """Run the authors' grader on one (completion, reference answer), in a worker."""
    global _authors
    if "_authors" not in globals():
        spec = importlib.util.spec_from_file_location("authors_grader", os.environ[PATH_VARIABLE])
        _authors = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_authors)
    with contextlib.redirect_stdout(io.StringIO()):
        return bool(_authors.grade_answer_verl(*item))


def warm_up() -> None:
    """Import the authors' grader and its dependencies before the time limit starts."""
    theirs(["\\boxed{\\sqrt{4}+x}", "x+2"])


def read_golds(folder: Path) -> dict[str, list[str]]:
    """The reference answers of every benchmark file, unchanged (boxes and dollar signs included)."""
    from pyarrow import parquet

    golds = {}
    for path in sorted(folder.glob("*.parquet")):
        rows = parquet.read_table(path).to_pylist()
        golds[path.stem] = [
            str(row["reward_model"]["ground_truth"] if "reward_model" in row else row["answer"]) for row in rows
        ]
    return golds


def comparisons(golds: list[str]) -> dict[tuple[str, str], str]:
    """(completion, reference answer) -> name of the form; each answer is also compared with itself."""
    pairs = {}
    for gold in dict.fromkeys(golds):
        bare = gold[len("\\boxed{") : -1] if gold.startswith("\\boxed{") else gold
        forms = {"itself": bare} | {name: change(bare) for name, change in FORMS.items()}
        for name, form in forms.items():
            pairs.setdefault((f"Hence \\boxed{{{form}}}.", gold), name)
    return pairs


def random_comparisons(golds: list[str], count: int, seed: int) -> dict[tuple[str, str], str]:
    """Like `comparisons`, with two successive changes, and sometimes with the answer to another question."""
    chance = random.Random(seed)
    pairs = {}
    while len(pairs) < count:
        gold = chance.choice(golds)
        answer = chance.choice(golds) if chance.random() < 0.2 else gold
        names = chance.sample(sorted(FORMS), 2)
        for name in names:
            answer = FORMS[name](answer)
        pairs[f"Hence \\boxed{{{answer}}}.", gold] = f"{names[0]}, {names[1]}"
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--authors-grader", type=Path, required=True, help="evals/utils.py of thunlp/JustRL")
    parser.add_argument("--benchmarks", type=Path, required=True, help="folder of the nine benchmark Parquet files")
    parser.add_argument("--random", type=int, default=20_000, help="comparisons of doubly changed golds to add")
    parser.add_argument("--seed", type=int, default=0, help="of the random comparisons")
    parser.add_argument("--workers", type=int, default=2, help="processes for each grader")
    parser.add_argument("--timeout", type=float, default=20.0, help="processor seconds for one comparison")
    arguments = parser.parse_args()

    os.environ[PATH_VARIABLE] = str(arguments.authors_grader.resolve())
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    golds = read_golds(arguments.benchmarks)
    pairs = comparisons([gold for column in golds.values() for gold in column])
    pairs |= random_comparisons(
        [gold for column in golds.values() for gold in column], arguments.random, arguments.seed
    )
    print(f"{sum(map(len, golds.values()))} golds in {len(golds)} benchmarks, {len(pairs)} distinct comparisons")

    start = time.perf_counter()
    with get_grader("paper_rules", processes=arguments.workers, timeout=arguments.timeout) as grader:
        ours = grader.grade_many(list(pairs))
    print(f"ours: {time.perf_counter() - start:.0f} s, {dict(Counter(str(grade.outcome) for grade in ours))}")
    start = time.perf_counter()
    pool = WorkerPool("compare_graders:theirs", arguments.workers, arguments.timeout)
    verdicts = pool.map([list(pair) for pair in pairs])
    pool.close()
    counts = Counter("gave up" if isinstance(verdict, GaveUp) else verdict for verdict in verdicts)
    print(f"theirs: {time.perf_counter() - start:.0f} s, {dict(counts)}")

    agreed = 0
    for ((completion, gold), name), grade, verdict in zip(pairs.items(), ours, verdicts, strict=True):
        if verdict is grade.correct and grade.outcome != "timeout":
            agreed += 1
        else:
            print(f"  [{name}] gold {gold!r} answer {completion[13:-2]!r}: ours {grade.outcome}, theirs {verdict}")
    print(f"agree on {agreed} of {len(pairs)}")
    return 0 if agreed == len(pairs) else 1


if __name__ == "__main__":
    sys.exit(main())
