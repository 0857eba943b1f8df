"""Compute the result JSON from completions and grades: check counts, compute statistics, add the published score.

`paper_rules+model` is the paper's grading, derived if there are grades of a model grader: correct if the rules accept
the answer, else the model's grade.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from justrl.errors import UserError
from justrl.evaluation import statistics
from justrl.evaluation.completions import KEY, check_made_with, read_completions
from justrl.evaluation.generating import Question, benchmark_fingerprint, read_benchmark
from justrl.evaluation.grading import MODEL, check_complete, count_outcomes, read_grades, rejected_samples, with_golds

if TYPE_CHECKING:
    import pandas

RULES = "paper_rules"
COMBINED = f"{RULES}+{MODEL}"


def score_files(
    completions: Sequence[str | Path],
    grades: Sequence[str | Path],
    benchmark: str | Path,
    *,
    name: str,
    experiment: str,
    headline: str,
    asked: Mapping[str, Any],
    family: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any], list[dict]]:
    """Score files. Returns the result without its provenance, the completions' settings, and the grades' settings.

    Seed, checkpoint and step are taken from the completions' settings, which must match those `asked` for. `family`
    selects the published scores to compare with. Raises UserError for files that don't belong together.
    """
    questions_of, questions = read_benchmark(benchmark)
    samples, settings = read_completions(completions)
    check_made_with(settings, asked)
    if settings.get("source") != "released":
        # Checked first, because later errors would be less clear about a missing shard.
        check_samples(samples, settings, questions_of, questions)
    samples = with_golds(samples, settings, questions_of, questions)
    verdicts, grading = read_grades(grades, samples)
    kind, step = kind_and_step(settings.get("run", name))
    named = {"name": name, "experiment": experiment, "headline": headline, "seed": settings.get("seed", 0)}
    result = score(samples, settings, verdicts, questions_of, questions, step=step, **named)
    return {**result, "published": published_figures(family, kind, questions_of, step)}, settings, grading


def kind_and_step(target: str) -> tuple[str, int | None]:
    """The kind of a target (run@step, run@base, or a published model's name), and its training step."""
    _, _, step = target.partition("@")
    if not step:
        return "external", None
    return ("base", 0) if step == "base" else ("run", int(step))


def score(
    samples: "pandas.DataFrame",
    settings: dict[str, Any],
    grades: "pandas.DataFrame",
    benchmark: str,
    questions: Sequence[Question],
    *,
    name: str,
    experiment: str,
    headline: str,
    step: int | None = None,
    seed: int = 0,
    model_after: str = RULES,
) -> dict[str, Any]:
    """The result of one model on one benchmark, ready for JSON except for `published` and `provenance`.

    Args:
        samples, settings: completions from `read_completions`.
        grades: grades from `read_grades`, of any number of graders.
        benchmark, questions: from `read_benchmark`.
        headline: the primary grader, whose score represents the result.
        seed: of the bootstrap.
        model_after: the grader whose rejected samples the model grader judged.

    Raises UserError: a sample that is missing, surplus or not graded, completions of other questions, or a primary
    grader without grades.
    """
    per_question = check_samples(samples, settings, benchmark, questions)
    grades = add_combined(samples, grades, model_after)
    graders = [str(grader) for grader in grades["grader"].unique()]
    if headline not in graders:
        raise UserError(f"the primary grader {headline} has no verdicts: choose one of {', '.join(graders)}")
    found = {grader: _of_grader(samples, grades, grader, questions, seed) for grader in graders}
    lengths, ends = samples["token_count"], samples["finish_reason"]
    return {
        "experiment": experiment,
        "name": name,
        "benchmark": benchmark,
        "model": settings.get("model"),
        "step": step,
        "protocol": settings.get("protocol", {}),
        "headline_grader": headline,
        "graders": {grader: values for grader, (values, _) in found.items()},
        "n_questions": len(questions),
        "samples_per_question": per_question,
        "length": None if lengths.isna().any() else statistics.length_summary(lengths),
        "truncated_fraction": None if ends.isna().any() else statistics.truncated_fraction(ends),
        "per_question": [
            {"id": question.id, "scores": {grader: scores[row] for grader, (_, scores) in found.items()}}
            for row, question in enumerate(questions)
        ],
    }


def check_samples(
    samples: "pandas.DataFrame", settings: dict[str, Any], benchmark: str, questions: Sequence[Question]
) -> int:
    """Check that every (question, sample) occurs exactly once. Returns the number of samples per question."""
    import pandas

    names = sorted(samples["benchmark"].unique())
    if names != [benchmark]:
        raise UserError(f"the completions are of {', '.join(names)}, the questions of {benchmark}")
    protocol = settings.get("protocol", {})
    per_question = protocol.get("samples") or int(samples["sample_index"].max()) + 1
    wanted = pandas.MultiIndex.from_product(
        [[question.id for question in questions], range(per_question)], names=["question_id", "sample_index"]
    )
    found = pandas.MultiIndex.from_frame(samples[["question_id", "sample_index"]])
    missing, surplus = wanted.difference(found, sort=False), found.difference(wanted, sort=False)
    if len(missing):
        question, sample = missing[0]
        raise UserError(
            f"{len(missing)} of {len(wanted)} samples of {benchmark} are missing (first: question "
            f"{question}, sample {sample}): give the completions of all shards"
        )
    if len(surplus):
        question, sample = surplus[0]
        raise UserError(
            f"{len(surplus)} samples of {benchmark} are not asked for, the first being question {question} sample "
            f"{sample}: the benchmark holds {len(questions)} questions of {per_question} samples"
        )
    asked = settings.get("benchmark_fingerprint")
    if asked and asked != benchmark_fingerprint(questions):
        raise UserError(
            f"the completions belong to another version of {benchmark} with different questions: give the "
            "matching benchmark file or completions"
        )
    return per_question


def add_combined(samples: "pandas.DataFrame", grades: "pandas.DataFrame", after: str = RULES) -> "pandas.DataFrame":
    """Replace a model grader's grades of what `after` rejected by the combined grades, `{after}+model`.

    If the rules found the answer correct, their grade and answer are kept. Otherwise the model's outcome counts, with
    the model's answer if the rules extracted none (maj@k counts answers).
    """
    import pandas

    model = grades[grades["grader"] == MODEL]
    if not len(model) and MODEL not in set(grades["grader"]):
        return grades
    rules = grades[grades["grader"] == after]
    check_complete(rejected_samples(samples, grades, after), model, MODEL)
    both = rules.merge(model[[*KEY, "outcome", "extracted"]], on=KEY, how="left", suffixes=("", "_model"))
    judged = both["outcome_model"].notna()
    both["outcome"] = both["outcome_model"].where(judged, both["outcome"])
    both["extracted"] = both["extracted"].where(both["extracted"].notna(), both["extracted_model"])
    both["grader"] = f"{after}+{MODEL}"
    return pandas.concat([grades[grades["grader"] != MODEL], both[grades.columns]], ignore_index=True)


def _of_grader(
    samples: "pandas.DataFrame", grades: "pandas.DataFrame", grader: str, questions: Sequence[Question], seed: int
) -> tuple[dict[str, Any], list[list[int]]]:
    """The statistics of one grader's grades, and its scores [question][sample] in the benchmark's order."""
    rows = grades[grades["grader"] == grader]
    check_complete(samples, rows, grader)
    ids = [question.id for question in questions]
    outcomes, extracted = (
        rows.pivot(index="question_id", columns="sample_index", values=column).loc[ids].to_numpy()
        for column in ("outcome", "extracted")
    )
    scores = (outcomes == "correct").astype(int).tolist()
    answers = [[value if isinstance(value, str) else None for value in row] for row in extracted]
    solve_none, solve_all = statistics.solve_counts(scores)
    found = {
        "avg_at_k": asdict(statistics.avg_at_k(scores, seed=seed)),
        "pass_at_k": {str(k): value for k, value in statistics.pass_at_k_curve(scores).items()},
        "maj_at_k": statistics.maj_at_k(answers, scores),
        "outcomes": count_outcomes(rows["outcome"]),
        "solve_none": solve_none,
        "solve_all": solve_all,
    }
    return found, scores


def sample_lines(samples: "pandas.DataFrame", grades: "pandas.DataFrame") -> list[dict[str, Any]]:
    """One mapping per sample: id, sample, question, ground_truth, completion, extracted answer and outcomes.

    `extracted` is from the first grader; `outcome` maps each grader to correct, wrong, unparsed or timeout.
    """
    verdicts: dict[tuple, dict[str, Any]] = {}
    for row in grades.itertuples(index=False):
        sample = tuple(getattr(row, key) for key in KEY)
        verdict = verdicts.setdefault(sample, {"extracted": row.extracted, "outcome": {}})
        verdict["outcome"][row.grader] = row.outcome
    return [
        {
            "id": row.question_id,
            "sample": row.sample_index,
            "question": row.question,
            "ground_truth": row.answer,
            "completion": row.completion,
            **verdicts[tuple(getattr(row, key) for key in KEY)],
        }
        for row in samples.itertuples(index=False)
    ]


def published_figures(family: str | None, kind: str, benchmark: str, step: int | None = None) -> dict | None:
    """The published scores of this family and benchmark, as fractions; None if there are none.

    `kind` is "base", or "run" or "external" for the trained model. `step` is our checkpoint's; each score has its own
    step. `justrl.report.comparison` decides whether the two are comparable.
    """
    from justrl.config.published import select_published

    if family is None:
        return None
    found = select_published(family, benchmark, "base" if kind == "base" else "justrl")
    keys = ("model", "step", "accuracy", "std", "source")
    figures = [{key: getattr(entry, key) for key in keys} for entry in found]
    return {"family": family, "kind": kind, "our_step": step, "figures": figures} if figures else None
