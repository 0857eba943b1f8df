"""Compare our results with the published figures: a verdict and its reason in every cell, and a family's tables.

The criterion. Our figure and the published one are measured on the same questions. The choice of questions affects both
alike and cancels in their difference, so only the sampling of answers is left. The difference is compared with 1.96 *
sqrt(s_ours^2 + s_published^2). s_ours is the seed standard error of our avg@k. s_published is the standard deviation
given by the source (by the re-evaluation, over its seeds), or else the binomial bound sqrt(p (1 - p) / (questions *
samples)), which is never too small. Within this tolerance the two agree; outside it, ours is above or below. If
protocol, recipe, step, questions or samples differ, the figures are not comparable, and the cell names the difference.
`within_interval` is whether the published figure lies in our 95% interval over questions, which is a much weaker
statement.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from math import sqrt
from pathlib import Path
from statistics import fmean

from justrl import io
from justrl.config import paper
from justrl.config.published import BENCHMARKS, LABELS, PublishedFigure, final_step, published_steps, select_published
from justrl.report.html_tables import (
    Section,
    Text,
    grader_legend,
    interval,
    model_label,
    percent,
    points,
    table_row,
    write_tables,
)
from justrl.report.results import (
    Result,
    benchmark_label,
    experiment_of,
    graded_by_model,
    load_results,
    ordered_benchmarks,
    read_seeds,
)

AVERAGE = "average"
GRADER_CAVEAT = "the paper used paper_rules+model, so part of the difference may come from the grader"
# Every result is compared with these; trained models also with the paper's late checkpoints, named "paper@4520".
REFERENCES = ("paper", "reevaluation")
LATE = "paper@"
Z = 1.959963984540054
MODEL_GRADED = ("minerva", "olympiad")

UNPUBLISHED = (
    "Accuracies are avg@k in percent, with a 95% confidence interval over questions (bootstrap, clustered by "
    "question). No scores of this model on these benchmarks are published."
)
CRITERION = (
    "Accuracies are avg@k in percent, with a 95% confidence interval over questions (bootstrap, clustered by "
    "question). A verdict compares our score with the published one on the same questions. Two scores agree if they "
    "differ by at most 1.96 times the combined sampling error. Our error is the spread over samples. Theirs is the "
    "standard deviation that the source reports (the re-evaluation does), or else the binomial bound for the number "
    "of questions and samples. Scores from another protocol, recipe, step, set of questions or number of samples are "
    "not comparable; a note gives the reason."
)


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
    late = [f"{LATE}{step}" for step in published_steps(family)[1:]]
    cells = [
        _judge(_measured(result, grader, family, experiment, reference), result, published)
        for benchmark in ordered_benchmarks(results)
        for result in results
        if result.benchmark == benchmark
        for grader in result.graders
        for reference in (*REFERENCES, *(() if result.is_base else late))
    ]
    return cells + _averages(cells)


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
        **{key: average[key] for key in ("value", "ci_low", "ci_high")},
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
    if reason := _obstacle(cell, result, figure, runs):
        return replace(cell, note=reason)
    if cell.reference == "reevaluation":
        return _decide(cell, "their protocol: temperature 0.8, top-p 0.9, another prompt template")
    return _decide(cell, "" if graded_by_model(cell.grader) else GRADER_CAVEAT)


def _decide(cell: Cell, note: str) -> Cell:
    """Give the verdict of a cell that has our seed error and a published figure with its error."""
    # _obstacle has refused the cells that lack one of these.
    assert cell.published is not None and cell.difference is not None
    assert cell.seed_error is not None and cell.published_error is not None
    tolerance = Z * sqrt(cell.seed_error**2 + cell.published_error**2)
    verdict = "agrees" if abs(cell.difference) <= tolerance else "above" if cell.difference > 0 else "below"
    within = cell.ci_low <= cell.published <= cell.ci_high
    return replace(cell, tolerance=tolerance, within_interval=within, verdict=verdict, note=note)


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
        published_error=_root_of_squares(cell.published_error or 0.0 for cell in nine) / count,
        published_source=nine[0].published_source,
        difference=value - fmean(published),
    )
    if blocked := [cell for cell in nine if not _comparable(cell)]:
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


def comparison_sections(
    cells: Sequence[Cell], results: Sequence[Result], family: str, experiment: str
) -> list[Section]:
    """The page of one family: each of our models, the gain over the base, both ways of grading, published tables."""
    labels = {cell.benchmark: cell.label for cell in cells}
    main = [cell for cell in cells if cell.reference in REFERENCES]
    return [
        *(_model_section(main, labels, model) for model in _models(cells)),
        *_gain_sections(results, labels),
        *_grading_section(main, labels),
        *_late_sections(cells, family),
        *_published_sections(family),
    ]


def _models(cells: Sequence[Cell]) -> list[tuple[str, int | None]]:
    """The models as (run, step): the latest checkpoints first, models trained elsewhere last."""
    models = {(cell.run, cell.step) for cell in cells}
    return sorted(models, key=lambda model: (model[1] is None, -(model[1] or 0), model[0]))


def _model_section(cells: Sequence[Cell], labels: dict[str, str], model: tuple[str, int | None]) -> Section:
    mine = [cell for cell in cells if (cell.run, cell.step) == model]
    graders = list(dict.fromkeys(cell.grader for cell in mine))
    headline = next((cell.grader for cell in mine if cell.headline), graders[0])
    published = any(cell.published is not None for cell in mine)
    references = ["JustRL paper", "Re-evaluation"] if published else ["Published"]
    rows = []
    for benchmark in dict.fromkeys(cell.benchmark for cell in mine):
        found = {(cell.grader, cell.reference): cell for cell in mine if cell.benchmark == benchmark}
        by_reference = {reference: cell for (_, reference), cell in found.items()}
        some = by_reference["paper"]
        size = f"{some.questions} × {some.samples}" if some.samples else f"{some.questions:,} questions"
        row = [Text(labels[benchmark], size)]
        row += [_published_text(by_reference[name]) for name in ("paper", "reevaluation")][: len(references)]
        rows.append(row + [_ours_text(found, grader) for grader in graders])
    notes = []
    for cell in mine:
        where = "JustRL paper" if cell.reference == "paper" else "Re-evaluation"
        if cell.note:
            notes.append(f"{where}{'' if _comparable(cell) else ', not comparable'}: {cell.note}.")
    there = len({cell.benchmark for cell in mine} & set(BENCHMARKS))
    if there < len(BENCHMARKS):
        notes.append(f"Only {there} of the paper's nine benchmarks were evaluated, so there is no average.")
    step, whole = mine[0].step or 0, paper.final_steps(paper.setting(mine[0].run)) or 0
    if mine[0].experiment == paper.PAPER and 0 < step < whole:
        notes.append(f"The paper's recipe after {step:,} of {whole:,} steps.")
    lead = (
        f"{CRITERION if published else UNPUBLISHED} The primary grader is {headline}. {grader_legend(graders)}".rstrip()
    )
    return Section(
        title=f"Ours: {model_label(*model)}",
        columns=["Benchmark", *references, *(f"Ours: {name}" for name in graders)],
        rows=rows,
        lead=lead,
        notes=tuple(dict.fromkeys(notes)) if published else (),
    )


def _published_text(cell: Cell | None) -> Text:
    if cell is None or cell.published is None:
        return Text("–", "not published")
    if cell.reference == "reevaluation" and cell.benchmark != AVERAGE:
        return Text(percent(cell.published, 1), f"± {percent(cell.published_error)}")
    return Text(percent(cell.published, 2))


def _ours(cell: Cell) -> str:
    return f"{percent(cell.value)} {interval(cell)}"


def _ours_text(found: Mapping[tuple[str, str], Cell], grader: str) -> Text:
    first = found.get((grader, "paper"))
    if first is None:
        return Text("–", "not graded")
    both = (("paper", first), ("re-eval.", found.get((grader, "reevaluation"))))
    verdicts = tuple((f"{name}: {cell.verdict}", cell.verdict) for name, cell in both if cell and _comparable(cell))
    return Text(_ours(first), "not comparable" if first.published is not None and not verdicts else "", verdicts)


def _comparable(cell: Cell) -> bool:
    return cell.verdict != "not comparable"


def _gain_sections(results: Sequence[Result], labels: dict[str, str]) -> list[Section]:
    """Trained minus base on the same questions, for every trained checkpoint whose base is evaluated."""
    from justrl.evaluation.statistics import compare_paired

    bases = {(result.run, result.benchmark): result for result in results if result.is_base}
    rows = []
    order = {name: index for index, name in enumerate(ordered_benchmarks(results))}
    for result in sorted(results, key=lambda r: (order[r.benchmark], r.run, r.step or 0)):
        base = bases.get((result.run, result.benchmark))
        if base is None or result.is_base or base.headline != result.headline:
            continue
        before, after = base.scores(), result.scores()
        if not before or not after or base.question_ids() != result.question_ids():
            continue
        paired = compare_paired(before, after)
        p_value = "< 0.0001" if paired.p_value < 1e-4 else f"{paired.p_value:.4f}"
        rows.append(
            table_row(
                Text(labels[result.benchmark], model_label(result.run, result.step)),
                percent(base.average()["value"]),
                percent(result.average()["value"]),
                Text(points(paired.difference), interval(paired)),
                p_value,
                f"{paired.better} / {paired.equal} / {paired.worse}",
            )
        )
    if not rows:
        return []
    lead = (
        "Base and trained model on the same questions, scored by the primary grader. The difference is in percentage "
        "points, with its 95% confidence interval over questions. p is the p-value of the exact two-sided sign-flip "
        "test."
    )
    columns = ["Benchmark", "Base", "Trained", "Difference", "p", "Questions better / equal / worse"]
    return [Section("Gain over the base model", columns, rows, lead)]


def _grading_section(cells: Sequence[Cell], labels: dict[str, str]) -> list[Section]:
    """Minerva and OlympiadBench graded by rules, and by rules and then a model, if both graders ran."""
    ours = {(c.run, c.step, c.benchmark, c.grader): c for c in cells if c.reference == "paper"}
    others = {(c.run, c.step, c.benchmark): c for c in cells if c.reference == "reevaluation"}
    rows, graders = [], []
    for (run, step, benchmark, grader), cell in ours.items():
        rules = ours.get((run, step, benchmark, "paper_rules"))
        if benchmark not in MODEL_GRADED or not graded_by_model(grader) or rules is None:
            continue
        graders.append(grader)
        texts = [_ours(rules), _ours(cell)]
        published = [_published_text(cell), _published_text(others.get((run, step, benchmark)))]
        label = Text(labels[benchmark], model_label(run, step))
        rows.append(table_row(label, *texts, points(cell.value - rules.value), *published))
    if not rows:
        return []
    lead = (
        "On these two benchmarks, published scores of the same checkpoint differ by up to 20 points. The table shows "
        "our completions without and with the judge model; the paper used paper_rules+model."
    )
    judged = " or ".join(dict.fromkeys(graders))
    columns = ["Benchmark", "Ours: paper_rules", f"Ours: {judged}", "Judge adds", "JustRL paper", "Re-evaluation"]
    return [Section("Without and with the judge model", columns, rows, lead)]


def _late_sections(cells: Sequence[Cell], family: str) -> list[Section]:
    """The paper's late checkpoints, next to the primary figure of each of our trained models."""
    steps = published_steps(family)
    if len(steps) < 2:
        return []
    late = select_published(family, kind="justrl", reevaluation=False)
    reference_at = {step: "paper" if step == steps[0] else f"paper@{step}" for step in steps}
    trained = [cell for cell in cells if cell.headline and cell.reference == reference_at[steps[1]]]
    models = _models(trained)
    rows = []
    for name in (*BENCHMARKS, AVERAGE):
        row = [Text(LABELS[name])]
        for step in steps:
            verdicts = tuple(
                (f"{'ours' if len(models) == 1 else c.run}: {c.verdict}", c.verdict)
                for c in cells
                if (c.headline, c.benchmark, c.reference) == (True, name, reference_at[step])
                if (c.run, c.step) in models and _comparable(c)
            )
            row.append(Text(_lookup(late, name, step=step), "", verdicts))
        for model in models:
            mine = [cell for cell in trained if cell.benchmark == name and (cell.run, cell.step) == model]
            row.append(Text(_ours(mine[0])) if mine else Text("–"))
        rows.append(row)
    lead = (
        "Scores that the paper reports for late checkpoints of one run, the final one first: they show how much "
        "accuracy varies between checkpoints of a finished run. Our scores and the verdicts use the primary grader."
    )
    columns = ["Benchmark", *(f"Paper, step {step:,}" for step in steps)]
    columns += [f"Ours: {model_label(*model)}" for model in models]
    return [Section("The paper's late checkpoints", columns, rows, lead)]


def _published_sections(family: str) -> list[Section]:
    """Every model published for a family: the paper's results table and the re-evaluation."""
    final = final_step(family)
    sections = []
    for reevaluation, title in ((False, "Published: the paper's table"), (True, "Published: the re-evaluation")):
        figures = [f for f in select_published(family, reevaluation=reevaluation) if f.step in (None, final)]
        models = list(dict.fromkeys(figure.model for figure in figures))
        names = [name for name in (*BENCHMARKS, AVERAGE) if any(figure.benchmark == name for figure in figures)]
        rows = [table_row(LABELS[name], *(_lookup(figures, name, model=m) for m in models)) for name in names]
        if rows:
            lead = f"Source: {figures[0].source}. None of these scores is ours."
            sections.append(Section(title, ["Benchmark", *models], rows, lead))
    return sections


def _lookup(figures: Sequence, benchmark: str, step: int | None = None, model: str | None = None) -> str:
    for figure in figures:
        if figure.benchmark == benchmark and step in (None, figure.step) and model in (None, figure.model):
            spread = "" if figure.std is None else f" ± {percent(figure.std)}"
            return percent(figure.accuracy, 1 if spread else 2) + spread
    return "–"


def write_comparison(
    outputs: Mapping[str, Path],
    results: Sequence[Path],
    family: str,
    seeds: Sequence[str] = (),
    benchmark_labels: Sequence[str] = (),
    experiment: str | None = None,
    title: str = "",
) -> None:
    """Compare our scores with the published ones of a family; `title` is the figure's."""
    from justrl.report import figure_style as style
    from justrl.report.accuracy_figures import plot_comparison

    loaded = load_results(results, benchmark_labels)
    stamp = experiment or experiment_of(loaded)
    cells = compare(loaded, family, stamp, read_seeds(seeds).get(family))
    if ".csv" in outputs:
        write_csv(cells, outputs[".csv"])
    heading = f"{family}: {page_subject(cells)}"
    write_tables(outputs, heading, comparison_sections(cells, loaded, family, stamp), stamp)
    style.save_figures(outputs, lambda: plot_comparison(cells, family, stamp, title))
