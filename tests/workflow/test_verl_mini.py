"""The mini experiment on real verl, Ray, FSDP2 and vLLM, on a CPU."""

import json
import os
from pathlib import Path

import pytest

from recorded_steps import read_steps

pytestmark = pytest.mark.verl
pytest.importorskip("verl", reason="verl is not installed: make verl-env, then make test-verl")

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def verl_mini(tmp_path_factory, make_workspace):
    """A copy in which the mini experiment has been run on verl."""
    copy = make_workspace(tmp_path_factory.mktemp("verl"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "VERL_USE_EXTERNAL_MODULES", "mini_batch_spy")
        copy.run("--profile", "mini", "--configfile", "mini/verl.yaml", timeout=2700, plugins=TESTS)
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


def test_each_mini_batch_is_whole_prompts_in_order_with_its_share_of_the_tokens(verl_mini):
    """On one rank, as on the reference engine; as they finish, the first of four would hold a tenth of the tokens."""
    steps = read_steps(verl_mini.folder / "results/mini-verl/runs/mini_verl/work/verl")
    assert sorted(steps) == list(range(1, 17))
    tokens = [0, 0, 0, 0]
    for step in steps.values():
        for mini_batch in range(4):
            rows = step[mini_batch, 0]
            prompts = range(4 * mini_batch, 4 * mini_batch + 4)
            assert [row.place for row in rows] == [(prompt, sample) for prompt in prompts for sample in range(8)]
            tokens[mini_batch] += sum(len(row.response_ids) for row in rows)
    assert all(abs(share / sum(tokens) - 0.25) < 0.02 for share in tokens), tokens
    lengths = [len(row.response_ids) for step in steps.values() for rows in step.values() for row in rows]
    assert max(lengths) > 3 * min(lengths), "answers of even lengths show nothing"


def test_the_merged_model_has_its_bases_tokenizer_byte_for_byte(verl_mini):
    models = verl_mini.folder / "results/mini-verl"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        merged = models / "runs/mini_verl/segments/16/model" / name
        assert merged.read_bytes() == (models / "models/tiny" / name).read_bytes()
    assert "LlamaTokenizerFast" in (models / "models/tiny/tokenizer_config.json").read_text()
