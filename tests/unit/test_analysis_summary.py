"""The sentence of each run: before, after, interval and steps; the mean of nine where there are nine."""

import pytest
from analysis_examples import NINE, metrics_rows, result

from justrl.cli.main import main
from justrl.io import write_json
from justrl.report.health import summarize_run
from justrl.report.results import load_results
from justrl.report.summary import find


def results_of(tmp_path, *rows):
    """Results as they are read from files."""
    for row in rows:
        write_json(tmp_path / f"{row['benchmark']}_{row['name']}.json", row)
    return load_results(sorted(tmp_path.glob("*_*.json")))


def mini(benchmark, step, mean):
    return result(benchmark, "mini", step, {"strict": mean}, "mini", questions=50, samples=8)


def test_a_run_has_before_after_interval_and_steps(tmp_path):
    results = results_of(tmp_path, mini("sums", 0, 0.3), mini("sums", 30, 0.6), mini("sums", 60, 0.99))
    health = {"mini": summarize_run(metrics_rows(60, scale="mini"), "mini")}
    (found,) = find(results, health, "mini")
    first, last = (results[n].average() for n in (2, 1))
    ends = f"[{100 * last['ci_low']:.1f}, {100 * last['ci_high']:.1f}]"
    assert results[1].step == 60 and found.sentence == (
        f"mini – Sums: {100 * first['value']:.1f}% to {100 * last['value']:.1f}% {ends} in 60 steps"
    )
    assert found.health == health["mini"]["health"]


def test_of_nine_benchmarks_the_mean_is_said_with_the_papers(tmp_path):
    rows = [result(name, "deepseek", step, {"strict": 0.5}) for name in NINE for step in (0, 4380)]
    for row in rows:
        row["published"] = {"family": "deepseek", "kind": "base" if row["step"] == 0 else "justrl"}
    (found,) = find(results_of(tmp_path, *rows), {}, "paper")
    assert found.sentence.startswith("deepseek – Average of nine: ") and found.sentence.endswith(" in 4,380 steps")
    assert ";" not in found.sentence and len(found.cells) == 10


def test_of_many_benchmarks_three_are_named(tmp_path):
    results = results_of(tmp_path, *(mini(f"sums{n}", step, 0.5) for n in range(5) for step in (0, 60)))
    (found,) = find(results, {}, "mini")
    assert found.sentence.count("% to ") == 3 and "; 2 more benchmarks in 60 steps" in found.sentence


def test_a_run_that_is_not_evaluated_has_its_reward(tmp_path):
    health = {"mini": summarize_run(metrics_rows(60, scale="mini"), "mini")}
    (found,) = find([], health, "mini")
    assert found.sentence.startswith("mini – mean reward +0.0") and found.sentence.endswith(" in 60 steps")


def test_a_model_from_elsewhere_has_its_accuracy(tmp_path):
    (found,) = find(results_of(tmp_path, mini("sums", None, 0.8)), {}, "mini")
    assert (
        found.sentence.startswith("mini – Sums: 75.0% [")
        and " to " not in found.sentence
        and "step" not in found.sentence
    )


@pytest.mark.parametrize("experiment", ["paper", "mini"])
def test_the_files_have_sentences_health_and_stamp(tmp_path, experiment):
    results_of(tmp_path, mini("sums", 0, 0.3), mini("sums", 60, 0.99))
    write_json(tmp_path / "mini/health.json", summarize_run(metrics_rows(60, scale="mini"), "mini"))
    words = ["--results", *map(str, tmp_path.glob("*_*.json")), "--health", str(tmp_path / "mini/health.json")]
    words += ["--experiment", experiment, "--output", str(tmp_path / "summary.txt"), str(tmp_path / "summary.html")]
    assert main(["report", "summary", *words]) == 0
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    assert [line[:6] for line in lines[-2:]] == ["mini –", "  heal"]
    assert len(lines) == 2 + (experiment == "mini")
    page = (tmp_path / "summary.html").read_text()
    assert ("not a paper result" in page) == (experiment == "mini") and "Health of the training" in page
