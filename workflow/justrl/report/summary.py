"""Findings, one sentence per run: accuracy before and after training, and the run's health."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from justrl.config import paper
from justrl.io import atomic_write, read_json_object
from justrl.report.comparison import AVERAGE, Cell, compare
from justrl.report.html_tables import Section, Text, interval, percent, table_row, text_table, write_html
from justrl.report.results import Result, load_results

# A sentence names at most this many benchmarks; the table has all.
MOST = 3


@dataclass(frozen=True)
class Found:
    """A run, or a model trained elsewhere, with cells (before, after) by benchmark; `before` is of its base model."""

    name: str
    steps: int | None
    cells: dict[str, tuple[Cell | None, Cell]] = field(default_factory=dict)
    health: str = ""
    reward: tuple[float, float] | None = None

    @property
    def sentence(self) -> str:
        """The finding in one line."""
        parts = [_in_words(*self.cells[AVERAGE])] if AVERAGE in self.cells else []
        if not parts:
            parts = [_in_words(before, after) for before, after in list(self.cells.values())[:MOST]]
            if left := len(self.cells) - len(parts):
                parts.append(f"{left} more benchmark{'s' if left > 1 else ''}")
        if not parts and self.reward:
            parts = [f"mean reward {self.reward[0]:+.2f} to {self.reward[1]:+.2f}".replace("-", "−")]
        steps = f" in {self.steps:,} step{'s' if self.steps > 1 else ''}" if self.steps else ""
        return f"{self.name} – {'; '.join(parts) or 'not evaluated'}{steps}"


def find(results: Sequence[Result], health: Mapping[str, Mapping[str, Any]], experiment: str) -> list[Found]:
    """One finding for each run of `health` (its health.json), then for each model that only `results` have."""
    names = list(dict.fromkeys([*health, *(result.run for result in results)]))
    return [_found(name, [r for r in results if r.run == name], health.get(name), experiment) for name in names]


def _found(name: str, results: Sequence[Result], health: Mapping[str, Any] | None, experiment: str) -> Found:
    family = next((r.data["published"]["family"] for r in results if r.data.get("published")), "")
    cells = [
        cell for cell in compare(results, family, experiment, [name]) if cell.headline and cell.reference == "paper"
    ]
    trained = [cell for cell in cells if cell.step != 0] or cells
    last = max((cell.step or 0 for cell in trained), default=0)
    after = {cell.benchmark: cell for cell in trained if (cell.step or 0) == last}
    # Only a base model under the same grader shows what the training changed.
    before = {(cell.benchmark, cell.grader): cell for cell in cells if cell.step == 0 and last}
    rows = {benchmark: (before.get((benchmark, cell.grader)), cell) for benchmark, cell in after.items()}
    if health is None:
        return Found(name, last or None, rows)
    reward = health["metrics"].get("reward_mean")
    ends = (reward["start"], reward["end"]) if reward else None
    return Found(name, int(health["last_step"]), rows, str(health["health"]), ends)


def _in_words(before: Cell | None, after: Cell) -> str:
    """A benchmark before and after training, with the published figure if ours is comparable."""
    start = f"{percent(before.value)}% to " if before else ""
    published = (
        f" (paper: {percent(after.published)}%)" if after.published and after.verdict != "not comparable" else ""
    )
    return f"{after.label}: {start}{percent(after.value)}% {interval(after)}{published}"


def summary_sections(found: Sequence[Found]) -> list[Section]:
    """A table of every run and benchmark."""
    rows = []
    for each in found:
        run = Text(each.name, f"{each.steps:,} steps" if each.steps else "")
        for before, after in each.cells.values():
            both = (Text(percent(cell.value), interval(cell)) if cell else "–" for cell in (before, after))
            rows.append(table_row(run, after.label, *both))
    lead = "Accuracy (avg@k) in percent under the primary grader, with a 95% interval over questions."
    sections = [Section("Accuracy", ["Run", "Benchmark", "Base model", "Trained"], rows, lead)] if rows else []
    told = [(each.name, each.health) for each in found if each.health]
    if told:
        sections.append(text_table("Health of the training", ["Run", "Health"], told))
    return sections


def write_summary(
    outputs: Mapping[str, Path],
    experiment: str,
    results: Sequence[Path] = (),
    health: Sequence[Path] = (),
    benchmark_labels: Sequence[str] = (),
) -> list[str]:
    """Write the findings as .html (tables) and .txt (one sentence per run, its health below it)."""
    conditions = {path.absolute().parent.name: read_json_object(path) for path in health}
    found = find(load_results(results, benchmark_labels), conditions, experiment)
    if ".html" in outputs:
        write_html(outputs[".html"], "Findings", summary_sections(found), experiment)
    if ".txt" in outputs:
        stamp = paper.mark(experiment)
        lines = [f"{stamp[0].upper()}{stamp[1:]}."] if stamp else []
        for each in found:
            lines += [each.sentence, *([f"  health: {each.health}"] if each.health else [])]
        with atomic_write(outputs[".txt"]) as handle:
            handle.write("\n".join(lines) + "\n")
    return [each.sentence for each in found]
