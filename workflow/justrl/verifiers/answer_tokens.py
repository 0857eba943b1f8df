r"""Split the tokens of an answer: list items, sides of a relation, a value and its unit."""

import re

from justrl.verifiers.latex_reader import NAMING, NotRead, Token
from justrl.verifiers.units import (
    DEGREE,
    DOLLAR,
    KNOWN,
    MULTIPLES,
    NEGATIONS,
    PERCENT,
    Unit,
    unit_of,
    words_with_powers,
)

OPEN = frozenset({"(", "[", "{", "\\{", "\\lbrace", "\\langle", "\\lfloor", "\\lceil", "\\lbrack", "\\lvert"})
CLOSE = frozenset({")", "]", "}", "\\}", "\\rbrace", "\\rangle", "\\rfloor", "\\rceil", "\\rbrack", "\\rvert"})
LESS = {"<": True, "\\lt": True, "\\le": False, "\\leq": False, "\\leqslant": False}
MORE = {">": True, "\\gt": True, "\\ge": False, "\\geq": False, "\\geqslant": False}
UNEQUAL = frozenset({"\\neq", "\\ne"})
ABOUT = frozenset({"\\approx", "\\simeq", "\\approxeq"})
EQUAL = frozenset({"=", "\\equiv", "\\coloneqq"})
RELATIONS = frozenset({*LESS, *MORE, *UNEQUAL, *ABOUT, *EQUAL, "\\in"})
_THOUSANDS = re.compile(r"(?<![0-9,.])([1-9][0-9]{0,2})((?:,[0-9]{3})+)(?![0-9]|,[0-9]|\.[0-9]+,)")
_NO_NAMES = frozenset({"^", "\\frac", "\\dfrac", "\\tfrac", "\\sqrt", "\\binom"})
_TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])


def joined(tokens: list[Token]) -> str:
    """Join the tokens without spaces, as a canonical spelling."""
    return "".join(f"\\text{{{token.text}}}" if token.kind == "text" else token.text for token in tokens)


def thousands_joined(text: str) -> str | None:
    """Remove thousands commas, as in `1,234`. Returns None if there are none, or if the text begins with a bracket."""
    if text[:1] in ("(", "[") or text.startswith(("\\{", "\\langle")):
        return None
    shorter = _THOUSANDS.sub(lambda match: match[1] + match[2].replace(",", ""), text)
    return shorter if shorter != text else None


def split(tokens: list[Token], separators: set[str]) -> list[list[Token]]:
    """Split at the separators that are not inside brackets."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += 0 if token.kind == "text" else (token.text in OPEN) - (token.text in CLOSE)
        if depth == 0 and token.text in separators:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def list_items(tokens: list[Token]) -> tuple[list[list[Token]], str]:
    """Split a list without brackets into items. Also returns the conjunction between them, "" if none or mixed."""
    separators = {";", "\\\\"} if any(token.text == ";" for token in tokens) else {",", "\\\\"}
    items: list[list[Token]] = []
    conjunctions = set()
    for part in split(tokens, separators):
        words = split(part, {"or", "and"})
        if len(words) > 1:
            conjunctions |= {token.text for token in part if token.text in ("or", "and")}
            if not words[0] and items:
                words = words[1:]
        items += words
    return items, conjunctions.pop() if len(conjunctions) == 1 else ""


def sides_of(tokens: list[Token]) -> tuple[list[list[Token]], list[str]]:
    sides: list[list[Token]] = [[]]
    relations: list[str] = []
    depth = 0
    for token in tokens:
        depth += 0 if token.kind == "text" else (token.text in OPEN) - (token.text in CLOSE)
        if depth == 0 and token.kind != "text" and token.text in RELATIONS:
            relations.append(token.text)
            sides.append([])
        else:
            sides[-1].append(token)
    return sides, relations


def both_signs(tokens: list[Token]) -> list[list[Token]]:
    def signed(plus: str, minus: str) -> list[Token]:
        signs = {"\\pm": plus, "\\mp": minus}
        return [Token("sign", signs[token.text]) if token.text in signs else token for token in tokens]

    return [signed("+", "-"), signed("-", "+")]


def closes(tokens: list[Token]) -> bool:
    """Whether the last token closes the first bracket."""
    depth = 0
    for place, token in enumerate(tokens):
        depth += 0 if token.kind == "text" else (token.text in OPEN) - (token.text in CLOSE)
        if depth == 0:
            return place == len(tokens) - 1
    return False


def is_name(tokens: list[Token]) -> bool:
    r"""Whether a side of an equation is just a name: `x`, `f(2)`, `m+n`, `\angle ABC`, `\text{Area}`, `(x,y)`."""
    depth = 0
    letters = False
    for place, token in enumerate(tokens):
        if depth == 0 and token.text in _NO_NAMES and tokens[place + 1 : place + 2] != [Token("command", "\\prime")]:
            return False
        deeper = (token.text in OPEN) - (token.text in CLOSE) if token.kind != "text" else 0
        depth += deeper
        before = tokens[place - 1].text if place else ""
        if token.kind == "number" and depth == 0 and before != "_":
            return False
        if token.kind == "command" and token.text[1:] not in NAMING and token.text not in OPEN | CLOSE:
            return False
        if token.kind == "text" and NEGATIONS & set(token.text.lower().split()):
            return False
        letters |= token.kind in ("name", "text") or token.text[1:] in NAMING
    return letters and joined(tokens) not in ("e", "i", "\\pi")


def take_modulus(tokens: list[Token]) -> tuple[list[Token], list[Token] | None]:
    r"""Split `\pmod{7}` or `\mod 7` off the end. Returns the rest and the modulus, or None."""
    place = next((i for i, token in enumerate(tokens) if token.text in ("\\pmod", "\\bmod", "\\mod", "\\pod")), None)
    if place is None:
        return tokens, None
    return tokens[:place], tokens[place + 1 :]


def take_unit(tokens: list[Token]) -> tuple[list[Token], Unit | None, int]:
    r"""Split off a unit (`\$`, `\%`, a degree sign, words) and multiples. Raises NotRead for other words."""
    if tokens and tokens[0].text == "\\$":
        rest, unit, multiple = take_unit(tokens[1:])
        if unit is not None:
            raise NotRead("two units")
        return rest, DOLLAR, multiple
    if len(tokens) > 1 and tokens[0].text == "-" and tokens[1].text == "\\$":
        return [tokens[0], *tokens[2:]], DOLLAR, 1
    texts = [token.text for token in tokens]
    plain = not any(token.kind == "command" and token.text[1:] in _TRIGONOMETRIC for token in tokens)
    for ending, unit in ((["\\%"], PERCENT), (["%"], PERCENT), (["\\$"], DOLLAR),
                         (["^", "\\circ"], DEGREE), (["^", "{", "\\circ", "}"], DEGREE)):  # fmt: skip
        before = texts[: -len(ending)]
        if texts[-len(ending) :] == ending and (unit is not DEGREE or (plain and "\\circ" not in before)):
            return tokens[: -len(ending)], unit, 1
    end = next((i for i, t in enumerate(tokens) if t.kind == "text" or (t.kind == "name" and _spelt_out(t.text))), None)
    if end is None:
        return tokens, None, 1
    return _worded(tokens[:end], tokens[end:])


def _spelt_out(name: str) -> bool:
    return len(name) > 2 and (name.lower() in KNOWN or name.lower() in MULTIPLES)


def _worded(tokens: list[Token], behind: list[Token]) -> tuple[list[Token], Unit | None, int]:
    """Parse the words after a value as a multiple and a unit."""
    multiple = 1
    words: list[tuple[str, int]] = []
    degrees = [token.text for token in tokens[-2:]] == ["^", "\\circ"]
    place, sign = 0, 1
    while place < len(behind):
        token = behind[place]
        place += 1
        if token.kind in ("text", "name"):
            parts = token.text.split()
            while parts and not words and parts[0].lower() in MULTIPLES:
                multiple *= MULTIPLES[parts.pop(0).lower()]
            if not parts:
                continue
            found = words_with_powers(" ".join(parts), sign)
            if found is None:
                raise NotRead("words that are no unit")
            words += found
            sign = 1
        elif token.text == "/" and words:
            sign = -1
        elif token.text in ("\\cdot", "*") and words:
            sign = 1
        elif token.text == "^" and words:
            exponent = re.match(r"\{?(-?[0-9])\}?", joined(behind[place:]))
            if exponent is None:
                raise NotRead("a unit with an exponent that is no digit")
            place += len(exponent[0])
            words[-1] = (words[-1][0], words[-1][1] * int(exponent[1]))
        else:
            raise NotRead(f"{token.text!r} among units")
    if degrees:
        if words not in ([("C", 1)], [("F", 1)]):
            raise NotRead("words behind degrees")
        return tokens[:-2], KNOWN["Celsius" if words[0][0] == "C" else "Fahrenheit"], multiple
    if not words:
        return tokens, None, multiple
    if not tokens or (unit := unit_of(words)) is None:
        raise NotRead("words that are no unit")
    return tokens, unit, multiple
