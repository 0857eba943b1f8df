"""What finished files were made from: other data, another base model are refused by name."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from justrl.config import load
from justrl.config.files import ROOT
from justrl.config.layout import Layout
from justrl.data.contamination import TRAINED, compare_files
from justrl.errors import UserError
from justrl.io import file_sha256, weights_sha256
from justrl.workflow import start_checks


@pytest.fixture
def layout(tmp_path):
    return Layout(load([ROOT / "mini/experiment.yaml"]), str(tmp_path))


@pytest.fixture
def trained(layout, tmp_path):
    """A run that has trained, as far as its identity goes."""
    data, model = (tmp_path / part for part in ("data/sums/tiny/train.parquet", "models/tiny/model.safetensors"))
    for file in (data, model):
        file.parent.mkdir(parents=True)
        file.write_text("as it was")
    segment = tmp_path / "runs/mini/work/finished/step_000030/segment.json"
    segment.parent.mkdir(parents=True)
    known = {"train_file_sha256": file_sha256(data), "base_model_sha256": weights_sha256(model.parent)}
    segment.write_text(json.dumps({"identity": known}))
    return data, model


def test_a_run_goes_on_with_what_it_was_trained_with(layout, trained):
    start_checks.check_trained_runs(layout, {"mini"}, ())


@pytest.mark.parametrize("which", [0, 1])
def test_a_changed_input_of_a_trained_run_is_refused_by_name(layout, trained, which):
    trained[which].write_text("edited, of another length")
    with pytest.raises(
        UserError, match=r"data/sums/tiny/train\.parquet has changed" if not which else r"models/tiny has changed"
    ):
        start_checks.check_trained_runs(layout, {"mini"}, ())
    start_checks.check_trained_runs(layout, set(), ())  # nothing of the run is trained by this start


def test_a_base_model_is_not_made_again_under_a_trained_run(layout, trained):
    with pytest.raises(UserError, match=r"models/tiny would be created again, but run mini was trained from it"):
        start_checks.check_trained_runs(layout, set(), {layout.base_model("mini")})


def test_training_data_stays_as_it_was_and_a_later_benchmark_is_reported(layout, trained, tmp_path):
    data = trained[0]
    rows = [{"extra_info": {"question": question}} for question in ("What is 1+1?", "What is 2+2?")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), data)
    segment = tmp_path / "runs/mini/work/finished/step_000030/segment.json"
    segment.write_text(json.dumps({"identity": {"train_file_sha256": file_sha256(data)}}))
    prepared, later, before = tmp_path / "prepared.parquet", tmp_path / "later.parquet", file_sha256(data)
    prepared.write_bytes(data.read_bytes())
    row = {"benchmark": "mine", "id": "1", "question": "What is 2+2?", "answer": "4"}
    parquet.write_table(pyarrow.Table.from_pylist([row]), later)
    start_checks.keep_training_data(layout, {str(data)})
    data.unlink()  # as Snakemake does before the job
    report = compare_files(prepared, [later], data.parent, remove=True)
    assert file_sha256(data) == before and (data.parent / TRAINED).is_file()
    assert report["train_rows"] == {"in": 2, "met": 1, "removed": 0, "out": 2, "as_trained": True}
