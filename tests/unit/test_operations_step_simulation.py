"""The simulated step: the paper's figure, what cannot be, the levers' directions, what a measurement corrects."""

import numpy as np
import pytest

from justrl import config
from justrl.commands.main import main
from justrl.errors import UserError
from justrl.gpu_specs import find_gpu
from justrl.io import write_jsonl
from justrl.model_shape import DEEPSEEK
from justrl.operations import planning
from justrl.operations.costs import EAGER_SECONDS
from justrl.operations.step_simulation import TABLE, Levers, deal, draw_lengths, make_decoder, simulate, simulate_levers

LONG = np.array([100, 900, 300])


@pytest.fixture(scope="module")
def loaded():
    return config.load(overrides=["runs.nemotron.enabled=false"])


@pytest.fixture(scope="module")
def on_h100(loaded):
    return simulate_levers(loaded, planning.on(loaded.hardware, "H100", 1))["deepseek"]["seconds"]


def decoded(lengths, at_once, graphs=False):
    decoder = make_decoder(DEEPSEEK, find_gpu("H100"), graphs, at_once)
    decoder.add(0, np.array(lengths))
    return decoder.run(0)


def test_the_papers_step(loaded):
    paper = planning.on(loaded.hardware, "A800", 4)
    first, again = (simulate(loaded.runs["deepseek"].recipe, paper, DEEPSEEK, Levers(), 15_360, 5_500) for _ in "ab")
    assert first.total == pytest.approx(296, rel=0.05) and first == again


@pytest.mark.parametrize("at_once", [1, 2, 8])
def test_no_queue_is_shorter_than_its_longest_response(at_once):
    assert decoded(LONG, at_once) >= 900 * EAGER_SECONDS * (1 - 1e-9)
    if at_once == 1:
        assert decoded(LONG, 1) == pytest.approx(1300 * EAGER_SECONDS)
    assert decoded(LONG, at_once, graphs=True) < decoded(LONG, at_once)


def test_longest_first_helps_where_not_all_fit():
    assert decoded([1000, 100, 100, 100, 100], 2) < decoded([100, 100, 100, 100, 1000], 2)


def test_what_is_stopped_goes_on_where_it_was():
    decoder = make_decoder(DEEPSEEK, find_gpu("H100"), False)
    decoder.add(0, LONG)
    decoder.add(1, np.array([2000]))
    first = decoder.run(0)
    assert not decoder.waits_for(0) and decoder.waits_for(1) and decoder.left.tolist() == [1100]
    second = decoder.run(1, limit=100 * EAGER_SECONDS)
    assert second == pytest.approx(100 * EAGER_SECONDS) and decoder.left.tolist() == [1000]
    assert first + second + decoder.run(1) == pytest.approx(2000 * EAGER_SECONDS)


def test_every_response_is_dealt_once_and_a_prompts_together_where_they_share_it():
    lengths = np.arange(32).reshape(8, 4)
    for levers in TABLE.values():
        shares = deal(lengths, 2, levers)
        assert sorted(np.concatenate(shares)) == list(range(32)) and {len(share) for share in shares} == {16}
    assert {length // 4 for length in deal(lengths, 2, Levers(prefix_cache=True))[0]} == {0, 2, 4, 6}


def test_lengths_have_the_mean_and_the_limit_they_are_said_to_have():
    lengths = draw_lengths(20_000, 8, 5_500, 10**9)
    assert lengths.mean() == pytest.approx(5_500, rel=0.02) and np.log(lengths).std() == pytest.approx(0.7, rel=0.02)
    within = np.log(lengths).std(axis=1, ddof=1)
    assert np.sqrt((within**2).mean()) == pytest.approx(0.7 * 0.5**0.5, rel=0.02)
    assert draw_lengths(256, 8, 5_500, 15_360).max() == 15_360


def test_levers_go_the_way_they_should(loaded, on_h100):
    seconds = on_h100
    assert seconds["graphs, a step ahead"] < seconds["CUDA graphs"] < seconds["none"]
    assert seconds["a step ahead"] < seconds["none"] and seconds["prefix cache"] <= seconds["none"]
    # A response has the time of two steps: no step is shorter than half of the longest one, and its update.
    run = loaded.runs["deepseek"]
    update = simulate(run.recipe, planning.on(loaded.hardware, "H100", 1), DEEPSEEK, Levers(), 15_360, 5_500).update
    assert seconds["a step ahead"] >= 15_360 * EAGER_SECONDS / 2 + update


def test_what_was_measured_corrects_every_row(loaded, on_h100, tmp_path):
    hardware = planning.on(loaded.hardware, "H100", 1)
    graphs = simulate(loaded.runs["deepseek"].recipe, hardware, DEEPSEEK, Levers(graphs=True), 15_400, 5_500)
    row = {
        "step_seconds": 2 * graphs.tail + 3 * graphs.update + 50,
        "rollout_seconds": 2 * graphs.tail,
        "update_seconds": 3 * graphs.update,
        "response_length_mean": 5_500,
        "response_length_max": 15_360,
    }
    write_jsonl(tmp_path / "metrics.jsonl", [row | {"step": step} for step in (1, 2, 3)])
    configured = loaded.model_copy(update={"hardware": hardware})
    found = simulate_levers(configured, hardware, str(tmp_path / "metrics.jsonl"))["deepseek"]
    for lever, seconds in found["seconds"].items():
        generation = on_h100[lever] - graphs.update - graphs.rest
        assert seconds == pytest.approx(2 * generation + 3 * graphs.update + 50, rel=0.01), lever
    assert "2 measured steps" in found["corrected_by"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "mini/experiment.yaml"], "hardware.gpu is none; name a kind with --gpu"),
        (["--config", "mini/experiment.yaml", "--gpu", "H100"], "simulates verl, and of mini none trains on it"),
        (["--measured", "absent.jsonl"], "absent.jsonl: no such file"),
    ],
)
def test_what_cannot_be_simulated_is_said(words, message):
    with pytest.raises(UserError, match=message):
        main(["plan", "--levers", *words])


def test_a_measurement_that_corrects_nothing_is_refused(loaded, tmp_path):
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "step_seconds": 300.0}])
    with pytest.raises(UserError, match="corrects no step: its lines lack the times of rollouts and update"):
        simulate_levers(loaded, planning.on(loaded.hardware, "H100", 1), str(tmp_path / "metrics.jsonl"))
