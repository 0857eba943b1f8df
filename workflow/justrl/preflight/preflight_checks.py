"""The preflight's lists of checks: for an experiment at the terminal, and for one run's job in the workflow."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from justrl.config import Experiment, Hardware, RunDescription
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.hardware import checks
from justrl.hardware.checks import FAILED, OK, SKIPPED, Check, guarded
from justrl.models.shape import shape_of
from justrl.plan import costs
from justrl.plan import planning as plan
from justrl.preflight import experiment_checks, queue_checks


def check_experiment(
    experiment: Experiment, runs: Sequence[str], results: str | Path, profile: Path | None = None
) -> list[Check]:
    """All checks of the named runs, in the order in which failures would occur.

    They take seconds on a login node and write nothing.
    """
    results = Path(results)
    done = [guarded("hub", lambda: experiment_checks.check_hub(experiment, runs, results))]
    done.append(guarded("disk", lambda: checks.check_disk(results, _planned_gb(experiment, runs))))
    done.append(guarded("gpus", lambda: checks.check_gpus(experiment.hardware)))
    for engine in sorted({experiment.runs[run].engine for run in runs}):
        done.append(guarded("cores", partial(checks.check_cores, experiment.hardware, engine)))
        done.append(guarded("packages", partial(checks.check_packages, engine)))
        done += checks.check_card(experiment.hardware, engine)
    rewards = {experiment.runs[run].recipe.reward: Layout(experiment, str(results)).training_data(run) for run in runs}
    for reward, data in sorted(rewards.items(), key=str):
        there = data if Path(data).is_file() else None
        done.append(guarded("reward", partial(experiment_checks.check_reward, reward, there)))
    done.append(guarded("golden", lambda: experiment_checks.check_golden(experiment, results)))
    for run in runs:
        done += [replace(check, found=f"{run}: {check.found}") for check in _check_run(experiment, run, results)]
    resources = queue_checks.profile_resources(profile) if profile else queue_checks.profile_resources()
    try:
        done += queue_checks.check_queue(queue_checks.requests(experiment, runs, resources), resources)
    except UserError as error:
        done.append(Check("slurm", FAILED, str(error)))
    return done


def _check_run(experiment: Experiment, run: str, results: Path) -> list[Check]:
    recipe, engine, hardware = experiment.runs[run].recipe, experiment.runs[run].engine, experiment.hardware
    layout = Layout(experiment, str(results))
    folder, data = Path(layout.base_model(run)), Path(layout.training_data(run))
    shape = plan.known_shape(experiment, run)
    memory = guarded("memory", lambda: checks.check_memory(hardware, engine, recipe, shape))
    if not folder.is_dir() or not data.is_file():
        later = "not downloaded yet; `snakemake data` downloads it, and the preflight rule checks it"
        return [memory, Check("model, prompts", SKIPPED, later)]
    return [
        memory,
        guarded("model", lambda: experiment_checks.check_model(folder, engine)),
        guarded("weight transfer", lambda: checks.check_weight_transfer(folder, hardware, engine)),
        guarded("stop tokens", lambda: experiment_checks.check_stops(folder)),
        guarded("prompts", lambda: experiment_checks.check_prompts(data, folder, recipe)),
    ]


def check_job(
    run: RunDescription,
    model: str | Path,
    data: str | Path,
    hardware: Hardware,
    output: str | Path,
    engine_config: Path | None,
) -> list[Check]:
    """The checks of a job before training: without a GPU, on the files that the workflow has made."""
    recipe, engine = run.recipe, run.engine
    shape = shape_of(run.model, model)
    # The size of a model of unknown shape, from its weight files with two bytes per parameter.
    weights = sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))
    parameters = shape.parameters if shape else weights // 2
    # The space that one segment adds to earlier ones.
    needed = plan.most_full_states() * costs.state_gb(parameters).value + 2 * costs.export_gb(parameters).value
    return [
        guarded("run", lambda: experiment_checks.check_run_file(run)),
        guarded("cores", lambda: checks.check_cores(hardware, engine)),
        guarded("memory", lambda: checks.check_memory(hardware, engine, recipe, shape)),
        guarded("packages", lambda: checks.check_packages(engine)),
        guarded("disk", lambda: checks.check_disk(Path(output).parent, needed)),
        guarded("reward", lambda: experiment_checks.check_reward(recipe.reward, data)),
        guarded("model", lambda: experiment_checks.check_model(model, engine)),
        guarded("weight transfer", lambda: checks.check_weight_transfer(model, hardware, engine)),
        guarded("stop tokens", lambda: experiment_checks.check_stops(model)),
        guarded("prompts", lambda: experiment_checks.check_prompts(data, model, recipe)),
        guarded("engine", lambda: _check_engine(engine, engine_config)),
    ]


def check_node(hardware: Hardware, engine: str) -> list[Check]:
    """The checks of the node that trains, which only its own job can make: GPUs and compilers."""
    return [
        guarded("gpus", lambda: checks.check_gpus(hardware)),
        *checks.check_card(hardware, engine),
        guarded("compilers", lambda: checks.check_compilers(engine, hardware)),
    ]


def _check_engine(engine: str, resolved: Path | None) -> Check:
    if engine == "reference":
        return Check("engine", OK, "not relevant for the reference engine")
    if resolved is None or not resolved.is_file():
        raise UserError(
            "no resolved verl configuration; the rule resolve_verl_config writes it and checks that it composes"
        )
    import yaml

    groups = sorted(yaml.safe_load(resolved.read_text(encoding="utf-8")) or {})
    if not {"actor_rollout_ref", "algorithm", "data", "trainer"} <= set(groups):
        return Check(
            "engine",
            FAILED,
            f"{resolved} has only {', '.join(groups)}",
            f"delete {resolved} and run the preflight again",
        )
    return Check("engine", OK, f"verl: {resolved} composes ({len(groups)} groups)")


def _planned_gb(experiment: Experiment, runs: Sequence[str]) -> float:
    return sum(plan.plan_run(experiment, run, None)["disk at most"]["value"] for run in runs)
