"""The published figures, read from `published_results.csv`, the only file that contains them."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PUBLISHED_CSV = Path(__file__).parents[1] / "published_results.csv"
FAMILIES = ("deepseek", "nemotron")
# The weights that the authors released: hub id -> family.
RELEASED = {"hbx/JustRL-DeepSeek-1.5B": "deepseek", "hbx/JustRL-Nemotron-1.5B": "nemotron"}
# The nine benchmarks in the order of the paper's table; their unweighted mean is its average.
BENCHMARKS = ("aime", "aime25", "amc23", "math500", "minerva", "olympiad", "hmmt25", "brumo25", "cmimc25")
LABELS = {
    "aime": "AIME 2024",
    "aime25": "AIME 2025",
    "amc23": "AMC 2023",
    "math500": "MATH-500",
    "minerva": "Minerva",
    "olympiad": "OlympiadBench",
    "hmmt25": "HMMT Feb 2025",
    "brumo25": "BRUMO 2025",
    "cmimc25": "CMIMC 2025",
    "average": "Average of nine",
}


@dataclass(frozen=True)
class PublishedFigure:
    """One published accuracy, as a fraction; `std` is its spread over seeds with one sample per question, if given."""

    family: str
    kind: str
    model: str
    step: int | None
    benchmark: str
    accuracy: float
    std: float | None
    source: str

    @property
    def is_reevaluation(self) -> bool:
        """Whether the figure is from the independent re-evaluation, not from the paper."""
        return "re-evaluation" in self.source


@cache
def load_published(path: Path = PUBLISHED_CSV) -> tuple[PublishedFigure, ...]:
    """Return every published figure, in the file's order, as fractions."""
    rows: Iterable[dict[str, Any]] = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    figures = []
    for row in rows:
        row["step"] = int(row["step"]) if row["step"] else None
        for key in ("accuracy", "std"):
            percent = row.pop(f"{key}_percent")
            row[key] = round(float(percent) / 100, 6) if percent else None
        figures.append(PublishedFigure(**row))
    return tuple(figures)


def select_published(
    family: str,
    benchmark: str | None = None,
    kind: str | None = None,
    step: int | None = None,
    reevaluation: bool | None = None,
) -> list[PublishedFigure]:
    """Return the published figures that match every argument that is not None, in the file's order."""
    return [
        figure
        for figure in load_published()
        if figure.family == family
        and benchmark in (None, figure.benchmark)
        and kind in (None, figure.kind)
        and step in (None, figure.step)
        and reevaluation in (None, figure.is_reevaluation)
    ]


def published_steps(family: str) -> list[int]:
    """Return the steps of the checkpoints that the paper reports for a family's run, its final one first."""
    figures = select_published(family, kind="justrl", reevaluation=False)
    return list(dict.fromkeys(figure.step for figure in figures if figure.step is not None))


def final_step(family: str) -> int | None:
    """Return the step of the checkpoint in the paper's results table; None for a family without a run in the paper."""
    return next(iter(published_steps(family)), None)
