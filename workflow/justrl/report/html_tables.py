"""Tables as plain values, written as Markdown and as one self-contained HTML page."""

import html
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from justrl.config.paper import mark
from justrl.io import atomic_write

# How each grader decides, for legends; tables and figures print only the names.
GRADERS = {
    "strict": r"exact match of the last \boxed{}, ignoring spaces",
    "paper": r"exact match of a \boxed{} near the end, the training reward of the authors",
    "paper_rules": "the rules of the evaluation script of the authors",
    "symbolic": "mathematical equality, checked by SymPy",
    "model": "the verdict of the judge model",
}


# An underscore within a word, and brackets without a link after them, are plain text already.
_MARKUP = re.compile(r"[`*~$]|\\(?=[!-/:-@\[-`{-~])|(?<!\w)_|_(?!\w)|\](?=[(\[:])")


@dataclass(frozen=True)
class Text:
    """A cell: its main line, a smaller second line, and verdicts as (text, verdict) pairs, each on its own line."""

    main: str
    note: str = ""
    verdicts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Section:
    """A table with a heading and a paragraph; the first column has row names, and `notes` are printed below it.

    Columns of numbers are aligned right. The first column, and every column of a table that is not `numeric`, is
    aligned left.
    """

    title: str
    columns: list[str]
    rows: list[list[Text]] = field(default_factory=list)
    lead: str = ""
    notes: tuple[str, ...] = ()
    numeric: bool = True


def grader_legend(graders: Collection[str]) -> str:
    """A sentence on how each of these graders decides; graders of the user's own are left out."""
    named = dict.fromkeys(part for grader in graders for part in grader.split("+"))
    known = [f"{name}: {GRADERS[name]}" for name in named if name in GRADERS]
    if any("+" in grader for grader in graders):
        known.append("+model: answers that the first grader rejects go to the judge model")
    return f"Graders: {'; '.join(known)}." if known else ""


def model_label(run: str, step: int | None) -> str:
    """A model's name for readers: run and step, or "base"; a model trained elsewhere has only its name."""
    if step is None:
        return run
    return f"{run}, base" if step == 0 else f"{run}, step {step:,}"


def percent(value: float | None, digits: int = 1) -> str:
    """Format a fraction in percent, with a dash for None and a true minus sign."""
    return "–" if value is None else f"{100 * value:.{digits}f}".replace("-", "−")


def points(value: float, digits: int = 1) -> str:
    """Format a difference of fractions in percentage points, with its sign."""
    return f"{100 * value:+.{digits}f}".replace("-", "−")


def interval(of: Any) -> str:
    """Format the ends `ci_low` and `ci_high`, fractions, of a value's interval in percent."""
    return f"[{percent(of.ci_low)}, {percent(of.ci_high)}]"


def table_row(*values: Any) -> list[Text]:
    """A row from texts and other values, which are shown as they print."""
    return [value if isinstance(value, Text) else Text(str(value)) for value in values]


def text_table(title: str, columns: list[str], rows: Iterable[Iterable[Any]], lead: str = "") -> Section:
    """A table of texts and other values."""
    return Section(title, columns, [table_row(*row) for row in rows], lead, numeric=False)


def write_tables(outputs: Mapping[str, Path], title: str, sections: Sequence[Section], experiment: str) -> None:
    """Write the sections as .md and .html: the endings that are keys of `outputs`."""
    for ending, write in ((".md", write_markdown), (".html", write_html)):
        if ending in outputs:
            write(outputs[ending], title, sections, experiment)


def write_markdown(path: str | Path, title: str, sections: Sequence[Section], experiment: str) -> None:
    """Write the sections as GitHub-flavoured Markdown."""
    with atomic_write(path) as handle:
        handle.write(markdown(title, sections, experiment))


def markdown(title: str, sections: Sequence[Section], experiment: str) -> str:
    """The sections as GitHub-flavoured Markdown; all experiments except "paper" are labelled as such."""
    lines = [f"# {_plain_text(title)}", ""]
    if stamp := mark(experiment):
        lines += [f"**{_plain_text(stamp)}.**", ""]
    leads: set[str] = set()
    for section in sections:
        lines += [f"## {_plain_text(section.title)}", ""]
        if section.lead and section.lead not in leads:
            lines += [_plain_text(section.lead), ""]
            leads.add(section.lead)
        lines.append("| " + " | ".join(map(_pipe, section.columns)) + " |")
        side = " ---: " if section.numeric else " :--- "
        lines.append("|" + "|".join([" :--- ", *(side for _ in section.columns[1:])]) + "|")
        for row in section.rows:
            lines.append("| " + " | ".join(_pipe(_plain(text)) for text in row) + " |")
        lines.append("")
        lines += [f"- {_plain_text(note)}" for note in section.notes] + ([""] if section.notes else [])
    return "\n".join(lines).rstrip("\n") + "\n"


def _plain(text: Text) -> str:
    note = "; ".join([*([text.note] if text.note else []), *(label for label, _ in text.verdicts)])
    if not note:
        return text.main
    return f"{text.main} {note}" if note[0] in "[±" else f"{text.main} ({note})"


def _pipe(text: str) -> str:
    return _plain_text(text).replace("|", "\\|")


def _plain_text(text: str) -> str:
    """Escape text so that Markdown shows it verbatim: one line without tags, emphasis, links, code or formulas."""
    return _MARKUP.sub(r"\\\g<0>", text).replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")


def write_html(path: str | Path, title: str, sections: Sequence[Section], experiment: str) -> None:
    """Write the sections as one HTML page without external files."""
    write_page(path, "page.html", title=title, stamp=mark(experiment), sections=sections)


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Write a page from a template in this folder. Every value is escaped, except those of type Markup."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    def escape(value: Any) -> Markup:
        # Jinja's own entities for quotation marks are not those of html.escape, which all pages so far have.
        return value if isinstance(value, Markup) else Markup(html.escape(str(value)))

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, finalize=escape, trim_blocks=True, keep_trailing_newline=True)
    with atomic_write(path) as handle:
        handle.write(pages.get_template(template).render(values))
