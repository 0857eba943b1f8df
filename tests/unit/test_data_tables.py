"""Which files of a folder are rows, and reading them a batch at a time."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from justrl.data import tables
from justrl.errors import UserError


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"question": "a", "answer": "1"}\n')
    return folder


def names_of(folder: Path, subset: str | None = None, split: str | None = None) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in tables.find_data_files(folder, subset, split)]


def test_descriptions_and_hidden_files_hold_no_rows(tmp_path: Path) -> None:
    fill(tmp_path, "b.jsonl", "a.jsonl", "source.json", "dataset_infos.json", ".cache/c.json", "notes.txt", "README.md")
    assert names_of(tmp_path) == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("subset", "split", "expected"),
    [
        (None, "train", ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"]),
        (None, "test", ["data/test-00000-of-00001.jsonl"]),
        (None, "validation", ["other/val.jsonl"]),
        ("other", "validation", ["other/val.jsonl"]),
        ("other", "test", ["other/val.jsonl"]),
    ],
)
def test_names_tell_split_and_subset(tmp_path: Path, subset: str | None, split: str, expected: list[str]) -> None:
    fill(tmp_path, *(f"data/train-0000{i}-of-00002.jsonl" for i in (0, 1)), "data/test-00000-of-00001.jsonl")
    fill(tmp_path, "other/val.jsonl")
    assert names_of(tmp_path, subset, split) == expected


def test_a_single_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    assert names_of(fill(tmp_path, "test.jsonl"), "some_config", "train") == ["test.jsonl"]


def test_files_without_a_split_word_are_training_data(tmp_path: Path) -> None:
    assert names_of(fill(tmp_path, "data/dapo-math-17k.jsonl", "data/test.jsonl"), split="train") == [
        "data/dapo-math-17k.jsonl"
    ]


def test_parquet_goes_before_json(tmp_path: Path) -> None:
    assert names_of(fill(tmp_path, "test.jsonl", "data/test.parquet"), split="test") == ["data/test.parquet"]


def test_the_card_goes_before_names(tmp_path: Path) -> None:
    fill(tmp_path, "a/x.jsonl", "a/y.jsonl", "b/x.jsonl")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: first\n  data_files:\n  - split: train\n    path: a/x*\n  - split: test\n"
        "    path: [a/y.jsonl]\n- config_name: second\n  data_files: b/*\n---\nText.\n"
    )
    assert names_of(tmp_path, "first", "train") == ["a/x.jsonl"]
    assert names_of(tmp_path, "first", "test") == ["a/y.jsonl"]
    assert names_of(tmp_path, "second", "train") == ["b/x.jsonl"]


@pytest.mark.parametrize(
    ("names", "subset", "split", "message"),
    [
        ([], None, None, "holds no data file: accepted are .parquet, .json, .jsonl"),
        (["a.jsonl", "b.jsonl"], "c", None, "no data file of subset 'c': found a.jsonl, b.jsonl"),
        (["train.jsonl", "val.jsonl"], None, "test", "no data file of split 'test': found train.jsonl, val.jsonl"),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, names: list[str], subset: str | None, split: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tables.find_data_files(fill(tmp_path, *names), subset, split)


def test_paths_that_are_not_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        tables.find_data_files(tmp_path / "none")
    with pytest.raises(UserError, match="not a data file"):
        tables.find_data_files(fill(tmp_path, "rows.pkl") / "rows.pkl")


@pytest.mark.parametrize("name", ["rows [1].parquet", "rows [1].jsonl", "rows.json"])
def test_rows_come_in_order_and_in_small_batches(tmp_path: Path, name: str) -> None:
    table = pa.table(
        {"question": [f"q{i}" for i in range(100)], "answer": [str(i) for i in range(100)], "x": [0] * 100}
    )
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        import json

        rows = table.to_pylist()
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows)))
    assert tables.column_names([path]) == ["question", "answer", "x"]
    batches = list(tables.stream_tables([path], ["answer"], batch_size=30))
    assert all(batch.num_rows <= 30 and batch.column_names == ["answer"] for batch in batches)
    assert [value for batch in batches for value in batch["answer"].to_pylist()] == table["answer"].to_pylist()


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1 no, not at all \xff\xfe")
    with pytest.raises(UserError, match=f"cannot read .*{name}"):
        list(tables.stream_tables([tmp_path / name]))


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet is empty"):
        tables.column_names([tmp_path / "rows.parquet"])
