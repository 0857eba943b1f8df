"""Run a command and remove everything that it leaves: processes, shared-memory segments, temporary folders.

`python -m justrl.training.verl.guard --record FILE --make-scratch --watch-stdin -- COMMAND ...`

Ray and vLLM start processes in their own sessions, which a process group does not include. The guard becomes the parent
of all orphans among its descendants (PR_SET_CHILD_SUBREAPER), so it can find and end them all. It does so when the
command ends, when it receives SIGTERM or SIGINT, and, with --watch-stdin, when the process that started it dies: its
standard input, a pipe that nobody writes to, is closed then.

The temporary folder also holds caches that each process of each node would otherwise write and lock in the user's home.
FILE.<host>.json records the temporary folder and the shared-memory segments that the processes map, so that the next
guard on that host can remove them if everything was killed at once by SIGKILL.
"""

import argparse
import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from justrl.errors import UserError
from justrl.io import read_json_object
from justrl.training.verl.progress import ATTEMPT_VARIABLE, Progress

SHM = Path("/dev/shm")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# Seconds between SIGTERM and SIGKILL for processes that are left when the command has ended.
GRACE_SECONDS = 3.0
SCAN_SECONDS = 5.0
# A socket's path has at most 107 characters; Ray's /ray/session_<time>_<pid>/sockets/plasma_store takes 68 of them.
LONGEST_SCRATCH = 36
# Space for Ray's logs, compiled kernels and verl's copy of the training data; with less, a training could fail midway.
LEAST_SCRATCH_GB = 2.0
# Caches that libraries keep in the user's home by default; their contents can be recreated.
CACHES = {"TRITON_CACHE_DIR": "triton", "HF_DATASETS_CACHE": "datasets", "HF_MODULES_CACHE": "modules"}
# An unavailable file system answers after minutes or never.
HOME_SECONDS = 20.0
TRY_HOME = """
import fcntl, sys, tempfile
with tempfile.TemporaryFile(dir=sys.argv[1]) as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
# Folders made by `new_scratch`.
SCRATCH = re.compile(r"/(?:.*/)?jrl-[a-z0-9_]{8}")


def prctl(option: int, value: int) -> None:
    """Call prctl(2), which is Linux only, like this engine."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent dies; for `preexec_fn`."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def new_scratch() -> Path:
    """Create a temporary folder on this node with enough space, and with a name short enough for sockets.

    Raises UserError: there is no such place; the message gives the reason for each candidate.
    """
    problems = []
    for base in dict.fromkeys([os.environ.get("TMPDIR") or "/tmp", "/tmp", "/var/tmp"]):
        try:
            free = shutil.disk_usage(base).free / 1e9
            if len(base) > LONGEST_SCRATCH - len("/jrl-12345678"):
                problems.append(f"the path {base} is too long for sockets in it")
            elif free < LEAST_SCRATCH_GB:
                problems.append(f"{base} has {free:.1f} GB free")
            else:
                folder = Path(tempfile.mkdtemp(prefix="jrl-", dir=base))
                if problems:
                    print(f"temporary files go to {base}: {'; '.join(problems)}", file=sys.stderr, flush=True)
                return folder
        except OSError as error:
            problems.append(f"{base}: {error.strerror}")
    raise UserError(
        f"{socket.gethostname()} has no room for temporary files ({'; '.join(problems)}): verl needs "
        f"{LEAST_SCRATCH_GB:.0f} GB there; free some, or set TMPDIR to a folder of this node with a short name"
    )


def home_is_usable(home: str) -> bool:
    """Return whether files can be created and locked in `home` within HOME_SECONDS."""
    trying = subprocess.Popen([sys.executable, "-c", TRY_HOME, home], stderr=subprocess.DEVNULL)
    try:
        return trying.wait(HOME_SECONDS) == 0
    except subprocess.TimeoutExpired:
        trying.kill()
        return False


def variables_of(scratch: Path) -> dict[str, str]:
    """Return environment variables that direct temporary files and caches to `scratch`, and HOME if it is unusable."""
    places = dict.fromkeys(("TMPDIR", "RAY_TMPDIR"), str(scratch))
    places |= {name: str(scratch / folder) for name, folder in CACHES.items()}
    home = str(Path.home())
    if home_is_usable(home):
        return places
    own = scratch / "home"
    own.mkdir()
    print(f"HOME, {home}, cannot be written or locked on this node: caches go to {own}", file=sys.stderr, flush=True)
    return places | {"HOME": str(own), "XDG_CACHE_HOME": str(own / ".cache"), "XDG_CONFIG_HOME": str(own / ".config")}


def descendants(root: int) -> list[int]:
    """Return the process ids of the living descendants of `root`, parents before children, without zombies."""
    living = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    living.append(process.pid)
    return living


def shared_memory_of(pids: list[int]) -> set[str]:
    """Return the names of segments in /dev/shm that these processes map and that are not deleted."""
    # Not by psutil, which adds up the memory of each mapping: that takes seconds for a process with vLLM.
    names = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                _, separator, name = line.partition(f"{SHM}/")
                if separator and not name.endswith(" (deleted)"):
                    names.add(name)
    return names


def remove_shared_memory(names: set[str]) -> list[str]:
    """Remove those segments in `names` that no process maps any more; return the removed ones."""
    removed = []
    for name in names - shared_memory_of(psutil.pids()):
        with contextlib.suppress(FileNotFoundError):
            (SHM / name).unlink()
            removed.append(name)
    return removed


def end_all(pids_of, grace: float) -> None:
    """Signal the processes listed by `pids_of()` until none is left: SIGTERM, and SIGKILL after `grace` seconds."""
    number, deadline = signal.SIGTERM, time.monotonic() + grace
    while pids := pids_of():
        if time.monotonic() >= deadline:
            number = signal.SIGKILL
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        # After SIGTERM, wait until the deadline; a killed process ends at once.
        until = deadline if number == signal.SIGTERM else time.monotonic() + 0.2
        while time.monotonic() < until and pids_of():
            reap()
            time.sleep(0.05)
        reap()


def reap() -> None:
    """Reap ended orphans that became our children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def reap_all_but(pid: int) -> None:
    """Reap ended orphans, as `ray stop` waits for, but leave `pid` to the caller, which needs its status."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and ended.si_pid != pid:
            os.waitpid(ended.si_pid, os.WNOHANG)


class Guard:
    """One guarded command."""

    def __init__(self, command: list[str], record: Path, make_scratch: bool = False, watch_stdin: bool = False):
        self.command, self.make_scratch, self.watch_stdin = command, make_scratch, watch_stdin
        self.record = record.with_name(f"{record.name}.{socket.gethostname()}.json")
        self.scratch: Path | None = None
        self.segments: set[str] = set()
        self.told_to_stop = False
        self.status: int | None = None

    def run(self) -> int:
        """Run the command and clean up after it; return its exit status, negative for a signal."""
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        clean_up_after(self.record)
        environment = dict(os.environ)
        try:
            if self.make_scratch:
                self.scratch = new_scratch()
                self._write_record()
                environment |= variables_of(self.scratch)
            child = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, env=environment, preexec_fn=die_with_parent
            )
            self._wait(child)
        finally:
            # The command may have left segments that were created after the last scan.
            self._scan()
            end_all(lambda: descendants(os.getpid()), GRACE_SECONDS)
            remove_shared_memory(self.segments)
            self._forget()
        return self.status if self.status is not None else -signal.SIGTERM

    def _stop(self, *_) -> None:
        self.told_to_stop = True

    def _wait(self, child: subprocess.Popen) -> None:
        next_scan = 0.0
        while not self.told_to_stop and not self._parent_gone():
            reap_all_but(child.pid)
            self.status = child.poll()
            if self.status is not None:
                return
            if time.monotonic() >= next_scan:
                self._scan()
                next_scan = time.monotonic() + SCAN_SECONDS

    def _parent_gone(self) -> bool:
        """Wait up to half a second for the end of standard input."""
        if not self.watch_stdin:
            time.sleep(0.5)
            return False
        try:
            ready, _, _ = select.select([sys.stdin], [], [], 0.5)
        except InterruptedError:
            return False
        return bool(ready) and not os.read(sys.stdin.fileno(), 1)

    def _scan(self) -> None:
        found = shared_memory_of(descendants(os.getpid()))
        if not found <= self.segments:
            self.segments |= found
            self._write_record()

    def _write_record(self) -> None:
        self.record.parent.mkdir(parents=True, exist_ok=True)
        self.record.write_text(json.dumps({"scratch": str(self.scratch or ""), "segments": sorted(self.segments)}))

    def _forget(self) -> None:
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)
        self.record.unlink(missing_ok=True)


def clean_up_after(record: Path) -> list[str]:
    """Remove the leftovers of a guard that was killed; return the names of the removed segments.

    Entries in the record that no guard would create are ignored.
    """
    left = read_json_object(record)
    removed = remove_shared_memory(
        {name for name in left.get("segments", ()) if re.fullmatch(r"[^/]*[^/.][^/]*", name)}
    )
    if SCRATCH.fullmatch(scratch := left.get("scratch", "")) and ".." not in Path(scratch).parts:
        shutil.rmtree(scratch, ignore_errors=True)
    record.unlink(missing_ok=True)
    return removed


def main(argv: list[str] | None = None) -> int:
    """Run a command under guard."""
    parser = argparse.ArgumentParser(prog="python -m justrl.training.verl.guard", description=__doc__)
    parser.add_argument("--record", type=Path, required=True, help="where to write down the segments in use")
    parser.add_argument("--make-scratch", action="store_true", help="give the command a temporary folder of its own")
    parser.add_argument("--watch-stdin", action="store_true", help="stop when standard input ends")
    parser.add_argument("command", nargs="+", help="after --")
    args = parser.parse_args(argv)
    try:
        status = Guard(args.command, args.record, args.make_scratch, args.watch_stdin).run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        if ATTEMPT_VARIABLE in os.environ:
            Progress.of_this_attempt().fail(str(error))
        return 1
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main())
