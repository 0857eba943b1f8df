"""The whole experiment through Slurm: every rule, with the requests of the paper's training job."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from workflow_run import PAPER_GRANT, WorkflowRun, granted

from justrl import config
from justrl.hardware.checks import FAILED, OK
from justrl.preflight.queue_checks import Request, check_queue

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(2700)]

# What must not run on the machine that submits: everything that computes.
THROUGH_SLURM = {"teach_model": 1, "preflight": 1, "train_segment": 2, "generate_together": 3, "grade": 6}


@pytest.fixture(scope="module")
def finished(experiment):
    """The project in which `snakemake all --profile slurm` has run to its end."""
    assert experiment.finish(2400) == 0, experiment.tail()
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


def test_jobs_without_a_gpu_went_to_their_own_partition(finished):
    for job in jobs_of(finished):
        assert (job["Partition"] == "cpu") == ("TresPerJob" not in job), rule_of(job)


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
    def asked(gpus, minutes, **resources):
        resources = {"slurm_partition": "gpu"} | resources
        kinds = [Request("training", 1, gpus, 64, 512, minutes), Request("without GPU", 1, 0, 4, 16, 60)]
        return check_queue(kinds, resources)

    training, small, *others = asked(8, 1410, cpu_partition="cpu")
    assert training.status == OK and small.status == OK, (training, small)
    assert [check.status for check in others] == [OK, OK, OK]
    assert "partition cpu: PreemptMode=REQUEUE" in others[1].found and "3600 s (MinJobAge)" in others[2].found
    too_many = asked(16, 1410)[0]
    assert too_many.status == FAILED and "refuses 1 node(s) with 16 GPUs" in too_many.found
    too_long = asked(8, 3000)[0]
    assert too_long.status == FAILED and "partition gpu allows 1-00:00:00" in too_long.found
    nowhere = asked(8, 60, slurm_partition="hopper")[0]
    assert nowhere.status == FAILED and re.search("one of cpu, gpu, .*urgent", nowhere.remedy)
    assert "no partition fast" in asked(8, 60, cpu_partition="fast")[1].found


def test_the_papers_own_training_job_would_be_granted(cluster, tmp_path):
    """`snakemake --profile slurm` on the paper's configuration, as sbatch sees it."""
    run = WorkflowRun(tmp_path / "paper", cluster)
    shutil.rmtree(run.folder / "results", ignore_errors=True)
    command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--dry-run", "--quiet", "host"]
    done = subprocess.run(command, cwd=run.folder, env=run.environment(), capture_output=True, text=True, check=True)
    text = done.stdout + done.stderr
    training = next(block for block in text.split("\n\n") if "rule train_segment:" in block)
    for request in ("gpu=8", "cpus_per_task=64", "mem_mb=512000", "slurm_partition=gpu", "slurm_extra=--signal=URG@"):
        assert request in training
    assert config.load().hardware.gpus_per_node == 8
