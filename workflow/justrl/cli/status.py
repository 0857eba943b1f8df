"""Show the running or latest experiment: steps, reward, entropy, length, time left, health, evaluations."""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from justrl import config
from justrl.cli import terminal
from justrl.cli.options import number
from justrl.errors import UserError, did_you_mean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--results",
        type=Path,
        help="results folder of one experiment or of several (default: results, here or in a parent folder)",
    )
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="overlay over config.yaml (default: the configuration saved by the last start)",
    )
    parser.add_argument("--run", metavar="NAME", help="show only this run")
    parser.add_argument(
        "--watch", type=number(0.1), nargs="?", const=10, metavar="SECONDS", help="repeat every SECONDS (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON with all metric rows and findings")
    parser.set_defaults(call=show)


def show(arguments: argparse.Namespace) -> None:
    """Show the experiment once, or repeatedly with --watch."""
    while True:
        shown = _show(arguments)
        if arguments.watch is None:
            print(shown)
            return
        ends = f"{time.strftime('%H:%M:%S')}, every {arguments.watch:g} s; stop with Ctrl-C"
        terminal.clear_screen()
        print(f"{shown}\n\n{ends}", flush=True)
        time.sleep(arguments.watch)


def _show(arguments: argparse.Namespace) -> str:
    from justrl.status import run_status

    results = run_status.results_folder(arguments.results)
    given = config.load(arguments.config) if arguments.config else None
    found = run_status.find_experiments(results, given)
    if not found:
        return f"no experiment has been started in {results} yet: `snakemake --profile mini` starts the smallest one"
    first, *others = found
    if arguments.run:
        names = [run.name for run in first.runs]
        if arguments.run not in names:
            near = did_you_mean(arguments.run, names)
            raise UserError(f"--run {arguments.run}: no such run has been started in {first.results}{near}")
        first = replace(first, runs=[run for run in first.runs if run.name == arguments.run])
    if arguments.json:
        return json.dumps([{**asdict(run), "findings": run_status.findings(run)} for run in first.runs], indent=2)
    return run_status.render_experiment(first, others)
