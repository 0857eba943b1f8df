"""The model of time: its terms, the published figures, and that the constants are those that fit them."""

import json
from dataclasses import astuple, replace

import numpy as np
import pytest

from justrl.cli.main import main
from justrl.config.hardware import GPUS
from justrl.models.shape import DEEPSEEK, KNOWN
from justrl.plan import backtest
from justrl.plan.costs import CONSTANTS, LEAST, MOST, SIGMA, Lengths, Work, cut_lengths, lengths_of, step_time


@pytest.fixture(scope="module")
def figures():
    return backtest.read_figures()


def test_lengths_that_are_cut_have_the_mean_and_square_of_drawn_ones():
    drawn = np.random.default_rng(0).lognormal(np.log(7_500) - SIGMA**2 / 2, SIGMA, 400_000).clip(max=8_192)
    lengths = cut_lengths(7_500, 8_192)
    assert lengths.mean == pytest.approx(drawn.mean(), rel=0.01) and lengths.longest == 8_192
    assert lengths.square == pytest.approx((drawn**2).mean(), rel=0.01)
    again = lengths_of(lengths.mean, 8_192)
    assert again.mean == lengths.mean and again.square == pytest.approx(lengths.square, rel=0.001)
    assert lengths_of(8_192, 8_192) == Lengths(8_192, 8_192**2, 8_192)
    assert lengths_of(0, 8_192).mean == 1


def test_a_token_takes_no_less_than_its_launches_however_fast_the_gpu():
    """183 tokens a second by vLLM on one A100 (Qwen2.5's speed benchmark) are 5.45 ms; weights alone would take 2."""
    alone = Work(
        KNOWN["Qwen/Qwen2.5-1.5B"], GPUS["A100-80GB"], 1, 1, lengths_of(2048, 2048), training=0, at_once=1, rest=0
    )
    assert step_time(alone).total / 2048 == pytest.approx(5.45e-3, rel=0.15)
    faster = replace(alone, gpu=replace(alone.gpu, bandwidth=1e9, tflops=1e9))
    assert step_time(faster).total / 2048 == pytest.approx(28 * CONSTANTS.graphs, rel=0.01)


def test_without_graphs_nothing_is_faster():
    for gpu in GPUS.values():
        for answers in (64, 2048):
            work = Work(DEEPSEEK, gpu, answers, 150, lengths_of(5_000, 15_360), generating=8, training=8)
            eager = step_time(replace(work, sampler="eager")).total
            assert step_time(work).total <= eager <= step_time(replace(work, sampler="transformers")).total + 1e-6


def test_answers_that_do_not_fit_at_once_wait():
    work = Work(DEEPSEEK, GPUS["H100"], 512, 150, lengths_of(5_000, 8_192), at_once=512)
    assert step_time(replace(work, at_once=128)).launches > step_time(work).launches


def test_the_figures_are_as_many_and_as_different_as_they_should_be(figures):
    assert len(figures) >= 12 and len({figure.source for figure in figures}) >= 6
    assert len({figure.work.gpu.name for figure in figures}) >= 4
    assert sum(figure.whole for figure in figures) >= 4
    assert sum("1.5B" not in figure.name for figure in figures) >= 4
    assert all(figure.where and figure.measured and figure.seconds > 0 for figure in figures)


def test_the_constants_are_those_that_fit_the_figures(figures):
    assert astuple(backtest.fit(figures)) == pytest.approx(astuple(CONSTANTS), rel=0.03)
    low, high = backtest.spread(figures, backtest.ratios(figures))
    assert (low, high) == pytest.approx((LEAST, MOST), abs=0.01) and high / low <= 1.6


def test_a_source_is_predicted_without_its_own_figures(figures):
    """Figures of one source that are ten times too large change what it was predicted by only for the others."""
    source = "JustRL"
    wrong = [replace(f, seconds=10 * f.seconds) if f.source == source else f for f in figures]
    for before, after, figure in zip(backtest.ratios(figures), backtest.ratios(wrong), figures, strict=True):
        if figure.source == source:
            assert after == pytest.approx(before / 10)


def test_the_command_prints_the_table_that_stands_in_the_documentation(root, capsys):
    assert main(["plan", "--backtest"]) == 0
    assert capsys.readouterr().out in (root / "docs/measured.md").read_text()
    assert main(["plan", "--backtest", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert len(made["figures"]) == len(backtest.read_figures()) and made["range"] == pytest.approx(
        [LEAST, MOST], abs=0.01
    )
    assert all({"source", "where", "seconds", "ratio"} <= figure.keys() for figure in made["figures"])
