"""The result of a preflight check, and the checks of the machine: disk, GPUs, packages, compilers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from justrl.config import Hardware
from justrl.config.hardware import same_kind
from justrl.errors import UserError
from justrl.hardware import machine

# The packages whose versions affect results, by engine.
DECISIVE = {
    "reference": ("torch", "transformers", "tokenizers", "safetensors", "numpy"),
    "verl": ("verl", "vllm", "ray", "torch", "transformers", "numpy"),
}
# verl's processes per GPU: a trainer, a vLLM engine and its server, and a share of the processes common to all GPUs.
CORES_PER_GPU = 4
OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """The result of one check: its name, status, finding, and the remedy for a failure."""

    name: str
    status: str
    found: str
    remedy: str = ""

    def as_dict(self) -> dict:
        return asdict(self)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """Run a check; a UserError is a failed check and includes its remedy, any other error is a fault of the check."""
    try:
        return check()
    except UserError as error:
        return Check(name, FAILED, str(error))
    except Exception as error:
        return Check(name, FAILED, f"{type(error).__name__}: {error}", "read the message; the check itself broke on it")


def table(checks: Iterable[Check]) -> str:
    """The checks as lines for the terminal: status, name and finding, with the remedy below a failure."""
    marks = {OK: "ok", WARNING: "WARN", FAILED: "FAIL", SKIPPED: "skip"}
    lines = []
    for check in checks:
        lines.append(f"{marks[check.status]:<5}{check.name:<16}{check.found}")
        if check.remedy and check.status in (FAILED, WARNING):
            lines.append(f"{'':<21}-> {check.remedy}")
    return "\n".join(lines)


def run_command(*command: str, seconds: float = 30) -> tuple[int, str]:
    """Status and output of a command, or its error output if it failed; status 127 if there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except FileNotFoundError:
        return 127, f"{command[0]}: command not found"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not answer within {seconds:.0f} s"
    return done.returncode, done.stdout if done.returncode == 0 else (done.stderr or done.stdout).strip()


def check_disk(folder: str | Path, needed_gb: float) -> Check:
    """Check that there is disk space for what the plan expects to be written."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    planned = f"{needed_gb:,.0f}" if needed_gb >= 10 else f"{needed_gb:.2g}"
    found = f"{free:,.0f} GB free at {folder}, {planned} GB planned"
    if free < needed_gb:
        return Check("disk", FAILED, found, "free some space, or link `results` to a larger file system")
    return Check("disk", OK, found)


def check_gpus(hardware: Hardware) -> Check:
    """Check that this machine has the configured GPUs; skipped on a cluster's login node, which has none."""
    wanted = hardware.gpus_per_node
    if not wanted:
        return Check("gpus", OK, "none requested: training on the CPU")
    try:
        here = machine.gpus()
    except machine.NoDriver as error:
        if "SLURM_JOB_ID" not in os.environ and slurm_answers():
            return Check("gpus", SKIPPED, "no GPU on this login node; the run's first job checks the GPUs of its node")
        remedy = (
            "`snakemake --profile mini` runs without a GPU, `--profile slurm` on a cluster; on a machine with GPUs, "
            "repair the driver (`nvidia-smi`)"
        )
        return Check("gpus", FAILED, f"{wanted} GPUs requested, but no NVIDIA driver responds ({error})", remedy)
    count = len(machine.visible_devices())
    names = sorted({gpu.name for gpu in here})
    memory = f"{here[0].memory:.0f} MiB" if here and here[0].memory else "memory unknown"
    found = f"{count} x {', '.join(names)}, {memory}, driver {here[0].driver}" if here else "none found"
    if count < wanted:
        return Check(
            "gpus", FAILED, f"{wanted} GPUs requested, {found}", "lower hardware.gpus_per_node or use another node"
        )
    if not any(same_kind(name, hardware.gpu) for name in names):
        remedy = "set hardware.gpu to this GPU, so that requested job times fit"
        return Check("gpus", WARNING, f"{found}; hardware.gpu is {hardware.gpu}", remedy)
    return Check("gpus", OK, found)


def check_cores(hardware: Hardware, engine: str) -> Check:
    """Check the number of cores for the processes that verl runs per GPU; on a GPU machine, its own cores count."""
    gpus = hardware.gpus_per_node
    if engine != "verl" or not gpus:
        return Check("cores", OK, "not relevant without GPUs on verl")
    cores = hardware.cpus_per_node
    if machine.visible_devices():
        cores = min(cores, machine.real_cores())
    found = f"{cores} cores for {gpus} GPUs"
    if cores < CORES_PER_GPU * gpus:
        remedy = (
            f"request {CORES_PER_GPU} cores per GPU (hardware.cpus_per_node); with fewer, GPUs wait for CPU processes"
        )
        return Check("cores", WARNING, found, remedy)
    return Check("cores", OK, found)


def check_packages(engine: str) -> Check:
    """Check that the packages that affect results have the versions in the lock file of this environment."""
    environment = machine.environment_here()
    found = machine.packages(environment, DECISIVE[engine])
    wrong = [package for package in found if not package.matches]
    if not wrong:
        return Check("packages", OK, ", ".join(map(str, found)))
    where = f"envs/{machine.LOCKS[environment]}"
    if engine == "verl" and environment == "mini":
        where = "envs/gpu.txt (`make gpu-env`, then `. .venv-gpu/bin/activate`; without a GPU `make verl-env`)"
    remedy = f"install and activate the environment of {where}, or start Snakemake with --sdm conda"
    missing = any(package.installed is None for package in wrong)
    return Check("packages", FAILED if missing else WARNING, "; ".join(map(str, wrong)), remedy)


def check_compilers(engine: str, hardware: Hardware) -> Check:
    """Check that the kernels that vLLM compiles at start-up on a GPU can be compiled here."""
    if engine != "verl" or not hardware.gpus_per_node:
        return Check("compilers", OK, "not relevant: nothing is compiled")
    missing = machine.missing_compilers()
    if missing:
        python = f"python3.{sys.version_info.minor}"
        remedy = f"install a C compiler and Python's headers (gcc, {python}-dev), or load the cluster's modules"
        return Check("compilers", FAILED, f"Triton compiles kernels and finds no {', no '.join(missing)}", remedy)
    return Check("compilers", OK, "a C compiler and Python's headers")


def slurm_answers() -> bool:
    """True if this machine belongs to a Slurm cluster whose controller answers."""
    return run_command("sinfo", "--noheader")[0] == 0
