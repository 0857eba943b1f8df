r"""Strip formatting from an answer: fonts, sizes, colours, spaces, markdown and invisible characters.

The result has the same meaning, with one spelling per notation. Words stay marked: `\text{...}` holds words and nothing
else. Nothing meaningful is removed, so text next to a value stays next to it.
"""

import re

from justrl.verifiers.extraction import balanced_end

# Characters that have a LaTeX name, and invisible ones.
_GREEK_LETTERS = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi psi omega
    Gamma Delta Theta Lambda Pi Sigma Phi Psi Omega mu phi
"""
_CHARACTERS = {
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u2061\u2062", ""),
    **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t\r\n", " "),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2032\u2019", "'"), **dict.fromkeys("\u2033\u201c\u201d", '"'),
    "×": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∗": "*", "÷": "/", "∕": "/", "⁄": "/", "±": r"\pm ", "∓": r"\mp ",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ",
    "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∞": r"\infty ", "∅": r"\emptyset ", "°": r"^\circ ", "º": r"^\circ ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "…": r"\dots ", "∠": r"\angle ", "ℝ": r"\mathbb{R}", "∣": "|", "€": r"\text{euros}", "£": r"\text{pounds}",
    **dict(zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", (
        rf"\frac{{{top}}}{{{bottom}}}" for top, bottom in ("12", "13", "23", "14", "34", "15", "25", "35", "45", "16",
                                                           "56", "18", "38", "58", "78")), strict=True)),
    **{greek: rf"\{name} " for greek, name in zip(
        "αβγδεζηθικλμνξπρστφχψωΓΔΘΛΠΣΦΨΩµϕ", _GREEK_LETTERS.split(), strict=True)},
}  # fmt: skip
_TRANSLATION = str.maketrans(_CHARACTERS)
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿⁱ", "0123456789-+ni", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_ROOT = re.compile(r"√\s*([0-9]+(?:\.[0-9]+)?|[A-Za-z])?")

_FONT_NAMES = """
    mathbf mathit mathsf mathtt mathnormal boldsymbol bm bold pmb underline emph underset ensuremath boxed fbox
    displaystyle mathstrut smash mathopen mathclose mathord mathbin
"""
_FONTS = _FONT_NAMES.split()
_UPRIGHT_NAMES = """
    text textrm textbf textit textsf texttt textmd textup textsl textsc textnormal mbox hbox mathrm rm
"""
_UPRIGHT = _UPRIGHT_NAMES.split()
_OPERATOR_NAMES = ("mathrm", "operatorname", "operatorname*")
_SWITCH_NAMES = """
    displaystyle textstyle scriptstyle tiny small footnotesize normalsize large Large LARGE huge Huge bf it rm sf tt
    bfseries itshape centering limits nolimits nobreak allowbreak noindent
"""
_SWITCHES = _SWITCH_NAMES.split()
_ARGUMENT_DROPPED = re.compile(r"\\(?:[hv]?phantom|tag\*?|label|[hv]space\*?|vphantom|color|pagecolor)\s*(?=\{)")
_COLOURED = re.compile(r"\\(?:textcolor|colorbox)\s*\{[^{}]*\}\s*(?=\{)")
_FONT = re.compile(rf"\\({'|'.join(map(re.escape, (*_FONTS, *_UPRIGHT, *_OPERATOR_NAMES)))})\s*(?=\{{)")
# Font commands without an argument in braces are switches, too.
_SWITCH = re.compile(rf"\\(?:{'|'.join((*_SWITCHES, *_FONTS, 'mathrm'))})(?![A-Za-z])")
_SIZE = re.compile(r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\s*\.?")
_MATH_SIGN = re.compile(r"(?<!\\)\$|\\[()]|(?<!\\)\\[\[\]]")
_BREAK = re.compile(r"\\\\(?:\[[^\]]*\])?|\\newline(?![A-Za-z])")
_GROUPED = re.compile(
    r"(?<![0-9.])([0-9]{1,3})((?:(?:\\[,!;: ]|\{,\}|,\\!|~|\\thinspace| |(?:,\\! ))+[0-9]{3})+)(?![0-9])"
)
_SPACE = re.compile(
    r"(?<!\\)\\[,!;:> ]|~|\\(?:quad|qquad|thinspace|enspace|medspace|thickspace|negthinspace)(?![A-Za-z])"
)
_MARKDOWN = re.compile(r'(\*\*\*|\*\*|__|\*|`{1,3}|_|")(.+)\1', re.DOTALL)
_OVER = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}")
# Alternative spellings of a command or sign.
_SPELLINGS = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"\\(?:[cs]frac|nicefrac)(?![A-Za-z])", r"\\frac"),
        (r"\.\.\.|\\(?:ldots|cdots|dots[bcm]|vdots)(?![A-Za-z])", r"\\dots "),
        (r"\^\s*\{\s*\\(?:circ|degree)\s*\}|(?:\^\s*)?\\degree(?![A-Za-z])", r"^\\circ "),
        (r"\\text\{degrees?\}", r"^\\circ "),
        (r"\^\\circ\s*([CF])(?![A-Za-z])", r"^\\circ \\text{\1}"),
        (r"\(?\s*\\text\{base\}\s*([0-9]+)\s*\)?$", r"_{\1}"),
        (r"\\colon(?![A-Za-z])", ":"),
        (r"(?<![_^])\{\s*([-+])\s*\}", r"\1"),
    )
]
_ALIGNED = re.compile(r"\\begin\{(aligned|align\*?|gathered|gather\*?|split|equation\*?)\}(.*)\\end\{\1\}", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z](?:[A-Za-z]|[ '-]+(?=[A-Za-z]))*")
_CONJUNCTION = re.compile(r"(?<![A-Za-z])(and|or)(?![A-Za-z])")
_FUNCTIONS_SPELT = re.compile(r"\b(?:np|numpy|math|sp|sympy)\.(?=[a-z])")
_SCIENTIFIC = re.compile(r"(?<![\w.\\{}])([0-9]+(?:\.[0-9]+)?)[eE]([-+]?[0-9]+)(?![\w.])")
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*\{([0-9]+)\}(?![0-9])")
_MIXED = re.compile(r"(?<![0-9.,/^_{])([0-9]+) +([0-9]+)/([0-9]+)(?![0-9/])")
_CONTINUED = re.compile(r"\\\\\s*(?=[=<>]|\\(?:le|ge|approx)[a-z]*)")
_COMBINATIONS = re.compile(r"(?:\{\s*\})?[_^]\s*\{?([0-9A-Za-z]+)\}?\s*C\s*_\s*\{?([0-9A-Za-z]+)\}?")
_WORD_BELOW = re.compile(r"_\s*(?:\{\s*\\text\{([^{}]*)\}\s*\}|\\text\{([^{}]*)\})")
_ENDS = re.compile(r"(?:\s|[.;,:]|\\\\)+$")


def undress(answer: str) -> str:
    """Strip the formatting of an answer. Unbalanced braces are left unchanged."""
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1]}}}" if match[1] else r"\sqrt ", answer.translate(_TRANSLATION))
    text = _scripts(_scripts(text, _RAISED, "^"), _LOWERED, "_")
    text = _drop_arguments(_MATH_SIGN.sub("", _BREAK.sub(r" \\\\ ", text)))
    text = _open_fonts(_COLOURED.sub("", text))
    text = _SWITCH.sub(" ", _SIZE.sub(" ", text))
    text = _GROUPED.sub(lambda match: match[1] + re.sub("[^0-9]", "", match[2]), text)
    text = _OVER.sub(r"\\frac{\1}{\2}", _SPACE.sub(" ", text))
    text = _WORD_BELOW.sub(lambda match: f"_{{{match[1] or match[2]}}}", _bare(text))
    for pattern, new in _SPELLINGS:
        text = pattern.sub(new, text)
    text = _REPEATING.sub(_repeating, text)
    text = _COMBINATIONS.sub(r"\\binom{\1}{\2}", text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", _FUNCTIONS_SPELT.sub("", text).replace("**", "^"))
    return _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)


def _scripts(text: str, table: dict[str, str], sign: str) -> str:
    """Rewrite superscript or subscript characters with `^` or `_`."""
    if not any(character in table for character in text):
        return text
    run = re.compile(f"[{''.join(table)}]+")
    return run.sub(lambda match: f"{sign}{{{''.join(table[character] for character in match[0])}}}", text)


def _drop_arguments(text: str) -> str:
    """Remove commands whose argument is not part of the answer: colours, labels, invisible text."""
    while (match := _ARGUMENT_DROPPED.search(text)) and (end := balanced_end(text, match.end())):
        text = text[: match.start()] + " " + text[end:]
    return text


def _open_fonts(text: str) -> str:
    r"""Remove font commands around their arguments, innermost first, in one pass. Words stay in `\text{...}`."""
    start = len(text)
    while (start := text.rfind("\\", 0, start)) >= 0:
        match = _FONT.match(text, start)
        end = balanced_end(text, match.end()) if match else None
        if match is None or end is None:
            continue
        inner, after = text[match.end() + 1 : end - 1], text[end:]
        text = text[:start] + _set_in(match[1], inner) + after
    return text


def _set_in(font: str, inner: str) -> str:
    if font not in _FONTS and inner.strip() in ("e", "i", "d"):
        return f" {inner.strip()} "
    if font not in _FONTS and inner.strip() in FUNCTION_NAMES:
        return f"\\{inner.strip()} "
    if (font not in _UPRIGHT and font not in _OPERATOR_NAMES) or "\\" in inner:
        return f"{inner}" if len(inner) == 1 or re.fullmatch(r"[0-9.,]+", inner) else f" {inner} "
    return _WORDS.sub(_marked, inner)


def _marked(match: re.Match[str]) -> str:
    r"""Put words in `\text`, with each conjunction in a `\text` of its own."""
    parts = [part.strip() for part in _CONJUNCTION.split(match[0])]
    return "".join(f" \\text{{{part}}} " for part in parts if part)


def _repeating(match: re.Match[str]) -> str:
    r"""Rewrite a repeating decimal such as `0.1\overline{6}` as a fraction."""
    whole, once, again = match.groups()
    difference = int(whole + once + again) - int((whole + once) or 0)
    return rf"\frac{{{difference}}}{{{'9' * len(again)}{'0' * len(once)}}}"


def _bare(text: str) -> str:
    """Strip wrappers of the whole answer: markdown, one-line environments, braces, a full stop."""
    while True:
        shorter = _ENDS.sub("", text.strip()).strip()
        if match := _ALIGNED.fullmatch(shorter):
            shorter = _CONTINUED.sub(" ", match[2].replace("&", " "))
        elif (match := _MARKDOWN.fullmatch(shorter)) and match[1] not in match[2]:
            shorter = match[2]
        elif shorter.startswith("{") and balanced_end(shorter, 0) == len(shorter):
            shorter = shorter[1:-1]
        if shorter == text:
            return text
        text = shorter


_FUNCTION_NAMES = """
    sin cos tan cot sec csc arcsin arccos arctan arccot asin acos atan sinh cosh tanh coth ln log lg exp sqrt
"""
FUNCTION_NAMES = frozenset(_FUNCTION_NAMES.split())
