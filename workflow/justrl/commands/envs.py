"""Compare the installed packages with their lock file, or check that all pins are available from the registry."""

import argparse

from justrl.commands.options import add_subcommands
from justrl.machine import LOCKS, environment_here, packages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the sub-commands."""
    add_subcommands(parser, {versions: _versions, resolve: lambda _: None})


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


def resolve(arguments: argparse.Namespace) -> int:
    """Check that the registry has all pins of all environments; exit status 1 if one is missing."""
    from justrl.operations import registry

    problems = registry.conda_disagreements()
    problems += [f"{name}: {message}" for name, message in registry.resolve_all().items()]
    print("\n".join([f"{len(LOCKS) + len(registry.CONDA)} environments, {len(problems)} problems", *problems]))
    return 1 if problems else 0
