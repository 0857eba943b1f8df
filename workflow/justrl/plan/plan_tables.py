"""The plan as text: what each run needs, other kinds of GPU, the scales of the experiment, the cost of a start."""

import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from justrl import config
from justrl.config import Experiment
from justrl.config.hardware import GPUS
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.hardware.checks import FAILED
from justrl.models.shape import KNOWN, ModelShape
from justrl.plan import costs, planning
from justrl.plan.planning import duration, evaluation_samples, expected_step_seconds, make_plan, shape_of_run

# Display names of some quantities of the plan.
LABELS = {"time asked per job": "requested job time"}
# (nodes, GPUs per node) that `render_kinds` compares; the last is the paper's.
COUNTS = ((1, 1), (1, 2), (1, 4), (1, 8), (4, 8))
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
# At most this many runs have a line of their own in the cost of a start.
MOST_RUNS = 10


def render(plan: Mapping) -> str:
    """The plan as a table for the terminal."""
    hardware = plan["hardware"]
    nodes = f"{hardware['nodes']} node{'s' if hardware['nodes'] > 1 else ''}"
    where = f"{nodes} with {hardware['gpus_per_node']} x {hardware['gpu']}"
    if not hardware["gpus_per_node"]:
        where = "a CPU"
    lines = [f"Experiment {plan['experiment']} on {where}"]
    for name, rows in plan["runs"].items():
        lines += ["", name]
        for quantity, row in rows.items():
            label, how = LABELS.get(quantity, quantity), row["how"]
            if row["low"] is not None:
                how = f"estimate, {format_value(row['low'])} to {format_value(row['high'])}: {how}"
            lines.append(f"  {label:<22}{format_value(row['value']):>10} {row['unit']:<6} {how}")
        if plan["memory"][name]:
            lines += render_memory(plan["memory"][name])
    totals: dict[tuple[str, str], float] = {}
    for rows in plan["runs"].values():
        for quantity in ("training GPU hours", "evaluation GPU hours", "disk at most"):
            if quantity in rows:
                key = quantity, rows[quantity]["unit"]
                totals[key] = totals.get(key, 0.0) + rows[quantity]["value"]
    count = len(plan["runs"])
    lines += ["", f"all {count} runs" if count > 1 else "in total"]
    lines += [f"  {quantity:<22}{format_value(value):>10} {unit}" for (quantity, unit), value in totals.items()]
    return "\n".join(lines)


def render_memory(memory: Mapping) -> list[str]:
    """GPU memory by component, one column per phase."""
    settings = ", ".join(f"{key} {value}" for key, value in memory["settings"].items())
    lines = [f"  memory of each GPU in GiB, of {memory['card']:.1f}: {settings}"]
    phases = memory["phases"]
    heads = {phase: textwrap.wrap(phase, 11, break_long_words=False) for phase in phases}
    widths = {phase: 2 + max(map(len, heads[phase])) for phase in phases}
    for number in range(max(map(len, heads.values()), default=0)):
        cells = "".join(f"{(*heads[phase], '', '')[number]:>{widths[phase]}}" for phase in phases)
        lines.append(f"    {'':<14}{cells}")
    for part in dict.fromkeys(part for phase in phases.values() for part in phase):
        filled = [(widths[phase], phases[phase].get(part)) for phase in phases]
        cells = "".join(f"{gib:>{width}.1f}" if gib else " " * width for width, gib in filled)
        lines.append(f"    {part:<14}{cells}")
    if phases:
        lines.append(
            f"    {'sum':<14}"
            + "".join(f"{sum(filled.values()):>{widths[phase]}.1f}" for phase, filled in phases.items())
        )
    check = memory["check"]
    return [*lines, f"    {check['status']}: " + "; ".join(filter(None, (check["found"], check["remedy"])))]


def render_kinds(experiment: Experiment) -> str:
    """Every known kind of GPU: what fits, and estimated seconds per step of the first run, also without CUDA graphs."""
    name = experiment.enabled[0]
    rows = [["", *(str(nodes * gpus) for nodes, gpus in COUNTS)]]
    rows += [[kind, *(_cell(experiment, name, kind, *count) for count in COUNTS)] for kind in GPUS]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COUNTS) + 1)]
    lines = [
        f"{name} by number of GPUs: estimated seconds per step (in parentheses: without CUDA graphs), "
        "gpu_memory_utilization"
    ]
    for kind, *cells in rows:
        lines.append(f"{kind:<{widths[0]}}" + "".join(f"{c:>{w + 2}}" for c, w in zip(cells, widths[1:], strict=True)))
    return "\n".join([*lines, "-: does not fit; *: the optimizer's moments are in CPU memory"])


def _cell(experiment: Experiment, name: str, kind: str, nodes: int, gpus: int) -> str:
    hardware = planning.on(experiment.hardware, kind, nodes, gpus)
    seconds = []
    for graphs in (True, False):
        engine = hardware.engine.model_copy(update={"cuda_graphs": graphs})
        there = experiment.model_copy(update={"hardware": hardware.model_copy(update={"engine": engine})})
        seconds.append(expected_step_seconds(there, name).value)
    times, memory = f"{seconds[0]:.0f} ({seconds[1]:.0f})", planning.plan_memory(there, name)
    if memory is None:
        return times
    if memory["check"]["status"] == FAILED:
        return "-"
    settings = memory["settings"]
    if "gpu_memory_utilization" not in settings:
        return times
    return f"{times} {settings['gpu_memory_utilization']:.2f}{'*' if settings['offload_optimizer'] else ''}"


def format_value(value: float) -> str:
    """Format a figure with a suitable number of digits."""
    if value >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def render_scales(experiment: Experiment) -> str:
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
            _whole("one_gpu", one_gpu, make_plan(one_gpu)),
            "snakemake --profile one_gpu",
            "shows whether a smaller version of the recipe improves the model",
        ),
        (
            _first_thousand(experiment, paper),
            "snakemake first_1000 --profile slurm",
            "shows whether reward, length and entropy change as published; `paper` resumes from it",
        ),
        (
            _whole("paper", experiment, paper),
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


def _scale(name: str, hardware: str, gpu_hours: float, days: float, memory: str, disk: float) -> tuple[str, ...]:
    """One row of the table of scales that need GPUs."""
    return name, GPU_ENVIRONMENT, hardware, f"{gpu_hours:,.0f}", f"{days:.1f}", memory, f"{disk:,.0f} GB"


def _golden(experiment: Experiment) -> tuple[str, ...]:
    """Every published model and the base models of their families, each on every benchmark, on one GPU."""
    evaluation, hardware = experiment.evaluation, experiment.hardware
    answers = evaluation_samples(experiment, evaluation.benchmarks, evaluation.protocol)
    tokens, jobs = experiment.protocols[evaluation.protocol].max_tokens, len(evaluation.benchmarks)
    bases = {run.family: shape_of_run(experiment, name) for name, run in experiment.runs.items()}
    shapes = []
    for family, names in Layout(experiment).golden_families().items():
        found = [planning.shape_of_target(experiment, name) for name in names]
        shapes += [shape for shape in (*found, bases.get(family or "")) if shape]
    judged = evaluation.model_grader.enabled
    hours = sum(costs.evaluation_gpu_hours(s, hardware.kind, answers, jobs, tokens, judged).value for s in shapes)
    disk = sum(map(_model_gb, shapes)) + _judge_gb(experiment) + costs.completions_gb(answers * len(shapes))
    return _scale("golden", f"1 x {hardware.gpu}", hours, hours / 24, "-", disk)


def _first_thousand(experiment: Experiment, paper: dict) -> tuple[str, ...]:
    """The segments that contain the first 1,000 steps of each run, and the evaluations of their checkpoints."""
    hardware, evaluation = experiment.hardware, experiment.evaluation
    few = evaluation_samples(experiment, evaluation.validation_benchmarks, evaluation.protocol)
    tokens, jobs = experiment.protocols[evaluation.protocol].max_tokens, len(evaluation.validation_benchmarks)
    judged = evaluation.model_grader.enabled
    seconds, evaluated, disk, bases = 0.0, 0.0, _judge_gb(experiment), {}
    for name, ends in Layout(experiment).trainings("first_1000").items():
        run, shape = experiment.runs[name], shape_of_run(experiment, name)
        bases[run.model] = shape
        seconds += paper["runs"][name]["seconds per step"]["value"] * max(ends, default=0)
        checkpoints = 1 + sum(step <= 1000 for step in run.evaluated_steps) if run.evaluate else 0
        one = costs.evaluation_gpu_hours(shape, hardware.kind, few, jobs, tokens, judged).value
        evaluated += checkpoints * one
        disk += planning.most_full_states() * costs.state_gb(shape.parameters).value
        disk += len(ends) * _model_gb(shape) + costs.completions_gb(checkpoints * few)
    disk += sum(map(_model_gb, bases.values()))
    hours = seconds / 3600
    return _scale(
        "first_1000", _hardware(paper), hours * hardware.gpus + evaluated, hours / 24, _peak_memory(paper), disk
    )


def _whole(name: str, experiment: Experiment, plan: dict) -> tuple[str, ...]:
    """All runs of an experiment, one after the other, with their evaluations."""

    def total(quantity: str) -> float:
        return sum(rows[quantity]["value"] for rows in plan["runs"].values() if quantity in rows)

    bases = {experiment.runs[run].model: shape_of_run(experiment, run) for run in plan["runs"]}
    disk = total("disk at most") + sum(map(_model_gb, bases.values())) + _judge_gb(experiment)
    hours = total("training GPU hours") + total("evaluation GPU hours")
    return _scale(name, _hardware(plan), hours, total("training"), _peak_memory(plan), disk)


def _peak_memory(plan: dict) -> str:
    """GiB of the fullest phase of any run."""
    known = filter(None, plan["memory"].values())
    fullest = [sum(phase.values()) for memory in known for phase in memory["phases"].values()]
    return f"{max(fullest):.0f} GiB" if fullest else "-"


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


def announce(
    experiment: Experiment, segments: Iterable[tuple[str, int]], jobs: Iterable[Sequence[str]], layout: Layout
) -> str:
    """Describe the planned jobs in lines of at most 100 columns; empty if nothing is trained or evaluated.

    Args:
        segments: run and last step of each segment that will be trained. The timings of a run's previous segment are
            used, if there is one.
        jobs: the outputs of each planned job; those that sample answers are picked out.
    """
    # GPU hours of each part; None for a part that is not known yet.
    hours: list[costs.Estimate | None] = []
    trained = _training(experiment, segments, layout, hours)
    evaluated = _evaluation(experiment, jobs, layout, hours)
    lines = ["To be trained:", *trained] if trained else []
    lines += [f"To be evaluated: {evaluated}"] if evaluated else []
    if lines and experiment.hardware.gpus:
        lines.append(_in_all(hours))
    return "\n".join(lines)


def _in_all(hours: Sequence[costs.Estimate | None]) -> str:
    known = [part for part in hours if part is not None]
    low = sum(part.value if part.low is None else part.low for part in known)
    high = sum(part.upper for part in known)
    text = f"About {_digits(sum(part.value for part in known))} GPU hours in all"
    if low < high:
        text += f" (an estimate: {_digits(low)} to {_digits(high)})"
    unknown = "" if len(known) == len(hours) else "; parts that are not known yet are left out"
    return f"{text}{unknown}; `justrl plan` shows the derivation."


def _digits(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _training(
    experiment: Experiment, segments: Iterable[tuple[str, int]], layout: Layout, all_hours: list[costs.Estimate | None]
) -> list[str]:
    """One line for each run that will be trained; its GPU hours are added to `all_hours`."""
    planned: dict[str, list[int]] = {}
    for run, end in segments:
        planned.setdefault(run, []).append(end)
    lines = []
    for run, ends in sorted(planned.items()):
        starts = [layout.start_step(run, end) for end in ends]
        jobs = f"  {run}: {len(ends)} job{'s' if len(ends) > 1 else ''}"
        measured = layout.segment_metrics(run, min(starts))
        unknown = None
        if _slow_on_a_cpu(experiment, run) and not Path(measured or "").is_file():
            unknown = "the first one has ended"
        elif planning.longest_step(experiment, run, measured, 1) is None:
            unknown = "`snakemake data` has downloaded the model"
        if unknown:
            lines.append(f"{jobs}, time unknown until {unknown}")
            all_hours.append(None)
            continue
        step = expected_step_seconds(experiment, run, measured, steps=(min(starts), max(ends)))
        around = planning.around_hours(experiment, run, zip(starts, ends, strict=True))
        time = step.times((sum(ends) - sum(starts)) / 3600, "h", "").plus(around)
        hours = time.times(experiment.hardware.gpus, "GPU h", "")
        all_hours.append(hours)
        gpus = f", {_digits(hours.value)} GPU hours" if experiment.hardware.gpus else ""
        lines.append(f"{jobs}, about {duration(3600 * time.value)}{gpus}")
    if len(lines) > MOST_RUNS:
        lines[MOST_RUNS:] = [f"  and {len(lines) - MOST_RUNS} more runs"]
    return lines


def _slow_on_a_cpu(experiment: Experiment, run: str) -> bool:
    """True if a model of unknown speed is trained on a CPU: any model but those that the workflow makes itself."""
    return not experiment.hardware.gpus and experiment.models[experiment.runs[run].model].source != "tiny"


def _evaluation(
    experiment: Experiment, jobs: Iterable[Sequence[str]], layout: Layout, all_hours: list[costs.Estimate | None]
) -> str:
    """Models, jobs and answers of the evaluations in one line; their GPU hours are added to `all_hours`."""
    targets, count, answers, hours = set(), 0, 0, 0.0
    judged = experiment.evaluation.model_grader.enabled
    for outputs in jobs:
        asked = list(_asked(outputs, layout))
        if not asked:
            continue
        (target, protocol), count = asked[0][:2], count + 1
        samples = sum(
            math.ceil(evaluation_samples(experiment, [benchmark], protocol) / shards) for *_, benchmark, shards in asked
        )
        targets.add(target)
        answers += samples
        if experiment.hardware.gpus:
            shape = planning.shape_of_target(experiment, layout.run_of(target))
            kind, longest = experiment.hardware.kind, experiment.protocols[protocol].max_tokens
            one = costs.evaluation_gpu_hours(shape, kind, samples, 1, longest, judged) if shape else None
            all_hours.append(one)
            hours += one.value if one else 0.0
    if not count:
        return ""
    plural = ["" if number == 1 else "s" for number in (len(targets), count)]
    gpus = f", about {_digits(hours)} GPU hours" if hours else ""
    return f"{len(targets)} model{plural[0]} in {count:,} job{plural[1]}, {answers:,} answers{gpus}"


def _asked(outputs: Sequence[str], layout: Layout) -> Iterator[tuple[str, str, str, int]]:
    """Target, protocol, benchmark and number of shards of each file of completions."""
    for path in outputs:
        found = re.fullmatch(
            rf"{re.escape(layout.root)}/evaluations/([^/]+)/([^/]+)/([^/]+)/completions/\d+-of-(\d+)\.parquet", path
        )
        if found:
            yield found[1], found[3], found[2], int(found[4])
