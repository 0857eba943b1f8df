"""Where the segments of a run end, from what it has trained and what the configuration says."""

import json

import pytest

from justrl.config import load
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.plan.planning import plan_run
from justrl.training.segment import NOT_KEPT, SegmentRequest, WorkDir
from justrl.workflow import run_state

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
    return Layout(experiment, str(results), run_state.segment_ends(experiment, results))


def test_nothing_trained_leaves_the_configuration(tmp_path):
    experiment = load()
    assert run_state.segment_ends(experiment, tmp_path) == {
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


def test_exports_that_nobody_evaluates_can_be_dropped(tmp_path):
    files = layout(tmp_path, 60, "keep_checkpoints=evaluated")
    assert [end for end in files.segment_ends("deepseek") if files.keeps_export("deepseek", end)] == [
        120,
        240,
        360,
        480,
        600,
    ]
    assert all(layout(tmp_path, 60).keeps_export("deepseek", end) for end in files.segment_ends("deepseek"))
    run_state.check_kept("deepseek@120", files)
    run_state.check_kept("deepseek@base", files)
    with pytest.raises(UserError, match=r"deepseek@60: `keep_checkpoints: evaluated` will not keep its model"):
        run_state.check_kept("deepseek@60", files)


def test_a_dropped_model_is_refused_whatever_is_asked_for_today_and_a_kept_one_is_not(tmp_path):
    files = layout(tmp_path, 60, "keep_checkpoints=evaluated")
    model = tmp_path / "runs/deepseek/segments/60/model"
    model.mkdir(parents=True)
    run_state.check_kept("deepseek@60", files)  # kept, before the setting was changed
    (model / NOT_KEPT).touch()
    for each in (files, layout(tmp_path, 60)):
        with pytest.raises(UserError, match=r"deepseek@60: its model was not kept .*set-aside deepseek"):
            run_state.check_kept("deepseek@60", each)


def test_a_dropped_export_is_a_note_that_survives_a_restart(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text("{}")
    (tmp_path / "train.parquet").touch()
    experiment = load()
    request = SegmentRequest(
        run="deepseek",
        engine="reference",
        recipe=experiment.recipe,
        seed=1,
        model_dir=tmp_path / "base",
        train_file=tmp_path / "train.parquet",
        start_step=0,
        to_step=2,
        work_dir=tmp_path / "work",
        model_out=tmp_path / "out/model",
        metrics_out=tmp_path / "out/metrics.jsonl",
        hardware=experiment.hardware,
        keep_export=False,
    )
    work = WorkDir(request.work_dir)
    work.archive(request, lambda folder: pytest.fail("a model was written"), [{"step": 1}, {"step": 2}])
    assert work.has_archive(request)
    work.publish(request)
    assert [path.name for path in request.model_out.iterdir()] == [NOT_KEPT]
    # An archive whose list is another than what is there is not published, and the segment trained again.
    archive = work.finished / "step_000002"
    segment = json.loads((archive / "segment.json").read_text())
    for sums in ({}, [], {**segment["sha256"], "more": "0"}, {"metrics.jsonl": segment["sha256"]["metrics.jsonl"]}):
        (archive / "segment.json").write_text(json.dumps(segment | {"sha256": sums}))
        assert not work.has_archive(request)
    (archive / "segment.json").write_text(json.dumps(segment))
    assert work.has_archive(request)
    assert len(request.metrics_out.read_text().splitlines()) == 2


def test_the_plan_shows_the_disk_with_and_without():
    experiments = {keep: load(overrides=[f"keep_checkpoints={keep}"]) for keep in ("all", "evaluated")}
    plans = {keep: plan_run(experiment, "deepseek", None) for keep, experiment in experiments.items()}
    most, less = (plans[keep]["disk at most"]["value"] for keep in ("all", "evaluated"))
    assert most > less
    assert plans["all"]["disk, other exports"]["value"] == pytest.approx(less)
    assert plans["evaluated"]["disk, other exports"]["value"] == pytest.approx(most)
    models = {keep: plan["exported models"]["value"] for keep, plan in plans.items()}
    assert models["all"] / models["evaluated"] == pytest.approx(73 / 15)
