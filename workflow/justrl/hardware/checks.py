"""The result of a preflight check, and the checks of the machine: disk, GPUs and their memory, packages, compilers."""

import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from justrl.config import Hardware, Recipe
from justrl.config.hardware import same_kind
from justrl.errors import UserError
from justrl.hardware import machine
from justrl.hardware.memory import TIGHT, memory_job, transfer_mib
from justrl.models.folder import largest_tensor
from justrl.models.shape import ModelShape, read_shape

# The packages whose versions affect results, by engine.
DECISIVE = {
    "reference": ("torch", "transformers", "tokenizers", "safetensors", "numpy"),
    "verl": ("verl", "vllm", "ray", "torch", "transformers", "numpy"),
}
# verl's processes per GPU: a trainer, a vLLM engine and its server, and a share of the processes common to all GPUs.
CORES_PER_GPU = 4
# The oldest driver that supports each CUDA major version (NVIDIA's minor-version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
PROBE_SECONDS = 300
SYSTEM_NVCC = "/usr/local/cuda/bin/nvcc"
# Containers have 64 MB by default, with which NCCL and Ray fail at start-up.
LEAST_SHARED_GB, SHARED_GB_PER_GPU = 0.25, 2
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
        # Outside a job on a cluster whose controller answers.
        if "SLURM_JOB_ID" not in os.environ and run_command("sinfo", "--noheader")[0] == 0:
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


def check_weight_transfer(folder: str | Path, hardware: Hardware, engine: str, shm: str = "/dev/shm") -> Check:
    """Check the buffer in which verl sends weights to vLLM on a CPU.

    It must hold each of the model's tensors, and the shared memory must hold the buffer of every rank.
    """
    name, ranks = "weight transfer", max(1, hardware.gpus_per_node)
    if engine != "verl" or not hardware.on_cpu:
        return Check(name, OK, "larger tensors go by themselves" if engine == "verl" else "none: one process")
    size, tensor = largest_tensor(folder)
    needed, given, free = 4 * size / 2**20, transfer_mib(read_shape(folder)), shutil.disk_usage(shm).free / 2**20
    found = f"{given} MiB for each rank ({ranks}); {tensor} takes {needed:,.0f}, {shm} has {free:,.0f} free"
    if needed > given:
        return Check(name, FAILED, found, "train with `engine: reference`, or on GPUs, which have no such limit")
    if ranks * given > free:
        return Check(name, FAILED, found, f"start the container with --shm-size={math.ceil(ranks * given / 512)}g")
    return Check(name, OK, found)


def check_memory(hardware: Hardware, engine: str, recipe: Recipe, shape: ModelShape | None) -> Check:
    """Check that every phase of a step fits the configured GPUs."""
    job = memory_job(hardware, engine, recipe, shape) if shape else None
    if job is None:
        if hardware.gpus and shape is None:
            later = "size of the model unknown until `snakemake data` has fetched its config.json"
            return Check("memory", SKIPPED, later)
        return Check("memory", OK, "not planned on a CPU")
    if found := job.problem(job.settings):
        return Check("memory", FAILED, found, job.remedy())
    phase, most = job.fullest(job.settings)
    found = f"peak GPU memory: {most:.1f} of {job.card:.1f} GiB ({phase})"
    if most > TIGHT * job.card:
        return Check(
            "memory", WARNING, found, "set hardware.engine back to null, or see the memory table of `justrl plan`"
        )
    return Check("memory", OK, found)


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
