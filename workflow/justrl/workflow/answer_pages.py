"""The pages of answers that a report links to. Embedding them would make the report ten times as large."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from justrl.config.layout import Layout
from justrl.report import pages


def report_of(words: Sequence[str]) -> Path | None:
    """The file to which a Snakemake command line writes a report; None if it writes none."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option == "--report":
            value = value if equals else after
            return Path(value if value and not value.startswith("-") else "report.html")
    return None


def answer_pages(layout: Layout, report: Path) -> Iterator[tuple[str, str]]:
    """For each existing page of answers, its link, relative to the report, and the link's text."""
    for page in map(Path, pages.files(layout, "all", "samples", "rollouts")):
        if page.is_file():
            yield quote(os.path.relpath(page, report.parent)), _text(page, layout)


def _text(page: Path, layout: Layout) -> str:
    if page.stem == "rollouts":
        return f"{page.parent.name}, rollouts of its training"
    benchmarks = layout.experiment.benchmarks
    asked = max((name for name in benchmarks if page.stem.startswith(f"{name}_")), key=len)
    name = page.stem.removeprefix(f"{asked}_").replace("@base", ", base model").replace("@", ", step ")
    return f"{name}: {benchmarks[asked].label}"
