"""The plan of an experiment: time, GPU hours, disk and jobs, and what each training job asks of the queue."""

import math
from collections.abc import Mapping
from pathlib import Path

from justrl import config as experiment
from justrl.operations import costs
from justrl.operations.costs import Estimate
from justrl.operations.hardware import Gpu, find_gpu

# Ray, vLLM's start and compilation, loading the model, the first weight transfer.
STARTUP_SECONDS = {"verl": 15 * 60, "reference": 3 * 60}
# A step may take this much longer than its median: answers of another length, a slow file system.
SLACK = 1.15
# A step of a taught model takes a second or two on 2 cores; replaced by the first segment's timings.
CPU_STEP_SECONDS = 5.0
# Slurm's largest warning time is 16 bits of seconds.
LONGEST_WARNING = 65_535
SHORTEST_WARNING = 120


def expected_step_seconds(config: Mapping, name: str, metrics_file: str | Path | None = None) -> Estimate:
    """Seconds per step of a run on the configured hardware: measured where a metrics file is there, else estimated."""
    if metrics_file and Path(metrics_file).is_file() and Path(metrics_file).stat().st_size:
        return costs.measured_step_seconds(metrics_file)
    hardware, run = config["hardware"], config["runs"][name]
    gpus = hardware["nodes"] * hardware["gpus_per_node"]
    if not gpus:
        return Estimate(CPU_STEP_SECONDS, "s", "assumed for a taught model on a CPU")
    if run["engine"] == "reference":
        # One process on one GPU, whatever the node has.
        gpus = 1
    return costs.step_seconds(find_gpu(hardware["gpu"]), gpus, run["family"], experiment.recipe_of(config, name))


def segment_runtime_minutes(config: Mapping, name: str, metrics_file: str | Path | None = None) -> int:
    """Minutes to ask of the queue for a job that trains one segment of a run, so that the segment fits in one job:

        start-up + segment_steps x seconds per step x 1.15 + (saves + 1 export) x seconds to write a state + warning

    rounded up to ten minutes. `metrics_file` is the segment before, whose timings replace the estimate.
    """
    step = expected_step_seconds(config, name, metrics_file).value
    run, hardware = config["runs"][name], config["hardware"]
    writes = math.ceil(run["segment_steps"] / hardware["save_every"]) + 1
    seconds = STARTUP_SECONDS[run["engine"]] + run["segment_steps"] * step * SLACK
    seconds += writes * _save_seconds(config, name) + segment_warning_seconds(config, name, metrics_file)
    return math.ceil(seconds / 600) * 10


def segment_warning_seconds(config: Mapping, name: str, metrics_file: str | Path | None = None) -> int:
    """Seconds before the time limit at which Slurm warns the trainer, for `--signal=URG@...`.

    A save happens between steps, so the warning leaves room for one slow step and two saves; at least two minutes.
    """
    step = expected_step_seconds(config, name, metrics_file).value
    warning = math.ceil(SLACK * step + 2 * _save_seconds(config, name))
    return min(LONGEST_WARNING, max(SHORTEST_WARNING, warning))


def _save_seconds(config: Mapping, name: str) -> float:
    return costs.save_seconds(costs.parameters_of(config["models"][config["runs"][name]["model"]]))


def plan_run(config: Mapping, name: str, gpu: Gpu | None, measured: str | Path | None = None) -> dict:
    """What one run needs, every figure with its derivation: {quantity: {value, unit, how}}."""
    run, hardware = config["runs"][name], config["hardware"]
    gpus = hardware["nodes"] * hardware["gpus_per_node"]
    step = expected_step_seconds(config, name, measured)
    hours = step.value * run["steps"] / 3600
    asked = segment_runtime_minutes(config, name, measured) / 60
    warning = segment_warning_seconds(config, name, measured)
    rows = {
        "seconds per step": step,
        "training": Estimate(hours / 24, "days", f"{run['steps']:,} steps x {step.value:,.1f} s, without queueing"),
        "training GPU hours": Estimate(hours * gpus, "GPU h", f"{hours:,.0f} h x {gpus} GPUs"),
        "training jobs": Estimate(
            len(experiment.segment_ends(run)), "jobs", f"{run['steps']:,} steps / {run['segment_steps']} a segment"
        ),
        "time asked per job": Estimate(
            asked, "h", f"start-up + {run['segment_steps']} steps x {SLACK} + saves + {warning} s of warning"
        ),
    }
    if gpu:
        rows |= _evaluation_rows(config, run, gpu)
    rows |= _disk_rows(config, run)
    return {quantity: estimate.as_dict() for quantity, estimate in rows.items()}


def _evaluations(config: Mapping, run: Mapping) -> tuple[int, int]:
    """Completions of all evaluations of a run, and generation jobs.

    Base and last checkpoint are evaluated on all benchmarks, the ones between on the validation benchmarks.
    """
    evaluation = config["evaluation"]
    protocol = config["protocols"][evaluation["protocol"]]
    full = costs.evaluation_samples(config["benchmarks"], evaluation["benchmarks"], protocol)
    few = costs.evaluation_samples(config["benchmarks"], evaluation["validation_benchmarks"], protocol)
    between = len(experiment.evaluated_steps(run)) - 1
    jobs = 2 * len(evaluation["benchmarks"]) + between * len(evaluation["validation_benchmarks"])
    return 2 * full + between * few, jobs * evaluation["shards"]


def _evaluation_rows(config: Mapping, run: Mapping, gpu: Gpu) -> dict[str, Estimate]:
    evaluation = config["evaluation"]
    samples, jobs = _evaluations(config, run)
    max_tokens = config["protocols"][evaluation["protocol"]]["max_tokens"]
    between = len(experiment.evaluated_steps(run)) - 1
    few = ", ".join(evaluation["validation_benchmarks"])
    return {
        "evaluation GPU hours": costs.evaluation_gpu_hours(
            gpu, samples, max_tokens, evaluation["model_grader"]["enabled"]
        ),
        "evaluation jobs": Estimate(
            jobs,
            "jobs",
            f"base and last on {len(evaluation['benchmarks'])} benchmarks, {between} checkpoints on {few}, "
            f"{'one job' if evaluation['shards'] == 1 else str(evaluation['shards']) + ' jobs'} each",
        ),
    }


def _disk_rows(config: Mapping, run: Mapping) -> dict[str, Estimate]:
    parameters = costs.parameters_of(config["models"][run["model"]])
    state, export = costs.state_gb(parameters), costs.export_gb(parameters)
    segments = len(experiment.segment_ends(run))
    samples, _ = _evaluations(config, run)
    most = most_full_states()
    # A token is about four characters of text, which Parquet compresses to a third.
    completions = samples * costs.MEAN_EVALUATION_ANSWER * 4 / 3 / 1e9
    parts = {
        "one full state": state,
        "full states": Estimate(
            most * state.value, "GB", f"at most {most} at a time: {costs.KEPT_STATES} kept and 1 being written"
        ),
        "exported models": Estimate(
            segments * export.value, "GB", f"{segments} segments x {export.value:.2f} GB, kept ({export.how})"
        ),
        "completions": Estimate(completions, "GB", f"{samples:,} answers x 8,000 tokens x 4 characters / 3 compressed"),
    }
    total = parts["full states"].value + parts["exported models"].value + completions
    return parts | {"disk at most": Estimate(total, "GB", "full states + exported models + completions")}


def most_full_states() -> int:
    """Full training states that are on disk at any time, at most: the kept ones and one being written."""
    return costs.KEPT_STATES + 1


def make_plan(
    config: Mapping, gpu: str | None = None, nodes: int | None = None, measured: str | Path | None = None
) -> dict:
    """The plan of all enabled runs on the configured hardware, or on another GPU and number of nodes.

    Raises:
        UserError: a GPU without figures, or a measured file without timings.
    """
    hardware = dict(config["hardware"])
    if nodes:
        hardware["nodes"] = nodes
    if gpu:
        hardware["gpu"] = gpu
        hardware["gpus_per_node"] = hardware["gpus_per_node"] or 8
    config = {**config, "hardware": hardware}
    kind = find_gpu(hardware["gpu"]) if hardware["gpus_per_node"] else None
    if measured:
        costs.measured_step_seconds(measured)
    runs = {name: plan_run(config, name, kind, measured) for name, run in config["runs"].items() if run["enabled"]}
    return {"experiment": config["experiment"], "hardware": hardware, "runs": runs}


def render(plan: Mapping) -> str:
    """The plan as a table for the terminal."""
    hardware = plan["hardware"]
    where = f"{hardware['nodes']} x {hardware['gpus_per_node']} {hardware['gpu']}"
    if not hardware["gpus_per_node"]:
        where = "a CPU"
    lines = [f"Experiment {plan['experiment']} on {where}"]
    for name, rows in plan["runs"].items():
        lines += ["", name]
        for quantity, row in rows.items():
            lines.append(f"  {quantity:<22}{format_value(row['value']):>10} {row['unit']:<6} {row['how']}")
    totals = {}
    for rows in plan["runs"].values():
        for quantity in ("training GPU hours", "evaluation GPU hours", "disk at most"):
            if quantity in rows:
                totals[quantity] = totals.get(quantity, 0.0) + rows[quantity]["value"]
    lines += ["", f"all {len(plan['runs'])} runs"]
    lines += [f"  {quantity:<22}{format_value(value):>10}" for quantity, value in totals.items()]
    return "\n".join(lines)


def format_value(value: float) -> str:
    """A figure with as many digits as it deserves."""
    if value >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"
