r"""What a worker of the symbolic grader runs: math-verify with SymPy's text evaluation taken out.

math-verify 0.9 reads numbers with `sympy.Number(text)` and arithmetic without LaTeX with `parse_expr`. Both end in
`eval` (`Number` through `sympify`), if on text that its lexer or patterns have restricted to digits and operators. As
SymPy looks `parse_expr` up at the time of each call, replacing it here, before the library is imported, leaves no path
from text to `eval`: number literals are built by constructor, and other text goes through our own reader.
"""

import re
from itertools import product
from typing import Any

import sympy
import sympy.parsing
import sympy.parsing.sympy_parser

from justrl.verifiers.expression import evaluate
from justrl.verifiers.sympy_algebra import SympyAlgebra

_SCIENTIFIC = re.compile(r"(?<![\w.\\])([0-9]+(?:\.[0-9]*)?)[eE]([-+]?[0-9]+)(?![\w.])")
_SPACED_THOUSANDS = re.compile(r"(?<=[0-9])\\[,!;: ](?=[0-9]{3}(?![0-9]))")
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
from math_verify import parse, verify  # noqa: E402


def _read(answer: str) -> list[Any]:
    r"""Expressions (and the plain text last) that the library reads from an answer.

    Three things that it does not know are put its way: `4.5e33`, `10\,000`, and a full stop at the end.
    """
    answer = _SPACED_THOUSANDS.sub("", answer.strip().removesuffix("."))
    answer = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", answer)
    return parse(f"\\boxed{{{answer}}}", parsing_timeout=None, raise_on_error=True)


def compare(pair: list[str]) -> str:
    """Outcome for (answer, gold): "correct", "wrong" or "unparsed"."""
    answer, gold = pair
    try:
        given, wanted = _read(answer), _read(gold)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # the library raises whatever SymPy and ANTLR do; each means that it cannot read the text
        return "unparsed"
    failure: BaseException | None = None
    for left, right in product(wanted, given):
        try:
            if verify(left, right, timeout_seconds=None, raise_on_error=True):
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
