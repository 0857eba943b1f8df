"""Compare the installed packages with their lock file."""

import argparse

from justrl.cli.options import add_subcommands
from justrl.hardware.machine import LOCKS, environment_here, packages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-command."""
    add_subcommands(parser, {versions: _versions})


def _versions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--environment", choices=LOCKS, help="name of the environment (default: detected from this Python)"
    )


def versions(arguments: argparse.Namespace) -> int:
    """Compare the installed packages with the lock file; exit status 1 if one differs."""
    environment = arguments.environment or environment_here()
    found = packages(environment)
    problems = [str(package) for package in found if not package.matches]
    print("\n".join([f"{environment}: {len(found)} pins, {len(problems)} differ", *problems]))
    return 1 if problems else 0
