"""Check all files of an experiment: recompute derived files, and compare the others with recorded hashes and sizes.

Exit status: 0 if nothing is wrong and no requested file is missing, also if nothing has been started; 1 if a file is
wrong (truncated, edited, unknown to the configuration, or made with another protocol, recipe or model) or a requested
file is missing; 2 if the experiment or its configuration cannot be read.
"""

import argparse
from pathlib import Path

from justrl import config
from justrl.cli import terminal
from justrl.cli.plan import add_config_arguments
from justrl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    text = "results folder (default: results); it is compared with --config or the configuration of its last start"
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"), help=text)
    text = "also hash training states, which are large (default: compare their sizes)"
    parser.add_argument("--states", action="store_true", help=text)
    add_config_arguments(parser)
    parser.set_defaults(call=verify)


def experiment_of(arguments: argparse.Namespace) -> config.Experiment:
    """The experiment of --config and --set; without them, the one last started in this folder."""
    from justrl.workflow import config_snapshots

    if arguments.config or arguments.set:
        return config.load(arguments.config, arguments.set)
    if started := config_snapshots.newest(arguments.results):
        return config.Experiment.from_mapping(config_snapshots.read(started)[0])
    loaded = config.load()
    if loaded.results.resolve() != arguments.results.resolve():
        raise UserError(
            f"no experiment has been started in {arguments.results} yet: give its configuration with --config"
        )
    return loaded


def verify(arguments: argparse.Namespace) -> int:
    """Print one line per file, and a summary of the problems in one sentence."""
    from justrl.cli.main import main
    from justrl.status import run_status
    from justrl.workflow import verification

    given = arguments.config or arguments.set or any(arguments.results.glob("*_*.json"))
    if not given and not run_status.is_started(arguments.results):
        print(f"no experiment has been started in {arguments.results} yet, so there is nothing to verify")
        return 0
    checked = verification.verify(experiment_of(arguments), arguments.results, main, arguments.states)
    terminal.say(verification.table(checked))
    wrong = [row for row in checked if row.problems]
    if wrong:
        first = "; ".join(f"{row.what}: {row.problems[0]}" for row in wrong[:3])
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        terminal.complain(f"{len(wrong)} of {len(checked)} items are wrong: {first}{more}")
    return 1 if wrong else 0
