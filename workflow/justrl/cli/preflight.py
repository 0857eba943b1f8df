"""Check within seconds whether the experiment can run here; each failed check comes with a remedy.

On the command line, it checks the whole experiment on the current machine. In the workflow, it checks one run and needs
no GPU, because the run's first job checks its own GPUs:
`justrl preflight --run run.json --hardware hardware.json --model DIR --data FILE`.
"""

import argparse
import sys
from pathlib import Path

from justrl import config
from justrl.cli import terminal
from justrl.cli.plan import add_config_arguments, started
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.io import read_object, write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_config_arguments(parser)
    parser.add_argument(
        "--run", metavar="NAME", help="check only this run, given by name or run.json (default: all enabled runs)"
    )
    parser.add_argument("--offline", action="store_true", help="do not contact the hub")
    parser.add_argument("--results", type=Path, help="results folder (default: the configuration's)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON if all checks pass")
    job = parser.add_argument_group("in the workflow, with --run run.json (verl.yaml is read from its folder)")
    job.add_argument("--model", type=Path, metavar="DIR", help="base model folder")
    job.add_argument("--data", type=Path, metavar="FILE", help="training Parquet")
    job.add_argument("--hardware", type=Path, metavar="FILE", help="hardware.json: the configuration's `hardware`")
    parser.set_defaults(call=check)


def check(arguments: argparse.Namespace) -> int:
    """Check one job or the whole experiment, and report."""
    if arguments.run and arguments.run.endswith(".json"):
        missing = [name for name in ("model", "data", "hardware") if getattr(arguments, name) is None]
        if missing:
            raise UserError(f"--run {arguments.run} also needs --{', --'.join(missing)}")
        done = _check_job(arguments)
    else:
        done = _check_experiment(arguments)
    return report(done, arguments.output)


def _check_job(arguments: argparse.Namespace) -> list:
    from justrl.preflight import experiment_checks

    return experiment_checks.check_job(
        config.read_part(config.RunDescription, read_object(arguments.run), arguments.run),
        arguments.model,
        arguments.data,
        config.read_part(config.Hardware, read_object(arguments.hardware), arguments.hardware),
        arguments.output or Path(arguments.run),
        Path(arguments.run).with_name("verl.yaml"),
    )


def _check_experiment(arguments: argparse.Namespace) -> list:
    from justrl.preflight import experiment_checks

    loaded = started(arguments)
    if arguments.offline:
        loaded = loaded.model_copy(update={"hub": loaded.hub.model_copy(update={"offline": True})})
    runs = list(Layout(loaded).trainings())
    if arguments.run:
        loaded.run(arguments.run)
        runs = [arguments.run]
    if not runs:
        raise UserError(
            "no run is enabled in the configuration: set runs.NAME.enabled to true, or name a run with --run"
        )
    results = arguments.results or loaded.results
    return experiment_checks.check_experiment(loaded, runs, results)


def report(done: list, output: Path | None) -> int:
    """Print the table, write the JSON report unless a check failed in a job, and return the exit status."""
    from justrl.hardware import checks

    failed = [check for check in done if check.status == checks.FAILED]
    # In a job, the table goes to the log, which captures standard error.
    terminal.say(checks.table(done), file=sys.stderr if output else sys.stdout)
    # As an output of the workflow, the report means "passed". After a failure there must be none, or the next start
    # would continue.
    if output and not failed:
        write_json(output, {"passed": True, "checks": [check.as_dict() for check in done]})
    if failed:
        # The workflow repeats only the last line of a job; on a terminal, the table is just above.
        named = "; ".join(f"{check.name}: {check.found}" if output else check.name for check in failed)
        terminal.complain(f"{len(failed)} of {len(done)} checks failed: {named}")
        return 1
    return 0
