"""A canary's verdicts, the file that is sent to others, and what of it must not be in it."""

import json
import re

import pytest

from justrl import config
from justrl.cli.main import main
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.io import read_object, write_json, write_jsonl
from justrl.plan import canary_pack
from justrl.report import canary_verdict
from justrl.report.canary_verdict import NO, NOT_SHOWN, YES, Asked, judge

ASKED = Asked(steps=4, segment_steps=2, expected_seconds=250, gpu_memory=79.1)


def rows(**changes):
    """Four healthy steps of a canary in bfloat16; a change is a list of four values, or None for none."""
    values = {
        "step": [1, 2, 3, 4],
        "rollout_probs_diff_mean": [0.008, 0.009, 0.008, 0.01],
        "grad_norm": [0.11, 0.12, 0.2, 0.1],
        "response_clip_ratio": [0.3, 0.2, 0.3, 0.2],
        "memory_gb": [55.0, 61.0, 60.0, 61.2],
        "step_seconds": [420.0, 255.0, 300.0, 251.0],
        "response_length_mean": [6900.0, 6950.0, 6850.0, 6900.0],
        "response_length_max": [15360, 15360, 15360, 15360],
        "accuracy": [0.2, 0.2, 0.15, 0.2],
        "undecided": [0.0, 0.0, 0.0, 0.0],
    }
    columns = {name: column for name, column in (values | changes).items() if column is not None}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def verdicts(rows, asked=ASKED, result=None):
    return {answer.name: answer for answer in judge(rows, result, asked)}


def test_a_healthy_canary_has_six_times_yes():
    found = verdicts(rows(), result={"truncated_fraction": 0.1})
    questions = ("sync", "stop_tokens", "memory", "time", "reward", "resume")
    assert {name: answer.verdict for name, answer in found.items()} == dict.fromkeys(questions, YES)
    assert "0.009, 0.01 with weights sent to the sampler during the run" in found["sync"].evidence


# Each change of the metrics, the question that it is about and its answer; all others stay yes.
CHANGES = {
    "skipped from the second time on": ("rollout_probs_diff_mean", [0.008, 0.09, 0.008, 0.2], "sync", NO),
    "skipped, in float32 and little moved": ("rollout_probs_diff_mean", [2e-7, 9e-4, 2e-7, 4e-3], "sync", NO),
    "half of the tensors": ("rollout_probs_diff_mean", [0.008, 0.028, 0.008, 0.03], "sync", NO),
    "far off": ("rollout_probs_diff_mean", [0.4, 0.4, 0.4, 0.4], "sync", NO),
    "not finite": ("rollout_probs_diff_mean", [0.008, float("nan"), 0.008, 0.009], "sync", NO),
    "not logged": ("rollout_probs_diff_mean", None, "sync", NO),
    "rounding alone": ("rollout_probs_diff_mean", [2e-8, 3e-7, 2e-8, 2e-7], "sync", YES),
    "nothing moved": ("grad_norm", [0.0, 0.0, 0.0, 0.0], "sync", NOT_SHOWN),
    "nobody stops": ("response_clip_ratio", [1.0, 0.99, 0.97, 1.0], "stop_tokens", NO),
    "no memory left": ("memory_gb", [70.0, 79.0, 79.0, 79.0], "memory", NO),
    "slow": ("step_seconds", [420.0, 555.0, 600.0, 551.0], "time", NO),
    "the first step compiles": ("step_seconds", [4200.0, 255.0, 300.0, 251.0], "time", YES),
    "nothing right": ("accuracy", [0.0, 0.0, 0.0, 0.0], "reward", NO),
    "everything right": ("accuracy", [1.0, 1.0, 1.0, 1.0], "reward", NO),
    "undecided": ("undecided", [0.0, 0.02, 0.0, 0.0], "reward", NO),
    "a gap": ("step", [1, 2, 4, 5], "resume", NO),
}


@pytest.mark.parametrize("case", CHANGES)
def test_each_fault_changes_its_verdict_alone(case):
    name, values, question, expected = CHANGES[case]
    found = verdicts(rows(**{name: values}))
    assert found[question].verdict == expected
    allowed = {"sync", "resume"} if question in ("sync", "resume") else {question}
    assert all(answer.verdict == YES for other, answer in found.items() if other not in allowed)
    if expected == NO:
        assert found[question].action, "a no says what to do"


def test_other_weights_in_a_resumed_job_are_no_resumption():
    found = verdicts(rows(rollout_probs_diff_mean=[0.008, 0.009, 0.4, 0.4]))
    assert found["resume"].verdict == found["sync"].verdict == NO


def test_one_step_segments_show_nothing_of_the_sync():
    found = verdicts(rows(), Asked(4, 1))
    assert found["sync"].verdict == NOT_SHOWN and "canary.segment_steps" in found["sync"].action
    assert verdicts(rows(), Asked(4, 4))["resume"].verdict == NOT_SHOWN


def test_the_paper_s_canary_can_see_a_missed_sync():
    experiment = config.load().with_canaries()
    run = experiment.runs["canary_deepseek"]
    assert run.steps // run.segment_steps >= 2 <= run.segment_steps
    assert run.recipe.learning_rate >= 1e-4 and run.recipe.warmup_steps == 0
    asked = Layout(experiment).canary_asked("canary_deepseek")
    # It ends in a verdict, not by an alarm.
    limits = [experiment.recipe.alarms.as_dict(), run.recipe.alarms.as_dict()]
    assert asked["changed"] == {
        "recipe.alarms": limits,
        "steps": [4380, 4],
        "segment_steps": [60, 2],
        "recipe.learning_rate": [1e-6, 1e-4],
        "recipe.warmup_steps": [10, 0],
    }


@pytest.fixture
def canary(tmp_path):
    """A folder of a canary as the workflow leaves it, without its metrics."""
    results = tmp_path / "secret_project" / "results"
    folder = results / "runs" / "canary_mine"
    experiment = config.load()
    write_json(folder / "run.json", experiment.described("deepseek").as_dict() | {"run": "canary_mine"})
    write_json(results / "hardware.json", experiment.hardware.as_dict() | {"scratch": "/scratch/anna/tmp"})
    checks = [
        {"name": "gpus", "found": "8 x NVIDIA H100, driver 550.54.15"},
        {"name": "disk", "found": f"80 GB free at {folder}"},
    ]
    write_json(folder / "work/node.json", {"checks": checks})
    return folder


def judged(folder, capsys, **changes):
    """Judge a canary with these metrics; the status of the check and what it printed."""
    write_jsonl(folder / "metrics.jsonl", [row | {"note": "/scratch/anna"} for row in rows(**changes)])
    asked = Layout(config.load().with_canaries()).canary_asked("canary_deepseek")
    words = ["canary", "judge", "--metrics", str(folder / "metrics.jsonl"), "--run-file", str(folder / "run.json")]
    words += ["--asked", json.dumps(asked), "--output", str(folder / "verdict.json"), str(folder / "verdict.html")]
    assert main(words) == 0
    status = main(["canary", "check", str(folder / "verdict.json")])
    return status, capsys.readouterr()


def test_a_broken_sync_is_an_exit_status_a_sentence_and_a_page(canary, capsys):
    status, said = judged(canary, capsys, rollout_probs_diff_mean=[0.008, 0.09, 0.008, 0.09])
    assert status == 1
    (sentence,) = said.err.splitlines()
    assert sentence.startswith("error: canary_mine: Do answers come from the weights that were just trained? No: ")
    assert "does not hold" in (canary / "verdict.html").read_text()
    status, said = judged(canary, capsys)
    assert (status, said.err) == (0, "")
    assert all(len(line) <= 100 for line in said.out.splitlines())


def test_a_packed_canary_tells_numbers_and_nobody_s_name(canary, capsys, tmp_path):
    judged(canary, capsys)
    file = tmp_path / "sent.json"
    assert main(["canary", "pack", str(canary), "--to", str(file)]) == 0
    text = file.read_text()
    assert not re.search(r"secret_project|/scratch|anna|/tmp", text)
    assert "550.54.15" in text and file.stat().st_size < 25_000_000
    assert main(["canary", "read", str(file)]) == 0
    said = capsys.readouterr().out
    assert "Do answers end before the length limit?" in said and "driver 550.54.15" in said and "420.0, 255.0" in said
    assert re.search(
        r"by the model of time\s+a step of these lengths takes [\d,]+ s, [\d.]+ times the measured value", said
    )


def test_a_packed_canary_of_a_model_of_unknown_size_is_read_all_the_same(canary, capsys, tmp_path):
    judged(canary, capsys)
    described = read_object(canary / "run.json")
    write_json(canary / "run.json", described | {"model": described["model"] | {"hub_id": "someone/else"}})
    write_json(tmp_path / "sent.json", canary_pack.packed(canary))
    assert main(["canary", "read", str(tmp_path / "sent.json")]) == 0
    assert "by the model of time" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["/home/anna/models/mine", "~/models/mine"])
def test_a_path_is_not_packed(canary, capsys, text):
    judged(canary, capsys)
    write_json(canary / "work/node.json", {"checks": [{"name": "gpus", "found": f"none, see {text}"}]})
    with pytest.raises(UserError, match="would be in the file, which is for everybody"):
        canary_pack.packed(canary)


def test_this_host_is_not_packed(canary, capsys, monkeypatch):
    judged(canary, capsys)
    write_json(canary / "work/node.json", {"checks": [{"name": "gpus", "found": "1 on gpunode17"}]})
    monkeypatch.setattr("socket.gethostname", lambda: "gpunode17")
    with pytest.raises(UserError, match="gpunode17"):
        canary_pack.packed(canary)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{}", "it lacks verdict"),
        ("[]", "must be a JSON object"),
        ("nonsense", "is not JSON"),
        ('{"format": 9, "verdict": {}, "recipe": {}, "hardware": {}, "versions": {}, "steps": [], "model": {}}', "9"),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path, content, problem):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(UserError, match=problem):
        canary_pack.unpacked(file)


def test_a_run_that_is_no_canary_cannot_be_packed(tmp_path):
    with pytest.raises(UserError, match=r"verdict.json is not there"):
        canary_pack.packed(tmp_path)


def test_the_sentence_of_a_verdict_names_each_no():
    answers = judge(rows(accuracy=[0.0] * 4, response_clip_ratio=[1.0] * 4), None, ASKED)
    said = canary_verdict.sentence(canary_verdict.as_json("canary_x", answers, ASKED))
    assert "Are some answers correct? No" in said and "Do answers end before the length limit? No" in said
