"""Preflight checks on a machine with GPUs: driver and torch's CUDA, flash-attn, nvcc, shared memory."""

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from justrl.config import Hardware
from justrl.hardware import machine
from justrl.hardware.checks import FAILED, OK, SKIPPED, WARNING, Check, guarded, run_command

# The oldest driver that supports each CUDA major version (NVIDIA's minor-version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
PROBE_SECONDS = 300
SYSTEM_NVCC = "/usr/local/cuda/bin/nvcc"
# Containers have 64 MB by default, with which NCCL and Ray fail at start-up.
LEAST_SHARED_GB, SHARED_GB_PER_GPU = 0.25, 2


def check_card(hardware: Hardware, engine: str) -> list[Check]:
    """The checks of this machine's GPUs, or one skipped check if it has none."""
    if not hardware.gpus_per_node:
        return []
    try:
        drivers = [gpu.driver for gpu in machine.gpus()]
    except machine.NoDriver:
        drivers = []
    if not drivers:
        return [Check("cuda", SKIPPED, "no GPU here; a run's first job looks at CUDA and kernels on its node")]
    flash = engine == "verl" and hardware.attention == "flash_attention_2"
    found = ask(flash)
    return [
        guarded("cuda", lambda: check_cuda(drivers[0], found)),
        guarded("attention", lambda: check_attention(hardware.attention, engine, found)),
        guarded("nvcc", lambda: check_nvcc(engine, found)),
        guarded("shared memory", lambda: check_shared_memory(hardware.gpus_per_node)),
    ]


def ask(attention: bool) -> dict:
    """The findings of `gpu_probe`, or the last line of its output as the error."""
    command = (sys.executable, "-m", "justrl.hardware.gpu_probe", *(["--attention"] if attention else []))
    status, text = run_command(*command, seconds=PROBE_SECONDS)
    if status == 0:
        return json.loads(text.splitlines()[-1])
    last = text.splitlines()[-1] if text else f"the process ended with status {status}"
    return {"torch": machine.installed_version("torch"), "cuda": None, "gpus": [], "error": last, "attention": None}


def cuda_of_driver(driver: str) -> int:
    """Newest CUDA major version that a driver, such as 550.54.15, supports natively."""
    major = int(driver.split(".")[0])
    return max((cuda for cuda, oldest in OLDEST_DRIVER.items() if major >= oldest), default=10)


def check_cuda(driver: str, found: Mapping) -> Check:
    """Check that torch computes on every GPU with this driver.

    The result of a computation decides; the versions explain a failure.
    """
    torch, cuda = f"torch {found['torch']}", found["cuda"]
    wanted, runs = int(cuda.split(".")[0]) if cuda else 0, cuda_of_driver(driver)
    if found["gpus"] and not found["error"]:
        cards = ", ".join(sorted({f"{name} ({capability})" for name, capability in found["gpus"]}))
        through = " through CUDA's forward compatibility" if wanted > runs else ""
        return Check("cuda", OK, f"{torch} for CUDA {cuda} computes on {cards}, driver {driver}{through}")
    if wanted > runs:
        ways = [f"a node with driver {OLDEST_DRIVER.get(wanted, 580)} or newer"]
        if runs == 12:
            ways.append(f"`{machine.MAKE['gpu-cu12']}`, an environment for CUDA 12")
        ways.append(f"on data-centre GPUs, cuda-compat {wanted} from conda-forge on LD_LIBRARY_PATH")
        text = f"driver {driver} runs CUDA {runs} at most, {torch} is built for CUDA {cuda}"
        return Check("cuda", FAILED, text, f"{'; or '.join(ways)} (docs/cluster.md, Drivers)")
    if not cuda and "not compiled with CUDA" in (found["error"] or ""):
        return Check("cuda", FAILED, f"{torch} is a build without CUDA", f"`{machine.MAKE['gpu']}`")
    remedy = "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES; take another node if torch fails on this one alone"
    return Check("cuda", FAILED, f"{torch} for CUDA {cuda}, driver {driver}: {found['error'] or 'sees no GPU'}", remedy)


def check_attention(attention: str, engine: str, found: Mapping) -> Check:
    """Check that the trainer's configured attention runs on this GPU."""
    if engine != "verl" or attention == "sdpa":
        return Check("attention", OK, "torch's scaled_dot_product_attention, no flash-attn")
    if found["error"] or not found["gpus"]:
        return Check("attention", SKIPPED, "torch itself does not run")
    if found["attention"]:
        remedy = (
            f"`{machine.MAKE['gpu']}` on a node with this GPU compiles flash-attn for it (and resumes if "
            "interrupted); or set hardware.attention: sdpa, which is slower and does not need it (docs/cluster.md)"
        )
        return Check("attention", FAILED, f"flash-attn: {found['attention']}", remedy)
    return Check("attention", OK, f"flash-attn {machine.installed_version('flash-attn')} agrees with torch's attention")


def check_nvcc(engine: str, found: Mapping) -> Check:
    """Check for nvcc on GPUs of compute capability 10, where vLLM compiles FlashInfer at its first request."""
    cards = [name for name, capability in found["gpus"] if capability.startswith("10.")]
    places = (os.environ.get("CUDA_HOME", "") + "/bin/nvcc", "nvcc", SYSTEM_NVCC)
    nvcc = next(filter(None, map(shutil.which, places)), None)
    if engine == "verl" and cards and not nvcc:
        own = Path(sysconfig.get_path("purelib")) / "nvidia/cu13"
        remedy = f"load the cluster's CUDA module, or export CUDA_HOME={own}"
        return Check("nvcc", FAILED, f"vLLM compiles its attention on {cards[0]} and finds no nvcc", remedy)
    return Check("nvcc", OK, nvcc or "none, and none needed on this card")


def check_shared_memory(gpus: int, folder: str | Path = "/dev/shm", gb: float | None = None) -> Check:
    """Check the size of the shared memory that NCCL and Ray use to exchange data; `gb` replaces the measured size."""
    size = shutil.disk_usage(folder).total / 1e9 if gb is None else gb
    found = f"{folder} has {size:,.1f} GB for {gpus} GPUs"
    remedy = "start the container with --shm-size=64g or --ipc=host (apptainer mounts the machine's), or remount it"
    if size < LEAST_SHARED_GB:
        return Check("shared memory", FAILED, found, remedy)
    return Check("shared memory", WARNING if size < gpus * SHARED_GB_PER_GPU else OK, found, remedy)
