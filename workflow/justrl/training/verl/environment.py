"""Environment variables and start commands of an attempt's processes."""

import os
import secrets
import sys
from pathlib import Path

from justrl.config import Hardware
from justrl.hardware.machine import usable_cores
from justrl.models import vllm_backend
from justrl.training.verl import nodes
from justrl.training.verl.progress import ATTEMPT_VARIABLE, KEEP_VARIABLE, POLL_VARIABLE
from justrl.training.verl.settings import VerlRequest

PACKAGE_ROOT = Path(__file__).resolve().parents[3]
# CPUs that verl 0.9.1 requests from Ray before its first step; with fewer it would wait forever. They are for the task
# runner, TransferQueue's controller and its 8 storage units, one for actors that only need a place, and 3 per rank.
CPUS_OF_A_JOB, CPUS_OF_A_RANK = 11, 3
# verl loads these modules in each of its processes.
MODULES_VARIABLE = "VERL_USE_EXTERNAL_MODULES"
# RAY_ADDRESS would make verl join another cluster; Ray sets the threads itself, one per CPU of a worker.
DROPPED = ("RAY_ADDRESS", "OMP_NUM_THREADS")
# verl sets torch's allocator itself, in turn for vLLM's sleep and for the update. The commonly exported value
# (expandable_segments:True) makes vLLM 0.19 fail, or takes memory from the others.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
SLURM_KEPT = ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_SUBMIT_DIR")


def cpus(hardware: Hardware) -> int:
    """Return the CPUs that each node declares to Ray: the allocation's, not the machine's, and enough for verl.

    They are declared, not dedicated: on a smaller machine, processes share the cores.
    """
    allocated = os.environ.get("SLURM_CPUS_ON_NODE")
    available = int(allocated) if allocated else usable_cores()
    needed = CPUS_OF_A_JOB + CPUS_OF_A_RANK * max(1, hardware.gpus_per_node)
    return max(needed, min(available, hardware.cpus_per_node))


def merge_variables() -> dict[str, str]:
    """Return the environment of verl's model merger, which needs no accelerator."""
    return os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": _python_path()}


def _python_path() -> str:
    return os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def variables(request: VerlRequest, attempt: Path, log: Path) -> dict[str, str]:
    """Return the environment of the trainer and, through Ray, of all its workers."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        # Slurm's variables about this step would be read as options by the srun for more than one node.
        if name not in (*DROPPED, *ALLOCATOR)
        and (name in SLURM_KEPT or not name.startswith(("SLURM_", "SRUN_", "SBATCH_")))
    }
    ours = {
        "PYTHONPATH": _python_path(),
        MODULES_VARIABLE: ",".join(["justrl.training.verl.plugin", *filter(None, [inherited.get(MODULES_VARIABLE)])]),
        "VERL_FILE_LOGGER_PATH": str(log.resolve()),
        ATTEMPT_VARIABLE: str(attempt.resolve()),
        KEEP_VARIABLE: str(request.hardware.rollouts_kept),
        POLL_VARIABLE: "0.25",
        "JUSTRL_STACKS": str(attempt.resolve() / "stacks"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray requires a token from every process; each attempt has its own, the same on all its nodes.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # On a disk fuller than this, Ray stores nothing that does not fit in its memory, however much space is left.
        # The guard has checked that there is space.
        "RAY_local_fs_capacity_threshold": "0.99",
        # Ray would kill a worker when the node's memory is 95% full, whichever process uses it.
        "RAY_memory_monitor_refresh_ms": "0",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if interface := request.hardware.network_interface:
        ours |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), interface)
    if request.hardware.on_cpu:
        ours |= {
            "VERL_PLATFORM": "cpu",
            # verl registers its FSDP engine for cuda and npu only; the code is the same.
            "VERL_ENGINE_DEVICE": "cuda",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            # Otherwise vLLM runs a C++ compiler at each start, for one comparison of its samples' log-probabilities.
            "TORCH_COMPILE_DISABLE": "1",
            POLL_VARIABLE: "0.05",  # for steps that take seconds
        }
    return vllm_backend.VARIABLES | inherited | ours


def command(request: VerlRequest, settings: Path, record: Path) -> list[str]:
    """Return the command of an attempt: the trainer under guard, on this node or by srun on each of several nodes.

    `settings` is the file with the settings for verl.
    """
    trainer = [sys.executable, "-m", "justrl.training.verl.launch", str(settings)]
    guard = [sys.executable, "-m", "justrl.training.verl.guard", "--record", str(record), "--make-scratch"]
    if request.hardware.nodes == 1:
        return [*guard, "--watch-stdin", "--", *trainer]
    names, cpus_of_job = nodes.allocation(request.hardware.nodes)
    head = nodes.head_address(names)
    spread = [*nodes.srun(request.hardware, cpus_of_job), *guard, "--"]
    spread += nodes.commands(request.hardware, head, request.cpus or cpus(request.hardware), request.ranks_per_node)
    local_guard = [sys.executable, "-m", "justrl.training.verl.guard", "--record", f"{record}.launcher"]
    return [*local_guard, "--watch-stdin", "--", *spread, *trainer]
