"""Tables of a family's comparison page: our figures and the published ones, gains, graders, published tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from justrl.config import paper
from justrl.config.published import BENCHMARKS, LABELS, final_step, published_steps, select_published
from justrl.report import figure_style as style
from justrl.report.accuracy_figures import plot_comparison
from justrl.report.comparison import compare, page_subject, write_csv
from justrl.report.html_tables import (
    Section,
    Text,
    grader_legend,
    model_label,
    percent,
    write_html,
    write_markdown,
)
from justrl.report.results import (
    Result,
    experiment_of,
    graded_by_model,
    load_results,
    ordered_benchmarks,
    read_seeds,
)

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


def comparison_sections(cells: Sequence, results: Sequence[Result], family: str, experiment: str) -> list[Section]:
    """The page of one family: each of our models, the gain over the base, both ways of grading, published tables."""
    labels = {cell.benchmark: cell.label for cell in cells}
    models = list(dict.fromkeys((cell.run, cell.step) for cell in cells))
    main = [cell for cell in cells if cell.reference in ("paper", "reevaluation")]
    sections = [_model_section(main, labels, model) for model in sorted(models, key=_model_order)]
    sections += _gain_sections(results, labels)
    sections += _grading_section(main, labels)
    sections += _late_sections(cells, family)
    sections += _published_sections(family)
    return sections


def _model_order(model: tuple[str, int | None]) -> tuple:
    run, step = model
    return (step is None, -(step or 0), run)


def _model_section(cells: Sequence, labels: dict[str, str], model: tuple[str, int | None]) -> Section:
    mine = [cell for cell in cells if (cell.run, cell.step) == model]
    graders = list(dict.fromkeys(cell.grader for cell in mine))
    headline = next((cell.grader for cell in mine if cell.headline), graders[0])
    published = any(cell.published is not None for cell in mine)
    references = ["JustRL paper", "Re-evaluation"] if published else ["Published"]
    rows = []
    for benchmark in dict.fromkeys(cell.benchmark for cell in mine):
        found = {(cell.grader, cell.reference): cell for cell in mine if cell.benchmark == benchmark}
        beside = {reference: cell for (_, reference), cell in found.items()}
        some = beside["paper"]
        size = f"{some.questions} × {some.samples}" if some.samples else f"{some.questions:,} questions"
        row = [Text(labels[benchmark], size)]
        row += [_published_text(beside[name]) for name in ("paper", "reevaluation")][: len(references)]
        rows.append(row + [_ours_text(found, grader) for grader in graders])
    notes = [_note(cell) for cell in mine if cell.note]
    there = len({cell.benchmark for cell in mine} & set(BENCHMARKS))
    if there < len(BENCHMARKS):
        notes.append(f"Only {there} of the paper's nine benchmarks were evaluated, so there is no average.")
    if whole := _unfinished(mine[0]):
        notes.append(f"The paper's recipe after {mine[0].step:,} of {whole:,} steps.")
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


def _unfinished(cell) -> int | None:
    """The steps of the paper's run if the cell is of an earlier checkpoint; else None."""
    whole = paper.final_steps(paper.setting(cell.run)) if cell.experiment == paper.PAPER and cell.step else None
    return whole if whole and cell.step < whole else None


def _note(cell) -> str:
    where = "JustRL paper" if cell.reference == "paper" else "Re-evaluation"
    return f"{where}: {cell.note}." if cell.verdict != "not comparable" else f"{where}, not comparable: {cell.note}."


def _published_text(cell) -> Text:
    if cell is None or cell.published is None:
        return Text("–", "not published")
    if cell.reference == "reevaluation" and cell.benchmark != "average":
        return Text(percent(cell.published, 1), f"± {percent(cell.published_error)}")
    return Text(percent(cell.published, 2))


def _ours_text(found: dict, grader: str) -> Text:
    paper, other = found.get((grader, "paper")), found.get((grader, "reevaluation"))
    if paper is None:
        return Text("–", "not graded")
    verdicts = tuple(
        (f"{name}: {cell.verdict}", cell.verdict)
        for name, cell in (("paper", paper), ("re-eval.", other))
        if cell is not None and cell.verdict != "not comparable"
    )
    note = "not comparable" if paper.published is not None and not verdicts else ""
    return Text(f"{percent(paper.value)} [{percent(paper.ci_low)}, {percent(paper.ci_high)}]", note, verdicts)


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
            [
                Text(labels[result.benchmark], model_label(result.run, result.step)),
                Text(percent(base.average()["value"])),
                Text(percent(result.average()["value"])),
                Text(
                    f"{100 * paired.difference:+.1f}".replace("-", "−"),
                    f"[{percent(paired.ci_low)}, {percent(paired.ci_high)}]",
                ),
                Text(p_value),
                Text(f"{paired.better} / {paired.equal} / {paired.worse}"),
            ]
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


def _grading_section(cells: Sequence, labels: dict[str, str]) -> list[Section]:
    """Minerva and OlympiadBench graded by rules, and by rules and then a model, if both graders ran."""
    ours = {(c.run, c.step, c.benchmark, c.grader): c for c in cells if c.reference == "paper"}
    others = {(c.run, c.step, c.benchmark): c for c in cells if c.reference == "reevaluation"}
    rows, graders = [], []
    for (run, step, benchmark, grader), cell in ours.items():
        rules = ours.get((run, step, benchmark, "paper_rules"))
        if benchmark not in MODEL_GRADED or not graded_by_model(grader) or rules is None:
            continue
        graders.append(grader)
        texts = [_interval_text(rules), _interval_text(cell)]
        gap = Text(f"{100 * (cell.value - rules.value):+.1f}".replace("-", "−"))
        published = [_published_text(cell), _published_text(others.get((run, step, benchmark)))]
        rows.append([Text(labels[benchmark], model_label(run, step)), *texts, gap, *published])
    if not rows:
        return []
    lead = (
        "On these two benchmarks, published scores of the same checkpoint differ by up to 20 points. The table shows "
        "our completions without and with the judge model; the paper used paper_rules+model."
    )
    judged = " or ".join(dict.fromkeys(graders))
    columns = ["Benchmark", "Ours: paper_rules", f"Ours: {judged}", "Judge adds", "JustRL paper", "Re-evaluation"]
    return [Section("Without and with the judge model", columns, rows, lead)]


def _late_sections(cells: Sequence, family: str) -> list[Section]:
    """The paper's late checkpoints, next to the primary figure of each of our trained models."""
    steps = published_steps(family)
    if len(steps) < 2:
        return []
    late = select_published(family, kind="justrl", reevaluation=False)
    beside = {step: "paper" if step == steps[0] else f"paper@{step}" for step in steps}
    trained = [cell for cell in cells if cell.headline and cell.reference == beside[steps[1]]]
    models = sorted({(cell.run, cell.step) for cell in trained}, key=_model_order)
    rows = []
    for name in (*BENCHMARKS, "average"):
        row = [Text(LABELS[name])]
        for step in steps:
            against = [c for c in cells if c.headline and c.benchmark == name and c.reference == beside[step]]
            verdicts = [
                (c, f"{'ours' if len(models) == 1 else c.run}: {c.verdict}")
                for c in against
                if (c.run, c.step) in models and c.verdict != "not comparable"
            ]
            row.append(Text(_lookup(late, name, step=step), "", tuple((text, c.verdict) for c, text in verdicts)))
        for model in models:
            mine = [cell for cell in trained if cell.benchmark == name and (cell.run, cell.step) == model]
            row.append(_interval_text(mine[0]) if mine else Text("–"))
        rows.append(row)
    lead = (
        "Scores that the paper reports for late checkpoints of one run, the final one first: they show how much "
        "accuracy varies between checkpoints of a finished run. Our scores and the verdicts use the primary grader."
    )
    columns = ["Benchmark", *(f"Paper, step {step:,}" for step in steps)]
    columns += [f"Ours: {model_label(*model)}" for model in models]
    return [Section("The paper's late checkpoints", columns, rows, lead)]


def _interval_text(cell) -> Text:
    return Text(f"{percent(cell.value)} [{percent(cell.ci_low)}, {percent(cell.ci_high)}]")


def _published_sections(family: str) -> list[Section]:
    """Every model published for a family: the paper's results table and the re-evaluation."""
    final = final_step(family)
    order = [*BENCHMARKS, "average"]
    sections = []
    for reevaluation, title in ((False, "Published: the paper's table"), (True, "Published: the re-evaluation")):
        figures = [f for f in select_published(family, reevaluation=reevaluation) if f.step in (None, final)]
        models = list(dict.fromkeys(figure.model for figure in figures))
        names = [name for name in order if any(figure.benchmark == name for figure in figures)]
        rows = [[Text(LABELS[name]), *(Text(_lookup(figures, name, model=m)) for m in models)] for name in names]
        source = next((figure.source for figure in figures), "")
        if rows:
            sections.append(
                Section(title, ["Benchmark", *models], rows, f"Source: {source}. None of these scores is ours.")
            )
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
    loaded = load_results(results, benchmark_labels)
    stamp = experiment or experiment_of(loaded)
    cells = compare(loaded, family, stamp, read_seeds(seeds).get(family))
    if ".csv" in outputs:
        write_csv(cells, outputs[".csv"])
    heading = f"{family}: {page_subject(cells)}"
    for ending, write in ((".md", write_markdown), (".html", write_html)):
        if ending in outputs:
            write(outputs[ending], heading, comparison_sections(cells, loaded, family, stamp), stamp)
    style.save_figures(outputs, lambda: plot_comparison(cells, family, stamp, title))
