"""A training that is killed, stopped, starved of disk or robbed of its state ends as one left alone, to the bit."""

import json
import shutil
import signal
import time

import pytest
from reference_run import STEPS, Run, make_materials

from justrl.config import load
from justrl.config.files import ROOT
from justrl.io import read_jsonl
from justrl.training.reference.checkpoint import list_states
from justrl.training.segment import WorkDir
from justrl.workflow import run_state


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    return make_materials(tmp_path_factory.mktemp("materials"))


@pytest.fixture(scope="module")
def undisturbed(materials, tmp_path_factory):
    run = Run(materials, tmp_path_factory.mktemp("undisturbed"))
    assert run.finish() == 0, run.output
    return run


@pytest.fixture
def run(materials, tmp_path):
    return Run(materials, tmp_path / "run")


def assert_same(run, undisturbed):
    assert [row["step"] for row in run.metrics()] == list(range(1, STEPS + 1))
    assert run.metrics() == undisturbed.metrics()
    assert run.weights() == undisturbed.weights()
    assert run.rollouts() == undisturbed.rollouts() != []


def endings(run):
    """How the attempts ended; None for one that was killed."""
    attempts = WorkDir(run.work).read_attempts()
    assert all(attempt["to_step"] == STEPS and attempt["gpus"] == 0 for attempt in attempts)
    return [attempt.get("how") for attempt in attempts]


def wait_for_step(run, step, process):
    """Wait until the live metrics of a running process hold a step."""
    while process.is_alive():
        if (run.work / "metrics.jsonl").exists() and len(read_jsonl(run.work / "metrics.jsonl")) >= step:
            return
        time.sleep(0.01)
    pytest.fail(f"ended before step {step}: {run.output}")


def test_the_undisturbed_run_learns_and_leaves_what_it_should(undisturbed):
    metrics = undisturbed.metrics()
    assert metrics[0]["lr"] == 0 and metrics[1]["lr"] == 5e-4 and metrics[-1]["lr"] == 1e-3
    # The penalty is on length, so responses become shorter.
    assert metrics[-1]["response_length_mean"] < metrics[0]["response_length_mean"] - 1
    assert metrics[-1]["reward_mean"] > metrics[0]["reward_mean"]
    assert all(row["grad_norm"] > 0 and row["entropy"] > 0 for row in metrics)
    assert all(0 < row["rollout_probs_diff_mean"] < 1e-5 for row in metrics)
    contract = "step reward_mean accuracy entropy response_length_mean response_clip_ratio grad_norm clip_fraction lr"
    for row in read_jsonl(undisturbed.metrics_file()):
        assert {*contract.split(), "tokens_per_second", "step_seconds"} <= row.keys()
    assert [path.name for path in list_states(undisturbed.work / "checkpoints")] == ["step_000006", "step_000008"]
    assert not (undisturbed.work / "LOCK").exists()
    assert list((undisturbed.work / "tensorboard").iterdir())
    published = undisturbed.model() / "model.safetensors"
    kept = undisturbed.work / "finished" / "step_000008" / "model" / "model.safetensors"
    assert published.samefile(kept)
    files = {path.name for path in undisturbed.model().iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]


def test_some_rollouts_of_each_step_are_kept_to_be_read(undisturbed):
    kept = undisturbed.rollouts()
    assert [row["step"] for row in kept] == [step for step in range(1, STEPS + 1) for _ in range(8)]
    assert all(row["prompt"] and row["gold"] and row["length"] > 0 for row in kept)
    assert {row["sample_index"] for row in kept} == {0, 1, 2, 3}
    assert {row["finish_reason"] for row in kept} <= {"stop", "length"} and len({row["response"] for row in kept}) > 8


def test_how_many_rollouts_are_kept_changes_no_bit(run, undisturbed):
    hardware = run.materials / "none_kept.json"
    hardware.write_text('{"rollouts_kept": 0}')
    assert run.finish(*run.arguments(), "--hardware", str(hardware)) == 0, run.output
    assert run.metrics() == undisturbed.metrics() and run.weights() == undisturbed.weights()
    assert not run.metrics_file().with_name("rollouts.parquet").exists()


def test_two_runs_of_the_same_seed_are_the_same(run, undisturbed):
    assert run.finish() == 0, run.output
    assert_same(run, undisturbed)


KILLS = [
    ("justrl.training.reference.rollout:TransformersRollouts.generate", 2),  # in the second step, before any save
    ("justrl.training.reference.step:GRPOTrainer._update", 4),  # between the mini-batches of the second step
    ("justrl.training.reference.checkpoint:write_manifest", 1),  # in mid-save
    ("justrl.training.reference.checkpoint:make_room", 2),  # after the save of step 2, before that of step 4
    ("justrl.io:sync_folder", 1),  # before the rename of step 4
    ("justrl.training.reference.loop:Reporter.report", 3),  # step 5 is trained but neither logged nor saved
    ("justrl.training.segment:write_json", 1),  # all steps done and saved, the archive half written
    ("justrl.io:replace_folder", 1),  # before the archive appears
    ("justrl.io:replace_folder", 2),  # archived, before the model is published
    ("justrl.training.segment:WorkDir.publish", 1),  # the same, found on a restart
]


def test_sigkill_again_and_again_changes_nothing(run, undisturbed):
    for kill in KILLS:
        assert run.finish(kill_at=kill) == -signal.SIGKILL, f"{kill} was not reached: {run.output}"
        assert len(list_states(run.work / "checkpoints")) <= 2
    with (run.work / "attempts.jsonl").open("a") as record:
        record.write('{"attempt": "torn')  # as a machine that lost power leaves it
    assert run.finish() == 0, run.output
    assert_same(run, undisturbed)
    assert endings(run) == [None] * len(KILLS) + ["finished"]


def test_sigkill_between_publishing_model_and_metrics(run, undisturbed):
    assert run.finish(kill_at=("justrl.training.segment:read_jsonl", 1)) == -signal.SIGKILL
    assert run.model().exists() and not run.metrics_file().exists()
    assert run.finish() == 0, run.output
    assert_same(run, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGURG])
def test_a_warning_saves_at_the_end_of_the_step_and_asks_to_be_retried(run, undisturbed, number):
    # Saves are far apart, so what is kept is kept because of the signal.
    arguments = [*run.arguments(), "--save-every", "100"]
    process = run.start(*arguments)
    wait_for_step(run, 3, process)
    process._popen._send_signal(number)
    process.join()
    assert process.exitcode == 75, run.output
    (state,) = list_states(run.work / "checkpoints")
    assert f"stopped by a signal; step {int(state.name[-6:])} is saved" in run.output
    assert int(state.name[-6:]) >= 3
    assert not (run.work / "LOCK").exists() and not run.model().exists()
    assert run.finish() == 0, run.output
    assert_same(run, undisturbed)
    assert endings(run) == ["stopped", "finished"]


def test_how_the_run_is_cut_into_segments_does_not_matter(run, undisturbed):
    assert run.finish(*run.arguments(0, 5)) == 0, run.output
    assert [row["step"] for row in run.metrics(5)] == [1, 2, 3, 4, 5]
    assert run.finish(*run.arguments(5, STEPS)) == 0, run.output
    assert run.metrics(5) + run.metrics() == undisturbed.metrics()
    assert run.weights() == undisturbed.weights() != run.weights(5)


def test_another_segment_length_in_mid_run_goes_on_to_the_same_bits(run, undisturbed):
    """Cut by fours: killed in the second segment, at step 7; then by threes, which goes on from what is there."""
    assert run.finish(*run.arguments(0, 4)) == 0, run.output
    kill = ("justrl.training.reference.rollout:TransformersRollouts.generate", 4)
    assert run.finish(*run.arguments(4, 8), kill_at=kill) == -signal.SIGKILL
    folder = run.folder / "results/runs/mini"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(run.folder)
    run.folder.joinpath("segments").symlink_to(run.folder)
    experiment = load([ROOT / "mini/experiment.yaml"], ["runs.mini.steps=9", "runs.mini.segment_steps=3"])
    ends = run_state.segment_ends(experiment, run.folder / "results")["mini"]
    assert ends == [4, 6, 9], "what is finished stays, and the state of step 6 is an end"
    assert run.finish(*run.arguments(4, 6)) == 0 and run.finish(*run.arguments(6, STEPS)) == 0, run.output
    assert run.metrics(4) + run.metrics(6) + run.metrics() == undisturbed.metrics()
    assert run.weights() == undisturbed.weights()
    assert run.output.count(" 5/") <= 2 and "resuming from the state of step 6" in run.output


def test_a_segment_that_the_run_has_left_behind_is_not_trained_again(run):
    """As where another segment length made the workflow plan it again: its first save would delete the newer states."""
    assert run.finish() == 0, run.output
    shutil.rmtree(run.work / "finished")
    states = list_states(run.work / "checkpoints")
    assert run.finish(*run.arguments(0, 3)) == 2
    assert "holds the training state of step 8, and training the segment that ends at step 3" in run.output
    assert list_states(run.work / "checkpoints") == states


def test_a_resumed_run_keeps_its_number_of_threads(run, undisturbed):
    assert run.finish(kill_at=("justrl.training.reference.rollout:TransformersRollouts.generate", 6)) == -signal.SIGKILL
    assert run.finish(*run.arguments(), "--threads", "2") == 0, run.output
    assert_same(run, undisturbed)


@pytest.mark.parametrize("how", ["hang_at", "stop_at"])
def test_a_step_that_hangs_or_is_stopped_ends_the_process_and_is_made_again(run, undisturbed, tmp_path, how):
    hardware = tmp_path / "hardware.json"
    hardware.write_text(json.dumps({"hang_timeout_minutes": 0.5}))
    process = run.start(*run.arguments(), "--hardware", str(hardware), **{how: 4})
    process.join(timeout=600)
    assert process.exitcode == -signal.SIGKILL
    assert "error: run tiny: no progress for" in run.output and "in step 4" in run.output
    if how == "stop_at":
        assert "is stopped (SIGSTOP) and is killed" in run.output
    else:
        assert "waits and is killed" in run.output and "reference/loop.py" in run.output  # of its stacks
    assert run.finish() == 0, run.output
    assert_same(run, undisturbed)


def test_a_torn_state_is_passed_over(run, undisturbed):
    assert run.finish(kill_at=("justrl.training.reference.rollout:TransformersRollouts.generate", 6)) == -signal.SIGKILL
    tensors = run.work / "checkpoints" / "step_000004" / "tensors.pt"
    tensors.write_bytes(tensors.read_bytes()[:-1000])
    assert run.finish() == 0, run.output
    assert "checkpoint refused" in run.output and "step_000004: tensors.pt is torn" in run.output
    assert "resuming from the state of step 2" in run.output
    assert_same(run, undisturbed)


def test_a_full_disk_is_said_so_and_survived(run, undisturbed):
    assert run.finish(kill_at=("justrl.training.reference.rollout:TransformersRollouts.generate", 4)) == -signal.SIGKILL
    assert run.finish(file_bytes=20_000) == 2
    assert "error: no space to save the training state of step 4" in run.output
    assert "intact states: step_000002" in run.output and "Traceback" not in run.output
    assert run.finish() == 0, run.output
    assert_same(run, undisturbed)
    assert endings(run) == [None, "failed", "finished"]


def test_a_finished_segment_is_restored_not_trained(run, undisturbed):
    shutil.copytree(undisturbed.work, run.work)
    shutil.rmtree(run.work / "checkpoints")  # nothing to train from: it could not be done
    assert run.finish() == 0, run.output
    assert_same(run, undisturbed)
    assert "step 1/" not in run.output


def test_a_finished_segment_whose_files_were_changed_is_not_used(run, undisturbed):
    assert run.finish() == 0
    # The published file is a hard link to the kept one: editing it in place edits both.
    with (run.model() / "model.safetensors").open("r+b") as handle:
        handle.seek(5000)
        handle.write(b"\0\0\0\0")
    assert run.finish() == 0, run.output
    assert "not used: model/model.safetensors changed since" in run.output
    assert_same(run, undisturbed)


def test_a_finished_segment_of_another_recipe_is_not_used(run, undisturbed, materials):
    shutil.copytree(undisturbed.work, run.work)
    changed = json.loads((materials / "run.json").read_text())
    changed["recipe"]["learning_rate"] = 2e-3
    (run.folder / "changed.json").write_text(json.dumps(changed))
    assert run.finish(*run.arguments(), "--run-file", str(run.folder / "changed.json")) == 0, run.output
    assert "step_000008 is not used: it belongs to another training" in run.output
    assert "recipe.learning_rate: 0.001 -> 0.002" in run.output
    assert run.weights() != undisturbed.weights()


def test_without_a_state_a_later_segment_refuses_to_start(run, undisturbed):
    assert run.finish(*run.arguments(4, STEPS)) == 2
    assert "no usable training state of step 4 or later" in run.output


def test_never_two_trainers_in_one_folder(run, undisturbed):
    first = run.start()
    wait_for_step(run, 1, first)
    first._popen._send_signal(signal.SIGSTOP)
    assert run.finish() == 2
    assert f"another trainer is at work here (process {first.pid} on " in run.output
    # One that is allowed to wait finds the work done.
    second = run.start(*run.arguments(), "--wait-for-owner-minutes", "5")
    while "waiting for another trainer" not in run.output:
        time.sleep(0.02)
    first._popen._send_signal(signal.SIGCONT)
    first.join()
    second.join()
    assert (first.exitcode, second.exitcode) == (0, 0), run.output
    assert run.output.count(f"step {STEPS}/{STEPS}") == 1
    assert_same(run, undisturbed)


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_good_state(run, undisturbed):
    assert run.finish(nan_reward_at=4) == 2
    assert "error: step 5: the loss of mini-batch 1 is nan" in run.output
    dump = json.loads((run.work / "nonfinite_step_5.json").read_text())
    assert (dump["step"], dump["mini_batch"], len(dump["sequences"])) == (5, 1, 32)
    assert dump["sequences"][31]["mini_batch"] == 2 and "<｜User｜>What is" in dump["sequences"][0]["prompt"]
    assert [path.name for path in list_states(run.work / "checkpoints")] == ["step_000002", "step_000004"]
    assert run.finish() == 0, run.output
    assert_same(run, undisturbed)
