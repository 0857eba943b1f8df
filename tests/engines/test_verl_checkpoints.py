"""Which state a segment goes on from, and what its log becomes: no verl needed, only its files."""

import json

import pytest

from justrl.config import load
from justrl.errors import UserError
from justrl.training.verl import checkpoints
from justrl.training.verl import step_log as metrics

RECIPE = load().recipe


def write_state(folder, step: int, ranks: int = 2, missing: str = "") -> None:
    """Lay out a state as verl does, without its contents."""
    actor = folder / f"global_step_{step}" / "actor"
    actor.mkdir(parents=True)
    names = [
        f"actor/{kind}_world_size_{ranks}_rank_{r}.pt"
        for kind in ("model", "optim", "extra_state")
        for r in range(ranks)
    ]
    for name in [*names, "actor/fsdp_config.json", "data.pt"]:
        if name != missing:
            (actor.parent / name).write_text("x")


def test_newest_whole_state_is_taken(tmp_path):
    for step in (10, 20):
        write_state(tmp_path, step)
    assert checkpoints.choose(tmp_path, 2, 0, 30, logged=set(range(1, 26))) == 20


@pytest.mark.parametrize("missing", ["data.pt", "actor/optim_world_size_2_rank_1.pt", "actor/fsdp_config.json"])
def test_a_state_that_a_crash_cut_short_is_passed_over(tmp_path, missing):
    write_state(tmp_path, 10)
    write_state(tmp_path, 20, missing=missing)
    assert checkpoints.choose(tmp_path, 2, 0, 30, logged=set(range(1, 26))) == 10


def test_a_state_without_a_model_file_or_an_empty_one_is_not_whole(tmp_path):
    write_state(tmp_path, 10, missing="actor/model_world_size_2_rank_0.pt")
    write_state(tmp_path, 20)
    (tmp_path / "global_step_20" / "data.pt").write_text("")
    assert checkpoints.states(tmp_path) == []


def test_a_state_whose_last_step_was_not_logged_is_passed_over(tmp_path):
    """verl saves before it logs: killed in between, the metrics of that step would be lost for ever."""
    for step in (10, 20):
        write_state(tmp_path, step)
    assert checkpoints.choose(tmp_path, 2, 0, 30, logged=set(range(1, 20))) == 10


def test_a_segment_that_the_run_has_left_behind_is_not_trained_again(tmp_path):
    """Trained again, its start would remove every state of the run."""
    write_state(tmp_path, 600)
    with pytest.raises(UserError, match="training state of step 600, and training the segment that ends at step 60"):
        checkpoints.choose(tmp_path, 2, 0, 60, logged=set(range(1, 601)))


def test_only_this_segments_steps_need_metrics(tmp_path):
    write_state(tmp_path, 60)
    assert checkpoints.choose(tmp_path, 2, 60, 120, logged=set()) == 60


def test_states_of_later_segments_are_not_taken(tmp_path):
    for step in (60, 120):
        write_state(tmp_path, step)
    assert checkpoints.choose(tmp_path, 2, 0, 60, logged=set(range(1, 121))) == 60


def test_nothing_there_means_the_base_model_for_the_first_segment_only(tmp_path):
    assert checkpoints.choose(tmp_path, 2, 0, 60, logged=set()) == 0
    with pytest.raises(UserError, match="no training state of step 60"):
        checkpoints.choose(tmp_path, 2, 60, 120, logged=set())


def test_another_number_of_ranks_is_refused(tmp_path):
    write_state(tmp_path, 10, ranks=8)
    with pytest.raises(UserError, match="state of 8 ranks, and this job has 32"):
        checkpoints.choose(tmp_path, 32, 0, 60, logged=set(range(60)))


def test_pointing_to_a_state_removes_the_others(tmp_path):
    for step in (10, 20):
        write_state(tmp_path, step)
    checkpoints.point_to(tmp_path, 10)
    assert [state.step for state in checkpoints.states(tmp_path)] == [10]
    assert (tmp_path / checkpoints.LATEST).read_text() == "10"
    checkpoints.point_to(tmp_path, 0)
    assert not checkpoints.states(tmp_path)
    assert not (tmp_path / checkpoints.LATEST).exists()


def test_before_a_save_only_the_newest_whole_state_is_kept(tmp_path):
    for step in (10, 20):
        write_state(tmp_path, step)
    write_state(tmp_path, 30, missing="data.pt")
    checkpoints.remove_all_but_newest(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["global_step_20"]


def log_line(step: int, reward: float = 0.5) -> str:
    data = {
        "critic/score/mean": reward,
        "justrl/accuracy": 0.75,
        "actor/entropy": 1.2,
        "response_length/mean": 7000.0,
        "response_length/clip_ratio": 0.1,
        "actor/grad_norm": 0.2,
        "actor/pg_clipfrac": 0.001,
        "timing_s/step": 300.0,
        "perf/total_num_tokens": 15_000_000,
        "actor/lr": 1e-6,
    }
    return json.dumps({"step": step, "data": data}) + "\n"


def test_the_later_attempt_counts_and_a_cut_line_does_not(tmp_path):
    (tmp_path / "attempt_0001.jsonl").write_text(log_line(1) + log_line(2) + log_line(3)[:40])
    (tmp_path / "attempt_0002.jsonl").write_text(log_line(2, reward=0.9) + log_line(3))
    rows = metrics.read_attempts(tmp_path, RECIPE)
    assert sorted(rows) == [1, 2, 3]
    assert [rows[step]["reward_mean"] for step in (1, 2, 3)] == [0.5, 0.9, 0.5]


def test_a_row_has_the_names_of_both_engines(tmp_path):
    (tmp_path / "attempt_0001.jsonl").write_text(log_line(4))
    row = metrics.read_attempts(tmp_path, RECIPE)[4]
    expected = {
        "step", "reward_mean", "accuracy", "entropy", "response_length_mean", "response_clip_ratio", "grad_norm",
        "clip_fraction", "lr", "tokens_per_second", "step_seconds",
    }  # fmt: skip
    assert expected <= set(row)
    assert row["tokens_per_second"] == pytest.approx(50_000)
    # verl logs the rate after the step; this is the one that the step used.
    assert row["lr"] == pytest.approx(0.3e-6)


def test_attempts_are_numbered_past_the_last(tmp_path):
    assert metrics.next_attempt(tmp_path).name == "attempt_0001.jsonl"
    (tmp_path / "attempt_0007.jsonl").touch()
    assert metrics.next_attempt(tmp_path).name == "attempt_0008.jsonl"
