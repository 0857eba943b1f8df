"""The forecast of a run: it covers the true end as often as it says, and gives no number where it has no ground."""

import subprocess
import sys

import numpy as np
import pytest
from analysis_examples import result

from justrl.io import read_json_object, write_json, write_jsonl
from justrl.report import figure_style as style
from justrl.report.forecast import Series, compute_at, compute_of, forecast, forecast_series, plot_forecast

SEEDS = 40


def curve(steps, midpoint=300.0, exponent=1.5, base=-0.6, top=0.45):
    """The curve of arXiv 2510.13786 at steps from 1 on."""
    return base + (top - base) / (1 + (midpoint / np.asarray(steps, dtype=float)) ** exponent)


def noise(seed, count, sigma=0.05, correlation=0.0):
    """Normal noise of one standard deviation, each value correlated with the one before."""
    values = np.random.default_rng(seed).normal(0, sigma, count)
    for i in range(1, count):
        values[i] = correlation * values[i - 1] + np.sqrt(1 - correlation**2) * values[i]
    return values


def looking_ahead(values, horizon=4380):
    """The forecast of values at steps 1, 2, ... with steps as compute."""
    return forecast(range(1, len(values) + 1), list(values), horizon, np.arange(len(values) + 1.0))


@pytest.mark.parametrize(
    ("steps", "horizon", "midpoint", "exponent", "correlation"),
    [(1000, 4380, 300, 1.5, 0.0), (1000, 4380, 200, 1.0, 0.5), (2190, 4380, 500, 2.0, 0.3), (60, 120, 15, 1.5, 0.0)],
)
def test_the_interval_covers_the_true_end_about_as_often_as_it_says(steps, horizon, midpoint, exponent, correlation):
    truth, at = curve([horizon], midpoint, exponent)[0], np.arange(1, steps + 1)
    found = [
        looking_ahead(curve(at, midpoint, exponent) + noise(seed, steps, correlation=correlation), horizon)
        for seed in range(SEEDS)
    ]
    ends = [one["end"] for one in found if one["verdict"] == "forecast"]
    assert len(ends) >= 0.8 * SEEDS
    # Of 40 intervals of 95%, fewer than 35 hold the truth once in a hundred times; the seeds are fixed.
    assert sum(low <= truth <= high for _, low, high in ends) / len(ends) >= 0.85
    assert np.median([high - low for _, low, high in ends]) < 0.25


SHAPES = {
    "flat": lambda at: 0 * at,
    "straight": lambda at: at / 1500 - 0.6,
    "fell": lambda at: np.where(at < 600, 0.4 * at / 600, 0.4 - (at - 600) / 500),
    "misfit": lambda at: np.where(at < 400, -0.5, 0.2),
}


@pytest.mark.parametrize("verdict", SHAPES)
def test_no_number_is_given_where_there_is_no_ground_for_one(verdict):
    at = np.arange(1.0, 1001)
    for seed in range(20):
        found = looking_ahead(SHAPES[verdict](at) + noise(seed, 1000))
        assert found["verdict"] == verdict and "end" not in found, (seed, found["verdict"], found["reason"])


def test_what_still_speeds_up_or_only_falls_has_no_forecast():
    at = np.arange(1.0, 1001)
    assert looking_ahead((at / 1000) ** 2 + noise(0, 1000))["verdict"] == "straight"
    assert looking_ahead(-at / 2000 + noise(0, 1000))["verdict"] == "fell"
    assert looking_ahead([0.1, 0.2, 0.3])["verdict"] == "too_few"


def test_sentences_say_what_was_found_and_how_the_held_out_end_was():
    at = np.arange(1, 4381)
    reward = Series("Mean reward", at.tolist(), (curve(at) + noise(1, 4380)).tolist())
    found = forecast_series(reward, 1000, 4380, np.arange(1001.0))
    assert "at step 1,000 the fit is at +0.3" in found["sentence"] and "at step 4,380" in found["sentence"]
    assert "another 3,380 steps would bring +0.1" in found["sentence"]
    assert found["actual"] == pytest.approx(curve([4200])[0], abs=0.01) and "inside the interval" in found["sentence"]
    fallen = Series("AIME", at[:1000].tolist(), SHAPES["fell"](at[:1000]).tolist(), percent=True)
    sentence = forecast_series(fallen, 1000, 4380, np.arange(1001.0))["sentence"]
    assert "it fell from " in sentence and "to −" in sentence and "at step 1,000" in sentence


def test_equal_input_gives_equal_numbers_and_no_expectation_beyond_what_is_possible():
    values = curve(np.arange(1, 501), 100, 1.0, 0.0, 1.2) + noise(3, 500)
    one, other = looking_ahead(values), looking_ahead(values)
    assert one == other and one["end"][2] <= 1.0


def test_compute_is_tokens_where_every_row_has_them():
    rows = [{"step": step, "prompt_tokens": 10, "response_tokens": 10 * step} for step in range(1, 21)]
    spent, unit = compute_of(rows)
    assert unit == "tokens" and spent[:3].tolist() == [0, 20, 50]
    # The last tenth are steps 19 and 20: 200 and 210 tokens.
    assert compute_at([1.5, 22], spent).tolist() == [35, spent[-1] + 2 * 205]
    del rows[3]["prompt_tokens"]
    assert compute_of(rows)[1] == "steps"


@pytest.mark.parametrize("experiment", ["paper", "mini"])
def test_the_figure_shows_the_band_beyond_the_fit_and_its_stamp(experiment):
    at = np.arange(1, 1001)
    reward = Series("Mean reward", at.tolist(), (curve(at) + noise(1, 1000)).tolist())
    found = forecast_series(reward, 1000, 4380, np.arange(1001.0))
    with style.house_style():
        figure = plot_forecast("deepseek", [(reward, found)], 1000, 4380, experiment)
    assert ("not a paper result" in " ".join(text.get_text() for text in figure.texts)) == (experiment != "paper")
    fitted, expected = figure.axes[0].get_lines()[-2:]
    assert fitted.get_xdata()[-1] == expected.get_xdata()[0] == 1000 and expected.get_xdata()[-1] == 4380
    assert expected.get_ydata()[-1] == pytest.approx(found["end"][0])


def test_the_command_forecasts_segments_and_checkpoints(tmp_path):
    folder = tmp_path / "runs/deepseek"
    values = curve(np.arange(1, 401), 80) + noise(0, 400)
    for first in (0, 200):
        rows = [{"step": step + 1, "reward_mean": values[step]} for step in range(first, first + 200)]
        write_jsonl(folder / f"segments/{first + 200}/metrics.jsonl", rows)
    write_json(folder / "run.json", {"experiment": "mini"})
    write_json(tmp_path / "aime.json", result("aime", "deepseek", 200, {"paper_rules": 0.3}, questions=4, samples=2))
    words = ["report", "forecast", "--metrics", *folder.glob("segments/*/metrics.jsonl")]
    words += ["--results", tmp_path / "aime.json", "--output", tmp_path / "f.svg", tmp_path / "f.json", "--steps"]

    def run(steps):
        command = [sys.executable, "-m", "justrl", *map(str, words), steps]
        return subprocess.run(command, capture_output=True, text=True)

    done = run("1200")
    assert done.returncode == 0, done.stderr
    found = read_json_object(tmp_path / "f.json")
    assert (found["run"], found["experiment"], found["until"]) == ("deepseek", "mini", 400)
    assert found["forecasts"]["Mean reward"]["verdict"] == "forecast"
    assert "AIME 2024: no forecast: 1 points are too few" in done.stdout and (tmp_path / "f.svg").is_file()
    # Half is held out where the run reached the step that is asked for.
    assert run("400").returncode == 0 and read_json_object(tmp_path / "f.json")["until"] == 200
    assert "must lie beyond the last step to fit, which is 0" in run("1").stderr
