"""The plan of an experiment: memory, time, GPU hours, disk and jobs, and the time limits of its jobs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from justrl.config import LEAST_HANG_MINUTES, CanaryRun, Experiment, Hardware, Recipe, Run, SeedRun, read_part
from justrl.config import files as config_files
from justrl.config.hardware import find_gpu
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.hardware.checks import check_memory
from justrl.hardware.memory import memory_job
from justrl.models.shape import KNOWN, ModelShape, read_shape, shape_in, shape_of
from justrl.plan import costs
from justrl.plan.costs import Calibration, Estimate, StepTime, cut_lengths, estimated, lengths_of, step_time

# Ray, vLLM's start and compilation, loading the model, the first weight transfer.
STARTUP_SECONDS = {"verl": 15 * 60, "reference": 3 * 60}
# A step may take this much longer than the median, with other answer lengths or a slow file system.
SLACK = 1.15
# A warm-started tiny model on 2 cores, without Ray; replaced by the first segment's timings.
CPU_STEP_SECONDS, CPU_STARTUP_SECONDS = 2.0, 20.0
# Slurm stores the warning time in 16 bits of seconds.
LONGEST_WARNING = 65_535
SHORTEST_WARNING = 120
SHORTEST_EVALUATION_MINUTES, LONGEST_EVALUATION_MINUTES = 60, 720
# On a CPU, where no time is estimated.
CPU_HANG_MINUTES = 90
# For a model of unknown size.
UNKNOWN_HANG_MINUTES, UNKNOWN_SEGMENT_MINUTES, UNKNOWN_WARNING = 720, 24 * 60, 1800


def known_shape(experiment: Experiment, name: str) -> ModelShape | None:
    """The shape of a run's base model, from its folder, `plan.shapes` or the known models; None if unknown."""
    folder = Layout(experiment, str(experiment.results)).base_model(name)
    model = experiment.runs[name].model
    given = experiment.plan.shapes.get(model)
    return read_shape(folder) or (shape_in(given.as_dict()) if given else shape_of(experiment.models[model]))


def shape_of_run(experiment: Experiment, name: str) -> ModelShape:
    """The shape of a run's base model.

    Raises UserError if it is unknown, because time, memory and disk cannot be estimated without it.
    """
    if (shape := known_shape(experiment, name)) is None:
        model = experiment.runs[name].model
        raise UserError(
            f"the size of models.{model} is not known, so it cannot be planned: download its config.json "
            f"with `snakemake data`, or copy the sizes to plan.shapes.{model}"
        )
    return shape


def calibration_of(experiment: Experiment, name: str, metrics: str | Path, hardware: Hardware) -> Calibration | None:
    """Calibrate the estimate with the phases in a metrics file, for the hardware on which they were measured."""
    if not hardware.gpus:
        return None
    run, shape = experiment.runs[name], shape_of_run(experiment, name)

    def estimate(longest: float, mean: float) -> StepTime:
        return step_time(costs.work_of(hardware, run.engine, run.recipe, shape, lengths_of(mean, longest)))

    return costs.calibrate(metrics, estimate)


def canary_calibration(experiment: Experiment, name: str) -> Calibration | None:
    """The calibration from a run's canary; None without it, or if the record of its hardware is missing or newer."""
    layout = Layout(experiment, str(experiment.results))
    log, record = Path(layout.metrics(f"canary_{name}")), experiment.results / "hardware.json"
    if not log.is_file() or not record.is_file() or record.stat().st_mtime > log.stat().st_mtime:
        return None
    hardware = read_part(Hardware, record.read_text(encoding="utf-8"), record)
    return calibration_of(experiment, name, log, hardware)


def expected_step_seconds(
    experiment: Experiment,
    name: str,
    metrics_file: str | Path | None = None,
    calibration: Calibration | None = None,
    steps: tuple[int, int] | None = None,
) -> Estimate:
    """Mean seconds per step of a run on the configured hardware, over the steps after the first of `steps`.

    Measured, if `metrics_file` exists and is not empty; else estimated, and corrected by the canary if it ran. `steps`
    defaults to the whole run; answers are longest at its start.
    """
    if metrics_file and Path(metrics_file).is_file() and Path(metrics_file).stat().st_size:
        return costs.measured_step_seconds(metrics_file)
    hardware, run = experiment.hardware, experiment.runs[name]
    if not hardware.gpus:
        return Estimate(CPU_STEP_SECONDS, "s", "assumed for a warm-started model on a CPU")
    shape, (first, last) = shape_of_run(experiment, name), steps or (0, run.steps)
    uncut = costs.uncut_response(first, last, experiment.plan.answer_tokens.get(run.model))
    lengths = cut_lengths(uncut, run.recipe.max_response_length)
    time = step_time(costs.work_of(hardware, run.engine, run.recipe, shape, lengths))
    calibration = calibration or (None if isinstance(run, CanaryRun) else canary_calibration(experiment, name))
    if calibration:
        time = calibration.correct(time)
    how = (
        f"answers of {lengths.mean:,.0f} tokens; launches {time.launches:,.0f} s + weights {time.weights:,.0f} s + "
        f"cache {time.cache:,.0f} s + update {time.update:,.0f} s + rest {time.rest:,.0f} s"
    )
    if calibration:
        how += (
            f"; generation x {calibration.generation:.2f}, update x {calibration.update:.2f}, rest as in "
            f"{calibration.source}"
        )
        return Estimate(time.total, "s", how)
    return estimated(time.total, "s", how)


def duration(seconds: float) -> str:
    """Format a duration: 45 s, 12 min, 7.5 h, 23 days."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def hang_timeout_minutes(hardware: Hardware, engine: str, recipe: Recipe, shape: ModelShape | None) -> float:
    """Minutes without progress after which a training job is stopped: as configured, or twice the longest phase.

    The longest phase is generation or update with every response at its length limit, which a policy may reach.
    """
    if hardware.hang_timeout_minutes is not None:
        return hardware.hang_timeout_minutes
    if hardware.on_cpu:
        return CPU_HANG_MINUTES
    if shape is None:
        return UNKNOWN_HANG_MINUTES
    longest = recipe.max_response_length
    time = step_time(costs.work_of(hardware, engine, recipe, shape, lengths_of(longest, longest)))
    # The reference engine reports whole steps only, no phases.
    seconds = max(time.generation, time.update) if engine == "verl" else time.total
    return max(LEAST_HANG_MINUTES, math.ceil(2 * seconds / 600) * 10)


def segment_runtime_minutes(
    experiment: Experiment, name: str, metrics_file: str | Path | None = None, steps: int | None = None
) -> int:
    """Minutes to request from the queue for a job that trains one segment, so that the segment fits into the job:

        start-up + steps x seconds per step x 1.15 + (saves + 1 merge and export) x seconds to write a state + warning

    rounded up to ten minutes. `metrics_file` is from the previous segment; its timings replace the estimate. Otherwise
    the upper end of the estimate counts, for the first and longest steps. `steps` is the length of the segment and
    defaults to `segment_steps`. A model of unknown size gets a day.
    """
    run, hardware = experiment.runs[name], experiment.hardware
    steps = steps or run.segment_steps
    if (estimate := longest_step(experiment, name, metrics_file, steps)) is None:
        return UNKNOWN_SEGMENT_MINUTES
    step = estimate.upper
    writes = math.ceil(steps / hardware.save_every) + 1
    save = _save_seconds(experiment, name)
    seconds = STARTUP_SECONDS[run.engine] + steps * step * SLACK + writes * save + _warning_seconds(step, save)
    return math.ceil(seconds / 600) * 10


def segment_warning_seconds(experiment: Experiment, name: str, metrics_file: str | Path | None = None) -> int:
    """Seconds before the time limit at which Slurm warns the trainer, for `--signal=URG@...`.

    States are saved between steps, so the warning leaves time for one slow step and two saves, and at least two
    minutes. A model of unknown size gets half an hour.
    """
    step = longest_step(experiment, name, metrics_file, experiment.runs[name].segment_steps)
    return UNKNOWN_WARNING if step is None else _warning_seconds(step.upper, _save_seconds(experiment, name))


def longest_step(experiment: Experiment, name: str, metrics_file: str | Path | None, steps: int) -> Estimate | None:
    """Expected seconds per step over the first `steps`, the longest; None if unknown until the model is downloaded."""
    measured = metrics_file and Path(metrics_file).is_file()
    if experiment.hardware.gpus and not measured and known_shape(experiment, name) is None:
        return None
    return expected_step_seconds(experiment, name, metrics_file, steps=(0, steps))


def _warning_seconds(step: float, save: float) -> int:
    return min(LONGEST_WARNING, max(SHORTEST_WARNING, math.ceil(SLACK * step + 2 * save)))


def generation_minutes(
    experiment: Experiment, name: str, benchmarks: Sequence[str], protocol: str, shards: int = 1
) -> int:
    """Minutes to request from the queue for a job that samples answers to benchmarks, or for one of `shards` of them.

    Twice the estimate, since answers may be longer; the maximum for a model of unknown size. An interrupted job
    continues from its partial output.
    """
    shape = shape_of_target(experiment, name)
    if not experiment.hardware.gpus or shape is None:
        return LONGEST_EVALUATION_MINUTES
    samples = math.ceil(evaluation_samples(experiment, benchmarks, protocol) / shards)
    longest = experiment.protocols[protocol].max_tokens
    return _evaluation_minutes(costs.evaluation_seconds(shape, experiment.hardware.kind, samples, longest))


def shape_of_target(experiment: Experiment, name: str) -> ModelShape | None:
    """The shape of a run's models or of a published one: its own, or that of its family's base; None if unknown."""
    if name in experiment.runs:
        return known_shape(experiment, name)
    if (entry := experiment.external.get(name)) is None:
        return None
    own = read_shape(config_files.find(entry.path)) if entry.path else KNOWN.get(str(entry.model))
    bases = [run for run, described in experiment.runs.items() if entry.family and described.family == entry.family]
    return own or (known_shape(experiment, bases[0]) if bases else None)


def judge_minutes(experiment: Experiment, benchmarks: Sequence[str], protocol: str) -> int:
    """Minutes to request for judging the answers to the largest of these benchmarks; twice the estimate."""
    most = max(evaluation_samples(experiment, [name], protocol) for name in benchmarks)
    return _evaluation_minutes(costs.judge_seconds(most))


def _evaluation_minutes(seconds: float) -> int:
    """Convert seconds to minutes: twice as many, in steps of ten, within the allowed range."""
    minutes = math.ceil(2 * seconds / 600) * 10
    return min(LONGEST_EVALUATION_MINUTES, max(SHORTEST_EVALUATION_MINUTES, minutes))


def _save_seconds(experiment: Experiment, name: str) -> float:
    shape = known_shape(experiment, name)
    return costs.save_seconds(shape.parameters) if shape else 0.0


def around_hours(experiment: Experiment, name: str, segments: Iterable[tuple[int, int]]) -> float:
    """Hours that segments, as (first step, last step), take in addition to their steps: start-ups, saves, merges."""
    spans = list(segments)
    writes = sum(math.ceil((end - start) / experiment.hardware.save_every) + 1 for start, end in spans)
    engine = experiment.runs[name].engine
    quick = engine == "reference" and not experiment.hardware.gpus
    starts = len(spans) * (CPU_STARTUP_SECONDS if quick else STARTUP_SECONDS[engine])
    return (starts + writes * _save_seconds(experiment, name)) / 3600


def plan_run(
    experiment: Experiment, name: str, measured: str | Path | None = None, calibration: Calibration | None = None
) -> dict:
    """The needs of one run, every figure with its derivation: {quantity: {value, unit, how}}."""
    run, hardware, shape = experiment.runs[name], experiment.hardware, shape_of_run(experiment, name)
    step = expected_step_seconds(experiment, name, measured, calibration)
    jobs = len(run.segment_ends)
    around = around_hours(experiment, name, zip([0, *run.segment_ends], run.segment_ends, strict=False))
    how = f"{run.steps:,} steps x {step.value:,.1f} s + {around:,.1f} h of start-ups, saves and merges"
    whole = step.times(run.steps / 3600, "h", how).plus(around)
    asked = segment_runtime_minutes(experiment, name, measured) / 60
    first = longest_step(experiment, name, measured, run.segment_steps) or step
    end = "" if first.high is None else " (upper end, first steps)"
    warning = segment_warning_seconds(experiment, name, measured)
    rows = {
        "seconds per step": step,
        "training": whole.times(1 / 24, "days", f"{whole.how}, without queueing"),
        "training GPU hours": whole.times(hardware.gpus, "GPU h", f"{whole.value:,.0f} h x {hardware.gpus} GPUs"),
        "training jobs": Estimate(jobs, "jobs", f"{run.steps:,} steps / {run.segment_steps} per segment"),
        "time asked per job": Estimate(
            asked,
            "h",
            f"start-up + {run.segment_steps} steps x {first.upper:,.0f} s{end} x {SLACK} + saves + "
            f"{warning} s of warning",
        ),
    }
    if hardware.gpus:
        hang = hang_timeout_minutes(hardware, run.engine, run.recipe, shape)
        rows["hang timeout"] = Estimate(hang, "min", "as configured, or twice the longest phase at full length")
        rows |= _evaluation_rows(experiment, run, shape) if run.evaluate else {}
    rows |= _disk_rows(experiment, run, shape)
    return {quantity: estimate.as_dict() for quantity, estimate in rows.items()}


def evaluation_samples(experiment: Experiment, benchmarks: Sequence[str], protocol: str) -> int:
    """Number of completions of one checkpoint on the named benchmarks."""
    from justrl.data.benchmarks import question_count

    return sum(question_count(experiment.benchmarks[name]) * experiment.samples(name, protocol) for name in benchmarks)


def _evaluations(experiment: Experiment, run: Run) -> tuple[int, int]:
    """Completions of all evaluations of a run, and generation jobs.

    The base model and the last checkpoint are evaluated on all benchmarks, the others on the validation benchmarks.
    With several seeds, the first one includes the base model.
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
    """True if a run's base model is evaluated with it; with several seeds, only with the first."""
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


def _disk_rows(experiment: Experiment, run: Run, shape: ModelShape) -> dict[str, Estimate]:
    state, export = costs.state_gb(shape.parameters), costs.export_gb(shape.parameters)
    keep = experiment.keep_checkpoints
    segments, checkpoints = len(run.segment_ends), len(run.evaluated_steps)
    kept, of = (segments, "segments") if keep == "all" else (checkpoints, "evaluated checkpoints")
    other, others = ("evaluated", checkpoints) if keep == "all" else ("all", segments)
    samples, _ = _evaluations(experiment, run)
    most = most_full_states()
    completions = costs.completions_gb(samples)
    parts = {
        "one full state": state,
        "full states": Estimate(
            most * state.value, "GB", f"at most {most} at a time: {costs.KEPT_STATES} kept and 1 being written"
        ),
        "exported models": Estimate(
            kept * export.value, "GB", f"{kept} {of} x {export.value:.2f} GB, kept ({export.how})"
        ),
        "completions": Estimate(completions, "GB", f"{samples:,} answers x 8,000 tokens x 4 characters / 3 compressed"),
    }
    total = parts["full states"].value + parts["exported models"].value + completions
    instead = total + (others - kept) * export.value
    return parts | {
        "disk at most": Estimate(total, "GB", f"full states + exported models + completions, keep_checkpoints: {keep}"),
        "disk, other exports": Estimate(instead, "GB", f"with keep_checkpoints: {other}, {others} models"),
    }


def most_full_states() -> int:
    """The largest number of full training states on disk at any time: the kept ones and the one being written."""
    return costs.KEPT_STATES + 1


def plan_memory(experiment: Experiment, name: str) -> dict | None:
    """GPU memory in GiB by phase and component of a run, with the engine's settings; None on a CPU."""
    hardware, run, shape = experiment.hardware, experiment.runs[name], shape_of_run(experiment, name)
    job = memory_job(hardware, run.engine, run.recipe, shape)
    if job is None:
        return None
    check = check_memory(hardware, run.engine, run.recipe, shape).as_dict()
    return {"check": check, "settings": asdict(job.settings), "card": job.card, "phases": job.phases(job.settings)}


def on(hardware: Hardware, gpu: str | None = None, nodes: int | None = None, gpus: int | None = None) -> Hardware:
    """The hardware with another kind of GPU, number of nodes or of GPUs per node.

    Raises:
        UserError: the GPU is not a known one.
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

    A measured file must be from the configured hardware. Its phases correct the estimate's terms; if it has no phases,
    its seconds per step replace the estimate.

    Raises:
        UserError: the GPU is not a known one, or the measured file has no timings.
    """
    hardware = on(experiment.hardware, gpu, nodes)
    there = experiment.model_copy(update={"hardware": hardware})
    runs, memory = {}, {}
    for name in Layout(experiment).trainings():
        correction = calibration_of(experiment, name, measured, experiment.hardware) if measured else None
        runs[name] = plan_run(there, name, None if correction else measured, correction)
        memory[name] = plan_memory(there, name)
    return {"experiment": experiment.experiment, "hardware": hardware.as_dict(), "runs": runs, "memory": memory}
