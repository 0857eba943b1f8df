"""GPU jobs side by side on one machine without a queue: each gets GPUs of its own.

Snakemake counts GPUs (`--resources gpu=8`) but does not say which; two jobs of one GPU each would both find all eight
and start on the first. `lease` takes the wanted number of free devices by locking one file for each. The kernel drops
the locks of a process that ends, however it ends, so a crashed job frees its devices and nothing is ever stale. Under
Slurm, which hands out devices itself, nothing is leased.

    python -m justrl.operations.gpus --count 1 -- python -m justrl.generate ...
"""

import argparse
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from justrl import cli
from justrl.errors import UserError

POLL_SECONDS = 0.2
LOCK_FOLDER = "justrl-gpus"


def visible_devices(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The devices this process may use: CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists; none without a driver."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip() and device.strip() != "-1"]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.split() if listed.returncode == 0 else []


def under_slurm(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a Slurm job gave this process its devices."""
    return "SLURM_JOB_ID" in environment


@contextmanager
def lease(
    count: int, devices: Sequence[str], folder: str | Path | None = None, wait_seconds: float = float("inf")
) -> Iterator[list[str]]:
    """Hold `count` of `devices` alone while the block runs, waiting until as many are free.

    All or none, one process at a time: two that want half each cannot block each other.

    Raises:
        UserError: fewer devices exist than are wanted, or none came free within `wait_seconds`.
    """
    if count < 1:
        raise UserError(f"a lease is of one GPU or more, got {count}")
    if count > len(devices):
        raise UserError(
            f"{count} GPUs wanted, {len(devices)} visible ({','.join(devices) or 'none'}): run on a machine that has "
            "them, or lower hardware.gpus_per_node or hardware.gpus_per_evaluation in the configuration"
        )
    folder = Path(folder) if folder else Path(tempfile.gettempdir()) / LOCK_FOLDER
    _make_shared(folder)
    deadline = time.monotonic() + wait_seconds
    while not (held := _try_lock(count, devices, folder)):
        if time.monotonic() > deadline:
            raise UserError(f"{count} of the GPUs {','.join(devices)} did not come free within {wait_seconds:.0f} s")
        time.sleep(POLL_SECONDS)
    try:
        yield list(held)
    finally:
        _release(held)


def _make_shared(folder: Path) -> None:
    """Make the lock folder usable by every user of the machine, as /tmp is."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)


def _try_lock(count: int, devices: Sequence[str], folder: Path) -> dict[str, int]:
    """Lock `count` free devices, or none; returns {device: open file descriptor}."""
    held: dict[str, int] = {}
    turn = os.open(folder / "turn.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # One process chooses at a time; otherwise two could each hold some and let go in step, for ever.
        fcntl.flock(turn, fcntl.LOCK_EX)
        for device in devices:
            if len(held) == count:
                break
            descriptor = os.open(folder / f"{device.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            os.set_inheritable(descriptor, True)
            held[device] = descriptor
    finally:
        os.close(turn)
    if len(held) < count:
        _release(held)
        return {}
    return held


def _release(held: Mapping[str, int]) -> None:
    for descriptor in held.values():
        os.close(descriptor)


def run_leased(count: int, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """Replace this process by `command` with `count` GPUs of its own in CUDA_VISIBLE_DEVICES.

    With `count` 0, or under Slurm, the command runs as it is. Returns only the status of a command that is not found.
    """
    if count and not under_slurm(environment):
        # The locks live in inherited descriptors, which the command keeps after the exec and drops when it ends.
        with lease(count, visible_devices(environment)) as devices:
            return _execute(command, {**environment, "CUDA_VISIBLE_DEVICES": ",".join(devices)})
    return _execute(command, dict(environment))


def _execute(command: Sequence[str], environment: dict[str, str]) -> int:
    try:
        # Same process id: signals of Snakemake and of the user reach the command itself.
        os.execvpe(command[0], list(command), environment)
    except FileNotFoundError:
        print(f"error: {command[0]}: command not found", file=sys.stderr)
    return 127


def main() -> int:
    """Run a command with GPUs that no other such command on this machine has."""
    parser = argparse.ArgumentParser(prog="python -m justrl.operations.gpus", description=main.__doc__)
    parser.add_argument("--count", type=int, required=True, help="GPUs; 0 runs the command as it is")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("no command after --")
    return run_leased(arguments.count, command)


if __name__ == "__main__":
    cli.run(main)
