"""Move a run and the results of its checkpoints to <results>/set_aside/, so that the run can be retrained.

Nothing is deleted. Evaluations of the base model stay. To undo, move the files back.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("run", metavar="RUN", help="name of the run")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    parser.set_defaults(call=move)


def move(arguments: argparse.Namespace) -> None:
    """Move the run, and print its new place."""
    from justrl.workflow import run_state

    print(f"run {arguments.run} is in {run_state.set_aside(arguments.run, arguments.results)} now")
