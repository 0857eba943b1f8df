"""Exclusive lock on a run's work directory; the lock of a dead owner is taken over.

The owner records where it runs (host, process, start time, Slurm job) and touches the file periodically. A process
that finds the lock checks, in this order: does the owner's process still exist on this host; is its Slurm job still in
the queue; was the file touched recently.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from justrl.errors import UserError
from justrl.io import exclusive, irregular, read_object, write_json

HEARTBEAT_SECONDS = 30.0
# On another host and without Slurm, an owner that has not touched the lock for this long counts as dead.
STALE_MINUTES = 15.0
# States in which a Slurm job holds its nodes.
HOLDING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")


@dataclass(frozen=True)
class Owner:
    """The owner of a lock; `started`, in clock ticks since boot, distinguishes processes that had the same pid."""

    host: str
    boot: str
    pid: int
    started: str
    slurm_job_id: str | None
    slurm_restarts: int
    since: str

    @classmethod
    def me(cls) -> "Owner":
        """Return an Owner that describes this process."""
        return cls(
            host=socket.gethostname(),
            boot=_boot_id(),
            pid=os.getpid(),
            started=process_start(os.getpid()) or "",
            slurm_job_id=os.environ.get("SLURM_JOB_ID"),
            slurm_restarts=int(os.environ.get("SLURM_RESTART_COUNT", 0)),
            since=datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
        )

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job_id}" if self.slurm_job_id else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


def _boot_id() -> str:
    """Return the boot id, which distinguishes boots and hosts (or containers) of the same name; empty if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_start(pid: int) -> str | None:
    """Return when a process on this host started, in ticks since boot; None if it does not exist or is a zombie."""
    try:
        # The command name, in parentheses, may itself contain spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    return None if state in "ZX" else started


def slurm_job_alive(job_id: str) -> bool | None:
    """Return whether a Slurm job still holds nodes; None if Slurm does not answer."""
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--jobs", job_id, "--format", "%T"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        # A job that Slurm has forgotten is an "Invalid job id"; any other failure is inconclusive.
        return False if "Invalid job id" in answer.stderr else None
    state = answer.stdout.strip()
    if state and any(name != state and name.startswith(state) for name in HOLDING):
        # The answer was cut off.
        return None
    return state in HOLDING


def owner_alive(owner: Owner, silent_seconds: float, stale_minutes: float = STALE_MINUTES) -> bool:
    """Return whether a lock's owner still runs; if unknown, it does until it has been silent for `stale_minutes`."""
    me = Owner.me()
    if owner.host == me.host and owner.boot == me.boot:
        return process_start(owner.pid) == owner.started
    if owner.slurm_job_id:
        if owner.slurm_job_id == me.slurm_job_id:
            # Requeued: Slurm never runs two instances of one job at once.
            return owner.slurm_restarts >= me.slurm_restarts and silent_seconds < stale_minutes * 60
        alive = slurm_job_alive(owner.slurm_job_id)
        if alive is not None:
            return alive
    return silent_seconds < stale_minutes * 60


class Lock:
    """The lock file of a work directory."""

    def __init__(self, path: Path):
        self.path = path
        self._mine: Owner | None = None
        self._stop = threading.Event()

    def read_owner(self) -> Owner | None:
        """Return the lock's owner; None if there is none or the file is unreadable (its writer died while writing)."""
        try:
            return Owner(**read_object(self.path))
        except (OSError, ValueError, TypeError):
            return None

    def _silent_seconds(self, probe: Path) -> float:
        """Seconds since the owner touched the lock, by the file server's clock instead of the local one."""
        probe.touch()
        with suppress(FileNotFoundError):
            return probe.stat().st_mtime - self.path.stat().st_mtime
        return float("inf")

    def way_out(self) -> str:
        """Say what to do about a live owner. A lock dated in the future, by a wrong clock, never becomes stale."""
        with suppress(FileNotFoundError):
            ahead = self.path.stat().st_mtime - time.time()
            if ahead > HEARTBEAT_SECONDS:
                return (
                    f"wait for it or end it first; {self.path} is dated {ahead / 60:,.0f} minutes in the future, so if "
                    "no trainer runs there, delete that file"
                )
        return "wait for it or end it first"

    def try_acquire(self) -> Owner | None:
        """Take the lock if it is free or its owner is dead; otherwise return the live owner.

        An advisory lock on a second file covers both the check and the takeover, so that only one process can take it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if kind := irregular(self.path):
            raise UserError(f"{self.path} is {kind} instead of a lock file: delete it")
        guard_path = self.path.with_name(self.path.name + ".guard")
        with exclusive(guard_path):
            owner = self.read_owner()
            if owner and owner_alive(owner, self._silent_seconds(guard_path)):
                return owner
            self._mine = Owner.me()
            write_json(self.path, asdict(self._mine))
        threading.Thread(target=self._beat, daemon=True).start()
        return None

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(self.path)

    def check(self) -> None:
        """Check that this process still owns the lock; called before anything is written.

        Raises UserError: another trainer took over, because it considered this one dead.
        """
        owner = self.read_owner()
        if self._mine is None or owner != self._mine:
            raise UserError(
                f"{self.path}: another trainer ({owner or 'unknown'}) took over the lock; stopping without saving"
            )

    def release(self) -> None:
        """Release the lock if this process still owns it."""
        self._stop.set()
        if self._mine is not None and self.read_owner() == self._mine:
            self.path.unlink(missing_ok=True)
        self._mine = None


@contextmanager
def hold(path: Path, wait_minutes: float = 0.0, poll_seconds: float = 5.0) -> Iterator[Lock]:
    """Hold the lock at `path` while the block runs.

    Args:
        wait_minutes: how long to wait for a live owner to finish.

    Raises UserError: a live owner still holds the lock after `wait_minutes`.
    """
    lock = Lock(path)
    deadline = time.monotonic() + wait_minutes * 60
    announced = False
    while (owner := lock.try_acquire()) is not None:
        if time.monotonic() >= deadline:
            raise UserError(f"{path.parent}: another trainer is at work here ({owner}): {lock.way_out()}")
        if not announced:
            print(f"waiting for another trainer in {path.parent} ({owner}): {lock.way_out()}", flush=True)
            announced = True
        time.sleep(poll_seconds)
    try:
        yield lock
    finally:
        lock.release()
