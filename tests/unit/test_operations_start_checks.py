"""What a start says of what it finds: commands that can be pasted, damaged records, what lies behind results."""

import json
from contextlib import nullcontext

import pytest

from justrl.config import load
from justrl.config.files import ROOT
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.workflow import config_snapshots, start_checks


@pytest.fixture
def layout(tmp_path):
    return Layout(load([ROOT / "mini/experiment.yaml"]), str(tmp_path))


@pytest.mark.parametrize(
    ("missing", "trained", "outputs", "sentence"),
    [
        ("verl", {"deepseek"}, [], "engine verl is not installed .* `. .venv-gpu/bin/activate`"),
        ("vllm", set(), ["results/evaluations/x/aime/paper/completions/0-of-1.parquet"], "vLLM is not installed"),
        ("verl", set(), ["results/data/dapo/raw"], None),
        ("vllm", {"mini"}, [], None),
    ],
)
def test_packages_that_a_job_would_miss_are_missed_at_the_start(missing, trained, outputs, sentence, monkeypatch):
    def find_spec(name):
        return None if name == missing else name

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    experiment = load([ROOT / "mini/experiment.yaml"] if "mini" in trained else [])
    with pytest.raises(UserError, match=sentence) if sentence else nullcontext():
        start_checks.check_installed(experiment, trained, outputs)


@pytest.mark.parametrize("content", [b'{"config": {', b"", b"[]", b"{}", b"\xff\xfe"])
def test_a_damaged_record_of_the_last_start_stops_no_start(layout, tmp_path, content):
    (tmp_path / "experiments").mkdir()
    damaged = tmp_path / "experiments/0001.json"
    damaged.write_bytes(content)
    document = config_snapshots.document({"seed": 1}, layout)
    file = config_snapshots.file_of(document, tmp_path)
    assert file.name == "0002.json"
    (line,) = config_snapshots.changes(document, tmp_path)
    assert str(damaged) in line and "damaged" in line
    config_snapshots.write(document, file)
    assert config_snapshots.read(file)[0] == {"seed": 1}
    with pytest.raises(UserError, match=r"0001\.json.* restore it, or start Snakemake again"):
        config_snapshots.read(damaged)


def test_a_damaged_run_file_says_the_way_out(layout, tmp_path):
    run = tmp_path / "runs/mini"
    (run / "segments/30").mkdir(parents=True)
    (run / "segments/30/metrics.jsonl").touch()
    (run / "run.json").write_text('{"name": ')
    with pytest.raises(UserError, match=r"run\.json is not JSON: .*: restore the file, or delete it"):
        start_checks.check_unchanged(layout.experiment, tmp_path)


def test_what_this_plan_makes_is_not_said_to_be_gone(layout, tmp_path):
    """The last checkpoint's result is there, and more steps, or a judge's verdicts, are asked for now."""
    (tmp_path / "sums_heldout_mini.json").write_text(json.dumps({"step": 30}))
    (line,) = start_checks.behind_results(layout)
    assert "mini@30/sums_heldout" in line, "of the checkpoint that the result is of, not of the new last one"
    gone = layout.completions("mini@30", "sums_heldout", "paper") + layout.grades("mini@30", "sums_heldout", "paper")
    assert not list(start_checks.behind_results(layout, [*gone, layout.segment_model("mini", 30)]))


def test_a_local_models_folder_is_looked_at_before_anything_is_copied(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "chat_template.jinja").symlink_to("/etc/passwd")
    own = {
        "models": {"mine": {"source": "local", "path": str(model), "context_length": 512}},
        "external": {"other": {"path": str(model)}},
    }
    for part, key in (("models", "models.mine"), ("external", "external.other")):
        overlay = {"extends": "mini/experiment.yaml", "experiment": "x", part: own[part]}
        (tmp_path / "own.yaml").write_text(json.dumps(overlay))
        layout = Layout(load([tmp_path / "own.yaml"]), str(tmp_path / "results"))
        with pytest.raises(UserError, match=rf"config: {key}\.path: .*chat_template\.jinja is a link out of"):
            start_checks.check_local_files(layout)


@pytest.mark.parametrize(
    ("here", "trained", "outputs", "named"),
    [
        ("0,1,2,3,4,5,6,7", True, ["completions/0-of-1.parquet"], None),
        ("0", False, ["results/data/train.parquet"], None),
        ("0", False, ["completions/0-of-1.parquet"], None),
        ("0", True, [], "hardware.gpus_per_node is 8, but this machine shows 1 GPUs"),
        ("", False, ["completions/0-of-1.parquet"], "hardware.gpus_per_evaluation is 1, but this machine shows 0 GPUs"),
    ],
)
def test_a_start_that_uses_more_gpus_than_are_here_is_refused(here, trained, outputs, named, monkeypatch):
    """The jobs would be refused one by one, after the downloads."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", here)
    with pytest.raises(UserError, match=named) if named else nullcontext():
        start_checks.check_gpus_here(load(), trained, outputs)
