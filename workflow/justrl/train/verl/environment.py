"""The processes of an attempt: what they are told by environment variables, and the commands that start them."""

import os
import secrets
import sys
from pathlib import Path

from justrl.config import Hardware
from justrl.generation import vllm_backend
from justrl.machine import usable_cores
from justrl.train.verl import nodes
from justrl.train.verl.progress import ATTEMPT_VARIABLE, KEEP_VARIABLE, POLL_VARIABLE
from justrl.train.verl.request import VerlRequest

PACKAGE_ROOT = Path(__file__).resolve().parents[3]
# What verl 0.9.1 asks Ray for before its first step, and would wait for without end: the task runner, TransferQueue's
# controller and its 8 storage units, one more for actors that only have to be placed; and 3 for each rank.
CPUS_OF_A_JOB, CPUS_OF_A_RANK = 11, 3
# verl loads these modules in each of its processes.
MODULES_VARIABLE = "VERL_USE_EXTERNAL_MODULES"
# Another cluster's address would be joined; threads are Ray's to set, one for each CPU of a worker.
DROPPED = ("RAY_ADDRESS", "OMP_NUM_THREADS")
# verl sets torch's allocator by itself, for vLLM to sleep and for the update in turn; what is commonly exported
# (expandable_segments:True) ends vLLM 0.19, or takes memory from the others.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
SLURM_KEPT = ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_SUBMIT_DIR")


def cpus(hardware: Hardware) -> int:
    """CPUs that each node declares to Ray: those of the allocation, never the machine's, and as many as verl asks for.

    They are declared, not dedicated: on a smaller machine its processes share the cores.
    """
    allocated = os.environ.get("SLURM_CPUS_ON_NODE")
    available = int(allocated) if allocated else usable_cores()
    needed = CPUS_OF_A_JOB + CPUS_OF_A_RANK * max(1, hardware.gpus_per_node)
    return max(needed, min(available, hardware.cpus_per_node))


def merge_variables() -> dict[str, str]:
    """The environment of verl's model merger, which needs no accelerator."""
    return os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": _python_path()}


def _python_path() -> str:
    return os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def variables(request: VerlRequest, attempt: Path, log: Path) -> dict[str, str]:
    """The environment of the trainer and, through Ray, of all its workers."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        # What Slurm says of the step that this is would be taken for wishes by the srun of more than one node.
        if name not in (*DROPPED, *ALLOCATOR)
        and (name in SLURM_KEPT or not name.startswith(("SLURM_", "SRUN_", "SBATCH_")))
    }
    ours = {
        "PYTHONPATH": _python_path(),
        MODULES_VARIABLE: ",".join(["justrl.train.verl.plugin", *filter(None, [inherited.get(MODULES_VARIABLE)])]),
        "VERL_FILE_LOGGER_PATH": str(log.resolve()),
        ATTEMPT_VARIABLE: str(attempt.resolve()),
        KEEP_VARIABLE: str(request.hardware.rollouts_kept),
        POLL_VARIABLE: "0.25",
        "JUSTRL_STACKS": str(attempt.resolve() / "stacks"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray asks every process for a token; one of its own for each attempt, the same on all its nodes.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # On a disk fuller than this Ray refuses what its memory cannot hold, however much is left there; the guard has
        # looked whether there is room.
        "RAY_local_fs_capacity_threshold": "0.99",
        # Ray would kill a worker when the node's memory is 95% full, whoever has filled it.
        "RAY_memory_monitor_refresh_ms": "0",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if interface := request.hardware.network_interface:
        ours |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), interface)
    if request.on_cpu:
        ours |= {
            "VERL_PLATFORM": "cpu",
            # verl registers its FSDP engine for cuda and npu; the code is the same.
            "VERL_ENGINE_DEVICE": "cuda",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            # Else vLLM runs a C++ compiler at each start, for one comparison of its samples' log-probabilities.
            "TORCH_COMPILE_DISABLE": "1",
            POLL_VARIABLE: "0.05",  # of steps that take seconds
        }
    return vllm_backend.VARIABLES | inherited | ours


def command(request: VerlRequest, settings: Path, record: Path) -> list[str]:
    """The command of an attempt: the trainer under guard, on this node or, for more than one, on each by srun.

    `settings` is the file of what is asked of verl.
    """
    trainer = [sys.executable, "-m", "justrl.train.verl.launch", str(settings)]
    guard = [sys.executable, "-m", "justrl.train.verl.guard", "--record", str(record), "--make-scratch"]
    if request.hardware.nodes == 1:
        return [*guard, "--watch-stdin", "--", *trainer]
    names, cpus_of_job = nodes.allocation(request.hardware.nodes)
    head = nodes.head_address(names)
    spread = [*nodes.srun(request.hardware, cpus_of_job), *guard, "--"]
    spread += nodes.commands(request.hardware, head, request.cpus or cpus(request.hardware), request.ranks_per_node)
    local_guard = [sys.executable, "-m", "justrl.train.verl.guard", "--record", f"{record}.launcher"]
    return [*local_guard, "--watch-stdin", "--", *spread, *trainer]
