"""Loaded by verl in each of its processes (VERL_USE_EXTERNAL_MODULES): stack dumps, sockets, CPU, log-probabilities.

On SIGUSR2, a process writes the stacks of all its threads to <JUSTRL_STACKS>/<host>-<pid>.txt. The watchdog uses this
to report where a run that makes no progress is stuck.
"""

import faulthandler
import os
import socket
from pathlib import Path

from justrl.training.watchdog import STACK_SIGNAL


def stack_file(folder: Path, host: str, pid: int) -> Path:
    """Return the file to which a process writes its stacks."""
    return folder / f"{host}-{pid}.txt"


def dump_stacks_on_signal(folder: str | Path) -> None:
    """Make this process handle STACK_SIGNAL, which would otherwise kill it; its open stack file shows that it does."""
    path = stack_file(Path(folder), socket.gethostname(), os.getpid())
    path.parent.mkdir(parents=True, exist_ok=True)
    # Kept open because the signal handler cannot open files.
    faulthandler.register(STACK_SIGNAL, file=path.open("w"), all_threads=True)


def take_own_sockets() -> None:
    """Make verl's trainers send weights by this attempt's sockets; the resolved configuration names the receiver."""
    from verl.workers.rollout import base

    base._ROLLOUT_REGISTRY["vllm", "async"] = "justrl.training.verl.weight_sockets.Sender"


if os.environ.get("JUSTRL_STACKS"):  # not in the supervisor, which has no verl to change
    dump_stacks_on_signal(os.environ["JUSTRL_STACKS"])
    take_own_sockets()

if os.environ.get("VERL_PLATFORM") == "cpu":
    from justrl.training.verl import cpu_platform  # noqa: F401
elif os.environ.get("JUSTRL_STACKS"):
    from justrl.training.verl import chunked_logprobs

    chunked_logprobs.install()
