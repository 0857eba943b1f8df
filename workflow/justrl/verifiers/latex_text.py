r"""LaTeX to plain text, the way the authors' evaluation sees it.

Their grader passes every answer with a backslash through `pylatexenc` 2.10 (`LatexNodes2Text().latex_to_text`) before
comparing. This is a small reader of our own that renders what occurs in answers as that library does, including what
reads oddly: `\frac{a}{b}` becomes `a/b` without parentheses, `\sqrt[3]{2}` loses its index, and a macro that the
library does not know (`\cot`, `\sec`, `\gcd`, `\ne`, `\mbox`) vanishes. Nothing is evaluated.
"""

import unicodedata

MAX_DEPTH = 40

_SYMBOL_TABLE = """
alpha:α beta:β gamma:γ delta:δ epsilon:ϵ zeta:ζ eta:η theta:θ iota:ι kappa:κ lambda:λ mu:μ nu:ν xi:ξ
omicron:ο pi:π rho:ρ sigma:σ tau:τ upsilon:υ phi:ϕ chi:χ psi:ψ omega:ω Alpha:Α Beta:Β Gamma:Γ Delta:Δ
Epsilon:Ε Zeta:Ζ Eta:Η Theta:Θ Iota:Ι Kappa:Κ Lambda:Λ Mu:Μ Nu:Ν Xi:Ξ Omicron:Ο Pi:Π Rho:Ρ Sigma:Σ Tau:Τ
Upsilon:Υ Phi:Φ Chi:Χ Psi:Ψ Omega:Ω varepsilon:ε vartheta:ϑ varpi:ϖ varrho:ϱ varsigma:ς varphi:φ varkappa:ϰ
digamma:ϝ hbar:ħ ell:ℓ forall:∀ complement:∁ partial:∂ exists:∃ nexists:∄ varnothing:∅ emptyset:∅ aleph:ℵ
nabla:∇ in:∈ notin:∉ ni:∋ prod:∏ coprod:∐ sum:∑ setminus:∖ smallsetminus:∖ ast:∗ circ:∘ bullet:∙ propto:∝
infty:∞ parallel:∥ nparallel:∦ wedge:∧ vee:∨ cap:∩ cup:∪ int:∫ iint:∬ iiint:∭ oint:∮ sim:∼ simeq:≃ approx:≈
neq:≠ equiv:≡ le:≤ ge:≥ leq:≤ geq:≥ leqslant:⩽ geqslant:⩾ leqq:≦ geqq:≧ ll:≪ gg:≫ prec:≺ succ:≻ subset:⊂
supset:⊃ subseteq:⊆ supseteq:⊇ subsetneq:⊊ supsetneq:⊋ cdot:· times:× otimes:⊗ oplus:⊕ cos:cos sin:sin
tan:tan arccos:arccos arcsin:arcsin arctan:arctan cosh:cosh sinh:sinh tanh:tanh ln:ln log:log exp:exp max:max
min:min sup:sup inf:inf lim:lim prime:' dag:† dagger:† pm:± mp:∓ ldots:… cdots:⋯ ddots:⋱ vdots:⋮ dots:…
dotsc:… dotsb:… dotsm:… dotsi:… dotso:… langle:⟨ rangle:⟩ lvert:| rvert:| vert:| lVert:‖ rVert:‖ Vert:‖
mid:| nmid:∤ uparrow:↑ downarrow:↓ rightarrow:→ to:→ leftarrow:← Rightarrow:⇒ Leftarrow:⇐ leftrightarrow:↔
Leftrightarrow:⇔ mapsto:↦ lceil:⌈ rceil:⌉ lfloor:⌊ rfloor:⌋ angle:∠ measuredangle:∡ perp:⊥ cong:≅ div:÷
lnot:¬ star:⋆ square:□ diamond:♢ bigcup:⋃ bigcap:⋂ backslash:\\ textbackslash:\\ surd:√ therefore:∴
because:∵ vdash:⊢ models:⊧ top:⊤ bot:⊥ i:ı j:ȷ o:ø O:Ø l:ł L:Ł ss:ß ae:æ AE:Æ oe:œ OE:Œ aa:å AA:Å
textdegree:° texteuro:€ textendash:– textemdash:—
"""
_SYMBOLS = dict(pair.split(":", 1) for pair in _SYMBOL_TABLE.split()) | {
    "quad": "  ",
    "qquad": "    ",
    "limsup": "lim sup",
    "liminf": "lim inf",
}
_SYMBOL_CHARACTERS = {",": " ", ";": " ", ":": " ", " ": " ", "!": "", "\\": "\n", "-": "\u00ad"} | {
    c: c for c in "&${}%#_"
}
# Macros of one argument that render as it, as letters of another alphabet, or not at all.
_TRANSPARENT_NAMES = """
text textrm textit textbf textsc textsl emph mathrm overline underline widehat widetilde wideparen overleftarrow
overrightarrow overleftrightarrow underleftarrow underrightarrow overbrace underbrace overbracket
underbracket
"""
_ALPHABETS = {
    "mathbf": "BOLD", "mathit": "ITALIC", "mathsf": "SANS-SERIF", "mathbb": "DOUBLE-STRUCK", "mathtt": "MONOSPACE",
    "mathcal": "SCRIPT", "mathscr": "SCRIPT", "mathfrak": "FRAKTUR",
}  # fmt: skip
_SWALLOWED_NAMES = """
mbox textmd textsf texttt textup label hphantom vphantom ensuremath xrightarrow xleftarrow
hspace color
"""
_TRANSPARENT = frozenset(_TRANSPARENT_NAMES.split())
_SWALLOWED = frozenset(_SWALLOWED_NAMES.split())
_ACCENTS = {
    "vec": "\u20d7", "dot": "\u0307", "hat": "\u0302", "check": "\u030c", "breve": "\u0306", "acute": "\u0301",
    "grave": "\u0300", "tilde": "\u0303", "bar": "\u0305", "ddot": "\u0308", "not": "\u0338", "'": "\u0301",
    "`": "\u0300", '"': "\u0308", "^": "\u0302", "~": "\u0303", "=": "\u0304", ".": "\u0307", "c": "\u0327",
    "d": "\u0323", "u": "\u0306", "v": "\u030c", "b": "\u0331", "r": "\u030a", "k": "\u0328", "H": "\u030b",
}  # fmt: skip
_MATRICES = frozenset({"array", "pmatrix", "bmatrix", "smallmatrix", "psmallmatrix", "bsmallmatrix"})
# Longest first.
_SPECIALS = (
    ("---", "—"),
    ("--", "–"),
    ("``", "“"),
    ("''", "”"),
    ("!`", "¡"),
    ("?`", "¿"),
    ("&", "   "),
    ("~", "\u00a0"),
)


class LatexError(ValueError):
    """The text is too deeply nested, or lacks an argument that its rendering needs."""


def latex_to_text(latex: str) -> str:
    """Render `latex` as text. Braces need not balance. Raises LatexError; takes time linear in the text."""
    return _Reader(latex).render("", 0)[0]


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def render(self, stops: str, depth: int) -> tuple[str, str]:
        r"""Text up to a stop or the end, and the stop met: `}`, `&`, `\\` (as "n") or `\end` (as "e")."""
        if depth > MAX_DEPTH:
            raise LatexError(f"more than {MAX_DEPTH} nested groups")
        parts: list[str] = []
        while self.position < len(self.text):
            character = self.text[self.position]
            if character == "\\":
                name = self.macro_name()
                stop = {"\\": "n", "end": "e"}.get(name, "")
                if name == "end":
                    self.argument(depth)
                if stop and stop in stops:
                    return "".join(parts), stop
                if name != "end":
                    parts.append(self.macro(name, depth))
            elif character in "}&" and character in stops:
                self.position += 1
                return "".join(parts), character
            elif character == "{":
                self.position += 1
                parts.append(self.render("}", depth + 1)[0])
            elif character in "}$":
                self.position += 1
            elif character == "%":
                end = self.text.find("\n", self.position)
                self.position = len(self.text) if end < 0 else end
            else:
                parts.append(self.plain())
        return "".join(parts), ""

    def plain(self) -> str:
        for source, target in _SPECIALS:
            if self.text.startswith(source, self.position):
                self.position += len(source)
                return target
        self.position += 1
        return self.text[self.position - 1]

    def skip_space(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1

    def macro_name(self) -> str:
        """Read a macro's name; spaces after one made of letters belong to it."""
        start = self.position + 1
        end = start
        while end < len(self.text) and self.text[end].isascii() and self.text[end].isalpha():
            end += 1
        if end > start:
            self.position = end
            self.skip_space()
        else:
            end = min(start + 1, len(self.text))
            self.position = end
        return self.text[start:end]

    def optional(self) -> None:
        self.skip_space()
        if self.text.startswith("[", self.position):
            end = self.text.find("]", self.position)
            if end >= 0:
                self.position = end + 1

    def argument(self, depth: int) -> str:
        """Read one macro argument: a group, a macro without its own arguments, or a character."""
        self.skip_space()
        if self.position >= len(self.text) or self.text[self.position] == "}":
            raise LatexError("an argument is missing")
        if self.text[self.position] == "{":
            self.position += 1
            return self.render("}", depth + 1)[0]
        if self.text[self.position] == "\\":
            name = self.macro_name()
            if name in ("frac", "sqrt"):
                raise LatexError("a macro that lacks its braces")
            return _SYMBOLS.get(name, _SYMBOL_CHARACTERS.get(name, ""))
        self.position += 1
        return self.text[self.position - 1]

    def macro(self, name: str, depth: int) -> str:
        if name in ("frac", "nicefrac"):
            return f"{self.argument(depth)}/{self.argument(depth)}"
        if name == "sqrt":
            self.optional()
            return f"√({self.argument(depth)})"
        if name in _TRANSPARENT:
            return self.argument(depth) if self.has_argument() else ""
        if name in _ALPHABETS:
            return "".join(_styled(character, _ALPHABETS[name]) for character in self.argument(depth))
        if name in _ACCENTS:
            marked = (character + _ACCENTS[name] for character in self.argument(depth))
            return "".join(unicodedata.normalize("NFC", character) for character in marked)
        if name in _SWALLOWED:
            self.optional()
            self.argument(depth)
            return ""
        if name == "textcolor":
            self.optional()
            self.argument(depth)
            return self.argument(depth)
        if name == "begin":
            return self.environment(depth)
        if name == "\\":
            self.optional_after_line_break()
        return _SYMBOLS.get(name, _SYMBOL_CHARACTERS.get(name, ""))

    def has_argument(self) -> bool:
        self.skip_space()
        return self.position < len(self.text) and self.text[self.position] != "}"

    def optional_after_line_break(self) -> None:
        if self.text.startswith("[", self.position):
            self.optional()

    def environment(self, depth: int) -> str:
        name = self.argument(depth)
        if name not in _MATRICES:
            return self.render("e", depth + 1)[0]
        if name == "array":
            self.optional()
            self.argument(depth)
        rows: list[list[str]] = [[]]
        stop = "&"
        while stop in ("&", "n"):
            cell, stop = self.render("&ne", depth + 1)
            if cell:
                rows[-1].append(cell.strip())
            if stop == "n":
                self.optional_after_line_break()
                rows.append([])
        return f"[ {'; '.join(' '.join(row) for row in rows)} ]"


def _styled(character: str, style: str) -> str:
    """The letter of another mathematical alphabet; other characters are left as they are."""
    if not (character.isascii() and character.isalpha()):
        return character
    case = "CAPITAL" if character.isupper() else "SMALL"
    name = f"{style} {case} {character.upper()}"
    for prefix in ("MATHEMATICAL ", ""):
        try:
            return unicodedata.lookup(prefix + name)
        except KeyError:
            continue
    # A few of these letters were in Unicode before the alphabets, under names of their own.
    older = {"FRAKTUR": "BLACK-LETTER", "ITALIC": "PLANCK CONSTANT"}.get(style, style)
    try:
        return unicodedata.lookup(older if style == "ITALIC" else f"{older} {case} {character.upper()}")
    except KeyError:
        return character
