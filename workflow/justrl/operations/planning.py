"""The plan of an experiment: memory, time, GPU hours, disk and jobs, and what each training job asks of the queue."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from justrl.config import LEAST_HANG_MINUTES, CanaryRun, Experiment, Hardware, Recipe, Run, SeedRun, read_part
from justrl.gpu_specs import find_gpu
from justrl.layout import Layout
from justrl.model_shape import DEEPSEEK, ModelShape, shape_of
from justrl.operations import costs
from justrl.operations.costs import Calibration, Estimate
from justrl.operations.experiment_checks import check_memory
from justrl.train.verl.memory import job_of

# Ray, vLLM's start and compilation, loading the model, the first weight transfer.
STARTUP_SECONDS = {"verl": 15 * 60, "reference": 3 * 60}
# A step may take this much longer than its median: answers of another length, a slow file system.
SLACK = 1.15
# A step of a taught model takes a second or two on 2 cores; replaced by the first segment's timings.
CPU_STEP_SECONDS = 5.0
# Slurm's largest warning time is 16 bits of seconds.
LONGEST_WARNING = 65_535
SHORTEST_WARNING = 120
SHORTEST_EVALUATION_MINUTES, LONGEST_EVALUATION_MINUTES = 60, 720
UNKNOWN_SIZE = "; size of {} unknown until `snakemake data` has fetched it, taken for 1.5B"
# On a CPU, where nothing is estimated.
CPU_HANG_MINUTES = 90


def shape_of_run(experiment: Experiment, name: str) -> ModelShape | None:
    """The shape of a run's base model: of its folder if it is there; None for a model of unknown size."""
    folder = Layout(experiment, str(experiment.results)).base_model(name)
    return shape_of(experiment.models[experiment.runs[name].model], folder)


def calibration_of(experiment: Experiment, name: str, metrics: str | Path, hardware: Hardware) -> Calibration | None:
    """What the phases in a metrics file say of the terms, on the hardware where they were measured."""
    run = experiment.runs[name]
    estimate = partial(costs.step_time, hardware, run.engine, run.recipe, shape_of_run(experiment, name))
    return costs.calibrate(metrics, estimate) if hardware.gpus else None


def canary_record(experiment: Experiment, name: str) -> tuple[Path | None, Hardware | None]:
    """The metrics of a run's canary and the hardware it ran on, if the results folder has the record of that."""
    layout = Layout(experiment, str(experiment.results))
    log, record = Path(layout.metrics(f"canary_{name}")), experiment.results / "hardware.json"
    if not log.is_file() or not record.is_file() or record.stat().st_mtime > log.stat().st_mtime:
        return None, None
    return log, read_part(Hardware, record.read_text(encoding="utf-8"), record)


def canary_calibration(experiment: Experiment, name: str) -> Calibration | None:
    """What the canary of a run measured, if it ran on the hardware of which its results folder has the record."""
    log, hardware = canary_record(experiment, name)
    return calibration_of(experiment, name, log, hardware) if log and hardware else None


def expected_step_seconds(
    experiment: Experiment, name: str, metrics_file: str | Path | None = None, calibration: Calibration | None = None
) -> Estimate:
    """Seconds per step of a run on the configured hardware.

    Measured where a metrics file of its own is there, else estimated, with the canary's corrections if it ran.
    """
    if metrics_file and Path(metrics_file).is_file() and Path(metrics_file).stat().st_size:
        return costs.measured_step_seconds(metrics_file)
    hardware, run = experiment.hardware, experiment.runs[name]
    if not hardware.gpus:
        return Estimate(CPU_STEP_SECONDS, "s", "assumed for a taught model on a CPU")
    shape, longest = shape_of_run(experiment, name), run.recipe.max_response_length
    mean = costs.MEAN_RESPONSE * min(1.0, longest / costs.OF_AT_MOST)
    time = costs.step_time(hardware, run.engine, run.recipe, shape, longest, mean)
    calibration = calibration or (None if isinstance(run, CanaryRun) else canary_calibration(experiment, name))
    if calibration:
        time = calibration.correct(time)
    how = f"tail {time.tail:,.0f} s ({longest:,} tokens x {1000 * time.tail / longest:.1f} ms)"
    how += f" + cache {time.cache:,.0f} s + update {time.update:,.0f} s"
    if calibration:
        how += (
            f" + rest {calibration.rest:,.0f} s; generation x {calibration.generation:.2f}, update x "
            f"{calibration.update:.2f}, as in {calibration.source}"
        )
    return Estimate(time.total, "s", how)


def duration(seconds: float) -> str:
    """Format a duration: 45 s, 12 min, 7.5 h, 23 days."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def hang_timeout_minutes(hardware: Hardware, engine: str, recipe: Recipe, shape: ModelShape | None) -> float:
    """Minutes without progress that end a training job: those configured, or twice the longest phase.

    The longest phase is generation or update with every response at its limit, since a policy may ramble.
    """
    if hardware.hang_timeout_minutes is not None:
        return hardware.hang_timeout_minutes
    if not hardware.gpus or hardware.gpu == "none":
        return CPU_HANG_MINUTES
    longest = recipe.max_response_length
    time = costs.step_time(hardware, engine, recipe, shape, longest, longest)
    # The reference engine reports no phase, only whole steps.
    seconds = max(time.tail + time.cache, time.update) if engine == "verl" else time.total
    return max(LEAST_HANG_MINUTES, math.ceil(2 * seconds / 600) * 10)


def segment_runtime_minutes(
    experiment: Experiment, name: str, metrics_file: str | Path | None = None, steps: int | None = None
) -> int:
    """Minutes to ask of the queue for a job that trains one segment of a run, so that the segment fits in one job:

        start-up + steps x seconds per step x 1.15 + (saves + 1 export) x seconds to write a state + warning

    rounded up to ten minutes. `metrics_file` is the segment before, whose timings replace the estimate; `steps` is the
    length of the segment, the configuration's `segment_steps` if not given.
    """
    step = expected_step_seconds(experiment, name, metrics_file).value
    run, hardware = experiment.runs[name], experiment.hardware
    steps = steps or run.segment_steps
    writes = math.ceil(steps / hardware.save_every) + 1
    save = _save_seconds(experiment, name)
    seconds = STARTUP_SECONDS[run.engine] + steps * step * SLACK + writes * save + _warning_seconds(step, save)
    return math.ceil(seconds / 600) * 10


def segment_warning_seconds(experiment: Experiment, name: str, metrics_file: str | Path | None = None) -> int:
    """Seconds before the time limit at which Slurm warns the trainer, for `--signal=URG@...`.

    A save happens between steps, so the warning leaves room for one slow step and two saves; at least two minutes.
    """
    step = expected_step_seconds(experiment, name, metrics_file).value
    return _warning_seconds(step, _save_seconds(experiment, name))


def _warning_seconds(step: float, save: float) -> int:
    return min(LONGEST_WARNING, max(SHORTEST_WARNING, math.ceil(SLACK * step + 2 * save)))


def generation_minutes(
    experiment: Experiment, name: str, benchmarks: Sequence[str], protocol: str, shards: int = 1
) -> int:
    """Minutes to ask of the queue for a job that samples the answers to benchmarks, or one of `shards` of them.

    Twice the estimate, since answers may be longer than that; a job that is cut off goes on from its parts.
    """
    if not experiment.hardware.gpus:
        return LONGEST_EVALUATION_MINUTES
    shape = shape_of_run(experiment, name) if name in experiment.runs else None
    samples = math.ceil(evaluation_samples(experiment, benchmarks, protocol) / shards)
    longest = experiment.protocols[protocol].max_tokens
    return _evaluation_minutes(costs.evaluation_seconds(shape or DEEPSEEK, experiment.hardware.kind, samples, longest))


def judge_minutes(experiment: Experiment, benchmarks: Sequence[str], protocol: str) -> int:
    """Minutes to ask of the queue for judging the answers to the largest of some benchmarks; twice the estimate."""
    most = max(evaluation_samples(experiment, [name], protocol) for name in benchmarks)
    return _evaluation_minutes(costs.judge_seconds(most))


def _evaluation_minutes(seconds: float) -> int:
    """Twice so many seconds as minutes, in steps of ten and within what is sensible to ask for."""
    minutes = math.ceil(2 * seconds / 600) * 10
    return min(LONGEST_EVALUATION_MINUTES, max(SHORTEST_EVALUATION_MINUTES, minutes))


def _save_seconds(experiment: Experiment, name: str) -> float:
    return costs.save_seconds((shape_of_run(experiment, name) or DEEPSEEK).parameters)


def plan_run(
    experiment: Experiment, name: str, measured: str | Path | None = None, calibration: Calibration | None = None
) -> dict:
    """What one run needs, every figure with its derivation: {quantity: {value, unit, how}}."""
    run, hardware = experiment.runs[name], experiment.hardware
    gpus = hardware.gpus
    step = expected_step_seconds(experiment, name, measured, calibration)
    hours = step.value * run.steps / 3600
    asked = segment_runtime_minutes(experiment, name, measured) / 60
    warning = segment_warning_seconds(experiment, name, measured)
    rows = {
        "seconds per step": step,
        "training": Estimate(hours / 24, "days", f"{run.steps:,} steps x {step.value:,.1f} s, without queueing"),
        "training GPU hours": Estimate(hours * gpus, "GPU h", f"{hours:,.0f} h x {gpus} GPUs"),
        "training jobs": Estimate(
            len(run.segment_ends), "jobs", f"{run.steps:,} steps / {run.segment_steps} a segment"
        ),
        "time asked per job": Estimate(
            asked, "h", f"start-up + {run.segment_steps} steps x {SLACK} + saves + {warning} s of warning"
        ),
    }
    shape = shape_of_run(experiment, name) or DEEPSEEK
    if gpus:
        hang = hang_timeout_minutes(hardware, run.engine, run.recipe, shape)
        rows["hang timeout"] = Estimate(hang, "min", "configured, or twice the longest phase at full length")
        rows |= _evaluation_rows(experiment, run, shape) if run.evaluate else {}
    rows |= _disk_rows(experiment, run, shape)
    note = "" if shape_of_run(experiment, name) else UNKNOWN_SIZE.format(run.model)
    return {
        quantity: estimate.as_dict() | {"how": estimate.how + (note if estimate.unit != "jobs" else "")}
        for quantity, estimate in rows.items()
    }


def announce(experiment: Experiment, segments: Iterable[tuple[str, int]], layout: Layout) -> str:
    """One line on the training that is planned, segments by run and last step; empty where there is none.

    A run goes by the timings of the segment before, where there is one.
    """
    planned: dict[str, list[int]] = {}
    for run, end in segments:
        planned.setdefault(run, []).append(end)
    parts = []
    for run, ends in sorted(planned.items()):
        starts = [layout.start_step(run, end) for end in ends]
        seconds = expected_step_seconds(experiment, run, layout.segment_metrics(run, min(starts))).value
        seconds *= sum(ends) - sum(starts)
        gpus = f", {seconds / 3600 * experiment.hardware.gpus:,.0f} GPU hours" if experiment.hardware.gpus else ""
        parts.append(f"{run} by {len(ends)} job{'s' if len(ends) > 1 else ''}, about {duration(seconds)}{gpus}")
    return f"To be trained: {'; '.join(parts)} (`justrl plan` shows how that is derived)." if parts else ""


def evaluation_samples(experiment: Experiment, benchmarks: Sequence[str], protocol: str) -> int:
    """Completions of one checkpoint on the named benchmarks."""
    from justrl.data.benchmarks import question_count

    return sum(question_count(experiment.benchmarks[name]) * experiment.samples(name, protocol) for name in benchmarks)


def _evaluations(experiment: Experiment, run: Run) -> tuple[int, int]:
    """Completions of all evaluations of a run, and generation jobs.

    Base and last checkpoint are evaluated on all benchmarks, the ones between on the validation benchmarks. The base of
    several seeds counts with the first of them.
    """
    evaluation = experiment.evaluation
    if not run.evaluate:
        return 0, 0
    full = evaluation_samples(experiment, evaluation.benchmarks, evaluation.protocol)
    few = evaluation_samples(experiment, evaluation.validation_benchmarks, evaluation.protocol)
    between = len(run.evaluated_steps) - 1
    whole = 2 if _has_base(experiment, run) else 1
    jobs = whole * len(evaluation.benchmarks) + between * len(evaluation.validation_benchmarks)
    if evaluation.together:
        jobs = whole + between
    return whole * full + between * few, jobs * evaluation.shards


def _has_base(experiment: Experiment, run: Run) -> bool:
    """Whether a run's base model is evaluated with it: of several seeds, with the first."""
    if not isinstance(run, SeedRun):
        return True
    seeds = [other for other in experiment.runs.values() if isinstance(other, SeedRun) and other.setting == run.setting]
    return run == seeds[0]


def _evaluation_rows(experiment: Experiment, run: Run, shape: ModelShape) -> dict[str, Estimate]:
    evaluation = experiment.evaluation
    samples, jobs = _evaluations(experiment, run)
    max_tokens = experiment.protocols[evaluation.protocol].max_tokens
    between = len(run.evaluated_steps) - 1
    few = ", ".join(evaluation.validation_benchmarks)
    whole = "base and last" if _has_base(experiment, run) else "last"
    return {
        "evaluation GPU hours": costs.evaluation_gpu_hours(
            shape, experiment.hardware.kind, samples, jobs, max_tokens, evaluation.model_grader.enabled
        ),
        "evaluation jobs": Estimate(
            jobs,
            "jobs",
            f"{whole} on {len(evaluation.benchmarks)} benchmarks, {between} checkpoints on {few}, "
            f"{'one job' if evaluation.shards == 1 else str(evaluation.shards) + ' jobs'} each",
        ),
    }


# Whose models are kept, by `keep_exports`.
EXPORTS = {"all": "segments", "evaluated": "evaluated checkpoints"}


def _disk_rows(experiment: Experiment, run: Run, shape: ModelShape) -> dict[str, Estimate]:
    state, export = costs.state_gb(shape.parameters), costs.export_gb(shape.parameters)
    segments = {"all": len(run.segment_ends), "evaluated": len(run.evaluated_steps)}
    keep = experiment.keep_exports
    samples, _ = _evaluations(experiment, run)
    most = most_full_states()
    # A token is about four characters of text, which Parquet compresses to a third.
    completions = samples * costs.MEAN_EVALUATION_ANSWER * 4 / 3 / 1e9
    parts = {
        "one full state": state,
        "full states": Estimate(
            most * state.value, "GB", f"at most {most} at a time: {costs.KEPT_STATES} kept and 1 being written"
        ),
        "exported models": Estimate(
            segments[keep] * export.value,
            "GB",
            f"{segments[keep]} {EXPORTS[keep]} x {export.value:.2f} GB, kept ({export.how})",
        ),
        "completions": Estimate(completions, "GB", f"{samples:,} answers x 8,000 tokens x 4 characters / 3 compressed"),
    }
    total = parts["full states"].value + parts["exported models"].value + completions
    other = "evaluated" if keep == "all" else "all"
    instead = total + (segments[other] - segments[keep]) * export.value
    return parts | {
        "disk at most": Estimate(total, "GB", f"full states + exported models + completions, keep_exports: {keep}"),
        "disk otherwise": Estimate(instead, "GB", f"with keep_exports: {other}, {segments[other]} models"),
    }


def most_full_states() -> int:
    """Full training states that are on disk at any time, at most: the kept ones and one being written."""
    return costs.KEPT_STATES + 1


def plan_memory(experiment: Experiment, name: str) -> dict | None:
    """What fills each GPU in each phase of a run on verl, GiB, with the engine's settings; None where none is asked."""
    hardware, run, shape = experiment.hardware, experiment.runs[name], shape_of_run(experiment, name)
    job = job_of(hardware, run.recipe, shape) if run.engine == "verl" else None
    if job is None:
        return None
    settings = job.settings
    phases = job.phases(settings) if shape else {}
    check = check_memory(hardware, run.engine, run.recipe, shape)
    return {"check": check.as_dict(), "settings": asdict(settings), "card": job.card, "phases": phases}


def on(hardware: Hardware, gpu: str | None = None, nodes: int | None = None, gpus: int | None = None) -> Hardware:
    """The hardware with another kind of GPU, number of nodes or of GPUs on each.

    Raises:
        UserError: a GPU without figures.
    """
    changes: dict[str, object] = {"nodes": nodes} if nodes else {}
    if gpu:
        find_gpu(gpu)
        changes |= {"gpu": gpu, "gpu_figures": None, "gpus_per_node": gpus or hardware.gpus_per_node or 8}
    return hardware.model_copy(update=changes)


def make_plan(
    experiment: Experiment, gpu: str | None = None, nodes: int | None = None, measured: str | Path | None = None
) -> dict:
    """The plan of all enabled runs on the configured hardware, or on another GPU and number of nodes.

    A measured file was measured on the configured hardware. Its phases correct the estimate's terms; where it has none,
    its seconds per step replace the estimate.

    Raises:
        UserError: a GPU without figures, or a measured file without timings.
    """
    names = list(Layout(experiment).trainings())
    corrections = {
        name: calibration_of(experiment, name, measured, experiment.hardware) if measured else None for name in names
    }
    hardware = on(experiment.hardware, gpu, nodes)
    experiment = experiment.model_copy(update={"hardware": hardware})
    runs = {
        name: plan_run(experiment, name, None if corrections[name] else measured, corrections[name]) for name in names
    }
    memory = {name: plan_memory(experiment, name) for name in names}
    return {"experiment": experiment.experiment, "hardware": hardware.as_dict(), "runs": runs, "memory": memory}
