"""GPU leases: exclusive GPUs for each of several jobs on one machine.

Snakemake counts GPUs (`--resources gpu=8`) but does not say which; two jobs of one GPU each would both find all eight
and start on the first. `lease` takes the wanted number of free devices by locking one file for each, whoever of the
machine's users made the file. The kernel drops the locks of a process that ends, however it ends, so a crashed job
frees its devices and nothing is ever stale. Within a Slurm allocation its own devices are shared out.

Who waits for any of the same devices is served in the order of asking: a job that wants all of them would otherwise
wait as long as small ones keep coming. A waiting process has a numbered file in `queue/`, locked like a device's.

    justrl gpus --count 1 -- justrl generate ...
"""

import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from justrl.errors import UserError
from justrl.io import check_regular, irregular
from justrl.machine import visible_devices

POLL_SECONDS = 0.2
# Who waits asks at each poll; who has not asked for so long is stopped.
SILENT_SECONDS = 30.0
# Not TMPDIR, which is another one for each user.
LOCK_FOLDER = "/tmp/justrl-gpus"
FOLDER_VARIABLE = "JUSTRL_GPU_LOCKS"
QUEUE = "queue"


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

    All or none, one process at a time: two that want half each cannot block each other. Those that asked before for one
    of these devices, and wait, come first.

    Raises:
        UserError: fewer devices exist than are wanted, none came free within `wait_seconds`, or the locks are out of
            reach for this user.
    """
    if count < 1:
        raise UserError(f"a lease is of one GPU or more, got {count}")
    if count > len(devices):
        raise UserError(
            f"{count} GPUs requested, {len(devices)} visible ({','.join(devices) or 'none'}): run on a "
            "machine with enough GPUs, or lower hardware.gpus_per_node or hardware.gpus_per_evaluation "
            "in the configuration"
        )
    with _place_in_the_queue(devices, Path(folder)) as place:
        deadline = time.monotonic() + wait_seconds
        while not (held := _try_lock(count, devices, Path(folder), place)):
            if time.monotonic() > deadline:
                raise UserError(
                    f"{count} of the GPUs {','.join(devices)} did not come free within {wait_seconds:.0f} s"
                )
            time.sleep(POLL_SECONDS)
    try:
        yield list(held)
    finally:
        _release(held)


def _open_lock(path: Path) -> int:
    """Open a lock file, made if need be, for reading: that is enough to lock it, and another user's may not be written.

    A folder for everybody lets nobody open another's file to create it (fs.protected_regular), not even root.
    """
    try:
        for folder in (path.parent.parent, path.parent):
            _make_for_everybody(folder)
        try:
            check_regular(path)
            return os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            _make_readable(path, b"")
            return os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"GPU locks: {error.filename}: {error.strerror}. Let everybody write its folder (mode 1777) and read its "
            f"files, or set {FOLDER_VARIABLE} to a folder on this machine's own disk for which that holds"
        ) from None


def _make_for_everybody(folder: Path) -> None:
    """Make a folder that every user may write, whatever the umask, unless it is there; nobody sees it half made."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    made.chmod(0o1777)
    try:
        made.rename(folder)
    except OSError:
        made.rmdir()
        if not folder.is_dir():
            raise


def _make_readable(path: Path, content: bytes) -> None:
    """Make a file that every user may read, whatever the umask, unless it is there; nobody sees it half made."""
    descriptor, made = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        os.write(descriptor, content)
        os.fchmod(descriptor, 0o644)
        with suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.close(descriptor)
        Path(made).unlink()


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """One process at a time looks at the locks and takes some.

    Otherwise two could each hold some devices and let go in step, for ever.
    """
    descriptor = _open_lock(folder / "turn.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _place_in_the_queue(devices: Sequence[str], folder: Path) -> Iterator[int]:
    """Stand in the queue while the block runs; gives the number of the place."""
    with _turn(folder):
        number = max((place for place, _ in _places(folder)), default=0) + 1
        path = folder / QUEUE / f"{number}"
        _make_for_everybody(path.parent)
        _make_readable(path, json.dumps(list(devices)).encode())
        descriptor = _open_lock(path)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield number
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _places(folder: Path) -> list[tuple[int, Path]]:
    """The places of the queue in their order, among them those of processes that were killed."""
    return sorted((int(path.name), path) for path in (folder / QUEUE).glob("[0-9]*") if path.name.isdecimal())


def _waits(path: Path, devices: Sequence[str]) -> bool:
    """Whether a place is that of a process that still waits, for one of these devices; one of a dead process goes.

    A process that was stopped in the queue holds nobody up: it asks no more.
    """
    if irregular(path):
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        if time.time() - os.fstat(descriptor).st_mtime > SILENT_SECONDS:
            return False
        return not set(devices).isdisjoint(json.loads(os.read(descriptor, 65_536)))
    else:
        # Another user's file may stay: it is in nobody's way.
        with suppress(OSError):
            path.unlink()
        return False
    finally:
        os.close(descriptor)


def _try_lock(count: int, devices: Sequence[str], folder: Path, place: int) -> dict[str, int]:
    """Lock `count` free devices, or none; returns {device: open file descriptor}."""
    held: dict[str, int] = {}
    with _turn(folder):
        with suppress(OSError):
            os.utime(folder / QUEUE / f"{place}")
        if any(_waits(path, devices) for number, path in _places(folder) if number < place):
            return held
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
