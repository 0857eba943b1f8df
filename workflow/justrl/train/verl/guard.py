"""Run a command so that nothing of it outlives it: no process, no shared-memory segment, no temporary folder.

`python -m justrl.train.verl.guard --record FILE --make-scratch --watch-stdin -- COMMAND ...`

Ray and vLLM start processes in sessions of their own, which a process group does not catch. This process becomes the
parent of every orphan among its descendants (PR_SET_CHILD_SUBREAPER), so it can find and end them all. It does so when
the command ends, when it is told to stop (SIGTERM, SIGINT), and, under --watch-stdin, when whoever started it dies: its
standard input, a pipe that nobody writes to, closes then. The temporary folder takes the caches, too, that each process
of each node would otherwise write and lock in the user's home. Shared-memory segments that the processes map and the
temporary folder made for them are written down in FILE.<host>.json, so that the next guard on that host can remove what
a SIGKILL of everything at once has left.
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

from justrl.errors import UserError
from justrl.io import read_json_object
from justrl.train.verl.progress import ATTEMPT_VARIABLE, Progress

SHM = Path("/dev/shm")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# Between the polite and the other signal to processes that are left when the command has ended.
GRACE_SECONDS = 3.0
SCAN_SECONDS = 5.0
# A socket's path has at most 107 characters, of which Ray's /ray/session_<time>_<pid>/sockets/plasma_store takes 68.
LONGEST_SCRATCH = 36
# Ray's logs, compiled kernels and the training data as verl keeps it; with less, a training would end in its middle.
LEAST_SCRATCH_GB = 2.0
# Where a library keeps what it can make again, when it is not told otherwise, somewhere in the user's home.
CACHES = {"TRITON_CACHE_DIR": "triton", "HF_DATASETS_CACHE": "datasets", "HF_MODULES_CACHE": "modules"}
# A file system that is away answers after minutes, or never.
HOME_SECONDS = 20.0
TRY_HOME = """
import fcntl, sys, tempfile
with tempfile.TemporaryFile(dir=sys.argv[1]) as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
# What `new_scratch` makes.
SCRATCH = re.compile(r"/(?:.*/)?jrl-[a-z0-9_]{8}")


def prctl(option: int, value: int) -> None:
    """Call prctl(2); Linux only, as is everything that this engine runs on."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; for `preexec_fn`."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def new_scratch() -> Path:
    """A temporary folder on this node, with a name short enough for sockets, where there is room.

    Raises UserError: there is none; the message says of each place why not.
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
    """Whether files can be made and locked there, within HOME_SECONDS."""
    trying = subprocess.Popen([sys.executable, "-c", TRY_HOME, home], stderr=subprocess.DEVNULL)
    try:
        return trying.wait(HOME_SECONDS) == 0
    except subprocess.TimeoutExpired:
        trying.kill()
        return False


def variables_of(scratch: Path) -> dict[str, str]:
    """Environment variables by which a command and all that it starts write to `scratch`, and a home only if it can."""
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
    """Process ids of the living descendants of `root`, parents before children; zombies are left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The command name, in parentheses, may hold anything; what follows it does not.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(entry.name))
    return _walk(children, root)


def _walk(children: dict[int, list[int]], root: int) -> list[int]:
    order = []
    for child in children.get(root, []):
        order.append(child)
        order.extend(_walk(children, child))
    return order


def shared_memory_of(pids: list[int]) -> set[str]:
    """Names of the segments in /dev/shm that these processes map and that still have a name."""
    names = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                _, separator, name = line.partition(f"{SHM}/")
                if separator and not name.endswith(" (deleted)"):
                    names.add(name)
    return names


def remove_shared_memory(names: set[str]) -> list[str]:
    """Remove those segments of `names` that no process maps any more; return what was removed."""
    everyone = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    removed = []
    for name in names - shared_memory_of(everyone):
        with contextlib.suppress(FileNotFoundError):
            (SHM / name).unlink()
            removed.append(name)
    return removed


def end_all(pids_of, grace: float) -> None:
    """Signal the processes that `pids_of()` lists until there are none: SIGTERM, and SIGKILL after `grace` seconds."""
    number, deadline = signal.SIGTERM, time.monotonic() + grace
    while pids := pids_of():
        if time.monotonic() >= deadline:
            number = signal.SIGKILL
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        # Give what was signalled politely its time; a killed process is gone at once.
        until = deadline if number == signal.SIGTERM else time.monotonic() + 0.2
        while time.monotonic() < until and pids_of():
            reap()
            time.sleep(0.05)
        reap()


def reap() -> None:
    """Collect the ends of orphans that became our children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def reap_all_but(pid: int) -> None:
    """Collect the ends of orphans, as `ray stop` waits for, but leave that of `pid` to whoever asks for its status."""
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
            # What the command left running may have come after the last look.
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
    """Remove what a guard left that was killed itself; returns the names of the removed segments.

    A record that names anything that no guard makes is not followed there.
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
    parser = argparse.ArgumentParser(prog="python -m justrl.train.verl.guard", description=__doc__)
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
