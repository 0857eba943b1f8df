r"""LaTeX to plain text by `pylatexenc`, as the authors' evaluation renders every answer with a backslash.

What reads oddly is the library's: `\frac{a}{b}` becomes `a/b` without parentheses, `\sqrt[3]{2}` loses its index, and a
macro that it does not know (`\cot`, `\mbox`) vanishes. The authors use version 2.10. Nothing is evaluated and no file
is read: `\input` renders as nothing.

The library has no limits, so three are set here. It recurses for each nested group. It reads what does not close again
and again, in time that doubles with each macro: twelve of `\newcommand{9` take a second, thirty would take days. It
pads the cells of a matrix to one width, which multiplies with each matrix in a matrix: ten make 265,717 characters.
With them time is linear in the text; callers bound the length.
"""

import logging
from functools import cache, lru_cache
from typing import Any

from pylatexenc import latex2text, latexwalker
from pylatexenc.macrospec import LatexContextDb

# The library recurses, some eight Python frames a level; answers need a handful of levels.
MAX_DEPTH = 40
MAX_TEXT = 10_000

# Malformed LaTeX is what a model writes; the library would warn of each.
logging.getLogger("pylatexenc").setLevel(logging.CRITICAL)


class LatexError(Exception):
    """The text is too deeply nested, takes too long to read or too much room, or the library cannot render it."""


# Samples of one question repeat each other's answers, and all repeat the gold.
@lru_cache(maxsize=4096)
def latex_to_text(latex: str) -> str:
    """Render `latex` as text. Braces need not balance. Raises LatexError."""
    macros, texts = _contexts()
    # A renderer of its own for each text: one keeps the \title that it has met for the next \maketitle.
    renderer = _BoundedRenderer(latex_context=texts)
    try:
        nodes, _, _ = _BoundedWalker(latex, latex_context=macros).get_latex_nodes()
        return renderer.nodelist_to_text(nodes)
    except LatexError:
        raise
    except Exception as error:  # many kinds on odd input (KeyError, IndexError, ...); the authors' grader catches all
        raise LatexError(f"pylatexenc cannot render the text: {error!r}") from error


@cache
def _contexts() -> tuple[LatexContextDb, LatexContextDb]:
    """What the library knows of macros, to read and to render them; making these takes longer than an answer."""
    return latexwalker.get_default_latex_context_db(), latex2text.get_default_latex_context_db()


class _BoundedWalker(latexwalker.LatexWalker):
    """The library's reader, ended where groups are too deep or tokens are read too often."""

    def __init__(self, text: str, **options: Any) -> None:
        super().__init__(text, **options)
        # Text that closes what it opens takes at most two readings of a character.
        self._readings = 1000 + 4 * len(text)
        self._depth = -1

    def get_token(self, *args: Any, **options: Any) -> Any:
        self._readings -= 1
        if self._readings < 0:
            raise LatexError("groups that do not close are read too often")
        return super().get_token(*args, **options)

    def get_latex_nodes(self, *args: Any, **options: Any) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LatexError(f"more than {MAX_DEPTH} nested groups")
        try:
            return super().get_latex_nodes(*args, **options)
        finally:
            self._depth -= 1


class _BoundedRenderer(latex2text.LatexNodes2Text):
    """The library's renderer, ended where a part becomes too long."""

    def nodelist_to_text(self, nodelist: Any) -> str:
        text = super().nodelist_to_text(nodelist)
        if len(text) > MAX_TEXT:
            raise LatexError(f"a part is rendered as more than {MAX_TEXT} characters")
        return text
