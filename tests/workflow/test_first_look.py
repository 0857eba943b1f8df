"""What somebody sees who looks before starting: dry runs of one screen, rules that describe themselves, near names."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

SCREEN = 50  # lines


@pytest.mark.parametrize(
    "words",
    [("--profile", "slurm"), ("--profile", "one_gpu"), ("--profile", "mini"), ("golden", "--profile", "slurm")],
    ids=" ".join,
)
def test_a_dry_run_of_a_profile_is_one_screen_with_the_cost_last(workspace, words):
    status, output = workspace.dry_run(*words)
    lines = output.splitlines()
    assert status == 0 and len(lines) <= SCREEN and max(map(len, lines)) <= 100
    assert output.count("Job stats:") == 1
    assert any(line.startswith("To be evaluated:") for line in lines[-2:])
    if "mini" not in words:
        assert "GPU hours in all" in lines[-1]


def test_every_rule_describes_itself_on_a_line(workspace):
    listed = workspace.run("--list").stdout.splitlines()
    described = dict(line.removesuffix(")").split(" (", 1) for line in listed)
    assert len(set(described.values())) == len(listed) > 50
    assert max(map(len, listed)) <= 100


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("results/aime_deepsek.json", "results/aime_deepseek.json"),
        ("golen", "golden"),
        ("results/figures/deepseek/trainig.svg", "results/figures/deepseek/training.svg"),
        ("first_100", "first_1000"),
    ],
)
def test_a_target_that_nothing_makes_is_answered_by_the_nearest(workspace, target, near):
    status, output = workspace.dry_run(target)
    assert status != 0 and output.splitlines()[-1] == f"error: no rule creates {target}: did you mean {near}?"


@pytest.mark.skipif(find_spec("verl") is not None, reason="verl is installed here")
def test_the_papers_run_starts_nothing_where_its_engine_is_missing(own_workspace):
    done = own_workspace.run("results/aime_deepseek.json", "--cores", "2", check=False)
    assert done.returncode != 0 and "engine verl is not installed in this environment" in done.stderr
    assert not (own_workspace.folder / "results/logs").exists()


def test_fewer_gpus_than_a_training_job_uses_are_refused(workspace):
    words = ("results/runs/deepseek/segments/60/model", "--cores", "1", "--quiet", "rules", "host", "--resources")
    status, output = workspace.dry_run(*words, "gpu=4")
    assert status != 0 and "--resources gpu=4: a training job uses hardware.gpus_per_node (8) GPUs" in output
    assert workspace.dry_run(*words, "gpu=4", "--config", "hardware={gpus_per_node: 4}")[0] == 0


def test_a_target_like_no_other_names_where_all_are_listed(workspace):
    status, output = workspace.dry_run("no/such/thing.txt")
    assert status != 0
    said = "error: no rule creates no/such/thing.txt: docs/results.md lists the files"
    assert output.splitlines()[-1].startswith(said)


def test_a_target_after_the_configuration_files_is_answered_by_the_order(workspace):
    status, output = workspace.dry_run("--configfile", "mini/experiment.yaml", "results/mini/summary.html")
    assert status != 0
    assert "results/mini/summary.html: no such configuration file; name targets before --configfile" in output


@pytest.mark.parametrize(
    "words",
    [
        ("results/aime_deepseek@70.json",),  # by an input function
        ("--config", "steps=3"),  # where the configuration is read
        ("results/aime_deepseek_overlong.json",),  # once all jobs are known
    ],
    ids=" ".join,
)
def test_an_error_of_ours_is_its_sentence_alone(workspace, words):
    status, output = workspace.dry_run(*words, "--quiet", "host", "rules")
    said = output[output.index("error: ") :]
    assert status != 0 and len(said.splitlines()) == 1
    assert ".smk" not in output and "WorkflowError" not in output


@pytest.mark.parametrize("words", ["--list", "--dry-run --quiet host"])
def test_what_is_cut_short_by_head_leaves_no_traceback(workspace, words):
    command = f"{sys.executable} -m snakemake {words} 2>&1 | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=workspace.folder, capture_output=True, text=True, timeout=600)
    assert len(done.stdout.splitlines()) == 1 and "Traceback" not in done.stdout + done.stderr
