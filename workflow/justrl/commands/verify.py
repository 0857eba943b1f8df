"""Check every result of an experiment against its inputs, its hashes and the configuration, and take its numbers again.

Exits with 1 if anything is missing, cut short, edited, or of another protocol, recipe or model.
"""

import argparse
import sys
from pathlib import Path

from justrl import config
from justrl.commands.plan import add_config_arguments
from justrl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    text = "results folder (default: results), held against the configuration it was last started with, or --config"
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"), help=text)
    add_config_arguments(parser)
    parser.set_defaults(call=verify)


def experiment_of(arguments: argparse.Namespace) -> config.Experiment:
    """The experiment of --config and --set; without them the one that was last started in this folder."""
    from justrl.operations import frozen

    if arguments.config or arguments.set:
        return config.load(arguments.config, arguments.set)
    if started := frozen.newest(arguments.results):
        return config.Experiment.from_mapping(frozen.read(started)[0])
    loaded = config.load()
    if loaded.results.resolve() != arguments.results.resolve():
        raise UserError(f"nothing was started in {arguments.results} yet: name its configuration with --config")
    return loaded


def verify(arguments: argparse.Namespace) -> int:
    """Print a line for each result; say what is wrong in one sentence."""
    from justrl.operations import verification

    checked = verification.verify(experiment_of(arguments), arguments.results)
    print(verification.table(checked))
    wrong = [row for row in checked if row.problems]
    if wrong:
        first = "; ".join(f"{row.what}: {row.problems[0]}" for row in wrong[:3])
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        print(f"error: {len(wrong)} of {len(checked)} are not as they should be: {first}{more}", file=sys.stderr)
    return 1 if wrong else 0
