"""What a preflight check reports, and the checks of the machine: disk, GPUs, packages, the queue."""

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from justrl.config import ROOT
from justrl.errors import UserError

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


@dataclass(frozen=True)
class Check:
    """The result of one check: what was looked at, how it is, what was found, and what to do about it."""

    name: str
    status: str
    found: str
    remedy: str = ""

    def as_dict(self) -> dict:
        return asdict(self)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """Run a check; a UserError is its failure and carries its own remedy, anything else is a failure of the check."""
    try:
        return check()
    except UserError as error:
        return Check(name, FAILED, str(error))
    except Exception as error:
        return Check(name, FAILED, f"{type(error).__name__}: {error}", "read the message; the check itself broke on it")


def table(checks: Iterable[Check]) -> str:
    """The checks as lines for the terminal: a mark, the name, what was found, and the remedy below a failure."""
    marks = {OK: "ok", WARNING: "WARN", FAILED: "FAIL", SKIPPED: "skip"}
    lines = []
    for check in checks:
        lines.append(f"{marks[check.status]:<5}{check.name:<16}{check.found}")
        if check.remedy and check.status in (FAILED, WARNING):
            lines.append(f"{'':<21}-> {check.remedy}")
    return "\n".join(lines)


def run_command(*command: str, seconds: float = 30) -> tuple[int, str]:
    """Status and output of a command, its error output where it failed; status 127 where there is no such command."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except FileNotFoundError:
        return 127, f"{command[0]}: command not found"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not answer within {seconds:.0f} s"
    return done.returncode, done.stdout if done.returncode == 0 else (done.stderr or done.stdout).strip()


def check_disk(folder: str | Path, needed_gb: float) -> Check:
    """Is there room for what the plan says will be written?"""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    found = f"{free:,.0f} GB free at {folder}, {needed_gb:,.1f} GB planned"
    if free < needed_gb:
        return Check("disk", FAILED, found, "free some, or link `results` to a larger file system")
    return Check("disk", OK, found)


def check_gpus(hardware: Mapping) -> Check:
    """Are the configured GPUs here, with enough memory? A login node of a cluster has none and is not asked."""
    wanted = hardware["gpus_per_node"]
    if not wanted:
        return Check("gpus", OK, "none asked for: training on the CPU")
    status, text = run_command(
        "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"
    )
    if status:
        if "SLURM_JOB_ID" not in os.environ and slurm_answers():
            return Check("gpus", SKIPPED, "no GPU on this login node; the job of the preflight rule looks at its own")
        remedy = (
            "`snakemake --profile mini` runs without a GPU, `--profile slurm` on a cluster; on a machine with GPUs, "
            "repair the driver (`nvidia-smi`)"
        )
        return Check("gpus", FAILED, f"{wanted} GPUs wanted, no NVIDIA driver answers ({text.splitlines()[0]})", remedy)
    rows = [[word.strip() for word in line.split(",")] for line in text.strip().splitlines()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(rows) if visible is None else len([device for device in visible.split(",") if device.strip()])
    names = sorted({row[0] for row in rows})
    found = f"{count} x {', '.join(names)}, {rows[0][1]} MiB, driver {rows[0][2]}"
    if count < wanted:
        return Check(
            "gpus", FAILED, f"{wanted} GPUs wanted, {found}", "lower hardware.gpus_per_node or use another node"
        )
    kind = hardware["gpu"].split("-")[0].lower()
    if not any(kind in name.lower() for name in names):
        remedy = "set hardware.gpu to what is here, so that times asked of the queue fit"
        return Check("gpus", WARNING, f"{found}; the configuration says {hardware['gpu']}", remedy)
    return Check("gpus", OK, found)


def read_pins(path: str | Path) -> dict[str, str]:
    """Package versions of a requirements lock: {name: version}."""
    text = Path(path).read_text(encoding="utf-8")
    return {
        name.lower(): version for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\;]+)", text, re.MULTILINE)
    }


def check_packages(pins: Mapping[str, str], names: Iterable[str], where: str) -> Check:
    """Are the packages that decide results installed at the versions of the lock?"""
    wrong, right = [], []
    for name in names:
        wanted = pins.get(name)
        try:
            # A local part (2.13.0+cpu) is another build of the same version.
            installed = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed" + (f" (pinned {wanted})" if wanted else ""))
            continue
        if wanted and installed != wanted.split("+")[0]:
            wrong.append(f"{name} {installed} (pinned {wanted})")
        else:
            right.append(f"{name} {installed}")
    if wrong:
        missing = any("not installed" in problem for problem in wrong)
        remedy = f"install the environment of {where}, or start Snakemake with --sdm conda"
        return Check("packages", FAILED if missing else WARNING, "; ".join(wrong), remedy)
    return Check("packages", OK, ", ".join(right))


def profile_resources(profile: str | Path = ROOT / "slurm" / "config.yaml") -> dict:
    """The `default-resources` of the Slurm profile."""
    path = Path(profile)
    return (
        (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("default-resources", {}) if path.is_file() else {}
    )


def slurm_answers() -> bool:
    """Whether this machine belongs to a Slurm cluster whose controller answers."""
    return run_command("sinfo", "--noheader")[0] == 0


def slurm_minutes(text: str) -> float:
    """Minutes of a time as Slurm writes it: [days-]hours:minutes:seconds, minutes:seconds, or infinite."""
    if text in ("infinite", "n/a"):
        return float("inf")
    days, _, clock = text.rpartition("-")
    parts = [0, 0, *map(int, clock.split(":"))][-3:]
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1] + parts[2] / 60


def check_slurm(hardware: Mapping, minutes: int, resources: Mapping) -> Check:
    """Would the queue grant one training job? Slurm itself is asked, by `sbatch --test-only`."""
    if shutil.which("sbatch") is None:
        return Check("slurm", SKIPPED, "no sbatch here: jobs run on this machine")
    status, text = run_command("sinfo", "--noheader", "--format=%R %l")
    if status:
        found = f"sbatch is here, but no Slurm controller answers ({text.splitlines()[-1]})"
        return Check("slurm", WARNING, found, "for `--profile slurm`, run this on a login node of the cluster")
    limits = {line.split()[0]: line.split()[1] for line in text.splitlines() if line.strip()}
    partition = str(resources.get("slurm_partition", "")) or None
    if partition and partition not in limits:
        remedy = f"set slurm_partition in slurm/config.yaml to one of {', '.join(sorted(limits))}"
        return Check("slurm", FAILED, f"no partition {partition} on this cluster", remedy)
    # By default Slurm takes a job that is longer than its partition allows, and never starts it.
    if partition and minutes > slurm_minutes(limits[partition]):
        found = f"a training job asks for {minutes / 60:.1f} h, partition {partition} allows {limits[partition]}"
        return Check("slurm", FAILED, found, "lower segment_steps of the run, or use another partition")
    nodes, gpus = hardware["nodes"], hardware["gpus_per_node"]
    request = [f"--nodes={nodes}", f"--cpus-per-task={hardware['cpus_per_node']}", f"--time={minutes}"]
    request += [f"--mem={hardware['memory_per_node_gb']}G"] + ([f"--gpus={nodes * gpus}"] if gpus else [])
    options = {
        "slurm_partition": "--partition",
        "slurm_account": "--account",
        "qos": "--qos",
        "constraint": "--constraint",
    }
    request += [f"{option}={resources[key]}" for key, option in options.items() if resources.get(key)]
    status, text = run_command("sbatch", "--test-only", *request, "--wrap", "true")
    asked = f"{nodes} node(s) with {gpus} GPUs, {hardware['cpus_per_node']} CPUs, {hardware['memory_per_node_gb']} GB"
    asked += f" for {minutes / 60:.1f} h"
    if status:
        remedy = (
            "change the five lines of slurm/config.yaml or `hardware` in config.yaml; a shorter segment_steps asks for "
            f"less time. Asked: sbatch {' '.join(request)}"
        )
        return Check("slurm", FAILED, f"the queue refuses {asked}: {text.splitlines()[-1]}", remedy)
    return Check("slurm", OK, f"the queue grants {asked}")
