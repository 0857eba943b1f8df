"""The mini experiment on real verl, Ray, FSDP2 and vLLM, on a CPU."""

import json

import pytest

pytestmark = pytest.mark.verl
pytest.importorskip("verl", reason="verl is not installed: make verl-env, then make test-verl")


@pytest.fixture(scope="module")
def verl_mini(tmp_path_factory):
    """A copy in which the mini experiment has been run on verl."""
    from conftest import Workspace

    copy = Workspace(tmp_path_factory.mktemp("verl"))
    copy.run("--profile", "mini", "--configfile", "mini/verl.yaml", timeout=2700)
    return copy


def metrics_of(workspace, run):
    lines = (workspace.folder / f"results/mini-verl/runs/{run}/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def accuracy(workspace, name):
    result = json.loads((workspace.folder / f"results/mini-verl/sums_heldout_{name}.json").read_text())
    assert result["provenance"] and result["experiment"] == "mini-verl"
    return result["graders"]["strict"]["avg_at_k"]


def test_it_learns_on_verl_as_on_the_reference_engine(verl_mini):
    base, last = accuracy(verl_mini, "mini_verl@base"), accuracy(verl_mini, "mini_verl")
    assert last["value"] - base["value"] >= 0.25 and last["ci_low"] > base["ci_high"]
    ours, theirs = metrics_of(verl_mini, "mini"), metrics_of(verl_mini, "mini_verl")
    # The same recipe from the same base: the same height at the end, within what two seeds of it differ by.
    end = [sum(row["accuracy"] for row in rows[-8:]) / 8 for rows in (ours, theirs)]
    assert abs(end[0] - end[1]) < 0.15


def test_segments_join_without_a_gap(verl_mini):
    rows = metrics_of(verl_mini, "mini_verl")
    assert [row["step"] for row in rows] == list(range(1, 17))
    # Two warm-up steps at the start, and never again: the schedule goes on across the segments.
    assert all(row["lr"] == pytest.approx(1e-4) for row in rows[2:])


def test_rollout_and_trainer_agree_on_the_policy(verl_mini):
    rows = metrics_of(verl_mini, "mini_verl")
    difference = [row["rollout_probs_diff_mean"] for row in rows if "rollout_probs_diff_mean" in row]
    assert difference and max(difference) < 1e-4


def test_both_engines_are_drawn_together(verl_mini):
    assert (verl_mini.folder / "results/mini-verl/figures/overlays/engines.png").stat().st_size > 10_000
