"""Rollouts that are kept to be read: what is damaged of them is left out, and ends no training."""

import pyarrow
import pytest
from pyarrow import parquet

from justrl.training import rollout_samples

ROW = dict.fromkeys(("prompt", "gold", "response", "finish_reason"), "text")
ROW |= {"sample_index": 0, "length": 3, "reward": 1.0, "correct": True}


def cut(file):
    file.write_bytes(file.read_bytes()[:500])


def flipped(file):
    data = bytearray(file.read_bytes())
    data[10:60] = bytes(50)
    file.write_bytes(data)


DAMAGE = {
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "no Parquet": lambda file: file.write_text("{}"),
    "flipped": flipped,
    "other columns": lambda file: parquet.write_table(pyarrow.table({"step": [2]}), file),
    "other types": lambda file: parquet.write_table(
        pyarrow.table({name: ["x"] for name in rollout_samples.COLUMNS}), file
    ),
    "folder": lambda file: (file.unlink(), file.mkdir()),
    "link to nothing": lambda file: (file.unlink(), file.symlink_to("nowhere")),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_is_left_out_and_said(tmp_path, capfd, how):
    for step in (1, 2, 3):
        rollout_samples.write(tmp_path, step, [{**ROW, "step": step}])
    DAMAGE[how](tmp_path / "step_000002.parquet")
    rollout_samples.join(tmp_path, [1, 2, 3], tmp_path / "joined.parquet")
    assert parquet.read_table(tmp_path / "joined.parquet").column("step").to_pylist() == [1, 3]
    said = capfd.readouterr().err
    assert "step_000002.parquet" in said or how == "link to nothing"
    rollout_samples.remove(tmp_path, 3)


def test_where_nothing_can_be_read_no_file_is_made(tmp_path):
    rollout_samples.write(tmp_path, 1, [{**ROW, "step": 1}])
    cut(tmp_path / "step_000001.parquet")
    rollout_samples.join(tmp_path, [1], tmp_path / "joined.parquet")
    assert not (tmp_path / "joined.parquet").exists()


def test_a_file_of_another_name_is_not_removed(tmp_path):
    rollout_samples.write(tmp_path, 1, [{**ROW, "step": 1}])
    (tmp_path / "step_mine.parquet").write_text("")
    rollout_samples.remove(tmp_path, 1)
    assert [file.name for file in tmp_path.iterdir()] == ["step_mine.parquet"]
