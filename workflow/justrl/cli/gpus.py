"""Run a command with GPUs that no other `justrl gpus` command on this machine uses at the same time.

    justrl gpus --count 2 -- python train.py

The command sees only its own GPUs, and they are free again when it ends.
"""

import argparse

from justrl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--count", type=int, required=True, help="number of GPUs; 0: run the command without a reservation"
    )
    parser.usage = "%(prog)s [-h] --count COUNT -- COMMAND ..."
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="command and its arguments, after --")
    parser.set_defaults(call=lease)


def lease(arguments: argparse.Namespace) -> int:
    """Replace this process by the command; returns an exit status only if the command is not found."""
    from justrl.hardware.gpu_lease import run_leased

    if not arguments.command:
        raise UserError("gpus: no command given; write it after --: `justrl gpus --count 1 -- COMMAND ...`")
    return run_leased(arguments.count, arguments.command)
