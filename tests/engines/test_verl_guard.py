"""Nothing of a guarded command outlives it, whichever way it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from justrl.errors import UserError
from justrl.training.verl import guard, progress, supervisor

# A command like Ray: a child in a session of its own, a grandchild orphaned on purpose, a mapped shared-memory segment.
# The children ignore SIGTERM. It prints the pids and the segment's name, and then waits or ends.
LIKE_RAY = """
import os, subprocess, sys, time
name = f"guarded_{os.getpid()}"
with open(f"/dev/shm/{name}", "wb") as segment:
    segment.truncate(4096)
stubborn = (
    "import mmap, signal, sys, time;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "file = open('/dev/shm/' + sys.argv[1], 'r+b'); held = mmap.mmap(file.fileno(), 4096);"
    "print('ready', flush=True); time.sleep(600)"
)
first = subprocess.Popen([sys.executable, "-c", stubborn, name], start_new_session=True, stdout=subprocess.PIPE)
first.stdout.readline()
fork = (
    "import subprocess as s, sys;"
    "print(s.Popen([sys.executable, '-c', *sys.argv[1:]], start_new_session=True, stdout=s.DEVNULL).pid)"
)
orphan = subprocess.run([sys.executable, "-c", fork, stubborn, name], stdout=subprocess.PIPE, text=True).stdout.strip()
print(os.getpid(), first.pid, orphan, name, os.environ["TMPDIR"], file=open(sys.argv[1], "w"), flush=True)
os.rename(sys.argv[1], sys.argv[2])
if sys.argv[3] == "wait":
    time.sleep(600)
time.sleep(0.5)
sys.exit(int(sys.argv[3]))
"""


GUARD = [sys.executable, "-m", "justrl.training.verl.guard"]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def wait_until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a guarded command; gives the guard, the pids of all it started, its segment and its scratch folder."""
    started = []

    def run(end: str):
        facts = tmp_path / "facts"
        command = [sys.executable, "-c", LIKE_RAY, str(tmp_path / "facts.partial"), str(facts), end]
        process = subprocess.Popen(
            [*GUARD, "--record", str(tmp_path / "left"), "--make-scratch", "--watch-stdin", "--", *command],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(guard.__file__).parents[3])},
        )
        started.append(process)
        assert wait_until(facts.is_file)
        *pids, segment, scratch = facts.read_text().split()
        return process, [int(pid) for pid in pids], Path("/dev/shm") / segment, Path(scratch)

    monkeypatch.chdir(tmp_path)
    yield run
    for process in started:
        process.kill()
        process.wait()


def record_of(folder: Path) -> list[Path]:
    return list(folder.glob("left.*.json"))


def assert_all_gone(pids, segment, scratch):
    assert wait_until(lambda: not any(alive(pid) for pid in pids)), "processes survived"
    assert wait_until(lambda: not segment.exists()), "shared memory survived"
    assert wait_until(lambda: not scratch.exists()), "temporary folder survived"


@pytest.mark.parametrize("status", [0, 3])
def test_everything_ends_with_the_command_and_its_status_is_ours(start, tmp_path, status):
    process, pids, segment, scratch = start(str(status))
    assert process.wait(timeout=120) == status
    assert_all_gone(pids, segment, scratch)
    assert not record_of(tmp_path)


@pytest.mark.parametrize("how", ["told", "starter gone"])
def test_everything_ends_when_the_guard_is_told_or_its_starter_dies(start, how):
    process, pids, segment, scratch = start("wait")
    assert all(alive(pid) for pid in pids)
    if how == "told":
        process.send_signal(signal.SIGTERM)
    else:
        process.stdin.close()
    assert process.wait(timeout=120) != 0
    assert_all_gone(pids, segment, scratch)


def test_what_a_killed_guard_leaves_the_next_one_removes(start, tmp_path):
    process, pids, segment, scratch = start("wait")
    (record,) = record_of(tmp_path)
    assert wait_until(lambda: segment.name in json.loads(record.read_text())["segments"])
    process.kill()
    process.wait()
    # The command itself dies with the guard (PR_SET_PDEATHSIG); what it had started does not always.
    assert wait_until(lambda: not alive(pids[0]))
    for pid in pids[1:]:
        os.kill(pid, signal.SIGKILL)
    assert segment.exists()
    assert scratch.exists()
    assert wait_until(lambda: not any(alive(pid) for pid in pids))
    assert guard.clean_up_after(record) == [segment.name]
    assert not segment.exists()
    assert not scratch.exists()
    assert not record.exists()


def test_segments_in_use_by_others_are_left_alone(tmp_path):
    from multiprocessing import shared_memory

    segment = shared_memory.SharedMemory(create=True, size=4096)
    try:
        assert guard.remove_shared_memory({segment.name, "never_was"}) == []
        assert segment.name in guard.shared_memory_of([os.getpid()])
    finally:
        segment.close()
        segment.unlink()


@pytest.mark.parametrize("scratch", ["{}", "{}/jrl-12345678/../thesis", "{}/jrl-12345678/..", "{}/jrl-linked12"])
def test_a_record_that_names_something_else_deletes_nothing(tmp_path, scratch):
    (tmp_path / "jrl-12345678").mkdir()
    (tmp_path / "thesis").mkdir()
    text = tmp_path / "thesis" / "years.tex"
    text.write_text("of work")
    (tmp_path / "jrl-linked12").symlink_to(text.parent)
    segments = [f"../..{text}", str(text), "..", ""]
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"scratch": scratch.format(tmp_path), "segments": segments}))
    assert guard.clean_up_after(record) == []
    assert text.read_text() == "of work"


# Stops the process in its first argument, a guard or itself, once it has started a process in a session of its own.
STOPS = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open("child.partial", "w").write(str(child.pid))
os.rename("child.partial", "child")
os.kill({"guard": os.getppid(), "driver": os.getpid()}[sys.argv[1]], signal.SIGSTOP)
time.sleep(600)
"""


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("who", ["guard", "driver"])
def test_a_stopped_guard_or_driver_is_ended_and_all_it_started(tmp_path, monkeypatch, who, done):
    monkeypatch.setattr(supervisor, "START_SECONDS", 3.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").touch()
    watching = supervisor.Supervisor(
        attempt=tmp_path,
        command=[*GUARD, "--record", "left", "--watch-stdin", "--", sys.executable, "-c", STOPS, who],
        variables=os.environ | {"PYTHONPATH": str(Path(guard.__file__).parents[3])},
        idle_seconds=3.0,
        on_metrics=lambda: None,
        log=tmp_path / "log",
        is_done=lambda: done and (tmp_path / "child").is_file(),
    )
    if done:
        assert watching.run() is False
    else:
        with pytest.raises(UserError, match="made no progress for"):
            watching.run()
    child = tmp_path / "child"
    assert not child.is_file() or wait_until(lambda: not alive(int(child.read_text())))


def test_what_a_guard_does_not_get_to_in_time_is_ended_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "START_SECONDS", 3.0)
    monkeypatch.setattr(supervisor, "CLEANING_SECONDS", 0.5)
    monkeypatch.setattr(guard, "GRACE_SECONDS", 0.5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").touch()
    slow = STOPS.replace("os.kill({", "0 and os.kill({")
    watching = supervisor.Supervisor(
        attempt=tmp_path,
        # Like a guard on a machine that has no time for it: it does not see that its input has ended.
        command=[sys.executable, "-c", slow, "guard"],
        variables=dict(os.environ),
        idle_seconds=3.0,
        on_metrics=lambda: None,
        log=tmp_path / "log",
        is_done=lambda: False,
    )
    with pytest.raises(UserError, match="made no progress for"):
        watching.run()
    child = int((tmp_path / "child").read_text())
    assert wait_until(lambda: not alive(child))


def guarded(tmp_path, program: str, **variables) -> subprocess.CompletedProcess:
    """Run a Python program under guard with a temporary folder made for it, and these environment variables."""
    return subprocess.run(
        [*GUARD, "--record", str(tmp_path / "left"), "--make-scratch", "--", sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(guard.__file__).parents[3])} | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


WRITES = """
import os, pathlib, tempfile
for name in ("TRITON_CACHE_DIR", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "RAY_TMPDIR"):
    assert os.environ[name].startswith(tempfile.gettempdir()), name
(pathlib.Path.home() / "written").write_text("here")
print(pathlib.Path.home())
"""


def test_caches_are_the_attempts_own_and_a_home_is_used_where_it_can_be(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    done = guarded(tmp_path, WRITES, HOME=str(home), TRITON_CACHE_DIR=str(home / "mine"))
    assert (done.returncode, done.stdout.strip()) == (0, str(home)), done.stderr
    assert (home / "written").is_file()


@pytest.mark.parametrize("home", ["/proc/nohome", "/proc"])
def test_a_home_that_cannot_be_written_is_replaced(tmp_path, home):
    done = guarded(tmp_path, WRITES, HOME=home, XDG_CACHE_HOME=f"{home}/.cache")
    assert done.returncode == 0, done.stderr
    assert f"HOME, {home}, cannot be written or locked on this node" in done.stderr
    assert not Path(done.stdout.strip()).exists(), "it goes with the attempt"


def test_a_home_that_cannot_be_locked_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "TRY_HOME", guard.TRY_HOME.replace("fcntl.flock(", "raise OSError(37); ("))
    assert not guard.home_is_usable(str(tmp_path))
    # As a file system does whose lock daemon is away.
    monkeypatch.setattr(guard, "TRY_HOME", "import time; time.sleep(600)")
    monkeypatch.setattr(guard, "HOME_SECONDS", 0.5)
    assert not guard.home_is_usable(str(tmp_path))


@pytest.fixture
def small_disk():
    """A file system of a few megabytes, with a short name."""
    folder = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False
    )
    if not mounted or mounted.returncode:
        folder.rmdir()
        pytest.skip("a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=False)
    folder.rmdir()


def test_a_full_temporary_folder_is_passed_over(tmp_path, small_disk):
    done = guarded(tmp_path, "import tempfile; print(tempfile.gettempdir())", TMPDIR=str(small_disk))
    assert done.returncode == 0 and done.stdout.startswith("/tmp/jrl-")
    assert f"temporary files go to /tmp: {small_disk} has 0.0 GB free" in done.stderr


def test_without_room_for_temporary_files_one_sentence_says_so(tmp_path):
    """Of every place; the supervisor gives the sentence as its own."""
    # In a process of its own: a guard ends all children of its process, and here they are pytest's.
    program = (
        "import sys; from justrl.training.verl import guard; guard.LEAST_SCRATCH_GB = 1e9;"
        "sys.exit(guard.main(['--record', sys.argv[1], '--make-scratch', '--', 'true']))"
    )
    variables = {"TMPDIR": "/far/" + "a" * 30, progress.ATTEMPT_VARIABLE: str(tmp_path)}
    command = [sys.executable, "-c", program, str(tmp_path / "left")]
    assert subprocess.run(command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL).returncode == 1
    problem = progress.Progress(tmp_path).problem()
    assert problem.startswith(f"{socket.gethostname()} has no room for temporary files (/far/aaaa")
    assert "/tmp has " in problem and "/var/tmp has " in problem and "set TMPDIR" in problem
    assert not list(tmp_path.glob("left*"))


def test_a_scratch_of_the_longest_name_holds_every_socket(tmp_path):
    names = (
        "ray/session_2026-11-30_10-48-23_433712_1234567/sockets/plasma_store",
        "rl-colocate-zmq-01000000-replica-31-rank-7",
    )
    for name in names:
        assert guard.LONGEST_SCRATCH + len(f"/{name}") <= 107


TOO_LARGE = (
    "AssertionError: Weight model.embed_tokens.weight(torch.Size([49152, 576]), torch.float32) is too large to fit in "
    "the bucket.Please increase rollout.update_weights_bucket_megabytes(64 MB)."
)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "it wrote nothing to "),
        ("\n \n", "it wrote nothing to "),
        ("starting\nKilled\n\n", "Killed; the end of "),
        (f"Traceback (most recent call last):\n  File\n{TOO_LARGE}\n\n\n", f"{TOO_LARGE}; the end of "),
        (
            f"\x1b[36m(WorkerDict pid=7)\x1b[0m {TOO_LARGE}\nray.exceptions.RayTaskError(AssertionError): ray::main()\n"
            "ray.exceptions.ActorDiedError: The actor died unexpectedly.\n(raylet) a worker was killed\n",
            f"{TOO_LARGE}; the end of ",
        ),
        (
            "ray.exceptions.ActorDiedError: The actor died.\nand so on\n",
            "ray.exceptions.ActorDiedError: The actor died.",
        ),
    ],
)
def test_the_first_line_of_what_is_said_of_a_failed_trainer_is_its_error(tmp_path, log, said):
    """The summary at the end of a workflow shows one line of a job's last words."""
    path = tmp_path / "launch.log"
    path.write_text(log)
    words = supervisor.last_words(path)
    assert words.partition("\n")[0].startswith(said) and str(path) in words.partition("\n")[0]
    assert not log.strip() or words.splitlines()[-1] == log.strip().splitlines()[-1]
