r"""Normalise answers by string rules alone, so that equal answers get the same text.

Both normalisations decide as the authors' released grader does (thunlp/JustRL, `evals/utils.py`, which took them from
the graders of the MATH dataset and PRM800K). The code here is our own:

- `mathd_form`: the answer stays LaTeX; fractions, roots, degrees, units and spaces get one spelling each.
- `plain_form`: the LaTeX becomes text that an expression reader can parse.

Both are surprisingly lenient (`plain_form` turns `10\,000` into `10+000`, and integers go through a float). We keep
that because the published numbers were computed with it; tests/unit/test_verifiers_authors_rules.py has examples.
"""

import re

from justrl.verifiers.latex_text import LatexError, latex_to_text

_WHOLE_TEXT = re.compile(r"^\\text\{(?P<text>.+?)\}$")
_UNITS = tuple(
    re.compile(rf"{unit}(?:es)?s? *(?:\^[0-9]+)?")
    for unit in (
        "degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "day", "week", "month", "year",
        "foot", "feet", "inch", "yard",
    )
)  # fmt: skip
_THOUSANDS = re.compile(r"(\d),(\d\d\d)($|\D)")


class _Malformed(ValueError):
    """The normalisation cannot parse a LaTeX fragment; the answer is then left unchanged."""


def mathd_form(answer: str) -> str:
    r"""Normal form of an answer in LaTeX, after the MATH dataset's grader. Never raises on a string."""
    answer = answer.strip()
    if match := _WHOLE_TEXT.search(answer):
        answer = match["text"].strip()
    try:
        return _mathd_rules(answer)
    except _Malformed:
        return answer


def _mathd_rules(text: str) -> str:
    for old, new in (("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""),
                     ("\\right", ""), ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", "")):  # fmt: skip
        text = text.replace(old, new)
    text = _without_unit(text)
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    left, *rest = text.split("=")
    if len(rest) == 1 and len(left) <= 2:
        text = rest[0]
    text = _braced_roots(text).replace(" ", "")
    text = _braced_fractions(text)
    if text == "0.5":
        return "\\frac{1}{2}"
    return _slash_to_fraction(text)


def _without_unit(text: str) -> str:
    r"""Drop a unit written as `\text{ cm}`. Raises `_Malformed` for two of them, which the rule cannot tell apart."""
    if "\\text{ " not in text:
        return text
    before, *after = text.split("\\text{ ")
    if len(after) != 1:
        raise _Malformed
    return before


def _braced_roots(text: str) -> str:
    r"""Write `\sqrt3` as `\sqrt{3}`."""
    first, *pieces = text.split("\\sqrt")
    if "" in pieces:
        raise _Malformed
    return first + "".join("\\sqrt" + (piece if piece[0] == "{" else f"{{{piece[0]}}}{piece[1:]}") for piece in pieces)


def _braced_fractions(text: str) -> str:
    r"""Write `\frac12` and `\frac1{72}` with braces around both parts."""
    first, *pieces = text.split("\\frac")
    parts = [first]
    for piece in pieces:
        if not piece:
            raise _Malformed
        if piece[0] == "{":
            parts.append(piece)
        elif len(piece) == 1:
            return text
        elif piece[1] == "{":
            parts.append(f"{{{piece[0]}}}{piece[1:]}")
        else:
            parts.append(f"{{{piece[0]}}}{{{piece[1]}}}{piece[2:]}")
    return "\\frac".join(parts)


def _slash_to_fraction(text: str) -> str:
    r"""Write `3/4`, two plain integers, as `\frac{3}{4}`."""
    if re.fullmatch(r"(?:0|-?[1-9][0-9]*)/(?:0|-?[1-9][0-9]*)", text):
        return "\\frac{{{}}}{{{}}}".format(*text.split("/"))
    return text


def plain_form(answer: str) -> str:
    r"""Normal form of an answer as lower-case text without LaTeX, after PRM800K's grader. Never raises on a string."""
    text = answer
    if match := _WHOLE_TEXT.search(text):
        text = match["text"]
    for old, new in (("\\%", "%"), ("\\$", "$"), ("$", ""), ("%", ""), (" or ", " , "), (" and ", " , "),
                     ("million", "*10^6"), ("billion", "*10^9"), ("trillion", "*10^12")):  # fmt: skip
        text = text.replace(old, new)
    for unit in _UNITS:
        text = unit.sub("", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text[:1] == "{" and text[-1:] == "}":
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    if (number := whole_number(text, commas=False)) is not None:
        text = str(number)
    if "\\" in text:
        text = _latex_as_text(text)
    text = re.sub("- *", "-", text)
    # A mixed number: 7 3/4 means 7+3/4.
    text = re.sub("([0-9]) +([0-9])", r"\1+\2", text)
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    if whole_number(text) is not None:
        text = str(int(float(text.replace(",", ""))))
    return text


def _latex_as_text(text: str) -> str:
    text = text.replace("\\tfrac", "\\frac").replace("\\dfrac", "\\frac")
    # The space separates the parts of a mixed number: 3\frac12 is 3 1/2.
    text = text.replace("\\frac", " \\frac")
    try:
        rendered = latex_to_text(text)
    except LatexError:
        return text
    for old, new in (("√", "sqrt"), ("π", "pi"), ("∞", "inf"), ("∪", "U"), ("·", "*"), ("×", "*")):
        rendered = rendered.replace(old, new)
    return rendered.strip()


def without_thousands_commas(text: str) -> str:
    """Remove thousands commas, as in `1,234`, but not those of a tuple.

    Of adjacent commas only every other one goes.
    """
    while (shorter := _THOUSANDS.sub(r"\1\2\3", text)) != text:
        text = shorter
    return text


def whole_number(text: str, commas: bool = True) -> int | None:
    """The integer that `text` denotes to within 1e-7, as Python's `float` reads it, or None."""
    if commas:
        text = without_thousands_commas(text)
    try:
        value = float(text)
        rounded = round(value)
    except (ValueError, OverflowError):
        return None
    return rounded if abs(value - rounded) <= 1e-7 else None
