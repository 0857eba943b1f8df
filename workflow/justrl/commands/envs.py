"""Compare the installed packages with their lock, or ask the registry whether all pins can still be had."""

import argparse

from justrl.commands.options import add_subcommands
from justrl.machine import LOCKS, environment_here, packages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the sub-commands."""
    add_subcommands(parser, {versions: _versions, resolve: lambda _: None})


def _versions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--environment", choices=LOCKS, help="default: the one that this Python looks like")


def versions(arguments: argparse.Namespace) -> int:
    """Compare the installed packages with the lock of this environment; status 1 if any differs."""
    environment = arguments.environment or environment_here()
    found = packages(environment)
    problems = [str(package) for package in found if not package.matches]
    print("\n".join([f"{environment}: {len(found)} pins, {len(problems)} differ", *problems]))
    return 1 if problems else 0


def resolve(arguments: argparse.Namespace) -> int:
    """Ask the registry whether every pin of every environment can be had; status 1 if one cannot."""
    from justrl.operations import registry

    problems = registry.conda_disagreements()
    problems += [f"{name}: {message}" for name, message in registry.resolve_all().items()]
    print("\n".join([f"{len(LOCKS) + len(registry.CONDA)} environments, {len(problems)} problems", *problems]))
    return 1 if problems else 0
