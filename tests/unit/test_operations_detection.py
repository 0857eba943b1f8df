"""Which differences are found: by hand, and by simulating trainings that differ by what is said to be found."""

import numpy as np
import pytest
from analysis_examples import result
from test_analysis_comparison import as_result

from justrl import config as experiment
from justrl.cli.main import main
from justrl.errors import UserError
from justrl.plan.detection import AVERAGE, detect


@pytest.fixture(scope="module")
def paper():
    return experiment.load()


def by_name(rows):
    return {row.benchmark: row for row in rows}


def test_the_bound_by_hand(paper):
    rows = by_name(detect(paper, 0.02))
    # Two averages of 30 x 32 answers of variance 1/4 each: 2.80 x sqrt(2 x 0.25 / 960).
    assert rows["aime"].smallest == pytest.approx(2.8016 * (0.5 / 960) ** 0.5, rel=1e-3)
    assert rows["aime"].needed == 328 and not rows["aime"].measured
    assert rows[AVERAGE].smallest < min(row.smallest for name, row in rows.items() if name != AVERAGE)
    # Four times the seeds are as good as four times the samples; an odd one out is the rounding.
    assert by_name(detect(paper, 0.02, seeds=4))["aime"].needed == 82


def test_what_is_said_to_be_found_is_found_four_times_out_of_five(paper):
    row = by_name(detect(paper, 0.02))["amc23"]
    rng = np.random.default_rng(0)
    first = np.full(40, 0.5)
    found = 0
    for _ in range(2000):
        a = rng.binomial(32, first).mean() / 32
        b = rng.binomial(32, first + row.smallest).mean() / 32
        found += abs(b - a) > 1.96 * (2 * 0.25 / (40 * 32)) ** 0.5
    assert found / 2000 == pytest.approx(0.8, abs=0.03)


def test_variances_come_from_results_and_the_luck_of_training_from_several(paper):
    alike = [as_result(result("aime", f"run{i}", 100, {"strict": 0.5}, seed=i)) for i in range(3)]
    alone = by_name(detect(paper, 0.02, alike[:1]))["aime"]
    assert alone.measured and alone.spread is None and alone.variance < 0.25
    several = by_name(detect(paper, 0.02, alike))["aime"]
    assert several.spread is not None and several.smallest >= alone.smallest * 0.99
    apart = [
        as_result(result("aime", f"run{i}", 100, {"strict": mean}, seed=i)) for i, mean in enumerate((0.3, 0.5, 0.7))
    ]
    # Trainings 20 points apart by luck hide 2 points, however many answers are sampled.
    hidden = by_name(detect(paper, 0.02, apart))["aime"]
    assert hidden.spread == pytest.approx(0.2, abs=0.03) and hidden.needed is None and hidden.smallest > 0.5


def test_the_command_prints_each_benchmark_and_refuses_nonsense(capsys):
    assert main(["plan", "--detect", "2.0"]) == 0
    printed = capsys.readouterr().out
    assert "average" in printed and "Seed variance is not included" in printed
    # A row is a line, and what all rows share is said once, below them.
    assert "with 1 seed each" in printed and printed.count("0.250 (bound)\n") == 10 and printed.count("--results") == 2
    for words in (["--detect", "0"], ["--detect", "2", "--seeds", "0"]):
        with pytest.raises(UserError, match="--detect must be above 0"):
            main(["plan", *words])
