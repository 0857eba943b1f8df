"""Data and models from the disk: golds as they are written, hashes kept, edits noticed; and entries in short."""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from justrl import config
from justrl.config import files as config_files
from justrl.config.layout import Layout
from justrl.data.benchmarks import format_benchmark, load_eval_dataset
from justrl.data.sources import changed_since, download, local_source
from justrl.errors import UserError
from justrl.io import file_sha256, read_json
from justrl.plan.planning import evaluation_samples
from justrl.workflow import stale
from justrl.workflow.start_checks import check_local_files

# Golds that a reader which guesses types would change.
GOLDS = ["007", "1e3", "N", "1,234", "0.10", "\\frac{1}{2}", "no", "12345678901234567890", "true", "-0"]


def write_rows(path: Path) -> Path:
    rows = [{"problem": f"Question {n}?", "answer": gold} for n, gold in enumerate(GOLDS)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, ["problem", "answer"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", ["q.jsonl", "q.json", "q.csv", "q.parquet"])
def test_golds_survive_from_every_format(tmp_path, name):
    file = write_rows(tmp_path / name)
    taken = download(local_source(file), tmp_path / "taken")
    table = format_benchmark("mine", taken)
    assert table["answer"].to_pylist() == GOLDS
    record = read_json(taken / "source.json")
    assert record["origin"] == "local"
    assert record["files"] == {name: file_sha256(file)}


def experiment_with(path: Path, **entry) -> config.Experiment:
    plain = config_files.read(["mini/experiment.yaml"])
    plain["benchmarks"]["mine"] = {"source": "local", "path": str(path), **entry}
    plain["evaluation"]["benchmarks"] = ["mine"]
    return config.Experiment.from_mapping(plain)


def test_an_entry_needs_a_source_and_a_path(tmp_path):
    experiment = experiment_with(write_rows(tmp_path / "q.jsonl"))
    entry = experiment.benchmarks["mine"]
    assert (entry.label, entry.rows, entry.samples) == ("mine", None, 4)
    assert evaluation_samples(experiment, ["mine"], "paper") == 4 * len(GOLDS)
    assert [row["ground_truth"] for row in load_eval_dataset("mine", experiment=experiment)] == GOLDS


def test_another_number_of_rows_than_the_configured_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="has 10 questions, but 9 are expected"):
        load_eval_dataset("mine", experiment=experiment_with(write_rows(tmp_path / "q.csv"), rows=9))


def test_a_start_refuses_a_file_that_is_not_there_and_takes_an_edited_benchmark_again(tmp_path):
    file = write_rows(tmp_path / "q.jsonl")
    layout = Layout(experiment_with(file), str(tmp_path / "results"))
    taken = Path(layout.raw_benchmark("mine"))
    download(local_source(file), taken)
    check_local_files(layout)
    file.touch()  # the same bytes at another time
    check_local_files(layout)
    before = file.read_text()
    file.write_text(before.replace("007", "008"))
    check_local_files(layout)
    assert changed_since(file, taken) == str(file)
    assert str(taken) in stale.to_make_again(layout, {str(taken)}, accepted=False)
    file.unlink()
    check_local_files(layout)  # what was taken is there
    with pytest.raises(UserError, match=r"benchmarks.mine.path: no such file or folder: .*q.jsonl"):
        check_local_files(Layout(layout.experiment, str(tmp_path / "other")))


def test_of_a_folder_every_file_is_compared(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "a.jsonl")
    write_rows(folder / "b.jsonl")
    taken = download(local_source(folder), tmp_path / "taken")
    assert changed_since(folder, taken) is None
    (folder / "b.jsonl").write_text('{"problem": "?", "answer": "1"}\n')
    assert changed_since(folder, taken) == str(folder / "b.jsonl")


@pytest.mark.parametrize(
    ("kind", "problem"), [("dataset", "has no Parquet, JSON or CSV file"), ("model", "has no safetensors weights")]
)
def test_a_folder_without_what_is_needed_is_refused(tmp_path, kind, problem):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=problem):
        local_source(tmp_path / "empty", kind)


def runs_of(**runs) -> config.Experiment:
    plain = config_files.read(["mini/experiment.yaml"])
    plain["runs"] |= runs
    return config.Experiment.from_mapping(plain)


def test_a_run_like_another_has_its_keys_but_not_its_switch():
    own = {"like": "mini", "recipe": {"clip_ratio_high": 0.2}}
    runs = runs_of(
        a=own, b={"like": "a", "steps": 30}, c={"like": "deepseek", "model": "tiny", "engine": "reference"}
    ).runs
    assert runs["a"].recipe == runs["mini"].recipe.model_copy(update={"clip_ratio_high": 0.2})
    assert (runs["b"].steps, runs["b"].recipe.clip_ratio_high, runs["b"].segment_steps) == (30, 0.2, 30)
    assert runs["c"].enabled and not runs["deepseek"].enabled
    assert runs["c"].family == "deepseek"


def test_a_run_names_its_family_by_its_model():
    run = {"model": "tiny", "dataset": "sums", "engine": "reference"}
    assert runs_of(a={**run, "steps": 2, "segment_steps": 2, "evaluate_every": 2}).runs["a"].family == "tiny"


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        ({"a": {"like": "minni"}}, "runs.a.like: no run minni: did you mean mini"),
        ({"a": {"like": "b"}, "b": {"like": "a"}}, "is circular: a -> b -> a"),
    ],
)
def test_a_run_like_none_is_refused(runs, problem):
    with pytest.raises(UserError, match=problem):
        runs_of(**runs)
