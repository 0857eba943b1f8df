"""GPU leases: exclusive GPUs for each of several jobs on one machine.

Snakemake counts GPUs (`--resources gpu=8`) but does not assign them: two jobs of one GPU each would both see all eight
and start on the first. `lease` reserves free devices by locking one file per device, whichever user of the machine
created the file. The kernel releases the locks of a process when it ends for any reason, so a crashed job frees its
devices and no lock is ever stale. Within a Slurm allocation, the devices of that allocation are distributed.

Jobs that wait for any of the same devices are served in order of arrival. Otherwise a job that needs all devices would
wait as long as small jobs keep coming. A waiting process has a numbered file in `queue/`, locked like a device's.

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
from justrl.hardware.machine import visible_devices
from justrl.io import check_regular, irregular

POLL_SECONDS = 0.2
# A waiting process updates its file at each poll. One that has been silent for longer is taken to be suspended.
SILENT_SECONDS = 30.0
# Not TMPDIR, which differs between users.
LOCK_FOLDER = "/tmp/justrl-gpus"
FOLDER_VARIABLE = "JUSTRL_GPU_LOCKS"
QUEUE = "queue"


def lock_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the locks: one for all users of a machine, one for each Slurm job.

    Slurm may number the devices of every job from 0.
    """
    job = environment.get("SLURM_JOB_ID")
    return Path(environment.get(FOLDER_VARIABLE, LOCK_FOLDER), *([f"slurm-{job}"] if job else []))


@contextmanager
def lease(
    count: int, devices: Sequence[str], folder: str | Path, wait_seconds: float = float("inf")
) -> Iterator[list[str]]:
    """Context manager: hold `count` of `devices` exclusively, after waiting until that many are free.

    A process takes all or none, and one process at a time, so two that need half each cannot block each other. Earlier
    waiting requests for any of these devices are served first.

    Raises:
        UserError: fewer devices exist than requested, not enough became free within `wait_seconds`, or this user cannot
            access the locks.
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
    """Open a lock file for reading, creating it if necessary.

    Reading is enough to lock it, and another user's file may not be writable. In a world-writable folder, nobody, not
    even root, may open another user's file in a mode that could create it (fs.protected_regular).
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
    """Create a world-writable folder atomically, whatever the umask, unless it exists."""
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
    """Create a world-readable file atomically, whatever the umask, unless it exists."""
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
    """Mutex: only one process at a time inspects and takes locks.

    Otherwise two processes could each take some devices and release them in step, forever.
    """
    descriptor = _open_lock(folder / "turn.lock")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _place_in_the_queue(devices: Sequence[str], folder: Path) -> Iterator[int]:
    """Context manager: wait in the queue; yields the number of the place."""
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
    """The places of the queue in order, including those of killed processes."""
    return sorted((int(path.name), path) for path in (folder / QUEUE).glob("[0-9]*") if path.name.isdecimal())


def _waits(path: Path, devices: Sequence[str]) -> bool:
    """True if the place belongs to a live process that waits for one of these devices; removes a dead process's place.

    A process that was suspended in the queue blocks nobody, because it no longer polls.
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
        # If another user's file cannot be removed, it does no harm.
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
    """Replace this process by `command`, with `count` GPUs reserved for it in CUDA_VISIBLE_DEVICES.

    The command runs without a lease if `count` is 0, and in a Slurm job of several nodes, of whose GPUs this node has a
    part. Returns only if the command is not found, with the exit status.
    """
    if count and int(environment.get("SLURM_JOB_NUM_NODES", 1)) == 1:
        # The locks belong to inherited descriptors: the command keeps them after exec and releases them when it ends.
        with lease(count, visible_devices(environment), lock_folder(environment)) as devices:
            return _execute(command, {**environment, "CUDA_VISIBLE_DEVICES": ",".join(devices)})
    return _execute(command, dict(environment))


def _execute(command: Sequence[str], environment: dict[str, str]) -> int:
    try:
        # Same process id, so signals from Snakemake and from the user reach the command itself.
        os.execvpe(command[0], list(command), environment)
    except FileNotFoundError:
        print(f"error: {command[0]}: command not found", file=sys.stderr)
    return 127
