"""Power analysis: how many samples and training seeds detect a difference of N points between two trainings.

Both trainings answer the same questions, so the difference of their averages varies only with the sampling of answers
and with the training seeds:

    variance = 2 v / (questions x samples x seeds) + 2 u / seeds

v is the mean over questions of p (1 - p), from existing results or else its bound 1/4. u is the variance between
trainings that differ only in their seed: the variance of their averages, minus the part that sampling adds to it. Only
results of several seeds can provide u. A difference d is detected if d >= (1.96 + 0.84) standard errors: a two-sided
test at 5% that finds it four times out of five.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from statistics import fmean

import numpy as np

from justrl.config import Experiment
from justrl.data.benchmarks import question_count
from justrl.report.results import Result, load_results

FOUND = 1.959964 + 0.841621
BOUND = 0.25
AVERAGE = "average"


@dataclass(frozen=True)
class Detection:
    """Detectable differences for one benchmark, or for the average of all; as fractions.

    `spread` is the standard deviation between training seeds, None if fewer than two were trained. `smallest` is the
    smallest difference that the current settings detect. `needed` is the number of samples per question that detects
    the requested difference, None if no number does.
    """

    benchmark: str
    questions: int
    samples: int
    variance: float
    measured: bool
    spread: float | None
    smallest: float
    needed: int | None


def detect(
    experiment: Experiment, difference: float, results: Sequence[Result] = (), seeds: int = 1
) -> list[Detection]:
    """Analyse every benchmark of the experiment and their unweighted average.

    Args:
        difference: the difference to detect, as a fraction.
        results: of trainings that differ only in their seed; the variances are taken from them.
        seeds: trainings per setting.
    """
    evaluation = experiment.evaluation
    trained = [result for result in results if not result.is_base]
    rows = []
    for name in evaluation.benchmarks:
        questions = question_count(experiment.benchmarks[name])
        samples = experiment.samples(name, evaluation.protocol)
        mine = [result for result in trained if result.benchmark == name]
        known = [variance for variance in map(_sampling_variance, mine) if variance is not None]
        v = float(np.mean(known)) if known else BOUND
        sampling = v / (questions * samples)
        smallest, needed = _detectable(sampling, samples, spread := _spread(mine, sampling), difference, seeds)
        rows.append(Detection(name, questions, samples, v, bool(known), spread, smallest, needed))
    # The unweighted mean of the benchmarks; its samples are those of the first, the others change in proportion.
    sampling = sum(row.variance / (row.questions * row.samples) for row in rows) / len(rows) ** 2
    spread = _spread_of_averages(trained, sampling)
    smallest, needed = _detectable(sampling, rows[0].samples, spread, difference, seeds)
    average = Detection(
        benchmark=AVERAGE,
        questions=sum(row.questions for row in rows),
        samples=rows[0].samples,
        variance=float(np.mean([row.variance for row in rows])),
        measured=all(row.measured for row in rows),
        spread=spread,
        smallest=smallest,
        needed=needed,
    )
    return [*rows, average]


def _detectable(
    sampling: float, samples: int, spread: float | None, difference: float, seeds: int
) -> tuple[float, int | None]:
    """The smallest difference that is detected, and the samples per question that detect `difference`.

    `sampling` is the variance that the sampling of answers adds to one training's average.
    """
    luck = 2 * (spread or 0.0) ** 2 / seeds
    left = (difference / FOUND) ** 2 - luck
    needed = ceil(2 * sampling / seeds / left * samples) if left > 0 else None
    return FOUND * sqrt(2 * sampling / seeds + luck), needed


def _sampling_variance(result: Result) -> float | None:
    """Mean over questions of the unbiased variance per sample; None with one sample per question."""
    scores = result.scores()
    if not scores or len(scores[0]) < 2:
        return None
    return float(np.mean([np.var(row, ddof=1) for row in scores]))


def _deviation(values: Sequence[float], sampling: float) -> float | None:
    """Standard deviation between trainings, without the variance that the sampling of answers adds to it."""
    if len(values) < 2:
        return None
    return sqrt(max(0.0, float(np.var(values, ddof=1)) - sampling))


def _spread(results: Sequence[Result], sampling: float) -> float | None:
    """Standard deviation of one benchmark between the last checkpoints of different runs."""
    last = {result.run: result for result in sorted(results, key=lambda r: r.step or 0)}
    return _deviation([result.average()["value"] for result in last.values()], sampling)


def _spread_of_averages(results: Sequence[Result], sampling: float) -> float | None:
    """Standard deviation between runs of the mean over the benchmarks that all runs have."""
    last = {(result.run, result.benchmark): result for result in sorted(results, key=lambda r: r.step or 0)}
    by_run: dict[str, dict[str, float]] = {}
    for (run, benchmark), result in last.items():
        by_run.setdefault(run, {})[benchmark] = result.average()["value"]
    shared = set.intersection(*map(set, by_run.values())) if by_run else set()
    return _deviation([fmean(v[name] for name in shared) for v in by_run.values()], sampling) if shared else None


def render_detection(experiment: Experiment, points: float, files: Sequence[str], seeds: int) -> str:
    """The table for the terminal."""
    rows = detect(experiment, points / 100, load_results(files), seeds)
    lines = [
        f"to detect a difference of {points:g} points between two settings with {seeds} "
        f"seed{'s' if seeds > 1 else ''} each, on the same questions (two-sided test at 5%, power 80%)",
        f"{'benchmark':<14}{'questions':>10}{'samples':>9}{'detects':>9}{'samples needed':>16}   variance of a sample",
    ]
    for row in rows:
        needed = "impossible" if row.needed is None else f"{row.needed:,}"
        source = "measured" if row.measured else "bound"
        seed = f", {100 * row.spread:.1f} points between seeds" if row.spread is not None else ""
        lines.append(
            f"{row.benchmark:<14}{row.questions:>10,}{row.samples:>9}{100 * row.smallest:>9.1f}{needed:>16}"
            f"   {row.variance:.3f} ({source}{seed})"
        )
    lines.append(
        f"detects: the smallest detectable difference, in points; samples needed: per question, to detect {points:g} "
        f"points (for the {AVERAGE}: of {rows[0].benchmark}, the others in proportion)."
    )
    if not all(row.measured for row in rows):
        lines.append("bound: p (1 - p) is at most 0.25; --results of similar trainings give the measured variance.")
    if all(row.spread is None for row in rows):
        lines.append(
            "Seed variance is not included; pass --results of at least two trainings that differ only in their seed."
        )
    return "\n".join(lines)
