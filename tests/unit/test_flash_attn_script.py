"""envs/flash_attn.sh: for which GPUs, how long, and never by surprise; what it compiles needs an hour and nvcc."""

import os
import shutil
import subprocess

import pytest


@pytest.fixture
def check(root, tmp_path):
    """Runs `flash_attn.sh check` where nvidia-smi prints `cards`, or is not there."""

    def run(cards=None, **variables):
        for name in ("sh", "awk", "sed", "sort", "paste", "tr", "wc", "cat", "head", "dirname", "nproc"):
            if not (tmp_path / name).exists():
                (tmp_path / name).symlink_to(shutil.which(name))
        if cards is not None:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{cards}'\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        for name in ("GPU_ARCH", "MAX_JOBS"):
            clean.pop(name, None)
        command = ["sh", str(root / "envs" / "flash_attn.sh"), "check"]
        environment = {**clean, "PATH": str(tmp_path), **variables}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    return run


@pytest.mark.parametrize(
    ("cards", "variables", "architectures"),
    [
        ("9.0\n" * 8, {}, "90"),
        ("8.6\n8.0\n", {}, "80"),
        ("8.9\n12.0\n", {}, "80;120"),
        (None, {"GPU_ARCH": "90"}, "90"),
        (None, {"GPU_ARCH": "10.3"}, "100"),
        # What is asked for goes before what is here.
        ("8.0\n", {"GPU_ARCH": "8.0,9.0"}, "80;90"),
    ],
)
def test_architectures(check, cards, variables, architectures):
    done = check(cards, MAX_JOBS="8", **variables)
    assert done.returncode == 0, done.stderr
    assert f"for compute capability {architectures}: 73 files" in done.stdout
    hours = {"90": "3 h 15 min", "80;90": "6 h 31 min"}.get(architectures, "")
    assert hours in done.stdout and "8 at once" in done.stdout


def test_without_a_gpu_nothing_is_compiled_by_surprise(check):
    done = check()
    assert done.returncode == 1 and not done.stdout
    for way in ("srun --gpus=1", "make gpu-env GPU_ARCH=90", "make gpu-env ATTENTION=sdpa"):
        assert way in done.stderr


def test_a_card_that_it_does_not_know_is_refused(check):
    done = check("7.0\n")
    assert done.returncode == 1 and "compute capability 70" in done.stderr and "ATTENTION=sdpa" in done.stderr


def test_as_many_at_once_as_fit_into_the_memory_that_slurm_gave(check):
    assert "1 at once" in check("9.0\n", SLURM_MEM_PER_NODE="5000").stdout
    done = check("9.0\n", SLURM_MEM_PER_CPU="2000", SLURM_CPUS_ON_NODE="2")
    assert done.returncode == 1 and "4000 MB of memory are to be had" in done.stderr


@pytest.mark.parametrize(
    ("options", "folder", "compiled"),
    [([], ".venv-gpu", True), (["CUDA=12"], ".venv-gpu-cu12", True), (["ATTENTION=sdpa"], ".venv-gpu", False)],
)
def test_what_make_would_do(root, options, folder, compiled):
    done = subprocess.run(["make", "-n", "gpu-env", *options], cwd=root, capture_output=True, text=True, check=True)
    assert f"sh envs/install.sh {folder} envs/{folder.removeprefix('.venv-')}.txt" in done.stdout
    assert ("flash_attn.sh check" in done.stdout) == compiled
    assert (f"flash_attn.sh build {folder}" in done.stdout) == compiled
