"""Where the segments of a run end, from what it has trained and what the configuration says."""

import pytest

from justrl.config import load
from justrl.errors import UserError
from justrl.layout import Layout
from justrl.operations import trained

LENGTHS = ["runs.deepseek.steps=600", "runs.deepseek.evaluate_every=120"]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs/deepseek"
    for step in (60, 120):
        (folder / f"segments/{step}").mkdir(parents=True)
        (folder / f"segments/{step}/metrics.jsonl").touch()
    return folder


def layout(results, segment_steps, *more):
    experiment = load(overrides=[*LENGTHS, f"runs.deepseek.segment_steps={segment_steps}", *more])
    return Layout(experiment, str(results), trained.segment_ends(experiment, results))


def test_nothing_trained_leaves_the_configuration(tmp_path):
    experiment = load()
    assert trained.segment_ends(experiment, tmp_path) == {
        name: run.segment_ends for name, run in experiment.runs.items()
    }


def test_finished_segments_stay_and_later_ones_follow_the_configuration(run, tmp_path):
    files = layout(tmp_path, 40)
    assert files.segment_ends("deepseek")[:5] == [60, 120, 160, 200, 240]
    assert files.start_step("deepseek", 160) == 120 and files.start_step("deepseek", 120) == 60
    assert files.previous_segment("deepseek", 160) == [f"{tmp_path}/runs/deepseek/segments/120/metrics.jsonl"]


@pytest.mark.parametrize("state", ["step_000165", "global_step_165"])
def test_a_segment_under_way_ends_behind_its_newest_state(run, tmp_path, state):
    (run / "work/checkpoints" / state).mkdir(parents=True)
    (run / "work/checkpoints/foreign_step_000900_1a2b").mkdir()
    assert layout(tmp_path, 40).segment_ends("deepseek")[:4] == [60, 120, 200, 240]


def test_an_archived_segment_whose_published_files_are_gone_is_an_end(run, tmp_path):
    archive = run / "work/finished/step_000180"
    archive.mkdir(parents=True)
    (archive / "segment.json").touch()
    assert layout(tmp_path, 40).segment_ends("deepseek")[:4] == [60, 120, 180, 200]


def test_a_checkpoint_that_no_segment_ended_at_is_not_evaluated(run, tmp_path):
    assert layout(tmp_path, 40, "runs.deepseek.evaluate_every=80").evaluated_steps("deepseek")[:2] == [160, 240]


def test_a_shorter_run_keeps_what_is_there_and_asks_for_no_more(run, tmp_path):
    files = layout(tmp_path, 60, "runs.deepseek.steps=60", "runs.deepseek.evaluate_every=60")
    assert len(files.all_segments("deepseek")) == 1 and files.target_model("deepseek@120").endswith("/120/model")


@pytest.mark.parametrize(("step", "nearest"), [(70, "60 and deepseek@120"), (700, "600"), (10, "60"), (0, "60")])
def test_a_step_that_no_segment_ends_at_is_refused_with_the_nearest(tmp_path, step, nearest):
    with pytest.raises(UserError, match=f"deepseek@{step}: no segment .* nearest to ask for: deepseek@{nearest}$"):
        layout(tmp_path, 60).target_model(f"deepseek@{step}")
