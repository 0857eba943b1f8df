"""Compare our results with the published figures: one table per family, a verdict and its reason in every cell.

The criterion. Our figure and the published one are measured on the same questions. The choice of questions affects both
alike and cancels in their difference, so only the sampling of answers is left. The difference is compared with 1.96 *
sqrt(s_ours^2 + s_published^2). s_ours is the seed standard error of our avg@k. s_published is the standard deviation
given by the source (by the re-evaluation, over its seeds), or else the binomial bound sqrt(p (1 - p) / (questions *
samples)), which is never too small. Within this tolerance the two agree; outside it, ours is above or below. If
protocol, recipe, step, questions or samples differ, the figures are not comparable, and the cell names the difference.
`within_interval` is whether the published figure lies in our 95% interval over questions, which is a much weaker
statement.
"""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from math import sqrt
from pathlib import Path
from statistics import fmean

from justrl import io
from justrl.config import paper
from justrl.config.published import BENCHMARKS, LABELS, PublishedFigure, final_step, published_steps, select_published
from justrl.report.results import Result, benchmark_label, graded_by_model, ordered_benchmarks

AVERAGE = "average"
GRADER_CAVEAT = "the paper used paper_rules+model, so part of the difference may come from the grader"
# Every result is compared with these; trained models also with the paper's late checkpoints, named "paper@4520".
REFERENCES = ("paper", "reevaluation")
LATE = "paper@"
Z = 1.959963984540054


@dataclass(frozen=True)
class Cell:
    """Our figure under one grader and the published figure that it is compared with; fractions, None if missing.

    `reference` is "paper", "reevaluation" or, for a late checkpoint, "paper@4520". `verdict` is agrees, above, below or
    not comparable. `note` gives the reason for "not comparable"; otherwise it is a caveat for readers.
    """

    family: str
    experiment: str
    run: str
    step: int | None
    benchmark: str
    label: str
    grader: str
    headline: bool
    value: float
    ci_low: float
    ci_high: float
    seed_error: float | None
    questions: int
    samples: int
    reference: str
    published: float | None = None
    published_error: float | None = None
    published_source: str = ""
    difference: float | None = None
    tolerance: float | None = None
    within_interval: bool | None = None
    verdict: str = "not comparable"
    note: str = ""


_NOT_JUDGED = {field.name: field.default for field in fields(Cell) if field.default is not MISSING}


def compare(results: Sequence[Result], family: str, experiment: str, runs: Sequence[str] | None = None) -> list[Cell]:
    """All cells of a family's comparison: result x grader x reference, then the averages of nine if complete.

    `runs` are the trainings of the published recipe (default: the run named after the family). If a result names its
    own experiment, it is judged by that one.
    """
    published = [family] if runs is None else runs
    cells = [
        _judge(_measured(result, grader, family, experiment, reference), result, published)
        for benchmark in ordered_benchmarks(results)
        for result in results
        if result.benchmark == benchmark
        for grader in result.graders
        for reference in _references(result, family)
    ]
    return cells + _averages(cells)


def _references(result: Result, family: str) -> list[str]:
    late = [] if result.is_base else published_steps(family)[1:]
    return [*REFERENCES, *(f"{LATE}{step}" for step in late)]


def published_counterpart(cell: Cell, is_base: bool) -> PublishedFigure | None:
    """The published figure for a cell: of the base model, the final or a late checkpoint."""
    kind = "base" if is_base else "justrl"
    step = int(cell.reference.removeprefix(LATE)) if cell.reference.startswith(LATE) else None
    found = select_published(cell.family, cell.benchmark, kind, step, cell.reference == "reevaluation")
    return found[0] if found else None


def _measured(result: Result, grader: str, family: str, experiment: str, reference: str) -> Cell:
    average, own = result.average(grader), str(result.data.get("experiment") or experiment)
    experiment = paper.experiment_of(experiment)
    return Cell(
        family=family,
        experiment=own if experiment == paper.PAPER else experiment,
        run=result.run,
        step=result.step,
        benchmark=result.benchmark,
        label=benchmark_label(result),
        grader=grader,
        headline=grader == result.headline,
        value=average["value"],
        ci_low=average["ci_low"],
        ci_high=average["ci_high"],
        seed_error=_seed_error(result, grader),
        questions=int(result.data["n_questions"]),
        samples=int(result.data["samples_per_question"]),
        reference=reference,
    )


def _seed_error(result: Result, grader: str) -> float | None:
    """Seed standard error of our avg@k: the stored one, else computed from the scores or the spread over seeds."""
    average = result.average(grader)
    if average.get("seed_standard_error") is not None:
        return average["seed_standard_error"]
    scores = result.scores(grader)
    if scores:
        from justrl.evaluation.statistics import seed_standard_error

        return seed_standard_error(scores)
    spread = average.get("seed_std")
    return None if spread is None else spread / sqrt(result.data["samples_per_question"])


def _judge(cell: Cell, result: Result, runs: Sequence[str]) -> Cell:
    """Add the published figure to a measured cell and give the verdict."""
    figure = published_counterpart(cell, result.is_base)
    if figure is None:
        return replace(cell, note="no published figure")
    error = figure.std
    if error is None:
        error = sqrt(figure.accuracy * (1 - figure.accuracy) / (cell.questions * cell.samples))
    cell = replace(
        cell,
        published=figure.accuracy,
        published_error=error,
        published_source=figure.source,
        difference=cell.value - figure.accuracy,
    )
    reason = _obstacle(cell, result, figure, runs)
    return replace(cell, note=reason) if reason else _decide(cell, _caveat(cell))


def _decide(cell: Cell, note: str) -> Cell:
    """Give the verdict of a cell that has our seed error and a published figure with its error."""
    published, difference = _known(cell.published), _known(cell.difference)
    tolerance = Z * sqrt(_known(cell.seed_error) ** 2 + _known(cell.published_error) ** 2)
    verdict = "agrees" if abs(difference) <= tolerance else "above" if difference > 0 else "below"
    within = cell.ci_low <= published <= cell.ci_high
    return replace(cell, tolerance=tolerance, within_interval=within, verdict=verdict, note=note)


def _known(value: float | None) -> float:
    if value is None:
        raise ValueError("a verdict needs a published figure and both errors")
    return value


def _obstacle(cell: Cell, result: Result, figure: PublishedFigure, runs: Sequence[str]) -> str:
    """The reason why a published figure cannot be compared with ours, or an empty string."""
    if reason := not_the_papers(result, cell.family, cell.experiment, runs):
        return reason
    trained = result.step is not None and not result.is_base
    if trained and figure.step is not None and result.step not in (figure.step, final_step(cell.family)):
        return f"ours is step {result.step:,}, published is step {figure.step:,}"
    if cell.seed_error is None:
        return "one sample per question gives no sampling error"
    return ""


def not_the_papers(result: Result, family: str, experiment: str, runs: Sequence[str]) -> str:
    """How a result differs from the paper's in protocol, questions, samples or model; empty if it does not.

    `runs` are the trainings of the published recipe. If a file does not record how its model was made, names decide.
    """
    if experiment != paper.PAPER:
        own = experiment.partition("/")[2]
        return f"{own} is not the paper's" if own else f"the {experiment} experiment is not the paper's"
    if found := list(paper.result_differences(result.data)):
        return paper.in_words(found)
    model = ((result.data.get("provenance") or {}).get("config") or {}).get("model") or {}
    if result.is_base:
        return "" if paper.is_base_of(family, result.run, model) else f"{result.run} has another base model"
    if result.step is None:
        released = paper.is_released(family, result.run, model) or (not model and result.run in runs)
        return "" if released else f"{result.run} is not the published model"
    if result.run not in runs:
        return f"{result.run} is not the recipe of the published model"
    return paper.in_words(paper.run_differences({**model, "run": result.run}))


def _caveat(cell: Cell) -> str:
    if cell.reference == "reevaluation":
        return "their protocol: temperature 0.8, top-p 0.9, another prompt template"
    return "" if graded_by_model(cell.grader) else GRADER_CAVEAT


def _averages(cells: Sequence[Cell]) -> list[Cell]:
    """The unweighted mean of the nine benchmarks, as in the paper, for each model and grader that has all nine."""
    groups: dict[tuple, dict[str, Cell]] = {}
    for cell in cells:
        if cell.benchmark in BENCHMARKS:
            groups.setdefault((cell.run, cell.step, cell.grader, cell.reference), {})[cell.benchmark] = cell
    return [_average(list(nine.values())) for nine in groups.values() if len(nine) == len(BENCHMARKS)]


def _root_of_squares(values: Iterable[float]) -> float:
    return sqrt(sum(value**2 for value in values))


def _average(nine: Sequence[Cell]) -> Cell:
    count = len(nine)
    value = fmean(cell.value for cell in nine)
    published = [cell.published for cell in nine if cell.published is not None]
    errors = [cell.seed_error for cell in nine if cell.seed_error is not None]
    average = replace(
        nine[0],
        benchmark=AVERAGE,
        label=LABELS[AVERAGE],
        headline=all(cell.headline for cell in nine),
        value=value,
        ci_low=value - _root_of_squares(cell.value - cell.ci_low for cell in nine) / count,
        ci_high=value + _root_of_squares(cell.ci_high - cell.value for cell in nine) / count,
        seed_error=_root_of_squares(errors) / count if len(errors) == count else None,
        questions=sum(cell.questions for cell in nine),
        samples=0,
        **_NOT_JUDGED,
    )
    if len(published) < count:
        return replace(average, note="the source does not cover all nine benchmarks")
    average = replace(
        average,
        published=fmean(published),
        published_error=_root_of_squares(_known(cell.published_error) for cell in nine) / count,
        published_source=nine[0].published_source,
        difference=value - fmean(published),
    )
    blocked = [cell for cell in nine if cell.verdict == "not comparable"]
    if blocked:
        return replace(average, note=f"{LABELS[blocked[0].benchmark]}: {blocked[0].note}")
    return _decide(average, nine[0].note)


def page_subject(cells: Sequence[Cell]) -> str:
    """The subject of a family's page or figure; without published figures, only our checkpoints."""
    published = any(cell.published is not None for cell in cells)
    return "ours and published" if published else "accuracy before and after training"


def write_csv(cells: Sequence[Cell], path: str | Path) -> None:
    """Write one row per cell; fractions are rounded to six digits."""
    rows = map(asdict, cells)
    rounded = ({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    io.write_csv(path, (field.name for field in fields(Cell)), rounded)
