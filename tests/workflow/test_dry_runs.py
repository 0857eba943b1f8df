"""The paper's DAG, job by job, and the mistakes that are caught before a job starts."""

import json
import shutil

import pytest


def test_the_paper_asks_for_every_job(workspace):
    jobs = workspace.jobs()
    assert {
        "download_dataset": 1,
        "prepare_training_data": 2,
        "check_contamination": 2,
        "download_benchmark": 9,
        "format_benchmark": 9,
        # two base models and the model verifier
        "download_model": 3,
        "resolve_verl_config": 2,
        "preflight": 2,
        "write_hardware": 1,
        # 4,380 steps in segments of 60 and 3,440 in segments of 40
        "train_segment": 73 + 86,
        "merge_metrics": 2,
        "plot_training": 2,
        "plot_checkpoints": 2,
        "compare_with_published": 2,
        "write_provenance": 1,
    }.items() <= jobs.items()
    # Base and last checkpoint on nine benchmarks; 14 and 17 checkpoints between on three.
    results = 2 * 2 * 9 + (14 + 17) * 3
    assert jobs["score"] == jobs["grade"] == jobs["grade_by_model"] == jobs["generate"] == results


def test_an_evaluation_is_spread_over_any_number_of_jobs(workspace):
    overlay = workspace.folder / "shards.yaml"
    overlay.write_text("evaluation: {shards: 5}\n")
    jobs = workspace.jobs("results/aime_deepseek@base.json", "--configfile", str(overlay))
    assert jobs["generate"] == 5 and jobs["grade"] == jobs["grade_by_model"] == 1


def test_one_result_needs_only_its_own_run(workspace):
    jobs = workspace.jobs("results/aime_deepseek.json")
    assert jobs["train_segment"] == 73 and jobs["score"] == 1 and jobs["grade"] == 1
    assert workspace.jobs("results/aime_deepseek@600.json")["train_segment"] == 10
    assert "train_segment" not in workspace.jobs("results/aime_deepseek@base.json")


def test_other_protocols_are_named_in_the_path(workspace):
    jobs = workspace.jobs("results/greedy/math500_nemotron@base.json")
    assert jobs["score_under"] == 1 and "train_segment" not in jobs


def test_an_external_model_is_evaluated_without_training(workspace):
    overlay = workspace.folder / "external.yaml"
    overlay.write_text("external: {justrl_deepseek: {model: hbx/JustRL-DeepSeek-1.5B, family: deepseek}}\n")
    jobs = workspace.jobs("results/aime_justrl_deepseek.json", "--configfile", str(overlay))
    assert "train_segment" not in jobs and jobs["download_model"] == 2 and jobs["generate"] == 1


def test_ablations_run_when_asked_for(workspace):
    assert workspace.jobs("results/aime_deepseek_overlong.json")["train_segment"] == 50


def test_of_single_samples_no_pass_at_k_is_drawn(workspace):
    overlay = workspace.folder / "greedy.yaml"
    overlay.write_text("evaluation: {protocol: greedy}\n")
    jobs = workspace.jobs("--configfile", str(overlay))
    assert "plot_pass_at_k" not in jobs and jobs["plot_checkpoints"] == 2


def test_the_slurm_profile_plans_the_same_jobs(workspace):
    assert workspace.jobs("--profile", "slurm") == workspace.jobs()


def test_the_canary_tries_every_rule(workspace):
    every, canary = workspace.jobs(), workspace.jobs("canary")
    # The canary's results lie under its own protocol, and provenance and overlays are of whole experiments.
    assert set(every) - set(canary) == {"all", "score", "write_provenance", "plot_overlay"}
    assert canary["train_segment"] == canary["score_under"] == 4


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("recipe: {learnin_rate: 1.0e-6}", "unknown key learnin_rate in recipe: did you mean learning_rate?"),
        ("runs: {deepseek: {steps: 4390}}", "runs.deepseek.steps must be a multiple of segment_steps (60), got 4390"),
    ],
)
def test_a_mistake_in_the_configuration_stops_before_any_job(workspace, overlay, message):
    path = workspace.folder / "mistake.yaml"
    path.write_text(overlay + "\n")
    result = workspace.run("--dry-run", "--configfile", str(path), check=False)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_an_overlay_can_extend_another(workspace):
    path = workspace.folder / "longer.yaml"
    path.write_text(
        "extends: mini/experiment.yaml\npathvars: {results: results/longer}\n"
        "runs: {mini: {steps: 160}}\nevaluation: {benchmarks: [sums_heldout]}\n"
    )
    jobs = workspace.jobs("--profile", "mini", "--configfile", str(path))
    assert jobs["train_segment"] == 4


def test_another_experiment_cannot_write_where_the_papers_results_are(workspace):
    result = workspace.run("--dry-run", "--config", "experiment=other", check=False)
    assert result.returncode != 0
    assert "experiment other would write to results/" in result.stdout + result.stderr


def test_a_changed_recipe_never_trains_over_a_run(workspace):
    run = workspace.folder / "results/runs/deepseek"
    (run / "segments/60").mkdir(parents=True)
    (run / "segments/60/metrics.jsonl").write_text("{}\n")
    (run / "run.json").write_text(json.dumps({"recipe": {}}))
    try:
        result = workspace.run("--dry-run", check=False)
    finally:
        shutil.rmtree(workspace.folder / "results/runs")
    assert result.returncode != 0
    assert "run deepseek has trained steps" in result.stdout + result.stderr


def test_a_report_of_nothing_says_what_to_run(workspace):
    result = workspace.run("--report", "report.html", check=False)
    assert result.returncode != 0
    assert "nothing of the experiment paper is in results yet" in result.stdout + result.stderr
