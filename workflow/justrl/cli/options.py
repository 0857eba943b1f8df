"""Helpers for command-line options: sub-commands, types, and parsed options as keyword arguments."""

import argparse
import inspect
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

from justrl.cli import terminal

Describe = Callable[[argparse.ArgumentParser], None]


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help with examples printed unchanged, no wider than the other output."""

    def __init__(self, prog: str):
        super().__init__(prog, width=min(terminal.WIDTH, shutil.get_terminal_size().columns - 2))


class Parser(argparse.ArgumentParser):
    """A parser whose help raises an error if nobody reads it; argparse itself ignores a closed pipe.

    `describe` adds the options of a sub-command once it is used.
    """

    describe: Describe | None = None

    def parse_known_args(self, args=None, namespace=None):
        """Parse a command line after adding the options."""
        describe, self.describe = self.describe, None
        if describe:
            describe(self)
        return super().parse_known_args(args, namespace)

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            (file or sys.stderr).write(message)


def add_subcommands(parser: argparse.ArgumentParser, commands: Mapping[Callable[..., Any], Describe]) -> Any:
    """Add sub-commands named after the functions they call, with the first line of their docstrings as help.

    Python removes docstrings with -OO; the name is then the help.
    """
    group = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for call, describe in commands.items():
        name = call.__name__.replace("_", "-")
        add_subcommand(group, name, (inspect.getdoc(call) or name).splitlines()[0], call, describe)
    return group


def add_subcommand(group: Any, name: str, text: str, call: Callable[..., Any], describe: Describe) -> None:
    """Add a sub-command; `describe` adds its options when it is used, so it may import much."""
    brief = (text[:1].lower() + text[1:].removesuffix(".")).replace("%", "%%")
    subcommand = group.add_parser(
        name, help=brief, description=terminal.paragraphs(text), formatter_class=HelpFormatter, allow_abbrev=False
    )
    subcommand.describe = describe
    subcommand.set_defaults(call=call)


def whole(least: int) -> Callable[[str], int]:
    """The type of an option for whole numbers from `least` on."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    return parse


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    """The type of an option for finite numbers from `least` to `most`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
        if not (math.isfinite(value) and least <= value <= most):
            limits = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"must be {limits}, got {text}")
        return value

    return parse


def chosen(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The parsed options with these names, as keyword arguments."""
    return {name: getattr(arguments, name) for name in names}
