"""Benchmark rows about the workflow: Snakemake on our workflow and on a plain one with as many jobs.

The jobs of the plain workflow are like those of a queue, with a log and with functions for inputs, parameters and
resources, but without our code: their cost is Snakemake's own.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from work import ROOT, Work, share_within

from justrl.errors import UserError

SNAKEMAKE = [sys.executable, "-m", "snakemake"]
# Eight functions per job, the average of the paper's jobs.
FURNISHED = """
    params: one=lambda wildcards: wildcards.i, two=lambda wildcards: "two", three="three", four="four"
    resources:
        runtime=lambda wildcards: 10 + int(wildcards.i) % 2, mem_mb=lambda wildcards: 1000,
        cpus_per_task=lambda wildcards: 2, gpu=lambda wildcards: 0
    log: "logs/RULE/{i}.log"
"""
RULES = {"a": "", "b": "a", "c": "b", "d": "ac"}
"""Each rule and those whose output it reads."""


def plain_workflow(folder: Path, jobs: int) -> Path:
    """Write a Snakefile with this many jobs, up to a difference of four: chains of four rules, and `all`."""
    text = f'rule all:\n    input: expand("d/{{i}}", i=range({jobs // 4}))\n'
    for name, inputs in RULES.items():
        text += f"rule {name}:\n"
        asked = [f'lambda wildcards: f"{one}/{{wildcards.i}}"' for one in inputs]
        text += f"    input: {', '.join(asked)}\n" if asked else ""
        text += f'    output: "{name}/{{i}}"\n' + FURNISHED.replace("RULE", name)
        text += '    shell: "touch {output}"\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Snakefile").write_text(text)
    return folder


def snakemake(folder: Path, *arguments: str) -> str:
    """Run Snakemake in a folder and return its output.

    Raises UserError if it failed.
    """
    done = subprocess.run([*SNAKEMAKE, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"snakemake {' '.join(arguments)}: {(done.stdout + done.stderr)[-800:]}")
    return done.stdout + done.stderr


def jobs_in(said: str) -> int:
    """The number of jobs in Snakemake's output."""
    return int(re.findall(r"^total\s+(\d+)", said, re.M)[0])


def copy_of_the_project() -> Path:
    """Copy the project's files without results to a new folder."""
    folder = Path(tempfile.mkdtemp()) / "main"
    skip = shutil.ignore_patterns(".venv*", ".git", ".snakemake", "results", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, folder, ignore=skip)
    return folder


def snakemake_share(folder: Path, *arguments: str) -> float:
    """The share of a call's time in Snakemake's own code: outside the Snakefile and the project's functions."""

    def of_the_project(file: str, name: str) -> bool:
        # Module-level code runs on import from the Snakefile, directly or not, and is counted there.
        return file == f"{folder}/Snakefile" or (file.startswith(f"{folder}/") and name != "<module>")

    profile = folder / "profile"
    command = [sys.executable, "-m", "cProfile", "-o", profile, "-m", "snakemake", *arguments]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return 1 - share_within(profile, of_the_project)


def dry_run() -> Work:
    """The paper's dry run, with no output existing."""
    folder, plain = copy_of_the_project(), Path(tempfile.mkdtemp())
    arguments = ["-n", "--profile", "slurm"]
    jobs = jobs_in(snakemake(folder, *arguments))
    plain_workflow(plain, jobs)
    return Work(
        f"dry run of the paper, {jobs:,} jobs",
        "a plain workflow of as many jobs with logs, parameters and resources",
        lambda: jobs_in(snakemake(folder, *arguments)),
        lambda: jobs_in(snakemake(plain, "-n", "--cores", "1")),
        lambda ours, theirs: abs(ours - theirs) <= 4,
        "Snakemake's own work on our rules",
        target=0.87,
        rounds=5,
        library=lambda: snakemake_share(folder, *arguments),
    )


def nothing_to_do() -> Work:
    """A second call after the mini experiment has finished, compared with one of a finished plain workflow."""
    if not (ROOT / "results/mini/provenance.html").is_file():
        raise UserError("the mini experiment is not made here (`make mini`)")
    jobs = jobs_in(snakemake(copy_of_the_project(), "-n", "--profile", "mini"))
    plain = plain_workflow(Path(tempfile.mkdtemp()), jobs)
    snakemake(plain, "--cores", "2")

    def nothing(said: str) -> bool:
        return "Nothing to be done" in said

    return Work(
        f"the mini experiment again, {jobs} jobs made",
        "a plain workflow of as many, made",
        lambda: nothing(snakemake(ROOT, "--profile", "mini")),
        lambda: nothing(snakemake(plain, "--cores", "2")),
        lambda ours, theirs: ours and theirs,
        "Snakemake itself: 1",
        target=0.83,
        rounds=5,
    )
