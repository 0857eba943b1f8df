"""Loaded by verl in each of its processes (VERL_USE_EXTERNAL_MODULES): stack dumps, sockets, CPU, log-probabilities.

verl is being imported then, so this module imports of it only what it changes (`weights` imports all of verl and vLLM).

On SIGUSR2, a process writes the stacks of all its threads to <JUSTRL_STACKS>/<host>-<pid>.txt. The watchdog uses this
to report where a run that makes no progress is stuck.
"""

import faulthandler
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from justrl.training.watchdog import STACK_SIGNAL

if TYPE_CHECKING:
    from torch import Tensor

# Rows of logits whose log-probabilities are computed at a time.
ROWS = 1024


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

    base._ROLLOUT_REGISTRY["vllm", "async"] = "justrl.training.verl.weights.Sender"


def logprobs(logits: "Tensor", labels: "Tensor") -> "Tensor":
    """Return the float32 log-probabilities of `labels` (...) under `logits` (..., vocabulary), ROWS at a time.

    The backward pass, too, processes ROWS at a time.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    def chunk(logits: "Tensor", labels: "Tensor") -> "Tensor":
        return -torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")

    rows = zip(logits.flatten(0, -2).split(ROWS), labels.flatten().split(ROWS), strict=True)
    return torch.cat([checkpoint(chunk, *row, use_reentrant=False) for row in rows]).view(labels.shape)


def compute_logprobs_in_chunks() -> None:
    """Replace verl's function for the log-probabilities of half-precision logits where there is no flash-attn.

    Without it, verl 0.9.1 goes row by row (`logprobs_from_logits_v2`). This takes a few kernels for each of 32,768
    tokens, and a float32 copy of all logits, 19 GB, which is kept for the backward pass.
    """
    import torch
    from verl.utils import torch_functional

    original = torch_functional.logprobs_from_logits_v2

    def choose(logits: "Tensor", labels: "Tensor") -> "Tensor":
        return original(logits, labels) if logits.dtype == torch.float32 else logprobs(logits, labels)

    torch_functional.logprobs_from_logits_v2 = choose


if os.environ.get("JUSTRL_STACKS"):  # not in the supervisor, which has no verl to change
    dump_stacks_on_signal(os.environ["JUSTRL_STACKS"])
    take_own_sockets()

if os.environ.get("VERL_PLATFORM") == "cpu":
    from justrl.training.verl import cpu_platform  # noqa: F401
elif os.environ.get("JUSTRL_STACKS"):
    compute_logprobs_in_chunks()
