"""The trainer's lock: a live owner holds it, a dead one does not."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import pytest

from justrl.errors import UserError
from justrl.training import run_lock as locking
from justrl.training.run_lock import Lock, Owner, hold, owner_alive, process_start

ELSEWHERE = replace(Owner.me(), host="node-77", boot="another", slurm_job_id=None)


@pytest.fixture
def sleeper():
    """A process that lives until the test ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"], stdout=-1
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def squeue(tmp_path, monkeypatch):
    """Put a `squeue` on the path that answers as told: (standard output, standard error, status)."""

    def answer(out="", err="", status=0):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "squeue"
        script.write_text(f"#!/bin/sh\nprintf '%s' '{out}'\nprintf '%s' '{err}' >&2\nexit {status}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return answer


def owner_of(pid):
    return replace(Owner.me(), pid=pid, started=process_start(pid))


def test_a_live_owner_refuses_and_is_named(tmp_path, sleeper):
    path = tmp_path / "LOCK"
    path.write_text(json.dumps(asdict(owner_of(sleeper.pid))))
    with pytest.raises(UserError, match=rf"process {sleeper.pid} on {socket.gethostname()}"), hold(path):
        pytest.fail("two trainers at once")
    assert json.loads(path.read_text())["pid"] == sleeper.pid


def test_a_killed_owner_is_taken_over(tmp_path, sleeper):
    path = tmp_path / "LOCK"
    path.write_text(json.dumps(asdict(owner_of(sleeper.pid))))
    sleeper.kill()  # not yet reaped: a zombie is dead too
    while process_start(sleeper.pid):
        pass
    with hold(path) as lock:
        assert lock.read_owner() == lock._mine
        lock.check()
    assert not path.exists()


def test_a_reused_pid_is_not_the_owner(tmp_path, sleeper):
    owner = replace(owner_of(sleeper.pid), started="12345")
    assert not owner_alive(owner, silent_seconds=0)


def test_an_owner_before_the_reboot_is_dead_once_silent(sleeper):
    owner = replace(owner_of(sleeper.pid), boot="before")
    assert not owner_alive(owner, silent_seconds=3600)


def test_an_unreadable_lock_is_nobodys(tmp_path):
    (tmp_path / "LOCK").write_text('{"host": "no')
    with hold(tmp_path / "LOCK"):
        pass


@pytest.mark.parametrize(("minutes", "alive"), [(1, True), (14, True), (16, False)])
def test_on_another_host_without_slurm_silence_decides(minutes, alive):
    assert owner_alive(ELSEWHERE, silent_seconds=minutes * 60) is alive


@pytest.mark.parametrize(
    ("answer", "alive"),
    [
        ({"out": "RUNNING"}, True),
        ({"out": "COMPLETING"}, True),
        ({"out": ""}, False),
        ({"out": "PENDING"}, False),
        # No answers, so that the heartbeat decides.
        ({"out": "RUN"}, True),
        ({"out": "", "status": 137}, True),
        ({"err": "slurm_load_jobs error: Invalid job id specified", "status": 1}, False),
        # Slurm does not answer: the heartbeat decides, and it is fresh.
        ({"err": "Unable to contact slurm controller", "status": 1}, True),
    ],
)
def test_on_another_host_slurm_decides(squeue, answer, alive):
    squeue(**answer)
    owner = replace(ELSEWHERE, slurm_job_id="4711")
    assert owner_alive(owner, silent_seconds=0) is alive


def test_a_requeued_job_takes_over_from_itself(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not owner_alive(replace(ELSEWHERE, slurm_job_id="4711", slurm_restarts=0), silent_seconds=0)
    assert owner_alive(replace(ELSEWHERE, slurm_job_id="4711", slurm_restarts=1), silent_seconds=0)


def test_waits_for_a_live_owner_to_finish(tmp_path, sleeper, capsys):
    path = tmp_path / "LOCK"
    path.write_text(json.dumps(asdict(owner_of(sleeper.pid))))
    threading.Timer(0.3, sleeper.kill).start()
    with hold(path, wait_minutes=1, poll_seconds=0.05):
        assert sleeper.poll() is not None or process_start(sleeper.pid) is None
    assert "waiting for another trainer" in capsys.readouterr().out


def test_an_owner_that_was_taken_over_may_not_write(tmp_path):
    with hold(tmp_path / "LOCK") as lock:
        (tmp_path / "LOCK").write_text(json.dumps(asdict(ELSEWHERE)))
        with pytest.raises(UserError, match=r"another trainer \(process \d+ on node-77.*\) took over"):
            lock.check()
    assert (tmp_path / "LOCK").exists()  # it is not ours to remove


@pytest.mark.parametrize("without_flock", [False, True])
def test_of_many_newcomers_one_gets_a_dead_owners_lock(tmp_path, without_flock):
    """On Lustre mounted without `-o flock` the call fails; a killed process may have left its folder there, too."""
    path = tmp_path / "LOCK"
    path.write_text(json.dumps(asdict(replace(Owner.me(), pid=2**22 + 1, started="1"))))
    refuse = "import errno, fcntl\ndef flock(*_): raise OSError(errno.ENOSYS, 'no locks')\nfcntl.flock = flock\n"
    (tmp_path / "LOCK.guard.held").mkdir()
    os.utime(tmp_path / "LOCK.guard.held", (1, 1))
    script = (refuse if without_flock else "") + (
        "import sys, time; from pathlib import Path; from justrl.training.run_lock import Lock\n"
        f"print(Lock(Path({str(path)!r})).try_acquire() is None, flush=True); sys.stdin.read()"
    )
    newcomers = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = [process.stdout.readline().strip() for process in newcomers]
    for process in newcomers:
        process.communicate()
    assert sorted(answers) == ["False"] * 3 + ["True"]


def test_the_heartbeat_touches_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "HEARTBEAT_SECONDS", 0.02)
    lock = Lock(tmp_path / "LOCK")
    lock.try_acquire()
    os.utime(lock.path, (1, 1))
    deadline = threading.Event()
    for _ in range(500):
        if lock.path.stat().st_mtime > 1:
            break
        deadline.wait(0.02)
    lock.release()
    assert not lock.path.exists()


def test_the_lock_of_a_host_whose_clock_is_ahead_says_the_way_out(tmp_path):
    path = tmp_path / "LOCK"
    path.write_text(json.dumps(asdict(ELSEWHERE)))
    os.utime(path, (2**32, 2**32))
    with pytest.raises(UserError, match=r"LOCK is dated .* minutes in the future.* delete that file"), hold(path):
        pass


def test_a_folder_in_the_place_of_the_lock_is_refused(tmp_path):
    (tmp_path / "LOCK").mkdir()
    with pytest.raises(UserError, match="LOCK is a folder"), hold(tmp_path / "LOCK"):
        pass
