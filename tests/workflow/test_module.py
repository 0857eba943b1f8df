"""The workflow as a Snakemake module: another repository imports it and gives it a configuration."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

IMPORTER = """\
configfile: "given.yaml"


module justrl:
    snakefile:
        "{root}/Snakefile"
    config:
        config


use rule * from justrl
"""


@pytest.fixture
def importer(tmp_path):
    """A folder elsewhere whose Snakefile imports this repository's, with the mini experiment's configuration."""
    (tmp_path / "Snakefile").write_text(IMPORTER.format(root=ROOT))
    (tmp_path / "given.yaml").write_text("extends: mini/experiment.yaml\npathvars: {results: out}\nseed: 7\n")
    return tmp_path


def snakemake(folder, *arguments):
    """Run snakemake in a folder; what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_another_repository_plans_and_runs_the_mini_experiment(importer):
    planned = dict(re.findall(r"^(\w+) +(\d+)$", snakemake(importer, "-n", "-q", "rules"), re.M))
    assert {name: planned[name] for name in ("train_segment", "score", "write_provenance")} == {
        "train_segment": "2",
        "score": "6",
        "write_provenance": "1",
    }
    snakemake(importer, "out/benchmarks/sums_heldout/questions.parquet", "out/hardware.json")
    assert (importer / "out/benchmarks/sums_heldout/questions.parquet").is_file()
    assert '"gpu": "none"' in (importer / "out/hardware.json").read_text()
