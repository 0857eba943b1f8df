"""`make bench`: a time stands in the table only where both sides made the same result."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from justrl.errors import UserError

SCRIPT = Path(__file__).resolve().parents[2] / "bench/__main__.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_entry", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def work(bench):
    return bench.Work(
        "sums", "slow sums", lambda: sum(range(10_000)), lambda: sum(list(range(10_000))), int.__eq__, "one pass"
    )


def test_what_was_measured_is_a_row_with_its_spread_and_floor(bench, work):
    made = bench.measure(work, rounds=3)
    assert 0 < made["least"] <= made["ratio"] <= made["greatest"]
    row = bench.row({"name": "sums", "peer": "slow sums", "floor": "one pass"} | made)
    assert row.startswith(f"| sums | slow sums | **{made['ratio']:.2f}** [") and row.endswith("| one pass |")


def test_other_results_have_no_times(bench, work):
    with pytest.raises(UserError, match="sums: ours and slow sums made different results"):
        bench.measure(replace(work, theirs=lambda: 0), rounds=1)


def test_a_peer_that_is_not_installed_is_said_in_its_row(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    assert (
        bench.row(bench.run("reward", 1)) == "| reward |  | not measured: verl is not installed (`make verl-env`) |  |"
    )
