r"""What a worker of the symbolic grader runs: math-verify with SymPy's text evaluation taken out.

math-verify 0.9 reads numbers with `sympy.Number(text)` and arithmetic without LaTeX with `parse_expr`. Both end in
`eval` (`Number` through `sympify`), if on text that its lexer or patterns have restricted to digits and operators. As
SymPy looks `parse_expr` up at the time of each call, replacing it here, before the library is imported, leaves no path
from text to `eval`: number literals are built by constructor, and other text goes through our own reader.

The library looks for a value in whatever it is given, and so finds one in what is none. Here the whole answer must be
the value: no number is picked out of text that is not read as LaTeX (`\neq 5`, `> 5`, `\foo 3 5`), an equation between
numbers must hold (`6=5`, and `1/3 \approx 0.333` to a hundredth), brackets must be the gold's, an interval may not be
empty by mistake (`(9,2]`), a number has no base (`52_8`) or modulus that the gold has not, a word is no product of its
letters, and what `\phantom` hides is not there.
"""

import re
from functools import lru_cache
from itertools import product
from typing import Any

import sympy
import sympy.parsing
import sympy.parsing.sympy_parser
from sympy import And, Eq
from sympy.core.relational import Relational

from justrl.verifiers.expression import evaluate
from justrl.verifiers.extraction import balanced_end
from justrl.verifiers.sympy_algebra import SympyAlgebra

_SCIENTIFIC = re.compile(r"(?<![\w.\\])([0-9]+(?:\.[0-9]*)?)[eE]([-+]?[0-9]+)(?![\w.])")
_SPACED_THOUSANDS = re.compile(r"(?<=[0-9])\\[,!;: ](?=[0-9]{3}(?![0-9]))")
_PHANTOM = re.compile(r"\\[hv]?phantom\s*(?=\{)")
_MATH_SIGNS = re.compile(r"(?<!\\)(?:\$|\\[()])")
_STYLED_NUMBER = re.compile(r"\\(?:text|math)(?:rm|bf|it)?\s*\{\s*([0-9][0-9.,]*)\s*\}")
# A formula set upright or bold as a whole.
_STYLED_FORMULA = re.compile(r"\\(?:text|math|mbox|boldsymbol)(?:rm|bf|it)?\s*\{(.*\\.*)\}", re.DOTALL)
_SIZES = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_AROUND_BRACKETS = re.compile(r"\s*((?<!\\)[,()\[\]])\s*")
_ASSIGNED_THOUSANDS = re.compile(r"(?<==)(\s*-?[0-9]{1,3})((?:,[0-9]{3})+)$")
_ABOUT = re.compile(r"^(?:[A-Za-z]\s*)?\\(?:approx|simeq)(?![A-Za-z])")
_APPROXIMATION = re.compile(r"\\(?:approx|simeq)(?![A-Za-z])")
# What the library reads past: the base of a number, a modulus.
_QUALIFIED = re.compile(r"[0-9)}]\s*_|\\[bp]?mod(?![A-Za-z])|\\equiv(?![A-Za-z])")
# A whole answer, or a whole element of a list, of three letters or more.
_WORD = re.compile(r"((?:^[(\[]?|,)\s*)([A-Za-z](?:\s*[A-Za-z]){2,})(?=\s*(?:[)\]]?$|,))")
_BRACKETED_LIST = re.compile(r"(\\\{|[(\[\]])[^()\[\]]*,[^()\[\]]*(\\\}|[)\]\[])")
_EMPTY_SET = re.compile(r"\\(?:emptyset|varnothing)|\\\{\s*\\\}")
_ALGEBRA = SympyAlgebra()


def parse_without_eval(text: str, *_: Any, **__: Any) -> sympy.Expr:
    """Stand in for SymPy's `parse_expr`; raises SyntaxError, as that does, for what is not plain arithmetic."""
    try:
        return evaluate(text.replace("\n", " "), _ALGEBRA)
    except ValueError as error:
        raise SyntaxError(f"not plain arithmetic: {error}") from error


sympy.parsing.sympy_parser.parse_expr = parse_without_eval
sympy.parsing.parse_expr = parse_without_eval
sympy.parse_expr = parse_without_eval

import math_verify  # noqa: E402 - must come after the replacement
from math_verify import LatexExtractionConfig, parse, verify  # noqa: E402


def _without_phantoms(text: str) -> str:
    """Take out what takes room on the page and is not seen, braces in braces too."""
    while (match := _PHANTOM.search(text)) and (end := balanced_end(text, match.end())):
        text = text[: match.start()] + text[end:]
    return text


def _tidy(answer: str) -> str:
    r"""Put what the library does not know its way: `4.5e33`, `10\,000`, `x=1,732`, `$`, a full stop at the end."""
    if (match := _STYLED_FORMULA.fullmatch(answer)) and balanced_end(answer, 0) == len(answer):
        answer = match[1]
    answer = _AROUND_BRACKETS.sub(r"\1", _SIZES.sub("", _STYLED_NUMBER.sub(r"\1", _MATH_SIGNS.sub("", answer))))
    answer = _ABOUT.sub("", _SPACED_THOUSANDS.sub("", answer.strip().removesuffix("."))).strip()
    answer = _ASSIGNED_THOUSANDS.sub(lambda match: match[1] + match[2].replace(",", ""), answer)
    return _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", answer)


# A gold is read for each answer to it, and an answer once more for what stands before an "about equal".
@lru_cache(maxsize=1024)
def _read(answer: str) -> tuple[Any, ...]:
    """Expressions (and the plain text last) that the library reads from a tidy answer."""
    if not re.search(r"\b(?:and|or)\b", answer):
        answer = _WORD.sub(lambda match: f"{match[1]}\\text{{{''.join(match[2].split()).lower()}}}", answer)
    read = parse(
        f"\\boxed{{{answer}}}",
        [LatexExtractionConfig()],
        # Where the box as a whole is not read, the library would look for formulas in it.
        extraction_mode="first_match",
        parsing_timeout=None,
        raise_on_error=True,
    )
    if _EMPTY_SET.search(answer):
        return tuple(read)
    return tuple(value for value in read if value is not sympy.S.EmptySet)


def _other_brackets(left: str, right: str) -> bool:
    """Whether both are lists in brackets, in different ones."""
    kinds = [match.group(1, 2) for text in (left, right) if (match := _BRACKETED_LIST.fullmatch(text))]
    return len(kinds) == 2 and kinds[0] != kinds[1]


def _false_equation(given: Any, wanted: Any) -> bool:
    """Whether an answer that is an equation, or a chain of them, has a number in it that the gold's value is not."""
    if isinstance(wanted, Eq) and wanted.lhs.is_Symbol:
        wanted = wanted.rhs
    if isinstance(wanted, Relational | And) or not isinstance(given, Eq | And):
        return False
    sides = {side for equation in given.atoms(Eq) for side in equation.args}
    return any(
        side.is_number and not verify(wanted, side, timeout_seconds=None, raise_on_error=True)
        for side in sides
        if isinstance(side, sympy.Expr)
    )


def _number(text: str) -> float | None:
    """The number that a text is read as, if it is one."""
    try:
        return next((float(value) for value in _read(text) if isinstance(value, sympy.Expr) and value.is_number), None)
    except (TypeError, ValueError):
        return None


def _false_approximation(answer: str) -> bool:
    """Whether what stands around an "about equal" is not about equal numbers."""
    if not _APPROXIMATION.search(answer):
        return False
    first, *others = [_number(side) for side in _APPROXIMATION.split(answer)]
    return any(first is None or other is None or abs(first - other) > 0.01 * max(1, abs(first)) for other in others)


def compare(pair: list[str]) -> str:
    """Outcome for (answer, gold): "correct", "wrong" or "unparsed"."""
    answer, gold = (_tidy(_without_phantoms(text)) for text in pair)
    if _other_brackets(answer, gold) or (_QUALIFIED.search(answer) and not _QUALIFIED.search(gold)):
        return "wrong"
    try:
        if _false_approximation(answer) and not _APPROXIMATION.search(gold):
            return "wrong"
        given, wanted = _read(_APPROXIMATION.split(answer)[0]), _read(gold)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the library raises whatever SymPy and ANTLR do; each means that it cannot read the text
        return "unparsed"
    failure: BaseException | None = None
    for left, right in product(wanted, given):
        try:
            if verify(left, right, timeout_seconds=None, raise_on_error=True) and not _false_equation(right, left):
                return "correct"
        except (MemoryError, RecursionError) as error:
            failure = error
        except Exception:  # an odd pair of types, compared in vain
            continue
    if failure is not None:
        raise failure
    return "wrong" if any(not isinstance(value, str) for value in given) else "unparsed"


def warm_up() -> None:
    """Load grammar and tables, so that the first item is not charged for them."""
    import logging

    logging.getLogger(math_verify.__name__).setLevel(logging.CRITICAL)
    compare(["\\frac{1}{2}+\\sqrt{2}", "\\sqrt{2}+0.5"])
    compare(["(1,2)", "\\{1,2\\}"])
