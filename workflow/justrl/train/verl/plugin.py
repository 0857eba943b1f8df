"""Loaded by verl in each of its processes (VERL_USE_EXTERNAL_MODULES): stack dumps, sockets, CPU, log-probabilities.

Sent SIGUSR2, a process writes the stacks of all its threads to <JUSTRL_STACKS>/<host>-<pid>.txt. The watchdog uses that
to say where a run that makes no progress is stuck.
"""

import faulthandler
import os
import socket
from pathlib import Path

from justrl.train.watch import STACK_SIGNAL


def stack_file(folder: Path, host: str, pid: int) -> Path:
    """Where a process writes its stacks."""
    return folder / f"{host}-{pid}.txt"


def dump_stacks_on_signal(folder: str | Path) -> None:
    """Make this process answer STACK_SIGNAL; the file shows that it does, or the signal would end the process."""
    path = stack_file(Path(folder), socket.gethostname(), os.getpid())
    path.parent.mkdir(parents=True, exist_ok=True)
    # Kept open on purpose: the handler may not open files.
    faulthandler.register(STACK_SIGNAL, file=path.open("w"), all_threads=True)


def take_own_sockets() -> None:
    """Make verl's trainers send their weights by sockets of this attempt; the resolved configuration names the rest."""
    from verl.workers.rollout import base

    base._ROLLOUT_REGISTRY["vllm", "async"] = "justrl.train.verl.weight_sockets.Sender"


if os.environ.get("JUSTRL_STACKS"):  # not in the supervisor, which has no verl to change
    dump_stacks_on_signal(os.environ["JUSTRL_STACKS"])
    take_own_sockets()

if os.environ.get("VERL_PLATFORM") == "cpu":
    from justrl.train.verl import cpu_platform  # noqa: F401
elif os.environ.get("JUSTRL_STACKS"):
    from justrl.train.verl import chunked_logprobs

    chunked_logprobs.install()
