"""The rungs side by side, and that each fits the card it is for."""

import pytest

from justrl import config as experiment
from justrl.commands.main import main
from justrl.errors import UserError
from justrl.operations import planning


def test_the_rungs_stand_side_by_side(capsys):
    assert main(["plan", "--rungs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    hours = {line[: line.index("  ")]: line.split("  ") for line in lines}
    assert list(hours)[1:] == [
        "snakemake --profile mini",
        "snakemake golden",
        "snakemake --profile one_gpu",
        "snakemake first_1000",
        "snakemake --profile slurm",
    ]

    def gpu_hours(rung):
        return float([cell for cell in hours[rung] if cell.strip()][2].strip().replace(",", ""))

    assert 5 < gpu_hours("snakemake golden") < 48 and "12,184 answers of each of 4 models" in lines[2]
    # 1,020 and 1,000 of 4,380 and 3,440 steps.
    share = gpu_hours("snakemake first_1000") / gpu_hours("snakemake --profile slurm")
    assert share == pytest.approx(2020 / 7820, abs=0.03)


def test_rungs_of_an_experiment_without_gpus_are_refused():
    with pytest.raises(UserError, match="gpus_per_node is 0"):
        main(["plan", "--rungs", "--config", "mini/experiment.yaml"])


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
    with pytest.raises(UserError, match="no run is on, so there is nothing to plan"):
        main(["plan", *off, *options])
