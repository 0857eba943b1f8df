"""Overlap of each benchmark with a training set: a figure and a table of contamination.json."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from justrl.config.published import BENCHMARKS
from justrl.errors import UserError
from justrl.io import read_json_object
from justrl.report import figure_style as style
from justrl.report.html_tables import Section, Text, percent, table_row, write_tables
from justrl.report.results import read_labels

NEWER = "newer than the weights"
# How a benchmark question overlaps with the training set, strongest first; each question counts once.
PARTS = (("the same question", "#0072B2"), ("half of it or more", "#56B4E9"), ("some words in a row", style.BAND))


def parts_of(counts: Mapping[str, int]) -> tuple[int, int, int]:
    """Numbers of benchmark questions equal to a training question, half covered by one, or sharing some words."""
    equal, half, met = (counts[key] for key in ("questions_equal", "questions_half_covered", "questions_met"))
    return equal, half - equal, met - half


def plot_contamination(
    summary: Mapping[str, Any], labels: Mapping[str, str], newer: Collection[str], experiment: str, title: str = ""
) -> Figure:
    """Plot one bar per benchmark: the share of its questions that have words in common with the training set.

    `summary` is the content of contamination.json. `newer` names the benchmarks that were released after the weights
    and the training data were published.
    """
    benchmarks = summary["benchmarks"]
    figure = style.new_figure(7.0, 0.34 * len(benchmarks) + 1.75, header=0.95, footer=style.FOOTER)
    axis = figure.subplots()
    names = [f"{labels.get(name, name)}{f' ({NEWER})' if name in newer else ''}" for name in benchmarks]
    left = [0.0] * len(benchmarks)
    for place, (name, color) in enumerate(PARTS):
        shares = [100 * parts_of(counts)[place] / counts["questions"] for counts in benchmarks.values()]
        axis.barh(names, shares, left=left, height=0.62, color=color, label=name)
        left = [before + share for before, share in zip(left, shares, strict=True)]
    for row, (end, counts) in enumerate(zip(left, benchmarks.values(), strict=True)):
        found = f" {counts['questions_met']} of {counts['questions']}"
        axis.text(end, row, found, ha="left", va="center", fontsize=8, color=style.MUTED)
    axis.invert_yaxis()
    axis.grid(axis="x", visible=True)
    axis.grid(axis="y", visible=False)
    axis.set_xlim(0, max(10.0, 1.18 * max(left)))
    axis.set_xlabel("questions of the benchmark (%)")
    rows = summary["train_rows"]
    subtitle = f"{rows['met']:,} of {rows['in']:,} training questions overlap, {rows.get('removed', 0):,} removed"
    style.add_header(figure, title or "Benchmark questions in the training set", experiment, subtitle)
    style.add_legend(figure, axis.get_legend_handles_labels()[0], top=0.66)
    style.add_footer(figure, f"Words in a row: {summary['ngram']}, signs and case aside. Each question counts once.")
    return figure


def contamination_section(summary: Mapping[str, Any], labels: Mapping[str, str], newer: Collection[str]) -> Section:
    """The table of the figure; its notes list benchmarks outside the paper's average or newer than the weights."""
    rows = []
    for name, counts in summary["benchmarks"].items():
        place = "in the paper's average" if name in BENCHMARKS else "outside the paper's average"
        note = f"{place}, {NEWER}" if name in newer else place
        equal, half, some = parts_of(counts)
        share = counts["questions_met"] / counts["questions"]
        cells = (counts["questions"], equal, half, some, f"{percent(share)}%", counts["train_rows"])
        rows.append(table_row(Text(labels.get(name, name), note), *cells))
    columns = ["Benchmark", "Questions", *(name.capitalize() for name, _ in PARTS), "Share", "Training questions"]
    lead = (
        f"Benchmark questions found in the training set, exactly or as an overlap of {summary['ngram']} "
        "words. Short overlaps can be stock phrases; only the first two counts suggest contamination."
    )
    notes = ("A benchmark that is newer than models and training data cannot have been trained on.",) if newer else ()
    return Section("Contamination", columns, rows, lead, notes)


def card_section(card: Mapping[str, Any]) -> Section:
    """The table of data_card.json: how many questions were kept or removed between download and training."""
    rows, tokens, source, golds = card["rows"], card["prompt_tokens"], card["dataset"], card.get("golds") or {}
    limit, sha256 = card["prompt"]["max_prompt_length"], card["output"]["sha256"]
    # Cards of earlier versions have no counts of reference answers.
    converted, unusable = golds.get("converted", {}).items(), golds.get("unusable", {}).items()
    counts = [
        ("Rows read", rows["in"], ""),
        ("Without question or answer", rows["incomplete"], "left out"),
        *((f"Reference answer converted from {note}", count, "converted") for note, count in converted),
        *((f"Unusable reference answer: {note}", count, "left out") for note, count in unusable),
        ("Different questions", rows["unique"], ""),
        ("With contradictory answers", rows["conflicting"], ""),
        ("Prompts over the limit", rows["overlong"], f"more than {limit:,} tokens; left out"),
        ("Kept for training", rows["out"], f"before removal of benchmark questions; SHA-256 {sha256[:12]}…"),
    ]
    table = [table_row(Text(what, note), "–" if count is None else f"{count:,}") for what, count, note in counts]
    if tokens:
        note = f"95% have at most {tokens['p95']:,.0f}, the longest has {tokens['max']:,}"
        table.append(table_row(Text("Tokens of a prompt, mean", note), f"{tokens['mean']:,.1f}"))
    name = source.get("hub_id") or source.get("origin") or "its own files"
    lead = f"Source: {name}" + (f", revision {source['revision']}." if source.get("revision") else ".")
    return Section("Data card", ["Questions", "Count"], table, lead)


def write_contamination(
    outputs: Mapping[str, Path],
    summary: Path,
    card: Path | None = None,
    newer: Sequence[str] = (),
    benchmark_labels: Sequence[str] = (),
    experiment: str = "paper",
    title: str = "",
) -> None:
    """Show how many questions of each benchmark the training set contains; `newer` benchmarks are marked."""
    content, labels = read_json_object(summary), read_labels(benchmark_labels)
    if missing := {"ngram", "train_rows", "benchmarks"} - content.keys():
        raise UserError(
            f"{summary} is not a contamination.json: {min(missing)} is missing; make it with "
            "`justrl data contamination`"
        )
    sections = [contamination_section(content, labels, newer)]
    if card:
        sections.append(card_section(read_json_object(card)))
    write_tables(outputs, "Benchmark questions in the training set", sections, experiment)
    style.save_figures(outputs, lambda: plot_contamination(content, labels, newer, experiment, title))
