"""`make bench`: a time stands in the table only where both sides made the same result."""

import cProfile
import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("bench_entry", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


@pytest.fixture
def work(bench):
    from work import Work

    def ours():
        return sum(range(10_000))

    return Work("sums", "slow sums", ours, lambda: sum(list(range(10_000))), int.__eq__, "one pass", target=1.5)


def rows_of(bench, work, monkeypatch, **changed):
    """The table's only row and what was kept, of one work."""
    monkeypatch.setattr(bench, "WORKS", {"sums": lambda: replace(work, **changed)})
    made = bench.measured("sums", 3)
    return bench.table([made]).splitlines()[-1], made


def test_what_was_measured_is_a_row_with_its_spread_target_and_floor(bench, work, monkeypatch):
    row, made = rows_of(bench, work, monkeypatch)
    assert 0 < made["least"] <= made["ratio"] <= made["greatest"]
    assert row.startswith(f"| sums | slow sums | **{made['ratio']:.2f}** [") and row.endswith("| 1.50 | one pass |")
    assert {"date", "versions", "machine", "threads"} <= set(made)


def test_other_results_have_no_times(bench, work, monkeypatch):
    row, _ = rows_of(bench, work, monkeypatch, theirs=lambda: 0)
    assert "not measured: sums: ours and slow sums made different results" in row


def test_memory_is_a_share_of_the_peers(bench, work, monkeypatch):
    from work import Timed

    sides = {"ours": lambda: Timed(1, 2.0, memory=50), "theirs": lambda: Timed(1, 6.0, memory=200)}
    row, made = rows_of(bench, work, monkeypatch, **sides)
    assert made["ratio"] == 3.0 and "25% of the memory" in row


def test_what_a_library_needs_of_our_time_bounds_the_ratio(bench, work, monkeypatch):
    row, made = rows_of(bench, work, monkeypatch, library=lambda: 0.8)
    assert row.endswith(f"| one pass, 80% of our time: at most {made['ratio'] / 0.8:.2f} |")


def test_a_share_is_that_of_the_calls_from_outside(bench, tmp_path):
    from work import share_within

    def inner(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    def outer():
        inner(0.1)
        inner(0.1)

    profile = cProfile.Profile()
    profile.runcall(outer)
    profile.dump_stats(tmp_path / "profile")
    only_inner = share_within(tmp_path / "profile", lambda file, name: name == "inner")
    nothing = share_within(tmp_path / "profile", lambda file, name: name == "absent")
    assert 0.9 < only_inner <= 1 and nothing == 0


def test_a_peer_that_is_not_installed_is_said_in_its_row(bench, monkeypatch, tmp_path):
    import rows_here

    monkeypatch.setattr(rows_here, "ROOT", tmp_path)
    assert "not measured: verl is not installed (`make verl-env`)" in bench.table([bench.measured("reward", 1)])


def test_the_figure_is_drawn_of_what_was_measured(bench, work, monkeypatch, tmp_path):
    _, made = rows_of(bench, work, monkeypatch)
    bench.draw([made, {"name": "other", "peer": "", "why_not": "absent"}], tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
