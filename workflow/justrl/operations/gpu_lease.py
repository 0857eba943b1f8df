"""GPU leases: exclusive GPUs for each of several jobs on one machine.

Snakemake counts GPUs (`--resources gpu=8`) but does not say which; two jobs of one GPU each would both find all eight
and start on the first. `lease` takes the wanted number of free devices by locking one file for each, whoever of the
machine's users made the file. The kernel drops the locks of a process that ends, however it ends, so a crashed job
frees its devices and nothing is ever stale. Within a Slurm allocation its own devices are shared out.

    justrl gpus --count 1 -- justrl generate ...
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from justrl.errors import UserError
from justrl.machine import visible_devices

POLL_SECONDS = 0.2
# Not TMPDIR, which is another one for each user.
LOCK_FOLDER = "/tmp/justrl-gpus"
FOLDER_VARIABLE = "JUSTRL_GPU_LOCKS"


def lock_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the locks are: one folder for all users of a machine, one for each Slurm job.

    Slurm may number the devices of every job from 0.
    """
    job = environment.get("SLURM_JOB_ID")
    return Path(environment.get(FOLDER_VARIABLE, LOCK_FOLDER), *([f"slurm-{job}"] if job else []))


@contextmanager
def lease(
    count: int, devices: Sequence[str], folder: str | Path, wait_seconds: float = float("inf")
) -> Iterator[list[str]]:
    """Hold `count` of `devices` alone while the block runs, waiting until as many are free.

    All or none, one process at a time: two that want half each cannot block each other.

    Raises:
        UserError: fewer devices exist than are wanted, none came free within `wait_seconds`, or the locks are out of
            reach for this user.
    """
    if count < 1:
        raise UserError(f"a lease is of one GPU or more, got {count}")
    if count > len(devices):
        raise UserError(
            f"{count} GPUs wanted, {len(devices)} visible ({','.join(devices) or 'none'}): run on a machine that has "
            "them, or lower hardware.gpus_per_node or hardware.gpus_per_evaluation in the configuration"
        )
    deadline = time.monotonic() + wait_seconds
    while not (held := _try_lock(count, devices, Path(folder))):
        if time.monotonic() > deadline:
            raise UserError(f"{count} of the GPUs {','.join(devices)} did not come free within {wait_seconds:.0f} s")
        time.sleep(POLL_SECONDS)
    try:
        yield list(held)
    finally:
        _release(held)


def _open_lock(path: Path) -> int:
    """Open a lock file, made if need be, for reading: that is enough to lock it, and another user's may not be written.

    A folder for everybody lets nobody open another's file to create it (fs.protected_regular), not even root.
    """
    mask = os.umask(0)
    try:
        for folder in (path.parent.parent, path.parent):
            if not folder.is_dir():
                folder.mkdir(mode=0o1777, parents=True, exist_ok=True)
        try:
            return os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            try:
                return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"GPU locks: {error.filename}: {error.strerror}. Let everybody write its folder (mode 1777) and read its "
            f"files, or set {FOLDER_VARIABLE} to a folder on this machine's own disk for which that holds"
        ) from None
    finally:
        os.umask(mask)


def _try_lock(count: int, devices: Sequence[str], folder: Path) -> dict[str, int]:
    """Lock `count` free devices, or none; returns {device: open file descriptor}."""
    held: dict[str, int] = {}
    turn = _open_lock(folder / "turn.lock")
    try:
        # One process chooses at a time; otherwise two could each hold some and let go in step, for ever.
        fcntl.flock(turn, fcntl.LOCK_EX)
        for device in devices:
            if len(held) == count:
                break
            descriptor = _open_lock(folder / f"{device.replace('/', '_')}.lock")
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

    With `count` 0 the command runs as it is, and in a Slurm job of several nodes, of whose GPUs this node has a part.
    Returns only the status of a command that is not found.
    """
    if count and int(environment.get("SLURM_JOB_NUM_NODES", 1)) == 1:
        # The locks live in inherited descriptors, which the command keeps after the exec and drops when it ends.
        with lease(count, visible_devices(environment), lock_folder(environment)) as devices:
            return _execute(command, {**environment, "CUDA_VISIBLE_DEVICES": ",".join(devices)})
    return _execute(command, dict(environment))


def _execute(command: Sequence[str], environment: dict[str, str]) -> int:
    try:
        # Same process id: signals of Snakemake and of the user reach the command itself.
        os.execvpe(command[0], list(command), environment)
    except FileNotFoundError:
        print(f"error: {command[0]}: command not found", file=sys.stderr)
    return 127
