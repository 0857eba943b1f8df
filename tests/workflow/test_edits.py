"""What an edit of the configuration does to an experiment that was started: nothing is lost, and nothing is mixed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from justrl.cli.main import main as justrl
from justrl.config import load
from justrl.config.files import ROOT

PLUGINS = Path(__file__).parent / "plugins"
MINI = ("--profile", "mini", "--configfile", "mine.yaml")
# A model that is made in seconds.
SMALL = "models: {tiny: {steps: 20, hidden_size: 32, intermediate_size: 32, layers: 1, batch_size: 4}}\n"


@pytest.fixture
def copy(own_workspace):
    return own_workspace


def write(copy, text, name="mine.yaml"):
    (copy.folder / name).write_text(text)


def frozen(copy):
    return sorted(path.name for path in (copy.folder / "results/mini/experiments").glob("*.json"))


def test_the_first_start_freezes_the_configuration_and_a_harmless_change_is_told(copy):
    write(copy, "hardware: {save_every: 10}\n")
    status, _ = copy.dry_run("results/mini/hardware.json", *MINI)
    assert status == 0 and not (copy.folder / "results").exists()
    copy.run("results/mini/hardware.json", *MINI)
    assert frozen(copy) == ["0001.json"]
    write(copy, "hardware: {save_every: 5}\n")
    done = copy.run("results/mini/hardware.json", *MINI)
    assert "changed since the last start (results/mini/experiments/0001.json): hardware.save_every: 10 -> 5" in (
        done.stdout + done.stderr
    )
    assert frozen(copy) == ["0001.json", "0002.json"]
    again = copy.run("results/mini/hardware.json", *MINI)
    assert "other than" not in again.stdout + again.stderr and frozen(copy) == ["0001.json", "0002.json"]


def test_a_job_that_waited_does_what_was_planned(copy, monkeypatch):
    """While it waits the overlay is edited, and config.yaml is no YAML for a moment."""
    write(copy, SMALL)
    edit = "sed -i 's/hidden_size: 32/hidden_size: 64/' mine.yaml; echo 'broken: [' >> config.yaml"
    monkeypatch.setenv("WHILE_WAITING", edit)
    places = os.pathsep.join([str(copy.folder / "workflow"), str(PLUGINS)])
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "results/mini/models/tiny", *MINI, "--executor", "waiting", "--jobs", "1"],
        cwd=copy.folder,
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((copy.folder / "results/mini/models/tiny/config.json").read_text())["hidden_size"] == 32
    assert "hidden_size: 64" in (copy.folder / "mine.yaml").read_text()


@pytest.fixture
def trained(copy):
    """The mini run with its first segment finished, as far as Snakemake looks."""
    run = copy.folder / "results/mini/runs/mini"
    (run / "segments/30/model").mkdir(parents=True)
    (run / "segments/30/metrics.jsonl").write_text('{"step": 30, "step_seconds": 1.0}\n')
    experiment = load([ROOT / "mini/experiment.yaml"])
    (run / "run.json").write_text(json.dumps(experiment.described("mini").as_dict()))
    return copy


def test_another_recipe_on_a_trained_run_stops_and_says_what_differs(trained):
    write(trained, "recipe: {temperature: 0.9}\n")
    status, output = trained.dry_run(*MINI)
    assert status != 0
    assert "run mini has trained 30 steps" in output and "recipe.temperature: 1.0 -> 0.9" in output
    assert "`justrl set-aside mini --results results/mini`" in output


def test_how_a_step_is_computed_may_change_in_mid_training(trained):
    """As may the code, to a version with a key of the recipe that the run was begun without."""
    file = trained.folder / "results/mini/runs/mini/run.json"
    described = json.loads(file.read_text())
    del described["recipe"]["loss"]
    file.write_text(json.dumps(described))
    write(trained, "recipe: {micro_batch_per_gpu: 32, gradient_checkpointing: true}\n")
    status, output = trained.dry_run("results/mini/runs/mini/run.json", *MINI)
    assert status == 0, output


def test_a_run_that_was_set_aside_is_trained_anew_and_nothing_is_deleted(trained):
    results = trained.folder / "results/mini"
    files = ["sums_heldout_mini.json", "sums_heldout_mini@30.json", "greedy/sums_heldout_mini@30.json"]
    stay = ["sums_heldout_mini@base.json", "sums_heldout_other_mini.json"]
    for file in files + stay:
        (results / file).parent.mkdir(exist_ok=True)
        (results / file).write_text(json.dumps({"name": Path(file).stem.removeprefix("sums_heldout_")}))
    for target in ("mini@30", "mini@base"):
        (results / "evaluations" / target).mkdir(parents=True)
    justrl(["set-aside", "mini", "--results", str(results)])
    aside = results / "set_aside/mini.1"
    assert all((aside / file).is_file() for file in [*files, "runs/mini/run.json"])
    assert (aside / "evaluations/mini@30").is_dir() and (results / "evaluations/mini@base").is_dir()
    assert all((results / file).is_file() for file in stay) and not (results / "runs/mini").exists()
    write(trained, "recipe: {temperature: 0.9}\n")
    assert trained.jobs(*MINI)["train_segment"] == 2


def test_finished_segments_are_not_planned_again_because_something_before_them_is_gone(trained):
    """Snakemake would delete them and train them again: here the base model and the training data are missing."""
    write(trained, "seed: 42\n")
    status, output = trained.dry_run(*MINI)
    assert status != 0 and "segments/30/model exists and would be trained again" in output
    archive = trained.folder / "results/mini/runs/mini/work/finished/step_000030"
    archive.mkdir(parents=True)
    (archive / "segment.json").touch()
    assert trained.dry_run(*MINI)[0] == 0, "what is archived is published again, not trained"


def test_what_is_missing_behind_a_renewed_input_is_made(trained):
    """Snakemake by itself plans the preflight alone then, and would end with status 0 and no result."""
    results = trained.folder / "results/mini"
    for folder in ("models/tiny", "data/sums/tiny"):
        (results / folder).mkdir(parents=True)
    (results / "data/sums/tiny/train.parquet").touch()
    (results / "runs/mini/preflight.json").touch()
    (results / "hardware.json").touch()
    os.utime(results / "hardware.json", (2e9, 2e9))
    write(trained, "seed: 42\n")
    jobs = trained.jobs("results/mini/sums_heldout_mini@30.json", *MINI)
    assert jobs["preflight"] == jobs["score"] == jobs["grade"] == 1


def test_what_is_gone_behind_a_finished_result_is_said(copy):
    """Snakemake has nothing to do then; the completions were deleted, or never copied."""
    result = copy.folder / "results/mini/sums_heldout_mini@base.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    write(copy, "seed: 42\n")
    status, output = copy.dry_run("results/mini/sums_heldout_mini@base.json", *MINI)
    assert status == 0 and "Nothing to be done" in output
    folder = "results/mini/evaluations/mini@base/sums_heldout/paper"
    assert (
        f"Inputs of finished results are missing (3 files or folders), and no rule creates them again: {folder}"
        in output
    )
    assert "`justrl verify results/mini`" in output


def test_completions_are_replaced_only_where_that_is_accepted(mini):
    """Of the whole mini experiment, as it was run."""
    write(mini, "protocols: {paper: {temperature: 0.6}}\n")
    status, output = mini.dry_run(*MINI)
    assert status != 0
    assert "protocols.paper.temperature: 0.7 -> 0.6" in output
    assert "would be generated again and replaced" in output and "--config accept_changes=true" in output
    assert mini.jobs(*MINI, "--config", "accept_changes=true")["generate_together"] == 3


def test_what_is_to_be_trained_and_evaluated_is_the_last_that_a_dry_run_says(workspace):
    status, output = workspace.dry_run("results/aime_deepseek.json")
    assert status == 0
    heading, run, answers, total = output.splitlines()[-4:]
    assert heading == "To be trained:" and run.startswith("  deepseek: 73 jobs, about ") and " GPU hours" in run
    assert answers.startswith("To be evaluated: 1 model in 1 job, 960 answers, about ") and "GPU hours in all" in total
    status, output = workspace.dry_run("results/aime_deepseek@base.json")
    assert status == 0 and "To be trained" not in output
    assert output.splitlines()[-2].startswith("To be evaluated: 1 model in 1 job, 960 answers")


def test_an_evaluation_in_shards_is_announced_once(workspace):
    write(workspace, "evaluation: {shards: 7}\n")
    status, output = workspace.dry_run("results/aime_deepseek@base.json", "--configfile", "mine.yaml")
    answers = re.search(r"To be evaluated: 1 model in 7 jobs, (\d+) answers", output)
    assert status == 0 and answers and 960 <= int(answers[1]) <= 966


def test_an_overlay_is_added_to_the_profiles_own(copy):
    write(copy, "runs: {mini: {steps: 90}}\n")
    jobs = copy.jobs(*MINI)
    assert jobs["train_segment"] == 3 and jobs["teach_model"] == 1


def test_another_working_folder_is_told_where_to_start(copy, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    copy.run("--version")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "-s", str(copy.folder / "Snakefile")],
        cwd=elsewhere,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and f"start it in {copy.folder}" in done.stdout + done.stderr


def test_a_missing_interpreter_is_told_before_the_first_job(copy, monkeypatch, tmp_path_factory):
    tools = tmp_path_factory.mktemp("tools")
    for tool in ("bash", "env", "printf", "which"):
        (tools / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(tools))
    write(copy, "seed: 42\n")
    done = copy.run("results/mini/benchmarks/sums_heldout/raw", *MINI, check=False)
    assert done.returncode != 0 and "jobs run `python`, which is not on PATH" in done.stdout + done.stderr
    assert "Error in rule" not in done.stdout + done.stderr
