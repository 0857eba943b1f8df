"""The scales side by side, and that each fits the card it is for."""

import re

import pytest

from justrl import config as experiment
from justrl.cli.main import main
from justrl.errors import UserError
from justrl.plan import planning


def test_the_scales_are_compared_in_a_table(capsys):
    assert main(["plan", "--scales"]) == 0
    printed = capsys.readouterr().out
    table = printed.split("\n\n")[1].splitlines()
    rows = {line.split()[0]: re.split(r"\s{2,}", line) for line in table}
    assert list(rows)[1:] == ["mini", "laptop", "golden", "one_gpu", "first_1000", "paper"]
    assert all(len(cells) == len(rows["scale"]) for cells in rows.values())
    assert max(map(len, printed.splitlines())) <= 100

    def cell(scale, column):
        return rows[scale][rows["scale"].index(column)]

    def number(scale, column):
        return float(cell(scale, column).split()[0].replace(",", ""))

    assert {scale: cell(scale, "environment") for scale in list(rows)[1:]} == {
        **dict.fromkeys(["mini", "laptop"], ".venv"),
        **dict.fromkeys(["golden", "one_gpu", "first_1000", "paper"], ".venv-gpu"),
    }
    assert 5 < number("golden", "GPU hours") < 48
    # 1,020 and 1,000 of 4,380 and 3,440 steps.
    share = number("first_1000", "GPU hours") / number("paper", "GPU hours")
    assert share == pytest.approx(2020 / 7820, abs=0.03)
    # Two base models, two released ones, the judge of 3 billion parameters.
    assert 13.3 + 6.2 <= number("golden", "disk") + 0.5 < 22
    assert "make smollm2 tasks; snakemake --profile laptop" in printed
    for command in ("--profile mini", "golden --cores", "--profile one_gpu", "first_1000 --profile", "--profile slurm"):
        assert f"  snakemake {command}" in printed
    assert main(["plan", "--rungs"]) == 0
    assert capsys.readouterr().out == printed


def test_the_old_name_of_the_option_is_not_shown(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    shown = capsys.readouterr().out
    assert "--scales" in shown and "--rungs" not in shown


def test_scales_of_an_experiment_without_gpus_are_refused():
    with pytest.raises(UserError, match="gpus_per_node is 0"):
        main(["plan", "--scales", "--config", "mini/experiment.yaml"])


@pytest.mark.parametrize(("overlay", "days"), [("experiment", 3.1), ("48gb", 4.8), ("24gb", 0.8)])
def test_the_one_gpu_experiment_fits_its_card_and_some_days(overlay, days):
    loaded = experiment.load([f"one_gpu/{overlay}.yaml"])
    plan = planning.make_plan(loaded)
    (run,) = loaded.enabled
    assert plan["memory"][run]["check"]["status"] == "ok"
    assert plan["runs"][run]["training"]["value"] < days
    assert loaded.experiment != "paper" and loaded.run(run).recipe.learning_rate == 1e-6


@pytest.mark.parametrize("options", [[], ["--kinds"], ["--json"]])
def test_a_plan_of_nothing_is_refused(options):
    off = [word for run in ("deepseek", "nemotron") for word in ("--set", f"runs.{run}.enabled=false")]
    with pytest.raises(UserError, match="no run is enabled, so there is nothing to plan"):
        main(["plan", *off, *options])
