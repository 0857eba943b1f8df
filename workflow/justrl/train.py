"""Train by GRPO: one segment of a run, as the workflow calls it, or a whole run, without Snakemake.

    python -m justrl.train run --run mini --config mini/experiment.yaml --model DIR --data FILE --output DIR \\
        recipe.learning_rate=2e-4 seed=7

Both go on from the last saved state when started again. SIGTERM, SIGURG and SIGUSR1 make them save at the end of the
step and exit with status 75. Under `torchrun --nproc_per_node=N -m justrl.train ...` every mini-batch is shared out.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from justrl import cli
from justrl.engines.base import SegmentInterrupted, SegmentRequest
from justrl.errors import UserError
from justrl.io import read_json


def cpu_threads(hardware: dict) -> int:
    """How many CPU threads to use: as told, as the allocation says, or as many cores as this process may run on."""
    told = hardware.get("threads") or os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK")
    available = len(os.sched_getaffinity(0))
    return int(told or min(hardware.get("cpus_per_node") or available, available))


def merge_hardware(args: argparse.Namespace, hardware: dict) -> dict:
    """Options of the command line over the configuration's `hardware`."""
    options = {
        "device": args.device,
        "threads": args.threads,
        "save_every": args.save_every,
        "log_every": args.log_every,
        "rollouts": args.rollouts,
        "rollout_batch_size": args.rollout_batch_size,
        "wait_for_owner_minutes": args.wait_for_owner_minutes,
        "wandb": {"project": args.wandb_project, "name": args.run} if args.wandb else None,
    }
    merged = hardware | {name: value for name, value in options.items() if value is not None}
    merged["threads"] = cpu_threads(merged)
    return merged


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object from the command line."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def segment_request(args: argparse.Namespace) -> SegmentRequest:
    """Make the request for one segment from the command line."""
    described: dict[str, Any] = read_json(args.run_file) if args.run_file else {}
    if args.recipe:
        described["recipe"] = read_json(args.recipe)
    for name in ("run", "engine", "seed"):
        if getattr(args, name) is not None:
            described[name] = getattr(args, name)
    missing = [name for name in ("run", "engine", "seed", "recipe") if name not in described]
    if missing:
        raise UserError(f"segment: {', '.join(missing)} not given: use --run-file, or an option for each")
    args.run = described["run"]
    return SegmentRequest(
        run=described["run"],
        engine=described["engine"],
        recipe=described["recipe"],
        seed=described["seed"],
        model_dir=args.model,
        train_file=args.data,
        start_step=args.start_step,
        to_step=args.to_step,
        work_dir=args.work_dir,
        model_out=args.model_out,
        metrics_out=args.metrics_out,
        hardware=merge_hardware(args, args.hardware),
    )


def run_request(args: argparse.Namespace) -> SegmentRequest:
    """Make the request for a whole run, as one segment, from the configuration and its overrides.

    An override of the recipe (`recipe.learning_rate=1e-5`, or `learning_rate=1e-5` for short) is for this run, over
    what the configuration's own entry for the run says.
    """
    from justrl import config as experiment

    base = experiment.load(args.config)
    recipe_names = set(base["recipe"])
    recipe = []
    general = [f"runs.{args.run}.engine={args.engine}"] if args.engine else []
    for override in args.overrides:
        if override.split(".")[0].partition("=")[0] in recipe_names:
            recipe.append(override)
        elif override.startswith("recipe."):
            recipe.append(override.removeprefix("recipe."))
        else:
            general.append(override)
    experiment.recipe_of(base, args.run)  # an unknown run is named before its overrides
    config = experiment.load(args.config, general)
    complete = experiment.apply_overrides(experiment.recipe_of(config, args.run), recipe)
    # The changed recipe must still be one that the schema and the cross-checks accept.
    config["runs"][args.run]["recipe"] = complete
    experiment.validate(config)
    run = config["runs"][args.run]
    return SegmentRequest(
        run=args.run,
        engine=run["engine"],
        recipe=complete,
        seed=config["seed"],
        model_dir=args.model,
        train_file=args.data,
        start_step=0,
        to_step=run["steps"],
        work_dir=args.output / "work",
        model_out=args.output / "model",
        metrics_out=args.output / "metrics.jsonl",
        hardware=merge_hardware(args, config["hardware"]),
    )


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    summary, _, details = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m justrl.train",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", type=Path, required=True, help="Hugging Face folder to start from")
    common.add_argument("--data", type=Path, required=True, help="training Parquet file (verl's schema)")
    common.add_argument("--engine", choices=["reference", "verl"], help="instead of the run's own")
    common.add_argument("--device", choices=["cpu", "cuda"], help="reference engine; default: the GPU if there is one")
    common.add_argument("--threads", type=int, help="CPU threads; default: OMP_NUM_THREADS, Slurm's, or all cores")
    common.add_argument("--save-every", type=int, help="steps between full states, over hardware.save_every")
    common.add_argument("--log-every", type=int, help="steps between lines of progress where there is no terminal")
    common.add_argument("--rollouts", choices=["transformers", "vllm"], help="who samples; default: transformers")
    common.add_argument("--rollout-batch-size", type=int, help="responses generated together; default: all of a step")
    common.add_argument(
        "--wait-for-owner-minutes",
        type=float,
        help="how long to wait for a live trainer in the same folder; default 0: refuse at once",
    )
    common.add_argument("--wandb", action="store_true", help="log to Weights & Biases as well")
    common.add_argument("--wandb-project", default="justrl", help="W&B project")
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", parents=[common], help="train a whole run without Snakemake")
    run.add_argument("--run", required=True, help="a name under `runs` in the configuration")
    run.add_argument("--config", type=Path, action="append", default=[], help="overlay over config.yaml; repeatable")
    run.add_argument("--output", type=Path, required=True, help="gets model/, metrics.jsonl and work/")
    run.add_argument(
        "overrides", nargs="*", metavar="key.dotted=value", help="e.g. learning_rate=2e-4 runs.mini.steps=40"
    )

    segment = commands.add_parser("segment", parents=[common], help="train one segment, as the workflow does")
    segment.add_argument("--run-file", type=Path, help="JSON with run, engine, seed and recipe")
    segment.add_argument("--run", help="instead of the run file's")
    segment.add_argument("--recipe", type=Path, help="JSON with the complete recipe, instead of the run file's")
    segment.add_argument("--seed", type=int, help="instead of the run file's")
    segment.add_argument("--hardware", type=json_object, default={}, help="JSON: save_every, cpus_per_node, ...")
    segment.add_argument("--start-step", type=int, required=True, help="the step that the segment starts from")
    segment.add_argument("--to-step", type=int, required=True, help="the step that it ends with")
    segment.add_argument("--work-dir", type=Path, required=True, help="where states are kept between attempts")
    segment.add_argument("--model-out", type=Path, required=True, help="where to publish the model")
    segment.add_argument("--metrics-out", type=Path, required=True, help="where to publish the segment's metrics")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train; return 0 when published, 75 when told to stop (saved, to be started again)."""
    args = build_parser().parse_args(argv)
    request = run_request(args) if args.command == "run" else segment_request(args)
    # Before torch is imported: its thread pools read the environment once.
    os.environ["OMP_NUM_THREADS"] = str(request.hardware["threads"])
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from justrl.engines import get_engine

    try:
        get_engine(request.engine).train_segment(request)
    except SegmentInterrupted as interrupted:
        print(interrupted, file=sys.stderr, flush=True)
        return interrupted.status
    return 0


if __name__ == "__main__":
    cli.run(main)
