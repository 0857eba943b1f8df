"""The preflight: each thing that can be wrong is found, and says what to do."""

import json
import os
import stat
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from justrl import config as experiment
from justrl.errors import UserError
from justrl.operations import checks, experiment_checks
from justrl.operations.checks import FAILED, OK, SKIPPED, WARNING, Check, guarded

HARDWARE = {
    "gpu": "A800-80GB",
    "nodes": 1,
    "gpus_per_node": 8,
    "cpus_per_node": 64,
    "memory_per_node_gb": 512,
}


@pytest.fixture(scope="module")
def config():
    return experiment.load()


def program(folder, name, text):
    """Put an executable of that name first on the PATH, saying what the real one says elsewhere."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A folder whose programs are found first, and no others of the cluster or the driver."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    program(tmp_path, "sinfo", "exit 1")
    return tmp_path


def test_every_repository_of_the_paper_is_asked_for(config):
    wanted = experiment_checks.hub_repositories(config, ["deepseek", "nemotron"])
    assert len(wanted) == 2 + 1 + 9 + 1
    assert ("datasets", "BytedTsinghua-SIA/DAPO-Math-17k", "65877096c24ffa7abc4e4fa5edb95cf3413a5674") in wanted


class Hub(BaseHTTPRequestHandler):
    missing = "no/such-id"

    def do_HEAD(self):
        self.send_response(404 if "minervamath" in self.path else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_hub_is_asked_for_each_revision(config, tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        check = experiment_checks.check_hub(config, ["deepseek"], tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    assert check.status == FAILED
    assert check.found == "math-ai/minervamath at main: HTTP 404"
    # Now nobody listens there: one sentence, not twelve.
    check = experiment_checks.check_hub(config, ["deepseek"], tmp_path, seconds=2)
    assert check.status == FAILED and "cannot be reached" in check.found and "hub.mirror" in check.remedy


def test_a_mirror_is_looked_into(config, tmp_path):
    mirrored = {**config, "hub": {"mirror": str(tmp_path), "offline": False}}
    check = experiment_checks.check_hub(mirrored, ["deepseek"], tmp_path)
    assert check.status == FAILED and "math-ai/amc23" in check.found
    for _, hub_id, _ in experiment_checks.hub_repositories(config, ["deepseek"]):
        (tmp_path / hub_id).mkdir(parents=True)
    assert experiment_checks.check_hub(mirrored, ["deepseek"], tmp_path).status == OK


@pytest.mark.parametrize(("needed", "status"), [(0.001, OK), (1e9, FAILED)])
def test_disk(tmp_path, needed, status):
    assert checks.check_disk(tmp_path / "not" / "there" / "yet", needed).status == status


def test_gpus_are_counted_named_and_compared(commands, monkeypatch):
    assert checks.check_gpus({**HARDWARE, "gpus_per_node": 0}).status == OK
    check = checks.check_gpus(HARDWARE)
    assert check.status == FAILED and "--profile mini" in check.remedy
    line = "NVIDIA A800-SXM4-80GB, 81920, 550.54"
    program(commands, "nvidia-smi", f"for i in 1 2 3 4 5 6 7 8; do echo '{line}'; done")
    assert checks.check_gpus(HARDWARE).status == OK
    assert checks.check_gpus({**HARDWARE, "gpu": "H100"}).status == WARNING
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert checks.check_gpus(HARDWARE).status == FAILED


def test_a_login_node_is_not_asked_for_gpus(commands):
    program(commands, "sinfo", "echo gpu")
    assert checks.check_gpus(HARDWARE).status == SKIPPED


def test_packages_are_held_against_the_lock(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "pytest==0.0.1 \\\n    --hash=sha256:00\n# comment==1\nno-such-package==2.0 ; python_version > '3'\n"
    )
    pins = checks.read_pins(lock)
    assert pins == {"pytest": "0.0.1", "no-such-package": "2.0"}
    assert checks.check_packages(pins, ["pytest"], "lock").status == WARNING
    assert checks.check_packages(pins, ["no-such-package"], "lock").status == FAILED
    assert checks.check_packages({"pytest": pytest.__version__}, ["pytest"], "lock").status == OK


def test_the_queue_is_asked_with_the_request_of_a_training_job(commands):
    program(commands, "sinfo", "echo 'gpu 1-00:00:00 4 128 2000000 gpu:8'")
    program(commands, "sbatch", f'echo "$@" > {commands}/asked; exit 0')
    resources = {"slurm_partition": "gpu", "slurm_account": "me"}
    assert checks.check_slurm(HARDWARE, 1410, resources).status == OK
    asked = (commands / "asked").read_text()
    for word in ("--test-only", "--gpus=8", "--cpus-per-task=64", "--mem=512G", "--time=1410", "--account=me"):
        assert word in asked
    check = checks.check_slurm(HARDWARE, 1410, {"slurm_partition": "cpu"})
    assert check.status == FAILED and "one of gpu" in check.remedy
    check = checks.check_slurm(HARDWARE, 1441, resources)
    assert check.status == FAILED and "asks for 24.0 h, partition gpu allows 1-00:00:00" in check.found
    program(commands, "sbatch", "echo 'Requested time limit is invalid' >&2; exit 1")
    check = checks.check_slurm(HARDWARE, 1440, resources)
    assert check.status == FAILED and "time limit is invalid" in check.found and "segment_steps" in check.remedy


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1-00:00:00", 1440), ("2-12:30:00", 3630), ("12:00:00", 720), ("30:00", 30), ("infinite", float("inf"))],
)
def test_slurm_times(text, minutes):
    assert checks.slurm_minutes(text) == minutes


@pytest.mark.parametrize("name", ["paper", "strict", "robust"])
def test_every_reward_knows_the_known_answers(name):
    assert experiment_checks.check_reward(name).status == OK


def test_a_reward_that_errs_is_caught(monkeypatch):
    monkeypatch.setattr("justrl.verifiers.get_reward", lambda name: lambda completion, gold: 1.0)
    check = experiment_checks.check_reward("paper")
    assert check.status == FAILED and "do not train" in check.remedy


def test_a_broken_check_is_a_failure_and_not_a_traceback():
    def refuse():
        raise UserError("no such thing: make one")

    def crash():
        raise ZeroDivisionError("oops")

    assert guarded("a", refuse) == Check("a", FAILED, "no such thing: make one")
    assert guarded("b", crash).status == FAILED


def test_the_command_fails_with_one_sentence_and_leaves_no_report(tmp_path):
    report = tmp_path / "preflight.json"
    command = [
        sys.executable,
        "-m",
        "justrl.preflight",
        "--offline",
        "--results",
        str(tmp_path),
        "--output",
        str(report),
    ]
    overrides = ["--set", "hardware.gpu=A800", "--set", "hardware.nodes=1"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, *overrides], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not report.exists()


def test_the_mini_experiment_passes_and_reports(tmp_path):
    report = tmp_path / "preflight.json"
    command = [sys.executable, "-m", "justrl.preflight", "--config", str(experiment.ROOT / "mini" / "experiment.yaml")]
    command += ["--results", str(tmp_path), "--output", str(report)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["passed"] is True


def test_an_unknown_run_is_one_sentence():
    command = [sys.executable, "-m", "justrl.preflight", "--run", "depseek"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean deepseek?" in done.stderr
