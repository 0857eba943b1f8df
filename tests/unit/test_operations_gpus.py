"""GPU leases: each job its own devices, whatever ends the job."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from justrl.errors import UserError
from justrl.operations import gpus

DEVICES = ["0", "1", "2", "3"]

# Holds a lease for a moment and writes down the interval and the devices.
HOLDER = """
import json, os, sys, time
start = time.monotonic()
time.sleep(float(sys.argv[2]))
with open(sys.argv[1], "a") as log:
    log.write(json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], start, time.monotonic()]) + "\\n")
"""


def leased(count, *command, folder, devices=DEVICES):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(devices), "TMPDIR": str(folder)}
    environment.pop("SLURM_JOB_ID", None)
    module = [sys.executable, "-m", "justrl.operations.gpus", "--count", str(count), "--"]
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
    locks = tmp_path / gpus.LOCK_FOLDER
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
    assert stderr.startswith("error: 5 GPUs wanted, 4 visible (0,1,2,3)")


def test_no_gpu_is_leased_for_none_or_under_slurm(tmp_path):
    job = leased(0, "true", folder=tmp_path)
    assert job.wait(timeout=20) == 0
    assert not gpus.under_slurm({}) and gpus.under_slurm({"SLURM_JOB_ID": "7"})


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
