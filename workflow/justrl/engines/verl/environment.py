"""The processes of an attempt: what they are told by environment variables, and the commands that start them."""

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from justrl.engines.verl.progress import ATTEMPT_VARIABLE, POLL_VARIABLE
from justrl.engines.verl.request import Request
from justrl.errors import UserError

PACKAGE_ROOT = Path(__file__).resolve().parents[3]
# Ray refuses to start an actor without a CPU left for it; on a small machine they are declared, not dedicated.
LEAST_CPUS = 16
RAY_PORT = 6379


def cpus(hardware: dict[str, Any]) -> int:
    """CPUs that Ray may count on: those of the allocation, never the machine's."""
    allocated = os.environ.get("SLURM_CPUS_ON_NODE")
    available = int(allocated) if allocated else len(os.sched_getaffinity(0))
    return max(LEAST_CPUS, min(available, hardware.get("cpus_per_node") or available))


def merge_variables() -> dict[str, str]:
    """The environment of verl's model merger, which needs no accelerator."""
    return os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": _python_path()}


def _python_path() -> str:
    return os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def variables(request: Request, attempt: Path, log: Path) -> dict[str, str]:
    """The environment of the trainer and, through Ray, of all its workers."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        # Another cluster's address would be joined; threads are Ray's to set, one for each CPU of a worker.
        if name not in ("RAY_ADDRESS", "OMP_NUM_THREADS")
    }
    ours = {
        "PYTHONPATH": _python_path(),
        "VERL_USE_EXTERNAL_MODULES": "justrl.engines.verl.plugin",
        "VERL_FILE_LOGGER_PATH": str(log.resolve()),
        ATTEMPT_VARIABLE: str(attempt.resolve()),
        "JUSTRL_STACKS": str(attempt.resolve() / "stacks"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray asks every process for a token; one of its own for each attempt, the same on all its nodes.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Nodes of a busy cluster do not all start within the half minute that is the default.
        "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "600",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
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
            POLL_VARIABLE: "0.05",
        }
    return inherited | ours


def command(request: Request, configuration: Path, record: Path) -> list[str]:
    """The command of an attempt: the trainer under guard, on this node or, for more than one, on each by srun."""
    trainer = [sys.executable, "-m", "justrl.engines.verl.launch", str(configuration)]
    guard = [sys.executable, "-m", "justrl.engines.verl.guard", "--record", str(record), "--make-scratch"]
    nodes = request.hardware["nodes"]
    if nodes == 1:
        return [*guard, "--watch-stdin", "--", *trainer]
    spread = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    if os.environ.get("SLURM_CPUS_PER_TASK"):
        # srun does not take this over from sbatch, and one CPU is what it gives otherwise.
        spread.append(f"--cpus-per-task={os.environ['SLURM_CPUS_PER_TASK']}")
    local_guard = [sys.executable, "-m", "justrl.engines.verl.guard", "--record", f"{record}.launcher"]
    return [*local_guard, "--watch-stdin", "--", *spread, *guard, "--", *cluster(request, head_node(nodes)), *trainer]


def cluster(request: Request, head: str) -> list[str]:
    """What every node runs: start Ray, and on the head node, once all are there, the trainer that follows."""
    return [
        str(Path(sys.executable).with_name("ray")),
        "symmetric-run",
        "--address",
        f"{head}:{RAY_PORT}",
        "--min-nodes",
        str(request.hardware["nodes"]),
        "--num-cpus",
        str(request.cpus),
        "--num-gpus",
        str(request.ranks_per_node),
        "--disable-usage-stats",
        "--",
        # symmetric-run does not tell the program about the cluster, which would then start another.
        "env",
        f"RAY_ADDRESS={head}:{RAY_PORT}",
    ]


def head_node(nodes: int) -> str:
    """The first node of the Slurm allocation.

    Raises:
        UserError: there is no allocation, or it has another number of nodes.
    """
    nodelist = os.environ.get("SLURM_JOB_NODELIST")
    if not nodelist or not shutil.which("scontrol"):
        raise UserError(
            f"hardware.nodes is {nodes}, but this is no Slurm job: training on more than one node needs --profile slurm"
        )
    hosts = subprocess.run(["scontrol", "show", "hostnames", nodelist], capture_output=True, text=True, check=True)
    names = hosts.stdout.split()
    if len(names) != nodes:
        raise UserError(f"hardware.nodes is {nodes}, but the Slurm job has {len(names)} nodes ({nodelist})")
    return names[0]
