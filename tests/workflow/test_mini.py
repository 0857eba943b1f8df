"""The mini experiment, end to end, as `make mini` runs it."""

import json
import re
import subprocess
import sys

import pandas as pd
from huggingface_hub import ModelCard

from documentation import ROOT, blocks
from justrl.io import file_sha256
from justrl.report.provenance import code_sha256


def result(mini, name):
    return json.loads((mini.folder / f"results/mini/{name}.json").read_text())


def accuracy(mini, name):
    return result(mini, name)["graders"]["strict"]["avg_at_k"]


def test_it_really_learns(mini):
    base, last = accuracy(mini, "sums_heldout_mini@base"), accuracy(mini, "sums_heldout_mini")
    assert 0.2 <= base["value"] <= 0.5
    assert last["value"] - base["value"] >= 0.25
    assert last["ci_low"] > base["ci_high"]


def test_every_checkpoint_is_evaluated_on_both_benchmarks(mini):
    for benchmark in ("sums_heldout", "sums_harder"):
        for name in ("mini@base", "mini@30", "mini"):
            assert result(mini, f"{benchmark}_{name}")["n_questions"] == 100


def test_no_question_is_trained_on_and_tested(mini):
    train = pd.read_parquet(mini.folder / "results/mini/data/sums/tiny/train.parquet")
    trained = {info["question"] for info in train["extra_info"]}
    for benchmark in ("sums_heldout", "sums_harder"):
        tested = pd.read_parquet(mini.folder / f"results/mini/benchmarks/{benchmark}/questions.parquet")
        assert trained.isdisjoint(tested["question"])


def test_the_metrics_cover_each_step_once(mini):
    rows = [
        json.loads(line) for line in (mini.folder / "results/mini/runs/mini/metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == list(range(1, 61))
    needed = {
        "reward_mean",
        "accuracy",
        "entropy",
        "response_length_mean",
        "response_clip_ratio",
        "grad_norm",
        "clip_fraction",
        "lr",
        "tokens_per_second",
        "step_seconds",
    }
    assert all(needed <= row.keys() for row in rows)
    # Rewards are +1 and -1, so their mean is twice the accuracy less one.
    assert all(abs(row["reward_mean"] - (2 * row["accuracy"] - 1)) < 1e-6 for row in rows)


def test_every_field_is_explained(mini):
    explained = set(re.findall(r"`([\w.]+)`", (ROOT / "docs/results.md").read_text()))
    found = result(mini, "sums_heldout_mini")
    health = json.loads((mini.folder / "results/mini/runs/mini/health.json").read_text())
    card = json.loads((mini.folder / "results/mini/data/sums/tiny/prepared/data_card.json").read_text())
    run = json.loads((mini.folder / "results/mini/runs/mini/run.json").read_text())
    whole = json.loads((mini.folder / "results/mini/provenance.json").read_text())
    step = json.loads((mini.folder / "results/mini/runs/mini/metrics.jsonl").read_text().splitlines()[-1])
    for record in (found, found["provenance"], found["length"], found["protocol"], health, card, run, whole, step):
        assert record.keys() <= explained
    assert found["graders"]["strict"].keys() - {"avg_at_k"} <= explained


def test_the_tutorials_python_reads_the_results(mini):
    first, *_ = blocks((ROOT / "docs/tutorial.md").read_text(), "python")
    done = subprocess.run([sys.executable, "-c", first], cwd=mini.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, value in result(mini, "sums_heldout_mini")["graders"].items():
        assert f"{name:12} {value['avg_at_k']['value']:.1%}" in done.stdout


def test_the_second_run_has_nothing_to_do(mini):
    output = mini.run("--profile", "mini")
    assert "Nothing to be done" in output.stdout + output.stderr


def test_a_mini_result_cannot_be_taken_for_a_paper_result(mini):
    assert not list((mini.folder / "results").glob("*.json"))
    for file in (mini.folder / "results/mini").glob("*_mini*.json"):
        assert json.loads(file.read_text())["experiment"] == "mini"
    for file in ("figures/mini/training.svg", "figures/mini/checkpoints.svg", "comparison/mini.md", "provenance.html"):
        assert "not a paper result" in (mini.folder / "results/mini" / file).read_text()


def test_results_say_how_they_were_made(mini):
    provenance = json.loads((mini.folder / "results/mini/provenance.json").read_text())
    assert provenance["packages"]["torch"]
    assert len(provenance["config_sha256"]) == 64


def test_the_checksums_are_of_every_input_result_and_page(mini):
    folder = mini.folder / "results/mini"
    files = json.loads((folder / "checksums.json").read_text())["files"]
    inputs = {
        "models/tiny/model.safetensors",
        "data/sums/raw/train.parquet",
        "data/sums/tiny/train.parquet",
        "benchmarks/sums_harder/questions.parquet",
    }
    results = {"sums_heldout_mini@30.json", "comparison/mini.csv", "claims.json", "figures/mini/training.png"}
    runs = {"runs/mini/model_card.md", "runs/mini/metrics.jsonl", "runs/mini/segments/60/model/model.safetensors"}
    assert inputs | results | runs <= files.keys()
    assert {path.relative_to(folder).as_posix() for path in (folder / "experiments").glob("*.json")} <= files.keys()
    for name, entry in files.items():
        size, sha256 = (folder / name).stat().st_size, file_sha256(folder / name)
        assert entry == {"bytes": size, "sha256": sha256, "code": code_sha256()}


def test_the_provenance_has_the_cost(mini):
    cost = json.loads((mini.folder / "results/mini/provenance.json").read_text())["cost"]
    trained = cost["trainings"]["mini"]
    assert trained["steps"] == 60 and trained["hours"] > 0 and trained["gpu_hours"] == 0
    assert trained["attempts"] == 2 and trained["interruptions"] == 0
    assert cost["evaluations"]["hours"] > 0


def test_the_model_card_says_how_the_run_was_made_and_scored(mini):
    card = ModelCard.load(mini.folder / "results/mini/runs/mini/model_card.md")
    found = {(one.dataset_type, one.metric_args["grader"]): one.metric_value for one in card.data.eval_results}
    assert found["sums_heldout", "strict"] == round(100 * accuracy(mini, "sums_heldout_mini")["value"], 2)
    assert len(found) == 6 and "mini experiment – not a paper result" in card.text


def test_the_report_holds_figures_tables_and_provenance(mini):
    report = mini.folder / "results/mini/report.html"
    mini.run("--profile", "mini", "--report", str(report))
    text = report.read_text()
    for part in ("Data", "Training", "Accuracy", "Tables", "Provenance", "training.svg", "mini.html"):
        assert part in text


def test_the_first_steps_are_judged_without_training_anything_again(mini):
    output = mini.run("--profile", "mini", "first_1000")
    assert "train_segment" not in output.stdout + output.stderr
    folder = mini.folder / "results/mini/first_1000"
    assert (folder / "mini/metrics.jsonl").read_text() == (
        mini.folder / "results/mini/runs/mini/metrics.jsonl"
    ).read_text()
    assert "not a paper result" in (folder / "mini/training.svg").read_text() and (folder / "claims.md").is_file()
