"""Whole runs of the workflow, in copies of the repository so that nobody's results are touched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dry_run import dry_run

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["Snakefile", "config.yaml", "rules", "workflow", "envs", "mini", "one_gpu", "slurm", "examples", "papers"]
PARTS += ["data.lock.json"]


class Workspace:
    """A copy of the repository in which Snakemake runs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.counted: dict[tuple[str, ...], dict[str, int]] = {}
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            elif source.is_file():
                shutil.copy(source, folder / part)

    def run(
        self, *arguments: str, check: bool = True, timeout: float = 1800, plugins: Path | None = None
    ) -> subprocess.CompletedProcess:
        """Run snakemake with these arguments; with `check`, a failure shows the end of its output.

        `plugins` is a folder of modules that jobs find, too.
        """
        # The copy's own package must be found, not the one of the repository that is installed.
        places = [str(self.folder / "workflow"), *([str(plugins)] if plugins else [])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
        result = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and result.returncode:
            output = (result.stdout + result.stderr)[-6000:]
            pytest.fail(f"snakemake {' '.join(arguments)} exited {result.returncode}:\n{output}")
        return result

    def dry_run(self, *arguments: str) -> tuple[int, str]:
        """Status and output of a dry run with these arguments."""
        output = self.folder / "dry_run.txt"
        status = dry_run(self.folder, (*arguments, "--dry-run"), output)
        return status, output.read_text()

    def jobs(self, *arguments: str) -> dict[str, int]:
        """The number of jobs of each rule that a dry run would start; the same question is asked once."""
        if arguments not in self.counted:
            status, output = self.dry_run(*arguments, "--quiet", "rules")
            assert status == 0, f"snakemake {' '.join(arguments)} exited {status}:\n{output[-6000:]}"
            self.counted[arguments] = _job_counts(output)
        return self.counted[arguments]


def _job_counts(output: str) -> dict[str, int]:
    """The table of jobs that Snakemake prints."""
    counts, table = {}, False
    for line in output.splitlines():
        words = line.split()
        if words == ["job", "count"]:
            counts, table = {}, True
        elif table and len(words) == 2 and words[1].isdigit():
            counts[words[0]] = int(words[1])
            table = words[0] != "total"
    return counts


@pytest.fixture(scope="session")
def workspace(tmp_path_factory) -> Workspace:
    """A copy for dry runs, shared."""
    return Workspace(tmp_path_factory.mktemp("dry"))


@pytest.fixture(scope="session")
def make_workspace():
    """A function that makes a copy in a folder."""
    return Workspace


@pytest.fixture
def own_workspace(tmp_path) -> Workspace:
    """A copy in `tmp_path` for one test."""
    return Workspace(tmp_path)


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Workspace:
    """A copy in which the mini experiment has been run, once for all tests."""
    copy = Workspace(tmp_path_factory.mktemp("mini"))
    copy.run("--profile", "mini")
    return copy
