"""What the preflight says of GPUs, from what real tools print there; and what it prints where there is none."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from justrl import config
from justrl.cli import train
from justrl.errors import UserError
from justrl.hardware import checks, machine
from justrl.hardware.checks import FAILED, OK, SKIPPED, WARNING, Check
from justrl.preflight import experiment_checks

HARDWARE = config.load().hardware
CARDS = [["NVIDIA H100 80GB HBM3", "9.0"]] * 8
# What torch says on a driver of CUDA 12.4.
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)


def found(cuda="13.0", gpus=(), error=None, attention=None, torch="2.13.0+cu130"):
    return {"torch": torch, "cuda": cuda, "gpus": list(gpus), "error": error, "attention": attention}


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [("470.256.02", 11), ("535.183.06", 12), ("550.54.15", 12), ("570.172.08", 12), ("580.65.06", 13), ("595.1", 13)],
)
def test_cuda_of_drivers(driver, cuda):
    assert checks.cuda_of_driver(driver) == cuda


@pytest.mark.parametrize("driver", ["535.183.06", "550.54.15", "570.172.08"])
def test_an_old_driver_is_named_with_every_way_out(driver):
    check = checks.check_cuda(driver, found(error=TOO_OLD))
    assert check.status == FAILED
    assert check.found == f"driver {driver} runs CUDA 12 at most, torch 2.13.0+cu130 is built for CUDA 13.0"
    for way in ("580 or newer", "`make gpu-env CUDA=12`", "cuda-compat 13", "data-centre", "docs/cluster.md"):
        assert way in check.remedy


def test_a_driver_too_old_for_the_second_lock_too_is_not_sent_there():
    check = checks.check_cuda("470.256.02", found(error=TOO_OLD))
    assert check.status == FAILED and "CUDA=12" not in check.remedy
    check = checks.check_cuda("470.256.02", found("12.8", error=TOO_OLD, torch="2.10.0+cu128"))
    assert "driver 525 or newer" in check.remedy and "CUDA=12" not in check.remedy


def test_what_computes_is_right_whatever_the_versions_say():
    check = checks.check_cuda("580.95.05", found(gpus=CARDS))
    assert check.status == OK and "H100 80GB HBM3 (9.0), driver 580.95.05" in check.found
    assert "forward compatibility" not in check.found
    check = checks.check_cuda("550.54.15", found(gpus=CARDS))
    assert check.status == OK and "through CUDA's forward compatibility" in check.found
    assert checks.check_cuda("550.54.15", found("12.8", CARDS)).status == OK


def test_other_failures_keep_their_own_words():
    broken = "CUDA error: no kernel image is available for execution on the device"
    check = checks.check_cuda("580.95.05", found(gpus=CARDS[:1], error=broken))
    assert check.status == FAILED and broken in check.found
    check = checks.check_cuda("580.95.05", found())
    assert check.status == FAILED and "sees no GPU" in check.found


@pytest.mark.skipif(machine.installed_version("torch") is None, reason="torch is not installed")
def test_the_probe_of_a_build_without_cuda():
    import torch

    if torch.version.cuda:
        pytest.skip("torch here has CUDA")
    printed = subprocess.run([sys.executable, "-m", "justrl.hardware.gpu_probe"], capture_output=True, text=True)
    check = checks.check_cuda("580.95.05", json.loads(printed.stdout))
    assert check.status == FAILED and "without CUDA" in check.found and check.remedy == "`make gpu-env`"


def test_a_probe_that_dies_is_a_failure_with_its_last_words(tmp_path, monkeypatch):
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho 'Fatal Python error: Segmentation fault' >&2\nexit 139\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    check = checks.check_cuda("580.95.05", checks.ask(True))
    assert check.status == FAILED and "Segmentation fault" in check.found


@pytest.mark.parametrize(
    "error",
    [
        "ModuleNotFoundError: No module named 'flash_attn'",
        "RuntimeError: FlashAttention only supports Ampere GPUs or newer.",
        "differs from torch's attention by 0.156",
    ],
)
def test_flash_attention_that_fails_has_two_ways_out(error):
    check = checks.check_attention("flash_attention_2", "verl", found(gpus=CARDS, attention=error))
    assert check.status == FAILED and error in check.found
    assert "make gpu-env" in check.remedy and "hardware.attention: sdpa" in check.remedy
    assert checks.check_attention("sdpa", "verl", found(gpus=CARDS, attention=error)).status == OK
    assert checks.check_attention("flash_attention_2", "reference", found(gpus=CARDS)).status == OK
    assert checks.check_attention("flash_attention_2", "verl", found(error=TOO_OLD)).status == SKIPPED


def test_nvcc_is_asked_for_on_blackwell_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(checks, "SYSTEM_NVCC", str(tmp_path / "none"))
    blackwell = found(gpus=[["NVIDIA B200", "10.0"]])
    assert checks.check_nvcc("verl", found(gpus=CARDS)).status == OK
    check = checks.check_nvcc("verl", blackwell)
    assert check.status == FAILED and "B200" in check.found and "CUDA_HOME=" in check.remedy
    (tmp_path / "bin" / "nvcc").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "nvcc").chmod(0o755)
    assert checks.check_nvcc("verl", blackwell).status == OK


@pytest.mark.parametrize(("gb", "status"), [(0.0671, FAILED), (8.0, WARNING), (16.0, OK), (528.0, OK)])
def test_shared_memory(gb, status):
    assert checks.check_shared_memory(8, gb=gb).status == status


def test_shared_memory_is_looked_at(tmp_path):
    assert str(tmp_path) in checks.check_shared_memory(8, tmp_path).found


def test_a_machine_without_gpus_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = checks.check_card(HARDWARE, "verl")
    assert check.status == SKIPPED
    assert checks.check_card(HARDWARE.model_copy(update={"gpus_per_node": 0}), "verl") == []


def test_a_runs_first_job_looks_at_its_node_once(tmp_path, monkeypatch, capsys):
    """On a node without a driver it ends before anything is loaded; what was found is kept for the model card."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    request = SimpleNamespace(work_dir=tmp_path / "work", hardware=HARDWARE, engine="verl")
    with pytest.raises(UserError, match="gpus: 8 GPUs requested, but no NVIDIA driver responds"):
        train.check_node(request)
    assert not request.work_dir.exists()
    without = HARDWARE.model_copy(update={"gpus_per_node": 0})
    train.check_node(SimpleNamespace(work_dir=tmp_path / "work", hardware=without, engine="verl"))
    passed = [Check("gpus", OK, "8 x a card")]
    monkeypatch.setattr(experiment_checks, "check_node", lambda *_: passed)
    train.check_node(request)
    assert json.loads((request.work_dir / "node.json").read_text())["checks"][0]["found"] == "8 x a card"
    monkeypatch.setattr(experiment_checks, "check_node", lambda *_: 1 / 0)
    train.check_node(request)


def test_an_old_driver_is_found_through_all_of_it(tmp_path, monkeypatch):
    """From what nvidia-smi prints to the table's line, with the torch that is here."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, NVIDIA A100-SXM4-80GB, 470.256.02, 81920, 4, 0'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = {check.name: check for check in checks.check_card(HARDWARE, "verl")}
    assert list(found) == ["cuda", "attention", "nvcc", "shared memory"]
    assert found["cuda"].status == FAILED
    assert found["attention"].status == SKIPPED
