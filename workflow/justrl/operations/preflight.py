"""Which checks make up a preflight: of an experiment at the terminal, or of one run's job in the workflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from justrl import config as experiment
from justrl.errors import UserError
from justrl.operations import checks, costs, experiment_checks, plan
from justrl.operations.checks import FAILED, OK, SKIPPED, Check, guarded

ENVIRONMENTS = experiment.ROOT / "envs"
# The packages whose versions decide what is computed, by engine.
DECISIVE = {
    "reference": ("torch", "transformers", "tokenizers", "safetensors", "numpy"),
    "verl": ("verl", "vllm", "ray", "torch", "transformers", "numpy"),
}
LOCKS = {"reference": ("mini.txt",), "verl": ("verl.txt", "verl-cpu.txt")}


def check_experiment(
    config: Mapping, runs: Sequence[str], results: str | Path, profile: Path | None = None
) -> list[Check]:
    """All checks of the named runs, in the order in which they would bite: seconds on a login node, nothing written."""
    results = Path(results)
    done = [guarded("hub", lambda: experiment_checks.check_hub(config, runs, results))]
    done.append(guarded("disk", lambda: checks.check_disk(results, _planned_gb(config, runs))))
    done.append(guarded("gpus", lambda: checks.check_gpus(config["hardware"])))
    for engine in sorted({config["runs"][run]["engine"] for run in runs}):
        done.append(guarded("packages", lambda engine=engine: _check_packages(engine)))
    for reward in sorted({experiment.recipe_of(config, run)["reward"] for run in runs}):
        done.append(guarded("reward", lambda reward=reward: experiment_checks.check_reward(reward)))
    for run in runs:
        done += _check_run(config, run, results)
    longest = max(plan.segment_runtime_minutes(config, run) for run in runs)
    resources = checks.profile_resources(profile) if profile else checks.profile_resources()
    done.append(guarded("slurm", lambda: checks.check_slurm(config["hardware"], longest, resources)))
    return done


def _check_run(config: Mapping, run: str, results: Path) -> list[Check]:
    recipe = experiment.recipe_of(config, run)
    model, dataset = config["runs"][run]["model"], config["runs"][run]["dataset"]
    folder, data = results / "models" / model, results / "data" / dataset / model / "train.parquet"
    if not folder.is_dir() or not data.is_file():
        later = f"{run}: not downloaded yet; `snakemake data` fetches it, the preflight rule looks at it again"
        return [Check("model, prompts", SKIPPED, later)]
    return [
        guarded("model", lambda: experiment_checks.check_model(folder)),
        guarded("prompts", lambda: experiment_checks.check_prompts(data, folder, recipe)),
    ]


def check_job(
    run_file: Mapping,
    model: str | Path,
    data: str | Path,
    hardware: Mapping,
    output: str | Path,
    engine_config: Path | None,
) -> list[Check]:
    """The checks that a job makes on the node that will train, from the files that the workflow made."""
    recipe, engine = run_file["recipe"], run_file["engine"]
    parameters = costs.parameters_of(run_file["model"])
    # What one segment adds, whatever came before it.
    needed = plan.most_full_states() * costs.state_gb(parameters).value + 2 * costs.export_gb(parameters).value
    return [
        guarded("run", lambda: experiment_checks.check_run_file(run_file)),
        guarded("gpus", lambda: checks.check_gpus(hardware)),
        guarded("packages", lambda: _check_packages(engine)),
        guarded("disk", lambda: checks.check_disk(Path(output).parent, needed)),
        guarded("reward", lambda: experiment_checks.check_reward(recipe["reward"])),
        guarded("model", lambda: experiment_checks.check_model(model)),
        guarded("prompts", lambda: experiment_checks.check_prompts(data, model, recipe)),
        guarded("engine", lambda: _check_engine(engine, engine_config)),
    ]


def _check_packages(engine: str) -> Check:
    for name in LOCKS[engine]:
        if (ENVIRONMENTS / name).is_file():
            return checks.check_packages(checks.read_pins(ENVIRONMENTS / name), DECISIVE[engine], f"envs/{name}")
    return checks.check_packages({}, DECISIVE[engine], "envs/")


def _check_engine(engine: str, resolved: Path | None) -> Check:
    if engine == "reference":
        return Check("engine", OK, "reference: nothing to compose")
    if resolved is None or not resolved.is_file():
        raise UserError(
            "no resolved verl configuration; the rule resolve_verl_config writes it and checks that it composes"
        )
    import yaml

    groups = sorted(yaml.safe_load(resolved.read_text(encoding="utf-8")) or {})
    if not {"actor_rollout_ref", "algorithm", "data", "trainer"} <= set(groups):
        return Check("engine", FAILED, f"{resolved} has only {', '.join(groups)}", f"delete {resolved} and run again")
    return Check("engine", OK, f"verl: {resolved} composes ({len(groups)} groups)")


def _planned_gb(config: Mapping, runs: Sequence[str]) -> float:
    return sum(plan.plan_run(config, run, None)["disk at most"]["value"] for run in runs)
