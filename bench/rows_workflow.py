"""Rows about the workflow: Snakemake on ours beside Snakemake on a plain workflow of as many jobs.

The plain one has jobs furnished as those of a queue are, with a log and with inputs, parameters and resources that are
functions, and nothing of ours: what it costs is Snakemake's. Bare jobs have an input, an output and a shell line.
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
# As many functions as a job of the paper has on average: eight.
FURNISHED = """
    params: one=lambda wildcards: wildcards.i, two=lambda wildcards: "two", three="three", four="four"
    resources:
        runtime=lambda wildcards: 10 + int(wildcards.i) % 2, mem_mb=lambda wildcards: 1000,
        cpus_per_task=lambda wildcards: 2, gpu=lambda wildcards: 0
    log: "logs/RULE/{i}.log"
"""
RULES = {"a": "", "b": "a", "c": "b", "d": "ac"}
"""Each rule and those whose output it reads."""
# Eight seeds of both runs.
MANY = "runs:\n  deepseek: {seeds: [1, 2, 3, 4, 5, 6, 7, 8]}\n  nemotron: {seeds: [1, 2, 3, 4, 5, 6, 7, 8]}\n"


def plain_workflow(folder: Path, jobs: int, furnished: bool = True) -> Path:
    """Write a Snakefile of so many jobs, to within four: chains of four rules, and `all`."""
    text = f'rule all:\n    input: expand("d/{{i}}", i=range({jobs // 4}))\n'
    for name, inputs in RULES.items():
        text += f"rule {name}:\n"
        asked = [f'lambda wildcards: f"{one}/{{wildcards.i}}"' if furnished else f'"{one}/{{i}}"' for one in inputs]
        text += f"    input: {', '.join(asked)}\n" if asked else ""
        text += f'    output: "{name}/{{i}}"\n' + (FURNISHED.replace("RULE", name) if furnished else "")
        text += '    shell: "touch {output}"\n'
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Snakefile").write_text(text)
    return folder


def snakemake(folder: Path, *arguments: str) -> str:
    """Run Snakemake in a folder and return what it said.

    Raises UserError: it failed.
    """
    done = subprocess.run([*SNAKEMAKE, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"snakemake {' '.join(arguments)}: {(done.stdout + done.stderr)[-800:]}")
    return done.stdout + done.stderr


def jobs_in(said: str) -> int:
    """The number of jobs that Snakemake has counted."""
    return int(re.findall(r"^total\s+(\d+)", said, re.M)[0])


def copy_of_the_project() -> Path:
    """The project's files without results, in a folder of their own."""
    folder = Path(tempfile.mkdtemp()) / "main"
    skip = shutil.ignore_patterns(".venv*", ".git", ".snakemake", "results", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, folder, ignore=skip)
    return folder


def snakemake_share(folder: Path, *arguments: str) -> float:
    """The share of a call's time that is Snakemake's own: not in the Snakefile nor in a function of the project."""

    def of_the_project(file: str, name: str) -> bool:
        # A module's first import comes from the Snakefile, or from what that imports, and counts there.
        return file == f"{folder}/Snakefile" or (file.startswith(f"{folder}/") and name != "<module>")

    profile = folder / "profile"
    command = [sys.executable, "-m", "cProfile", "-o", profile, "-m", "snakemake", *arguments]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return 1 - share_within(profile, of_the_project)


def dry_run(overlay: str = "", bare: bool = False) -> Work:
    """The paper's dry run, where nothing is made yet."""
    folder, plain = copy_of_the_project(), Path(tempfile.mkdtemp())
    arguments = ["-n", "--profile", "slurm"]
    if overlay:
        (folder / "overlay.yaml").write_text(overlay)
        arguments += ["--configfile", "overlay.yaml"]
    jobs = jobs_in(snakemake(folder, *arguments))
    plain_workflow(plain, jobs, furnished=not bare)
    return Work(
        f"dry run of {'the paper' if not overlay else 'the paper with eight seeds a run'}, {jobs:,} jobs",
        f"a plain workflow of as many {'bare' if bare else 'furnished'} jobs",
        lambda: jobs_in(snakemake(folder, *arguments)),
        lambda: jobs_in(snakemake(plain, "-n", "--cores", "1")),
        lambda ours, theirs: abs(ours - theirs) <= 4,
        "Snakemake's own work on our rules",
        target=0.87,
        rounds=3 if overlay else 5,
        library=lambda: snakemake_share(folder, *arguments),
    )


def dry_run_of_many() -> Work:
    """The same of several thousand jobs: each grows in step with the other."""
    return dry_run(MANY)


def dry_run_beside_bare() -> Work:
    """Beside jobs without resources, parameters and logs."""
    return dry_run(bare=True)


def nothing_to_do() -> Work:
    """A second call after the mini experiment is made, beside one of a plain workflow that is made."""
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


def overhead() -> Work:
    """What a job costs beside its own work: jobs that do nothing, told of in our way and in Snakemake's."""
    folder = Path(tempfile.mkdtemp())
    plain, ours = plain_workflow(folder / "plain", 200), plain_workflow(folder / "ours", 200)
    told = (ours / "Snakefile").read_text()
    (ours / "Snakefile").write_text(
        "import snakemake_logger_plugin_justrl\nsnakemake_logger_plugin_justrl.install(workflow)\n" + told
    )
    count = iter(range(1000))

    def run(place: Path) -> int:
        made = place.parent / f"{place.name}_{next(count)}"
        made.mkdir()
        shutil.copy(place / "Snakefile", made)
        snakemake(made, "--cores", "1", "--quiet", *(["rules"] if place is ours else []))
        return len(list(made.glob("d/*")))

    return Work(
        "200 jobs that do nothing, told of as ours are",
        "the same, told of by Snakemake",
        lambda: run(ours),
        lambda: run(plain),
        lambda one, other: one == other == 50,
        "Snakemake itself: 1",
        target=0.83,
        rounds=3,
    )
