"""Whole runs of the workflow, in copies of the repository so that nobody's results are touched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["Snakefile", "config.yaml", "rules", "workflow", "envs", "mini", "slurm", "data.lock.json"]


class Workspace:
    """A copy of the repository in which Snakemake runs."""

    def __init__(self, folder: Path):
        self.folder = folder
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            elif source.is_file():
                shutil.copy(source, folder / part)

    def run(self, *arguments: str, check: bool = True, timeout: float = 1800) -> subprocess.CompletedProcess:
        """Run snakemake with these arguments; with `check`, a failure shows the end of its output."""
        # The copy's own package must be found, not the one of the repository that is installed.
        environment = os.environ | {"PYTHONPATH": str(self.folder / "workflow")}
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

    def jobs(self, *arguments: str) -> dict[str, int]:
        """The number of jobs of each rule that a dry run would start."""
        output = self.run(*arguments, "--dry-run", "--quiet", "rules")
        counts, table = {}, False
        for line in (output.stdout + output.stderr).splitlines():
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
def mini(tmp_path_factory) -> Workspace:
    """A copy in which the mini experiment has been run, once for all tests."""
    copy = Workspace(tmp_path_factory.mktemp("mini"))
    copy.run("--profile", "mini")
    return copy
