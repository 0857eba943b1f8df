r"""Render LaTeX as plain text with `pylatexenc`, as the authors' evaluation does for every answer with a backslash.

The odd results are the library's: `\frac{a}{b}` becomes `a/b` without parentheses, `\sqrt[3]{2}` loses its index, and
unknown macros (`\cot`, `\mbox`) vanish. The authors use version 2.10. Nothing is evaluated and no file is read:
`\input` renders as nothing.

The library has no limits, so this module sets three. The library recurses once per nested group. It rereads unclosed
groups, in time that doubles with each macro: twelve `\newcommand{9` take a second, thirty would take days. It pads the
cells of a matrix to the same width, which multiplies in nested matrices: ten of them give 265,717 characters. With the
limits, the time is linear in the text; callers limit its length.
"""

import logging
from functools import cache, lru_cache
from typing import Any

from pylatexenc import latex2text, latexwalker
from pylatexenc.macrospec import LatexContextDb

# The library uses about eight Python frames per nested group; answers need only a few levels.
MAX_DEPTH = 40
MAX_TEXT = 10_000

# Models often write malformed LaTeX, and the library would log a warning each time.
logging.getLogger("pylatexenc").setLevel(logging.CRITICAL)


class LatexError(Exception):
    """The text is too deeply nested, takes too long to parse, renders too long, or the library cannot render it."""


# Samples of a question repeat each other's answers, and all have the same gold answer.
@lru_cache(maxsize=4096)
def latex_to_text(latex: str) -> str:
    """Render `latex` as text. Braces need not balance. Raises LatexError."""
    macros, texts = _contexts()
    # A new renderer for each text, because a renderer keeps a \title for the next \maketitle.
    renderer = _BoundedRenderer(latex_context=texts)
    try:
        nodes, _, _ = _BoundedWalker(latex, latex_context=macros).get_latex_nodes()
        return renderer.nodelist_to_text(nodes)
    except LatexError:
        raise
    except Exception as error:  # many types on odd input (KeyError, IndexError, ...); the authors' grader catches all
        raise LatexError(f"pylatexenc cannot render the text: {error!r}") from error


@cache
def _contexts() -> tuple[LatexContextDb, LatexContextDb]:
    """The library's macro tables for parsing and for rendering. Cached: building them takes longer than an answer."""
    return latexwalker.get_default_latex_context_db(), latex2text.get_default_latex_context_db()


class _BoundedWalker(latexwalker.LatexWalker):
    """The library's parser, stopped if groups nest too deeply or tokens are reread too often."""

    def __init__(self, text: str, **options: Any) -> None:
        super().__init__(text, **options)
        # Text with balanced groups takes at most two readings per character.
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
    """The library's renderer, stopped if a part becomes too long."""

    def nodelist_to_text(self, nodelist: Any) -> str:
        text = super().nodelist_to_text(nodelist)
        if len(text) > MAX_TEXT:
            raise LatexError(f"a part is rendered as more than {MAX_TEXT} characters")
        return text
