"""GPU leases: each job its own devices, whatever ends the job."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from justrl.errors import UserError
from justrl.hardware import gpu_lease as gpus

DEVICES = ["0", "1", "2", "3"]

# Holds a lease for a moment and writes down the interval and the devices.
HOLDER = """
import json, os, sys, time
start = time.monotonic()
time.sleep(float(sys.argv[2]))
with open(sys.argv[1], "a") as log:
    log.write(json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], start, time.monotonic()]) + "\\n")
"""


def leased(count, *command, folder, devices=DEVICES, **variables):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(devices), gpus.FOLDER_VARIABLE: str(folder / "locks")}
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES"):
        environment.pop(name, None)
    environment |= variables
    module = [sys.executable, "-m", "justrl", "gpus", "--count", str(count), "--"]
    return subprocess.Popen([*module, *command], env=environment, text=True, stderr=subprocess.PIPE)


def test_concurrent_jobs_never_share_a_device(tmp_path):
    log = tmp_path / "log"
    counts = [1, 2, 3, 1, 4, 2, 1, 3, 2, 1]
    jobs = [leased(n, sys.executable, "-c", HOLDER, str(log), "0.1", folder=tmp_path) for n in counts]
    assert [job.wait(timeout=60) for job in jobs] == [0] * len(counts)
    intervals = [(set(devices.split(",")), *times) for devices, *times in map(json.loads, log.read_text().splitlines())]
    assert sorted(len(devices) for devices, *_ in intervals) == sorted(counts)
    for i, (devices, start, end) in enumerate(intervals):
        assert devices <= set(DEVICES)
        for others, other_start, other_end in intervals[i + 1 :]:
            if devices & others:
                assert end <= other_start or other_end <= start


def test_a_killed_holder_frees_its_devices(tmp_path):
    marker = tmp_path / "started"
    holder = leased(
        4, sys.executable, "-c", f"open({str(marker)!r}, 'w'); import time; time.sleep(60)", folder=tmp_path
    )
    deadline = time.monotonic() + 20
    while not marker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    locks = tmp_path / "locks"
    with pytest.raises(UserError, match="did not come free"), gpus.lease(1, DEVICES, locks, wait_seconds=0):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with gpus.lease(4, DEVICES, locks, wait_seconds=5) as devices:
        assert devices == DEVICES


def test_a_lease_ends_with_its_block(tmp_path):
    with gpus.lease(1, ["a"], tmp_path), pytest.raises(UserError), gpus.lease(1, ["a"], tmp_path, wait_seconds=0):
        pass
    with gpus.lease(1, ["a"], tmp_path, wait_seconds=0) as devices:
        assert devices == ["a"]


def test_more_devices_than_there_are_is_refused_at_once(tmp_path):
    job = leased(5, "true", folder=tmp_path)
    _, stderr = job.communicate(timeout=20)
    assert job.returncode == 2
    assert stderr.startswith("error: 5 GPUs requested, 4 visible (0,1,2,3)")


def test_no_gpu_is_leased_for_none_or_for_a_job_of_several_nodes(tmp_path):
    assert leased(0, "true", folder=tmp_path).wait(timeout=20) == 0
    spread = leased(32, "true", folder=tmp_path, SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="4")
    assert spread.wait(timeout=20) == 0
    assert not (tmp_path / "locks").exists()


def test_the_devices_of_an_allocation_are_shared_out(tmp_path):
    log = tmp_path / "log"
    # Two allocations on one node may both call their devices 2 and 3, and never wait for each other.
    jobs = [
        leased(1, sys.executable, "-c", HOLDER, str(log), "1", folder=tmp_path, devices=["2", "3"], SLURM_JOB_ID=job)
        for job in ("7", "7", "8", "8")
    ]
    assert [job.wait(timeout=60) for job in jobs] == [0] * 4
    assert sorted(json.loads(line)[0] for line in log.read_text().splitlines()) == ["2", "2", "3", "3"]
    assert {folder.name for folder in (tmp_path / "locks").iterdir()} == {"slurm-7", "slurm-8"}


NOBODY = 65534


def as_user(user, check):
    """Run `check` in a child process of that user, its umask the strictest; what it returns is the exit status."""
    child = os.fork()
    if not child:
        status = 99
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            os.umask(0o077)
            status = check()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def shared_folder():
    """A folder that every user reaches, as none of pytest's is."""
    if os.geteuid():
        pytest.skip("only root can be two users")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o1777)
        yield Path(folder) / "locks"


@pytest.mark.parametrize(("first", "second"), [(NOBODY, NOBODY - 1), (0, NOBODY), (NOBODY, 0)])
def test_a_lease_holds_against_another_user(shared_folder, first, second):
    def make():
        with gpus.lease(2, ["0", "1"], shared_folder, wait_seconds=0):
            return 0

    def take():
        with gpus.lease(1, ["0", "1"], shared_folder, wait_seconds=0) as devices:
            return 10 + int(devices[0])

    def hold():
        with gpus.lease(1, ["0", "1"], shared_folder, wait_seconds=0):
            return as_user(second, take) if first == 0 else 0

    assert as_user(first, make) == 0
    assert as_user(second, take) == 10
    # The first user's lock files, and a lock on the first device that the second user cannot take.
    if first == 0:
        assert as_user(first, hold) == 11
    else:
        descriptor = os.open(shared_folder / "0.lock", os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert as_user(second, take) == 11
        os.close(descriptor)
    assert as_user(second, take) == 10


def test_locks_out_of_reach_are_one_sentence(shared_folder):
    shared_folder.mkdir(mode=0o700)

    def take():
        try:
            with gpus.lease(1, ["0"], shared_folder, wait_seconds=0):
                return 1
        except UserError as error:
            return 0 if gpus.FOLDER_VARIABLE in str(error) and "Permission denied" in str(error) else 2

    assert as_user(NOBODY, take) == 0


def test_the_command_keeps_the_process_id_and_its_status(tmp_path):
    job = leased(
        1, sys.executable, "-c", f"import os, sys; sys.exit(os.getpid() == {os.getpid()} or 75)", folder=tmp_path
    )
    assert job.wait(timeout=20) == 75
    note = tmp_path / "pid"
    write = f"import os; open({str(note)!r}, 'w').write(str(os.getpid()))"
    out = leased(1, sys.executable, "-c", write, folder=tmp_path)
    assert out.wait(timeout=20) == 0
    assert int(note.read_text()) == out.pid


@pytest.mark.parametrize(
    ("value", "expected"), [("0,1", ["0", "1"]), ("", []), ("-1", []), (" 3 , GPU-ab ", ["3", "GPU-ab"])]
)
def test_visible_devices_reads_the_environment(value, expected):
    assert gpus.visible_devices({"CUDA_VISIBLE_DEVICES": value}) == expected


def started(path):
    """A command that writes a file, and ends when that file is gone."""
    return ["sh", "-c", 'touch "$0"; while [ -e "$0" ]; do sleep 0.02; done', str(path)]


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_job_that_wants_all_devices_has_its_turn_among_small_ones(tmp_path):
    """There is always another small job that wants the device that came free; the large one asked before it."""
    files = {name: tmp_path / name for name in ("first", "second", "large", "small")}
    places = tmp_path / "locks" / gpus.QUEUE
    jobs = {name: leased(1, *started(files[name]), folder=tmp_path, devices=["0", "1"]) for name in ("first", "second")}
    wait_for(lambda: files["first"].exists() and files["second"].exists())
    jobs["large"] = leased(2, *started(files["large"]), folder=tmp_path, devices=["0", "1"])
    wait_for(lambda: any(places.iterdir()))
    jobs["small"] = leased(1, *started(files["small"]), folder=tmp_path, devices=["0", "1"])
    wait_for(lambda: len(list(places.iterdir())) == 2)
    files["first"].unlink()
    jobs["first"].wait(timeout=20)
    # One device is free, and the small job leaves it to the large one.
    time.sleep(5 * gpus.POLL_SECONDS)
    assert not files["small"].exists() and not files["large"].exists()
    with gpus.lease(1, ["2"], tmp_path / "locks", wait_seconds=0):
        pass  # whoever wants other devices is not held up
    files["second"].unlink()
    wait_for(files["large"].exists)
    assert not files["small"].exists()
    files["large"].unlink()
    wait_for(files["small"].exists)
    files["small"].unlink()
    assert [job.wait(timeout=20) for job in jobs.values()] == [0] * 4
    assert not list(places.iterdir())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_who_died_or_was_stopped_in_the_queue_holds_nobody_up(tmp_path, monkeypatch, how):
    monkeypatch.setattr(gpus, "SILENT_SECONDS", 0.5)
    locks = tmp_path / "locks"
    with gpus.lease(1, ["0"], locks):
        waiting = leased(2, "true", folder=tmp_path, devices=["0", "1"])
        wait_for(lambda: (locks / gpus.QUEUE).is_dir() and len(list((locks / gpus.QUEUE).iterdir())) == 1)
        waiting.send_signal(how)
        with gpus.lease(1, ["1"], locks, wait_seconds=10) as devices:
            assert devices == ["1"]
    waiting.kill()
    waiting.wait()
    with gpus.lease(2, ["0", "1"], locks, wait_seconds=10):
        pass
    assert not list((locks / gpus.QUEUE).iterdir())
