"""Preflight checks of the queue: does it accept each kind of job, and does it requeue preempted jobs?"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from justrl.config import Experiment
from justrl.config.files import ROOT
from justrl.hardware.checks import FAILED, OK, SKIPPED, WARNING, Check, run_command
from justrl.plan import planning

OPTIONS = {"slurm_partition": "--partition", "slurm_account": "--account", "qos": "--qos", "constraint": "--constraint"}
# The end of a job is polled every 20 to 60 seconds. If Slurm forgets the job earlier, the reason of a failure is lost.
SHORTEST_MEMORY_SECONDS = 120


@dataclass(frozen=True)
class Request:
    """The request of one kind of job to the queue; memory in GB per node."""

    kind: str
    nodes: int
    gpus_per_node: int
    cpus: int
    memory_gb: float
    minutes: int

    def __str__(self) -> str:
        what = f"{self.nodes} node(s) with {self.gpus_per_node} GPUs, {self.cpus} CPUs, {self.memory_gb:g} GB"
        return f"{what} for {self.minutes / 60:.1f} h"


def profile_resources(profile: str | Path = ROOT / "slurm" / "config.yaml") -> dict:
    """The `default-resources` of the Slurm profile."""
    path = Path(profile)
    return (
        (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("default-resources", {}) if path.is_file() else {}
    )


def requests(experiment: Experiment, runs: Sequence[str], resources: Mapping) -> list[Request]:
    """The kinds of job that an experiment submits, each with the longest time that it requests."""
    hardware, evaluation = experiment.hardware, experiment.evaluation
    longest = max(planning.segment_runtime_minutes(experiment, run) for run in runs)
    training = Request(
        "training", hardware.nodes, hardware.gpus_per_node, hardware.cpus_per_node, hardware.memory_per_node_gb, longest
    )
    one = (1, hardware.gpus_per_evaluation, hardware.cpus_per_evaluation, hardware.memory_per_evaluation_gb)
    minutes = max(
        planning.generation_minutes(experiment, run, evaluation.benchmarks, evaluation.protocol) for run in runs
    )
    kinds = [training, Request("generation", *one, minutes)]
    if evaluation.model_grader.enabled:
        judged = planning.judge_minutes(experiment, evaluation.benchmarks, evaluation.protocol)
        kinds.append(Request("judge", *one, judged))
    small = (int(resources.get("cpus_per_task", 1)), resources.get("mem_mb", 1000) / 1000, int(resources["runtime"]))
    return [*kinds, Request("without GPU", 1, 0, *small)] if "runtime" in resources else kinds


def slurm_minutes(text: str) -> float:
    """Minutes in a Slurm time: [days-]hours:minutes:seconds, minutes:seconds, or infinite."""
    if text.lower() in ("infinite", "unlimited", "n/a"):
        return float("inf")
    days, _, clock = text.rpartition("-")
    parts = [0, 0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1] + parts[2] / 60


def check_queue(kinds: Sequence[Request], resources: Mapping) -> list[Check]:
    """Check each kind of job with the queue, and the handling of preempted and of ended jobs."""
    if shutil.which("sbatch") is None:
        return [Check("slurm", SKIPPED, "no sbatch here: jobs run on this machine")]
    status, text = run_command("sinfo", "--noheader", "--format=%R %l")
    if status:
        found = f"sbatch is here, but no Slurm controller answers ({text.splitlines()[-1]})"
        return [Check("slurm", WARNING, found, "for `--profile slurm`, run this on a login node of the cluster")]
    limits = {line.split()[0]: line.split()[1] for line in text.splitlines() if line.strip()}
    done: list[Check] = []
    partitions: dict[str, None] = {}
    for kind in kinds:
        asked = dict(resources)
        if not kind.gpus_per_node and resources.get("cpu_partition"):
            asked["slurm_partition"] = resources["cpu_partition"]
        partition = str(asked.get("slurm_partition") or "")
        partitions[partition] = None
        done.append(_check_request(kind, asked, partition, limits))
    known = [partition for partition in partitions if partition in limits]
    return [*done, *map(_check_preemption, known), _check_memory_of_jobs()]


def _check_request(kind: Request, resources: Mapping, partition: str, limits: Mapping[str, str]) -> Check:
    if partition and partition not in limits:
        line = "slurm_partition" if kind.gpus_per_node or not resources.get("cpu_partition") else "cpu_partition"
        remedy = f"set {line} in slurm/config.yaml to one of {', '.join(sorted(limits))}"
        return Check("slurm", FAILED, f"{kind.kind}: no partition {partition} on this cluster", remedy)
    # By default Slurm accepts a job that is longer than its partition allows, and never starts it.
    if partition and kind.minutes > slurm_minutes(limits[partition]):
        found = f"{kind.kind}: asks for {kind.minutes / 60:.1f} h, partition {partition} allows {limits[partition]}"
        return Check("slurm", FAILED, found, _shorter(kind) + ", or use another partition")
    gpus = [f"--gpus={kind.nodes * kind.gpus_per_node}"] if kind.gpus_per_node else []
    request = [f"--nodes={kind.nodes}", f"--cpus-per-task={kind.cpus}", f"--time={kind.minutes}", *gpus]
    request += [f"--mem={kind.memory_gb:g}G" if kind.memory_gb >= 1 else f"--mem={kind.memory_gb * 1000:.0f}M"]
    request += [f"{option}={resources[key]}" for key, option in OPTIONS.items() if resources.get(key)]
    status, text = run_command("sbatch", "--test-only", *request, "--wrap", "true")
    if status:
        remedy = (
            f"change the lines of slurm/config.yaml or `hardware` in config.yaml; {_shorter(kind)} asks for less time. "
            f"Asked: sbatch {' '.join(request)}"
        )
        return Check("slurm", FAILED, f"{kind.kind}: the queue refuses {kind}: {text.splitlines()[-1]}", remedy)
    return Check("slurm", OK, f"{kind.kind}: the queue grants {kind}")


def _shorter(kind: Request) -> str:
    """How to make this kind of job shorter."""
    if kind.kind == "training":
        return "a lower segment_steps of the run"
    if kind.kind == "generation":
        return "more `evaluation.shards`, or `set-resources: {generate: {runtime: MINUTES}}` in slurm/config.yaml,"
    return "a lower `runtime` in slurm/config.yaml"


def _check_preemption(partition: str) -> Check:
    """Check that a partition requeues the jobs that it preempts."""
    status, text = run_command("scontrol", "show", "partition", partition, "--oneliner")
    mode = re.search(r"PreemptMode=(\S+)", text) if not status else None
    if mode and "CANCEL" in mode[1]:
        found = f"partition {partition} cancels preempted jobs (PreemptMode={mode[1]})"
        return Check("slurm", WARNING, found, "each preemption takes one of `retries` in slurm/config.yaml: raise them")
    return Check("slurm", OK, f"partition {partition}: PreemptMode={mode[1] if mode else 'unknown'}")


def _check_memory_of_jobs() -> Check:
    """Check for how long the controller remembers an ended job."""
    status, text = run_command("scontrol", "show", "config")
    age = re.search(r"^MinJobAge\s*=\s*(\d+)", text, re.MULTILINE) if not status else None
    if age and int(age[1]) < SHORTEST_MEMORY_SECONDS:
        found = f"ended jobs are forgotten after {age[1]} s (MinJobAge)"
        remedy = "no action needed; the reason of a failed job may be only in its log (results/logs/slurm)"
        return Check("slurm", WARNING, found, remedy)
    return Check("slurm", OK, f"ended jobs are remembered for {age[1] if age else 'unknown'} s (MinJobAge)")
