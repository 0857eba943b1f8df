"""The dry run of the paper's whole configuration, beside what Snakemake itself needs for as many jobs.

    python bench/dry_run.py [--runs 5]

Three commands in turns, `--runs` times each, the shortest of each in seconds of wall clock and of processor time:
importing Snakemake; a dry run of a workflow of four one-line rules with as many jobs as the paper's and nothing else
(no resources, logs or environments); `snakemake -n --profile slurm`. The ratio of the last two says what the paper's
workflow costs beyond Snakemake.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SNAKEMAKE = [sys.executable, "-m", "snakemake"]
PLAIN = """
rule all:
    input: expand("d/{{i}}", i=range({chains}))
rule a:
    output: "a/{{i}}"
    shell: "touch {{output}}"
rule b:
    input: "a/{{i}}"
    output: "b/{{i}}"
    shell: "touch {{output}}"
rule c:
    input: "b/{{i}}"
    output: "c/{{i}}"
    shell: "touch {{output}}"
rule d:
    input: "a/{{i}}", "c/{{i}}"
    output: "d/{{i}}"
    shell: "touch {{output}}"
"""


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of wall clock and of processor time of a command that must succeed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def jobs_of_the_paper() -> int:
    """Jobs of the paper's configuration where nothing is made yet."""
    command = [*SNAKEMAKE, "-n", "--profile", "slurm", "--quiet", "rules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return next(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("total"))


def main() -> None:
    """Measure in turns, so that a busy minute of the machine meets all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    jobs = jobs_of_the_paper()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Snakefile").write_text(PLAIN.format(chains=jobs // 4))
        commands = {
            "import snakemake": ([sys.executable, "-c", "import snakemake.cli"], folder),
            f"plain workflow, {jobs // 4 * 4 + 1} jobs": ([*SNAKEMAKE, "-n", "--cores", "1"], folder),
            f"the paper, {jobs} jobs": ([*SNAKEMAKE, "-n", "--profile", "slurm"], ROOT),
        }
        times = {name: [] for name in commands}
        for _ in range(runs):
            for name, (command, where) in commands.items():
                times[name].append(measure(command, where))
    shortest = {name: [min(column) for column in zip(*rows, strict=True)] for name, rows in times.items()}
    print(f"shortest of {runs}, load {os.getloadavg()[0]:.1f}")
    print(f"{'':<28}{'wall':>8}{'processor':>12}")
    for name, (wall, processor) in shortest.items():
        print(f"{name:<28}{wall:>6.1f} s{processor:>10.1f} s")
    _, plain, paper = (processor for _, processor in shortest.values())
    print(f"the paper / plain{paper / plain:>23.1f}")


if __name__ == "__main__":
    main()
