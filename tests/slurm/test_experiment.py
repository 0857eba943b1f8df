"""The whole experiment through Slurm: every rule, with the requests of the paper's training job."""

import json
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from workflow_run import PAPER_GRANT, WorkflowRun, granted

from justrl import config
from justrl.operations import checks
from justrl.operations.checks import FAILED, OK

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]

# What must not run on the machine that submits: everything that computes.
THROUGH_SLURM = {"teach_model": 1, "preflight": 1, "train_segment": 2, "generate": 6, "grade": 6}
HARDWARE = {"gpu": "A800-80GB", "nodes": 1, "gpus_per_node": 8, "cpus_per_node": 64, "memory_per_node_gb": 512}


@pytest.fixture(scope="module")
def finished(experiment):
    """The project in which `snakemake all --profile slurm` has run to its end."""
    assert experiment.finish(1500) == 0, experiment.tail()
    return experiment


def jobs_of(run) -> list[dict]:
    return [job for job in run.cluster.jobs() if job["WorkDir"] == str(run.folder)]


def rule_of(job) -> str:
    """The rule of a Slurm job, from the path of its log."""
    return next(part for part in job["StdOut"].split("/") if part.startswith("rule_")).removeprefix("rule_")


def test_what_computes_went_through_slurm(finished):
    jobs = jobs_of(finished)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    assert Counter(map(rule_of, jobs)) == THROUGH_SLURM


def test_training_asked_for_what_the_paper_needs_and_got_it(finished):
    for job in jobs_of(finished):
        if rule_of(job) == "train_segment":
            assert job["TresPerJob"] == "gres:gpu:8"
            assert granted(job) == PAPER_GRANT
            assert job["TimeLimit"] == "00:30:00"
            assert job["Partition"] == "gpu"


def test_logs_are_found_by_rule_and_wildcards(finished):
    for job in jobs_of(finished):
        assert finished.folder.joinpath(job["StdOut"]).is_file()
    logs = finished.folder / "results" / "logs" / "slurm" / "rule_train_segment"
    assert {path.name for path in logs.iterdir()} == {"mini_6", "mini_12"}


def test_the_results_are_there(finished):
    results = finished.folder / "results" / "faults"
    for benchmark in ("sums_heldout", "sums_harder"):
        for name in ("mini", "mini@base", "mini@6"):
            result = json.loads((results / f"{benchmark}_{name}.json").read_text())
            assert result["experiment"] == "faults"
    assert (results / "figures" / "mini" / "training.svg").is_file()


def test_a_second_call_does_nothing(finished):
    command = [*finished.command("all"), "--dry-run"]
    done = subprocess.run(
        command, cwd=finished.folder, env=finished.environment(), capture_output=True, text=True, check=True
    )
    assert "Nothing to be done" in done.stdout + done.stderr


def test_the_preflight_asks_the_queue(cluster):
    granted = checks.check_slurm(HARDWARE, 1410, {"slurm_partition": "gpu"})
    assert granted.status == OK, granted
    too_many = checks.check_slurm({**HARDWARE, "gpus_per_node": 16}, 1410, {"slurm_partition": "gpu"})
    assert too_many.status == FAILED and "refuses 1 node(s) with 16 GPUs" in too_many.found
    too_long = checks.check_slurm(HARDWARE, 3000, {"slurm_partition": "gpu"})
    assert too_long.status == FAILED and "partition gpu allows 1-00:00:00" in too_long.found
    nowhere = checks.check_slurm(HARDWARE, 60, {"slurm_partition": "hopper"})
    assert nowhere.status == FAILED and "one of gpu, urgent" in nowhere.remedy


def test_the_papers_own_training_job_would_be_granted(cluster, tmp_path):
    """`snakemake --profile slurm` on the paper's configuration, as sbatch sees it."""
    run = WorkflowRun(tmp_path / "paper", cluster)
    shutil.rmtree(run.folder / "results", ignore_errors=True)
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--dry-run"]
    done = subprocess.run(command, cwd=run.folder, env=run.environment(), capture_output=True, text=True, check=True)
    text = done.stdout + done.stderr
    training = next(block for block in text.split("\n\n") if "rule train_segment:" in block)
    for request in ("gpu=8", "cpus_per_task=64", "mem_mb=512000", "slurm_partition=gpu", "slurm_extra=--signal=URG@"):
        assert request in training
    assert config.load()["hardware"]["gpus_per_node"] == 8
