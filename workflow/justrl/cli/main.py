"""The command `justrl`: dispatch to sub-commands, and their exit status.

Every sub-command is a module of this package with a function `add_arguments(parser)`, which sets the parser's default
`call` to the function that takes the parsed arguments. Only the module of the requested command is imported.
"""

import argparse
import difflib
import sys
import tomllib
from collections.abc import Sequence
from importlib import import_module

from justrl.cli import terminal
from justrl.cli.options import HelpFormatter, Parser
from justrl.config.files import ROOT
from justrl.errors import UserError
from justrl.io import is_disk_full

COMMANDS = {
    "data": "download, clean and check training data, benchmarks and models",
    "train": "train a run with GRPO, or one segment of it; accept an alarm",
    "evaluate": "evaluate one model on one benchmark in one step",
    "generate": "generate answers to benchmarks",
    "grade": "grade saved answers",
    "score": "compute avg@k, pass@k and maj@k with confidence intervals",
    "canary": "show, check and pack the verdicts of a canary (short trial of a run)",
    "verify": "check results against inputs, hashes and configuration",
    "report": "write figures, tables and provenance of trainings and evaluations",
    "plan": "estimate memory, hours, GPU hours, disk and jobs of the experiment",
    "preflight": "check within seconds whether the experiment can run here",
    "status": "show the progress of the runs",
    "set-aside": "move a trained run and its results away, to retrain it",
    "gpus": "run a command with exclusively reserved GPUs",
    "verl": "show verl's settings for a run",
    "envs": "compare installed packages with the lock file",
}
_MODULES = {"verl": "verl_config", "set-aside": "set_aside"}


def main(words: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit status.

    Raises UserError for errors that the user can fix.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"justrl {version()}")
        return 0
    arguments = parse(words)
    return arguments.call(arguments) or 0


def console() -> None:
    """Run the command line and exit.

    Exit status as in a shell: 2 after one line about an error that the user can fix; 1 after one line about a full disk
    or a file that is not available; 130 after an interrupt; 141 if the reader of the output has closed it (`justrl ...
    | head`).
    """
    terminal.open_streams()
    try:
        status = _main_and_flush()
    except UserError as error:
        terminal.complain(str(error))
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and terminal.abandoned():
            status = 141
        elif sentence := of_the_machine(error):
            terminal.complain(sentence)
            status = 1
        else:
            raise
    finally:
        terminal.close()
    sys.exit(status)


def _main_and_flush() -> int:
    """Run `main` and flush its output, so that an error while writing it counts as an error of the command."""
    try:
        status = main()
    except SystemExit:  # argparse has printed its help
        terminal.flush()
        raise
    terminal.flush()
    return status


def of_the_machine(error: Exception) -> str | None:
    """A message for an error of files and disks, where a traceback would not help; None for other errors."""
    # For a rename, name the target: the source is a temporary file.
    where = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if is_disk_full(error):
        place = where or str(error).splitlines()[0]
        return f"no space left on the disk ({place}): free some space and start again; finished files are kept"
    if isinstance(error, OSError) and where and error.strerror:
        return f"{where}: {error.strerror}"
    return None


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; the words of an option may be joined by hyphens or by underscores."""
    name, *words = with_hyphens(words)
    if name not in COMMANDS:
        guess = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {guess[0]}?" if guess else f"choose one of {', '.join(COMMANDS)}"
        raise UserError(f"justrl has no command {name!r}: {meant}")
    module = import_module(f"justrl.cli.{_MODULES.get(name, name)}")
    summary, _, details = (module.__doc__ or "").partition("\n\n")
    parser = Parser(
        prog=f"justrl {name}",
        description=terminal.paragraphs(summary),
        epilog=terminal.paragraphs(details),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    arguments, left = parser.parse_known_args(words)
    # argparse ends a list of words at the first option; overrides may be anywhere.
    if left and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in left)):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if left:
        arguments.overrides = [*arguments.overrides, *left]
    return arguments


def with_hyphens(words: Sequence[str]) -> list[str]:
    """Replace underscores in option names by hyphens, up to a lone `--`."""
    words = list(words)
    for index, word in enumerate(words):
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            words[index] = name.replace("_", "-") + equals + value
    return words


def version() -> str:
    """The version of this checkout, from pyproject.toml, the only file that has it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def overview() -> str:
    """The text of `justrl --help`: one line per sub-command."""
    lines = [f"  {name:<11}{text}" for name, text in COMMANDS.items()]
    head = """usage: justrl COMMAND ... | --version

Reproduce JustRL, from data to the comparison with the published scores.
`justrl COMMAND --help` shows the options of a command.

commands:"""
    return "\n".join([head, *lines])
