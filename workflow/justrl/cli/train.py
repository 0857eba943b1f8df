"""Train with GRPO: a whole run without Snakemake, or one segment of a run, as the workflow does.

    justrl train run mini --config mini/experiment.yaml --model DIR --data FILE --output DIR \\
        learning_rate=2e-4 seed=7
    torchrun --nproc_per_node=2 -m justrl train run mini --config mini/experiment.yaml ...
    justrl train resume results/runs/deepseek --accept least_reward

`run` and `segment` resume from the last saved state. On SIGTERM, SIGURG and SIGUSR1 they finish the step, save, and
exit with status 75. Under torchrun, each mini-batch is split among the processes. `resume` accepts an alarm that
stopped a run.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from justrl import config
from justrl.cli.options import add_subcommands, chosen, number, whole
from justrl.config import Hardware, Recipe, RunDescription, read_part
from justrl.config import files as config_files
from justrl.config.names import translate_override
from justrl.errors import UserError
from justrl.hardware import machine
from justrl.io import read_object, write_json
from justrl.models.shape import read_shape
from justrl.plan.planning import hang_timeout_minutes
from justrl.training import alarms
from justrl.training.segment import Execution, SegmentInterrupted, SegmentRequest, WorkDir
from justrl.training.trackers import VARIABLE

# Defaults for keys that --hardware leaves out: a machine without a queue and without a GPU.
LOCAL_HARDWARE = {
    "gpu": "none",
    "nodes": 1,
    "gpus_per_node": 0,
    "cpus_per_node": machine.usable_cores(),
    "memory_per_node_gb": 1,
    "gpus_per_evaluation": 0,
    "cpus_per_evaluation": 1,
    "memory_per_evaluation_gb": 1,
    "save_every": 10,
    "attention": "sdpa",
}


def request_of(
    args: argparse.Namespace, run: RunDescription, hardware: Hardware, trackers: Sequence[str], **segment: Any
) -> SegmentRequest:
    """Make the request for `segment` of a run from the options that both commands have."""
    engine = args.engine or run.engine
    hang = hang_timeout_minutes(hardware, engine, run.recipe, read_shape(args.model))
    every = args.save_every or hardware.save_every
    return SegmentRequest(
        run=run.run,
        engine=engine,
        recipe=run.recipe,
        seed=run.seed,
        model_dir=args.model,
        train_file=args.data,
        hardware=hardware.model_copy(update={"save_every": every, "hang_timeout_minutes": hang}),
        execution=Execution(
            threads=args.threads or machine.cpu_threads(hardware.cpus_per_node),
            rollouts=args.rollouts or hardware.rollouts,
            trackers=tuple(dict.fromkeys(args.tracker or trackers)),
            **chosen(args, "device", "log_every", "rollout_batch_size", "wait_for_owner_minutes", "keep_rollouts"),
        ),
        **segment,
    )


def segment_request(args: argparse.Namespace) -> SegmentRequest:
    """Make the request for one segment from the command line and the files it names."""
    given = read_object(args.hardware) if args.hardware else {}
    return request_of(
        args,
        read_part(RunDescription, read_object(args.run_file), args.run_file),
        read_part(Hardware, LOCAL_HARDWARE | given, args.hardware or "--hardware"),
        [name for name in os.environ.get(VARIABLE, "").split(",") if name],
        keep_export=args.export == "kept",
        **chosen(args, "start_step", "to_step", "work_dir", "model_out", "metrics_out"),
    )


def run_request(args: argparse.Namespace) -> SegmentRequest:
    """Make the request for a whole run, as one segment, from the configuration and its overrides.

    An override of the recipe (`recipe.learning_rate=1e-5`, or `learning_rate=1e-5` for short) applies to this run and
    replaces the run's own value in the configuration.
    """
    from justrl.workflow.paper_check import check_paper

    name_the_run(args)
    base = config.load(args.config)
    # Checked without the overrides, which are allowed: the output does not carry an experiment's name.
    check_paper(base)
    recipe = []
    general = [f"runs.{args.run}.engine={args.engine}"] if args.engine else []
    for override in map(translate_override, args.overrides):
        if override.split(".")[0].partition("=")[0] in Recipe.model_fields:
            recipe.append(override)
        elif override.startswith("recipe."):
            recipe.append(override.removeprefix("recipe."))
        else:
            general.append(override)
    base.run(args.run)  # report an unknown run before errors in its overrides
    changed = config.spelled_out(config_files.read(args.config, general))
    own = config_files.merge(changed["recipe"], changed["runs"][args.run]["recipe"])
    own = config_files.apply_overrides(own, recipe, "recipe")
    changed["runs"][args.run] |= {"recipe": own, "enabled": True}
    changed["recipe"] |= {key: own[key] for key in config.PREPARED}  # of the data in --data
    experiment = config.Experiment.from_mapping(changed)
    return request_of(
        args,
        experiment.described(args.run),
        experiment.hardware,
        experiment.trackers,
        start_step=0,
        to_step=experiment.runs[args.run].steps,
        work_dir=args.output / "work",
        model_out=args.output / "model",
        metrics_out=args.output / "metrics.jsonl",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    add_subcommands(parser, {run: _run, segment: _segment, resume: _resume})


def _common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, required=True, help="model folder to start from, in Hugging Face's layout")
    add("--data", type=Path, required=True, help="training Parquet in verl's schema")
    add("--engine", choices=["reference", "verl"], help="default: the run's engine")
    add("--device", choices=["cpu", "cuda"], help="of the reference engine (default: cuda if available)")
    add("--threads", type=whole(1), help="CPU threads (default: OMP_NUM_THREADS, Slurm's number, or all cores)")
    add("--save-every", type=whole(1), help="steps between saves of the full state (default: hardware.save_every)")
    text = "steps between progress lines when the output is not a terminal (default: 10)"
    add("--log-every", type=whole(1), default=10, help=text)
    text = "sampler of the reference engine (default: hardware.rollouts)"
    add("--rollouts", choices=["transformers", "vllm"], help=text)
    add("--rollout-batch-size", type=whole(1), help="responses generated at a time (default: all of a step)")
    text = "minutes to wait while another trainer uses the same folder (default: 0, fail at once)"
    add("--wait-for-owner-minutes", type=number(0), default=0.0, help=text)
    add("--keep-rollouts", action="store_true", help="of verl: write all rollouts as JSON lines")
    text = f"also log to this tracker (repeatable; overrides `trackers` and {VARIABLE})"
    add("--tracker", action="append", choices=get_args(config.Tracker), help=text)


def _run(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    add, text = parser.add_argument, "name of the run, then overrides such as learning_rate=2e-4"
    add("overrides", nargs="*", metavar="RUN key.dotted=value", help=text)
    # torchrun also looks for its own options among the program's words, and --run is an ambiguous abbreviation there.
    add("--run", help="name of the run, as an option (needed under torchrun)")
    add("--config", type=Path, action="append", default=[], help="overlay over config.yaml; repeatable")
    add("--output", type=Path, required=True, help="folder for model/, metrics.jsonl and work/")


def _segment(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    add = parser.add_argument
    add("--run-file", type=Path, required=True, help="run.json of the run")
    add("--hardware", type=Path, help="hardware.json: save_every, cpus_per_node, ...")
    add("--start-step", type=whole(0), required=True, help="last step before the segment")
    add("--to-step", type=whole(1), required=True, help="last step of the segment")
    add("--work-dir", type=Path, required=True, help="folder for training states between attempts")
    add("--model-out", type=Path, required=True, help="folder for the exported model")
    add("--metrics-out", type=Path, required=True, help="file for the metrics of the segment")
    text = "dropped: write a note instead of the model (default: kept)"
    add("--export", choices=["kept", "dropped"], default="kept", help=text)


def _resume(parser: argparse.ArgumentParser) -> None:
    add, names = parser.add_argument, alarms.NAMES
    add("run", metavar="RUN", help="folder of the run, or its name in --results")
    text = f"alarm to accept for the rest of the run; repeatable: {', '.join(names)}"
    add("--accept", metavar="ALARM", action="append", required=True, choices=names, help=text)
    add("--results", type=Path, default=Path("results"), help="results folder (default: results)")


def name_the_run(args: argparse.Namespace) -> None:
    """Without --run, take the run's name from the words: the first one without an equals sign."""
    names = [word for word in args.overrides if "=" not in word]
    if args.run is None and not names:
        raise UserError("train run: no run given; name a run of the configuration: `justrl train run mini ...`")
    if args.run is None:
        args.run = names.pop(0)
        args.overrides.remove(args.run)
    if names:
        raise UserError(f"override {names[0]!r}: write it as dotted.key=value")


def check_node(request: SegmentRequest) -> None:
    """Check the GPUs of this node before the run's first step, because the preflight's job has none to check.

    Raises UserError that names each failed check and its remedy.
    """
    from justrl.hardware import checks
    from justrl.preflight import experiment_checks

    written = WorkDir(request.work_dir).node
    if not request.hardware.gpus or request.hardware.gpu == "none" or written.is_file():
        return
    found = experiment_checks.check_node(request.hardware, request.engine)
    print(checks.table(found), file=sys.stderr, flush=True)
    if failed := [check for check in found if check.status == checks.FAILED]:
        raise UserError("; ".join(f"{check.name}: {check.found} ({check.remedy})" for check in failed))
    write_json(written, {"checks": [check.as_dict() for check in found]})


def run(args: argparse.Namespace) -> int:
    """Train a whole run without Snakemake."""
    return train(run_request(args))


def segment(args: argparse.Namespace) -> int:
    """Train one segment, as the workflow does."""
    return train(segment_request(args), checks_node=True)


def train(request: SegmentRequest, checks_node: bool = False) -> int:
    """Train; return 0 when the result is published, 75 when told to stop (state saved, start again to continue).

    Raises UserError, among others if an alarm has ended the run and was not accepted.
    """
    alarms.refuse_marked(request.work_dir)
    # Set before torch is imported: its thread pools read the environment only once.
    os.environ["OMP_NUM_THREADS"] = str(request.execution.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from justrl.training import get_engine

    if checks_node:
        check_node(request)
    try:
        get_engine(request.engine).train_segment(request)
    except SegmentInterrupted as interrupted:
        print(interrupted, file=sys.stderr, flush=True)
        return interrupted.status
    return 0


def resume(args: argparse.Namespace) -> None:
    """Accept the alarm that stopped a run, so that the next start continues it."""
    named, below = Path(args.run), args.results / "runs" / args.run
    folder = next((folder for folder in (named, below) if (folder / "work").is_dir()), None)
    if folder is None:
        raise UserError(f"no trained run in {named} or {below}: give the folder of the run, as in the alarm's message")
    left = alarms.accept(folder / "work", args.accept)
    accepted = ", ".join(args.accept)
    print(f"{folder}: {accepted} accepted and recorded in the metrics from now on; the next start continues it")
    for entry in left:
        print(f"{folder}: alarm {entry['alarm']} of step {entry['step']} still stops every start: accept it as well")
