"""Run a command with GPUs that no other such command on this machine has.

justrl gpus --count 2 -- COMMAND ...
"""

import argparse

from justrl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--count", type=int, required=True, help="GPUs; 0 runs the command as it is")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND ...")
    parser.set_defaults(call=lease)


def lease(arguments: argparse.Namespace) -> int:
    """Become the command; the status where it is not found."""
    from justrl.operations.gpu_lease import run_leased

    if not arguments.command:
        raise UserError("gpus: no command after --")
    return run_leased(arguments.count, arguments.command)
