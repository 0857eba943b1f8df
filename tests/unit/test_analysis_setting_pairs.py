"""Two settings over seeds and questions: the table, the verdict, the figure, and what cannot be compared."""

import json

import pytest
from analysis_examples import metrics_rows, result
from test_analysis_comparison import as_result

from justrl.cli.main import main
from justrl.config import load, settings
from justrl.errors import UserError
from justrl.io import write_json, write_jsonl
from justrl.report.setting_pairs import Setting, compare_settings

A, B = Setting("a", ("a_s1", "a_s2", "a_s3")), Setting("b", ("b_s1", "b_s2", "b_s3"))


def trained(run, mean, seed, benchmark="amc23"):
    return as_result(result(benchmark, run, 100, {"strict": mean}, experiment="mini-ab", seed=seed))


def both(difference):
    return [
        trained(run, 0.4 + shift, seed)
        for side, shift in ((A, 0.0), (B, difference))
        for seed, run in enumerate(side.runs, 1)
    ]


@pytest.mark.parametrize(("difference", "verdict"), [(0.2, "higher"), (-0.2, "lower"), (0.0, "within noise")])
def test_the_verdict_is_about_the_second_less_the_first(difference, verdict):
    (amc,) = compare_settings(both(difference), A, B, paired=True)
    assert amc.verdict == verdict and amc.difference.value == pytest.approx(difference, abs=0.03)
    assert amc.first.seeds == 3 and amc.difference.seed_error is not None


def test_a_benchmark_that_one_training_lacks_is_left_out_and_other_questions_are_refused():
    with_more = [*both(0.1), trained("a_s1", 0.5, 1, "aime")]
    assert [each.benchmark for each in compare_settings(with_more, A, B, paired=False)] == ["amc23"]
    with pytest.raises(UserError, match="have no benchmark"):
        compare_settings(both(0.1)[:-1], A, B, paired=False)
    changed = both(0.1)
    changed[-1].data["per_question"][0]["id"] = "another"
    with pytest.raises(UserError, match="have results on different questions"):
        compare_settings(changed, A, B, paired=False)


def test_the_command_writes_table_and_figure(tmp_path, capsys):
    files, metrics = [], []
    for each in both(0.2):
        files.append(tmp_path / f"amc23_{each.run}.json")
        write_json(files[-1], each.data)
        metrics.append(tmp_path / each.run / "metrics.jsonl")
        write_jsonl(metrics[-1], metrics_rows(30, seed=len(files)))
    outputs = [tmp_path / f"ab.{ending}" for ending in ("html", "md", "json", "svg", "png")]
    sides = [f"--{word}={side.name}={','.join(side.runs)}" for word, side in (("first", A), ("second", B))]
    words = ["--results", *files, "--metrics", *metrics, "--output", *outputs]
    assert main(["report", "pair", *sides, "--paired", *map(str, words)]) == 0
    assert "amc23: +" in (printed := capsys.readouterr().out) and "higher" in printed
    assert json.loads(outputs[2].read_text())["benchmarks"][0]["verdict"] == "higher"
    for page in (outputs[0], outputs[1], outputs[3]):
        assert "not a paper result" in page.read_text()
    headings = [line.lstrip("# ") for line in outputs[1].read_text().splitlines() if line.startswith("#")]
    assert headings == ["b against a", "Accuracy of b and a"]
    with pytest.raises(UserError, match="--metrics lacks those of b_s3"):
        main(
            [
                "report",
                "pair",
                *sides,
                *map(str, ["--results", *files, "--metrics", *metrics[:-1], "--output", outputs[3]]),
            ]
        )


def test_a_run_of_several_seeds_is_as_many_runs(tmp_path):
    experiment = load(["mini/ab.yaml"])
    assert settings(experiment.runs)["mini_a"] == ["mini_a_s1", "mini_a_s2", "mini_a_s3"]
    assert "mini_a" not in experiment.runs
    first, second = (experiment.described(f"mini_a_s{seed}") for seed in (1, 2))
    assert (first.seed, second.seed) == (1, 2) and first.recipe == second.recipe
    with pytest.raises(UserError, match="no run mini_c: did you mean mini_b"):
        load(["mini/ab.yaml"], ["compare.ab=[mini_a, mini_c]"])
    with pytest.raises(UserError, match="must name two runs, got 1"):
        load(["mini/ab.yaml"], ["compare.ab=[mini_a]"])
    run = experiment.runs["mini_a_s1"].model_dump(mode="json", exclude={"setting", "recipe"}) | {"recipe": {}}
    (tmp_path / "taken.yaml").write_text(json.dumps({"extends": "mini/ab.yaml", "runs": {"mini_a_s2": run}}))
    with pytest.raises(UserError, match="mini_a_s2 is already the name of another run"):
        load([tmp_path / "taken.yaml"])
