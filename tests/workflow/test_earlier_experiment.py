"""An experiment that an earlier commit finished is continued, evaluated, verified and reported by today's code."""

import hashlib
import tarfile
from pathlib import Path

import pytest

from justrl.cli.main import main as justrl

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures/earlier_experiment.tar.xz"


@pytest.fixture
def earlier(own_workspace):
    """A copy of the repository with the earlier experiment in results/earlier."""
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(own_workspace.folder, filter="data")
    return own_workspace


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob(pattern) if path.is_file()}


def test_it_is_continued_by_a_segment_evaluated_verified_and_reported(earlier, monkeypatch):
    results = earlier.folder / "results/earlier"
    trained = hashes(results, "runs/mini/segments/*/**/*")
    answers = hashes(results, "evaluations/*/*/*/completions/*.parquet")
    assert len(trained) > 10 and len(answers) == 6
    experiment = earlier.folder / "earlier/experiment.yaml"
    experiment.write_text(experiment.read_text().replace("steps: 8,", "steps: 12,"))

    earlier.run("--profile", "earlier")

    assert (results / "runs/mini/segments/12/model/model.safetensors").is_file()
    steps = (results / "runs/mini/metrics.jsonl").read_text().splitlines()
    assert len(steps) == 12
    kept = hashes(results, "runs/mini/segments/*/**/*") | hashes(results, "evaluations/*/*/*/completions/*.parquet")
    assert (trained | answers).items() <= kept.items(), "finished segments and answers are not made again"
    assert (results / "sums_heldout_mini@8.json").is_file()

    assert "train_segment" not in earlier.jobs("--profile", "earlier")
    earlier.run("--profile", "earlier", "--report", "results/earlier/report.html")
    assert (results / "report.html").stat().st_size > 10_000
    monkeypatch.chdir(earlier.folder)
    assert justrl(["verify", "results/earlier"]) == 0
