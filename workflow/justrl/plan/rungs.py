"""The scales at which the workflow runs, from a laptop to the paper: command, environment, hours, memory, disk."""

from justrl import config
from justrl.config import Experiment
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.models.shape import KNOWN, ModelShape
from justrl.plan import costs
from justrl.plan.planning import evaluation_samples, make_plan, most_full_states, shape_of_run, shape_of_target

COLUMNS = ("scale", "environment", "hardware", "GPU hours", "days", "GPU memory", "disk")
GPU_ENVIRONMENT = ".venv-gpu"
# Results and data of the mini experiment, rounded up.
MINI_DISK = "30 MB"
# Three full states of 134.5 million parameters, the base model and four exports.
LAPTOP_DISK = "7 GB"
NOTES = """Hours and days are estimates; days leave out queueing and count one run after the other.
GPU memory is the peak of a training on one GPU; without training, vLLM takes its default share.
Disk includes the base models{judge}, not the packages.
Activate an environment with `. .venv/bin/activate` or `. .venv-gpu/bin/activate`."""


def render_rungs(experiment: Experiment) -> str:
    """A table with one row per scale, then command and purpose of each; the paper's scales on the configured hardware.

    Raises UserError for an experiment without GPUs, which has no scales to compare.
    """
    if not experiment.hardware.gpus:
        raise UserError(
            "--scales compares runs on GPUs, and hardware.gpus_per_node is 0 in this configuration: leave out --config "
            "or set hardware.gpus_per_node"
        )
    one_gpu = config.load(["one_gpu/experiment.yaml"])
    paper = make_plan(experiment)
    scales = [
        (
            ("mini", ".venv", "2 CPU cores", "0", "minutes", "-", MINI_DISK),
            "snakemake --profile mini",
            "checks that every part works, on a tiny model and generated sums",
        ),
        (
            ("laptop", ".venv", "2 CPU cores", "0", "hours", "-", LAPTOP_DISK),
            "make smollm2 tasks; snakemake --profile laptop",
            "checks that the same code trains a real small model",
        ),
        (
            _golden(experiment),
            "snakemake golden --cores all --resources gpu=1",
            "checks whether your installation reproduces the published scores of the released weights",
        ),
        (
            ("one_gpu", GPU_ENVIRONMENT, *_of(one_gpu, make_plan(one_gpu))),
            "snakemake --profile one_gpu",
            "shows whether a smaller version of the recipe improves the model",
        ),
        (
            _first_thousand(experiment, paper),
            "snakemake first_1000 --profile slurm",
            "shows whether reward, length and entropy change as published; `paper` resumes from it",
        ),
        (
            ("paper", GPU_ENVIRONMENT, *_of(experiment, paper)),
            "snakemake --profile slurm",
            "reproduces the paper, with a verdict on each of its claims",
        ),
    ]
    rows = [COLUMNS, *(row for row, _, _ in scales)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["Scales of the experiment", "", *(_line(row, widths) for row in rows)]
    for (name, *_), command, purpose in scales:
        lines += ["", f"{name:<{widths[0]}}  {command}", f"{'':<{widths[0]}}  {purpose}"]
    judge = " and the judge model" if experiment.evaluation.model_grader.enabled else ""
    return "\n".join([*lines, "", NOTES.format(judge=judge)])


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    """Format a row: three left-aligned columns of words, then right-aligned numbers."""
    cells = [
        cell.ljust(width) if column < 3 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


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
    disk = sum(map(_model_gb, shapes)) + _judge_gb(experiment) + costs.completions_gb(answers * len(shapes))
    return (
        "golden",
        GPU_ENVIRONMENT,
        f"1 x {hardware.gpu}",
        f"{sum(hours):,.0f}",
        f"{sum(hours) / 24:.1f}",
        "-",
        f"{disk:,.0f} GB",
    )


def _first_thousand(experiment: Experiment, paper: dict) -> tuple[str, ...]:
    """The segments that contain the first 1,000 steps of each run, and the evaluations of their checkpoints."""
    hardware, evaluation, layout = experiment.hardware, experiment.evaluation, Layout(experiment)
    few = evaluation_samples(experiment, evaluation.validation_benchmarks, evaluation.protocol)
    tokens, jobs = experiment.protocols[evaluation.protocol].max_tokens, len(evaluation.validation_benchmarks)
    seconds, evaluated, disk = 0.0, 0.0, _judge_gb(experiment)
    bases = {}
    for name, ends in layout.trainings("first_1000").items():
        run, shape = experiment.runs[name], shape_of_run(experiment, name)
        bases[run.model] = shape
        seconds += paper["runs"][name]["seconds per step"]["value"] * max(ends, default=0)
        checkpoints = 1 + sum(step <= 1000 for step in run.evaluated_steps) if run.evaluate else 0
        evaluated += (
            checkpoints
            * costs.evaluation_gpu_hours(shape, hardware.kind, few, jobs, tokens, evaluation.model_grader.enabled).value
        )
        disk += most_full_states() * costs.state_gb(shape.parameters).value
        disk += len(ends) * _model_gb(shape) + costs.completions_gb(checkpoints * few)
    disk += sum(map(_model_gb, bases.values()))
    hours = seconds / 3600
    *_, memory, _ = _of(experiment, paper)
    return (
        "first_1000",
        GPU_ENVIRONMENT,
        _hardware(paper),
        f"{hours * hardware.gpus + evaluated:,.0f}",
        f"{hours / 24:.1f}",
        memory,
        f"{disk:,.0f} GB",
    )


def _model_gb(shape: ModelShape) -> float:
    return costs.export_gb(shape.parameters).value


def _judge_gb(experiment: Experiment) -> float:
    """Gigabytes of the judge model; 0 without a judge, or if its size is unknown."""
    grader = experiment.evaluation.model_grader
    shape = KNOWN.get(grader.model) if grader.enabled else None
    return _model_gb(shape) if shape else 0.0


def _hardware(plan: dict) -> str:
    hardware = plan["hardware"]
    return f"{hardware['nodes'] * hardware['gpus_per_node']} x {hardware['gpu']}"


def _of(experiment: Experiment, plan: dict) -> tuple[str, ...]:
    """Hardware, GPU hours, days with one run after the other, GiB of the fullest phase, disk."""

    def total(quantity: str) -> float:
        return sum(rows[quantity]["value"] for rows in plan["runs"].values() if quantity in rows)

    fullest = [
        sum(phase.values()) for memory in plan["memory"].values() if memory for phase in memory["phases"].values()
    ]
    bases = {experiment.runs[name].model: shape_of_run(experiment, name) for name in plan["runs"]}
    disk = total("disk at most") + sum(map(_model_gb, bases.values())) + _judge_gb(experiment)
    return (
        _hardware(plan),
        f"{total('training GPU hours') + total('evaluation GPU hours'):,.0f}",
        f"{total('training'):.1f}",
        f"{max(fullest):.0f} GiB" if fullest else "-",
        f"{disk:,.0f} GB",
    )
