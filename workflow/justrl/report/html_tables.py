"""Tables as plain values, written as Markdown and as one self-contained HTML page."""

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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


STYLESHEET = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #222; background: #fff;
  max-width: 88rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; }
p.lead { color: #555; max-width: 62rem; margin: .2rem 0 .8rem; }
p.stamp { display: inline-block; color: #b3261e; border: 1px solid #b3261e; border-radius: 4px; padding: .1rem .6rem;
  margin: .3rem 0; font-size: .9rem; position: sticky; top: .3rem; z-index: 1; background: #fff; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .38rem .85rem; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: .3rem; }
thead th { border-top: 2px solid #222; border-bottom: 1px solid #222; font-weight: 600; }
tbody td { border-bottom: 1px solid #e6e6e6; } tbody tr:last-child td { border-bottom: 2px solid #222; }
td small { display: block; color: #6b6b6b; font-size: .8rem; }
td small[class] { font-weight: 600; }
td small.agrees, td small.holds { color: #00664b; } td small.above, td small.higher { color: #005a8e; }
td small.below, td small.does, td small.lower { color: #a34700; }
table.text th, table.text td { text-align: left; white-space: normal; }
ul.notes { color: #555; font-size: .88rem; padding-left: 1.1rem; margin: .6rem 0; }
@media (max-width: 700px) { body { margin: 1rem auto; padding: 0 .8rem; font-size: 14px; }
  th, td { padding: .3rem .5rem; } td:first-child { white-space: normal; min-width: 9rem; }
  table.text { font-size: .88rem; } table.text th, table.text td { min-width: 4.2rem; padding: .3rem .25rem; }
  table.text td:first-child { min-width: 6.5rem; } }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } table { break-inside: avoid; } }
"""


def write_html(path: str | Path, title: str, sections: Sequence[Section], experiment: str) -> None:
    """Write the sections as one HTML page without external files."""
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>\n<style>{STYLESHEET}</style>\n</head>\n<body>",
        f"<h1>{html.escape(title)}</h1>",
    ]
    if stamp := mark(experiment):
        parts.append(f'<p class="stamp">{html.escape(stamp)}</p>')
    leads: set[str] = set()
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.lead and section.lead not in leads:
            parts.append(f'<p class="lead">{html.escape(section.lead)}</p>')
            leads.add(section.lead)
        parts.append(_html_table(section))
        if section.notes:
            notes = "".join(f"<li>{html.escape(note)}</li>" for note in section.notes)
            parts.append(f'<ul class="notes">{notes}</ul>')
    parts.append("</body>\n</html>")
    with atomic_write(path) as handle:
        handle.write("\n".join(parts) + "\n")


def _html_table(section: Section) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in section.columns)
    rows = "\n".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in section.rows)
    opening = "<table>" if section.numeric else '<table class="text">'
    return f'<div class="scroll">{opening}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def _html_cell(text: Text) -> str:
    lines = [f"<small>{html.escape(text.note)}</small>"] if text.note else []
    lines += [f'<small class="{html.escape(kind)}">{html.escape(label)}</small>' for label, kind in text.verdicts]
    return f"<td>{html.escape(text.main)}{''.join(lines)}</td>"
