"""Parquet files as data sets."""

import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from justrl.data.messages import build_messages
from justrl.data.parquet import ParquetDataset, collate_fn
from justrl.errors import UserError


@pytest.fixture
def train(tmp_path: Path) -> Path:
    rows = [
        {
            "data_source": "math_dapo",
            "prompt": build_messages(f"Question {i}?"),
            "ability": "MATH",
            "reward_model": {"style": "rule", "ground_truth": str(i)},
            "extra_info": {"index": 10 + i, "question": f"Question {i}?"},
        }
        for i in range(5)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


def test_a_training_file(train: Path) -> None:
    data = ParquetDataset(train)
    assert len(data) == 5
    assert data[1] == {
        "question": "Question 1?",
        "prompt": build_messages("Question 1?"),
        "ground_truth": "1",
        "index": 11,
        "data_source": "math_dapo",
    }
    assert data[-1]["ground_truth"] == "4"
    assert [item["ground_truth"] for item in data] == list("01234")
    for position in (5, -6):
        with pytest.raises(IndexError, match="of 5"):
            data[position]


def test_a_benchmark_file(tmp_path: Path) -> None:
    row = {"benchmark": "aime", "id": "60", "question": "Why?", "answer": "204"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "aime.parquet")
    assert ParquetDataset(tmp_path / "aime.parquet")[0] == {
        "question": "Why?",
        "prompt": build_messages("Why?"),
        "ground_truth": "204",
        "index": "60",
        "data_source": "aime",
    }


def test_the_authors_files_are_read(real_benchmarks: Path) -> None:
    data = ParquetDataset(real_benchmarks / "AIME24.parquet")
    assert len(data) == 30
    assert data[0]["question"].startswith("Every morning Aya goes for a")
    assert data[0]["ground_truth"] == r"\boxed{204}"


def test_torch_loads_it_in_worker_processes(train: Path) -> None:
    from torch.utils.data import DataLoader

    data = pickle.loads(pickle.dumps(ParquetDataset(train)))
    batches = list(DataLoader(data, batch_size=2, collate_fn=collate_fn, num_workers=1))
    assert [[item["ground_truth"] for item in batch] for batch in batches] == [["0", "1"], ["2", "3"], ["4"]]


def test_other_files_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("not Parquet")
    for name, message in (("a", "holds a: a training file"), ("b", "is not a Parquet file"), ("c", "no such Parquet")):
        with pytest.raises(UserError, match=message):
            ParquetDataset(tmp_path / f"{name}.parquet")
