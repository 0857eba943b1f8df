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
from justrl.cli.options import HelpFormatter, number, whole
from justrl.config import Hardware, Recipe, read_part
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


def execution_of(args: argparse.Namespace, hardware: Hardware, trackers: Sequence[str]) -> Execution:
    """The execution settings of a segment, from the options of the command line."""
    return Execution(
        threads=args.threads or machine.cpu_threads(hardware.cpus_per_node),
        device=args.device,
        log_every=args.log_every,
        rollouts=args.rollouts or hardware.rollouts,
        rollout_batch_size=args.rollout_batch_size,
        wait_for_owner_minutes=args.wait_for_owner_minutes,
        keep_rollouts=args.keep_rollouts,
        trackers=tuple(dict.fromkeys(args.tracker or trackers)),
    )


def hardware_of(args: argparse.Namespace, hardware: Hardware, engine: str, recipe: Recipe) -> Hardware:
    """The hardware, with the command line's interval between saves and with the hang timeout as a number."""
    hang = hang_timeout_minutes(hardware, engine, recipe, read_shape(args.model))
    return hardware.model_copy(
        update={"save_every": args.save_every or hardware.save_every, "hang_timeout_minutes": hang}
    )


def segment_request(args: argparse.Namespace) -> SegmentRequest:
    """Make the request for one segment from the command line and the files it names."""
    described = read_object(args.run_file)
    if missing := [name for name in ("run", "engine", "seed", "recipe") if name not in described]:
        raise UserError(
            f"{args.run_file} does not describe a run: {', '.join(missing)} missing; give the run.json of a run"
        )
    args.run = described["run"]
    given = read_object(args.hardware) if args.hardware else {}
    engine, recipe = args.engine or described["engine"], read_part(Recipe, described["recipe"], args.run_file)
    hardware = read_part(Hardware, LOCAL_HARDWARE | given, args.hardware or "--hardware")
    hardware = hardware_of(args, hardware, engine, recipe)
    return SegmentRequest(
        run=described["run"],
        engine=engine,
        recipe=recipe,
        seed=described["seed"],
        model_dir=args.model,
        train_file=args.data,
        start_step=args.start_step,
        to_step=args.to_step,
        work_dir=args.work_dir,
        model_out=args.model_out,
        metrics_out=args.metrics_out,
        hardware=hardware,
        execution=execution_of(args, hardware, [name for name in os.environ.get(VARIABLE, "").split(",") if name]),
        keep_export=args.export == "kept",
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
    run = experiment.runs[args.run]
    hardware = hardware_of(args, experiment.hardware, run.engine, run.recipe)
    return SegmentRequest(
        run=args.run,
        engine=run.engine,
        recipe=run.recipe,
        seed=experiment.seed,
        model_dir=args.model,
        train_file=args.data,
        start_step=0,
        to_step=run.steps,
        work_dir=args.output / "work",
        model_out=args.output / "model",
        metrics_out=args.output / "metrics.jsonl",
        hardware=hardware,
        execution=execution_of(args, hardware, experiment.trackers),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--model", type=Path, required=True, help="model folder to start from, in Hugging Face's layout"
    )
    common.add_argument("--data", type=Path, required=True, help="training Parquet in verl's schema")
    common.add_argument("--engine", choices=["reference", "verl"], help="default: the run's engine")
    common.add_argument(
        "--device", choices=["cpu", "cuda"], help="of the reference engine (default: cuda if available)"
    )
    common.add_argument(
        "--threads", type=whole(1), help="CPU threads (default: OMP_NUM_THREADS, Slurm's number, or all cores)"
    )
    common.add_argument(
        "--save-every", type=whole(1), help="steps between saves of the full state (default: hardware.save_every)"
    )
    common.add_argument(
        "--log-every",
        type=whole(1),
        default=10,
        help="steps between progress lines when the output is not a terminal (default: 10)",
    )
    common.add_argument(
        "--rollouts",
        choices=["transformers", "vllm"],
        help="sampler of the reference engine (default: hardware.rollouts)",
    )
    common.add_argument(
        "--rollout-batch-size", type=whole(1), help="responses generated at a time (default: all of a step)"
    )
    common.add_argument(
        "--wait-for-owner-minutes",
        type=number(0),
        default=0.0,
        help="minutes to wait while another trainer uses the same folder (default: 0, fail at once)",
    )
    common.add_argument("--keep-rollouts", action="store_true", help="of verl: write all rollouts as JSON lines")
    common.add_argument(
        "--tracker",
        action="append",
        choices=get_args(config.Tracker),
        help=f"also log to this tracker (repeatable; overrides `trackers` and {VARIABLE})",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    options: dict[str, Any] = {"parents": [common], "formatter_class": HelpFormatter, "allow_abbrev": False}

    text = "train a whole run without Snakemake"
    run = commands.add_parser("run", help=text, description=f"{text[:1].upper()}{text[1:]}.", **options)
    run.add_argument(
        "overrides",
        nargs="*",
        metavar="RUN key.dotted=value",
        help="name of the run, then overrides such as learning_rate=2e-4",
    )
    # torchrun also looks for its own options among the program's words, and --run is an ambiguous abbreviation there.
    run.add_argument("--run", help="name of the run, as an option (needed under torchrun)")
    run.add_argument("--config", type=Path, action="append", default=[], help="overlay over config.yaml; repeatable")
    run.add_argument("--output", type=Path, required=True, help="folder for model/, metrics.jsonl and work/")
    run.set_defaults(call=train, request=run_request)

    text = "train one segment, as the workflow does"
    segment = commands.add_parser("segment", help=text, description=f"{text[:1].upper()}{text[1:]}.", **options)
    segment.add_argument("--run-file", type=Path, required=True, help="run.json: run, engine, seed, recipe")
    segment.add_argument("--hardware", type=Path, help="hardware.json: save_every, cpus_per_node, ...")
    segment.add_argument("--start-step", type=whole(0), required=True, help="last step before the segment")
    segment.add_argument("--to-step", type=whole(1), required=True, help="last step of the segment")
    segment.add_argument("--work-dir", type=Path, required=True, help="folder for training states between attempts")
    segment.add_argument("--model-out", type=Path, required=True, help="folder for the exported model")
    segment.add_argument("--metrics-out", type=Path, required=True, help="file for the metrics of the segment")
    segment.add_argument(
        "--export",
        choices=["kept", "dropped"],
        default="kept",
        help="dropped: write a note instead of the model (default: kept)",
    )
    segment.set_defaults(call=train, request=segment_request)

    text = "accept the alarm that stopped a run, so that the next start continues it"
    resume = commands.add_parser(
        "resume",
        help=text,
        description=f"{text[:1].upper()}{text[1:]}.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    resume.add_argument("run", metavar="RUN", help="folder of the run, or its name in --results")
    resume.add_argument(
        "--accept",
        metavar="ALARM",
        action="append",
        required=True,
        choices=alarms.NAMES,
        help=f"alarm to accept for the rest of the run; repeatable: {', '.join(alarms.NAMES)}",
    )
    resume.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    resume.set_defaults(call=accept)


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


def accept(args: argparse.Namespace) -> None:
    """Accept alarms of a run."""
    named, below = Path(args.run), args.results / "runs" / args.run
    folder = next((folder for folder in (named, below) if (folder / "work").is_dir()), None)
    if folder is None:
        raise UserError(f"no trained run in {named} or {below}: give the folder of the run, as in the alarm's message")
    left = alarms.accept(folder / "work", args.accept)
    accepted = ", ".join(args.accept)
    print(f"{folder}: {accepted} accepted and recorded in the metrics from now on; the next start continues it")
    for entry in left:
        print(f"{folder}: alarm {entry['alarm']} of step {entry['step']} still stops every start: accept it as well")


def train(args: argparse.Namespace) -> int:
    """Train; return 0 when the result is published, 75 when told to stop (state saved, start again to continue).

    Raises UserError, among others if an alarm has ended the run and was not accepted.
    """
    request = args.request(args)
    alarms.refuse_marked(request.work_dir)
    # Set before torch is imported: its thread pools read the environment only once.
    os.environ["OMP_NUM_THREADS"] = str(request.execution.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from justrl.training import get_engine

    if args.request is segment_request:
        check_node(request)
    try:
        get_engine(request.engine).train_segment(request)
    except SegmentInterrupted as interrupted:
        print(interrupted, file=sys.stderr, flush=True)
        return interrupted.status
    return 0
