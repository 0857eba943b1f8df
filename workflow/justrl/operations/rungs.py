"""The rungs between a laptop and the paper, side by side: what each needs, takes and teaches."""

from justrl import config
from justrl.config import Experiment
from justrl.errors import UserError
from justrl.layout import Layout
from justrl.operations import costs
from justrl.operations.planning import evaluation_samples, make_plan, shape_of_run, shape_of_target

COLUMNS = ("rung", "runs on", "GPU hours", "days", "fills a GPU", "disk", "what one learns")


def render_rungs(experiment: Experiment) -> str:
    """Every rung as a row of a table; the paper's and those of its own DAG on the configured hardware.

    Days are without queueing; a GPU's figure is GiB of its fullest phase.

    Raises UserError: an experiment without GPUs, to which the rungs do not lead.
    """
    if not experiment.hardware.gpus:
        raise UserError("--rungs compares what GPUs do: hardware.gpus_per_node is 0 in this configuration")
    one_gpu = make_plan(config.load(["one_gpu/experiment.yaml"]))
    paper = make_plan(experiment)
    rows = [
        COLUMNS,
        ("snakemake --profile mini", "2 CPU cores", "0", "minutes", "", "", "that every part works"),
        _golden(experiment),
        ("snakemake --profile one_gpu", *_of(one_gpu), "whether the recipe improves the model at all"),
        _first_thousand(experiment, paper),
        ("snakemake --profile slurm", *_of(paper), "the paper, and a verdict on each of its claims"),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _golden(experiment: Experiment) -> tuple[str, ...]:
    """Every published model and the base models of their families, each on every benchmark, on one GPU."""
    evaluation, hardware = experiment.evaluation, experiment.hardware
    answers = evaluation_samples(experiment, evaluation.benchmarks, evaluation.protocol)
    tokens, jobs = experiment.protocols[evaluation.protocol].max_tokens, len(evaluation.benchmarks)
    bases = {run.family: shape_of_run(experiment, name) for name, run in experiment.runs.items()}
    shapes = []
    for family, names in Layout(experiment).golden_families().items():
        found = [shape_of_target(experiment, name) for name in names]
        shapes += [shape for shape in (*found, bases.get(family or "")) if shape]
    judged = evaluation.model_grader.enabled
    hours = [costs.evaluation_gpu_hours(s, hardware.kind, answers, jobs, tokens, judged).value for s in shapes]
    sizes = [costs.export_gb(shape.parameters).value for shape in shapes]
    return (
        "snakemake golden",
        f"1 x {hardware.gpu}",
        f"{sum(hours):,.0f}",
        f"{sum(hours) / 24:.1f}",
        "",
        f"{sum(sizes):,.0f} GB",
        f"whether this installation finds the published numbers ({answers:,} answers of each of {len(shapes)} models)",
    )


def _first_thousand(experiment: Experiment, paper: dict) -> tuple[str, ...]:
    """The share of the paper's runs that the segments of their first 1,000 steps are."""
    hardware = experiment.hardware
    seconds = 0.0
    for name, ends in Layout(experiment).trainings("first_1000").items():
        seconds += paper["runs"][name]["seconds per step"]["value"] * max(ends, default=0)
    row = _of(paper)
    hours = seconds / 3600
    days = f"{hours / 24:.1f}"
    learns = "whether reward, length and entropy move as published; the paper goes on from it"
    return ("snakemake first_1000", row[0], f"{hours * hardware.gpus:,.0f}", days, row[3], "", learns)


def _of(plan: dict) -> tuple[str, ...]:
    """Hardware, GPU hours, days one run after the other, GiB of the fullest phase, disk."""
    hardware = plan["hardware"]

    def total(quantity: str) -> float:
        return sum(rows[quantity]["value"] for rows in plan["runs"].values() if quantity in rows)

    fullest = [
        sum(phase.values()) for memory in plan["memory"].values() if memory for phase in memory["phases"].values()
    ]
    return (
        f"{hardware['nodes'] * hardware['gpus_per_node']} x {hardware['gpu']}",
        f"{total('training GPU hours') + total('evaluation GPU hours'):,.0f}",
        f"{total('training'):.1f}",
        f"{max(fullest):.0f} GiB" if fullest else "",
        f"{total('disk at most'):,.0f} GB",
    )
