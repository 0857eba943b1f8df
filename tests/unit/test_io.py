"""Files and folders appear whole or not at all; sums and links are those of the bytes."""

import csv
import hashlib
import json
import os
import sys

import pytest

from justrl import io
from justrl.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "new" / "result.json"
    io.write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        io.write_json(file, {"a": float("nan")})
    assert io.read_json(file) == {"a": 1}
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_takes_the_place_of_the_one_before_only_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "model"
    with io.atomic_folder(target, sync=True) as folder:
        (folder / "old").write_text("1")
        assert not target.exists()
    with pytest.raises(KeyError), io.atomic_folder(target) as folder:
        (folder / "new").write_text("2")
        raise KeyError
    assert [path.name for path in target.iterdir()] == ["old"]
    # A process that was killed left half a folder behind: it is not mixed in.
    (tmp_path / "deep" / ".model.tmp").mkdir()
    (tmp_path / "deep" / ".model.tmp" / "half").touch()
    with io.atomic_folder(target) as folder:
        (folder / "new").write_text("2")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(target.parent.iterdir()) == [target]


def test_links_share_the_bytes_and_follow_symbolic_links(tmp_path):
    blob = tmp_path / "blobs" / "b"
    blob.parent.mkdir()
    blob.write_text("weights")
    (tmp_path / "snapshot" / "empty").mkdir(parents=True)
    (tmp_path / "snapshot" / "model").symlink_to(blob)
    io.link_tree(tmp_path / "snapshot", tmp_path / "copy")
    assert (tmp_path / "copy" / "empty").is_dir()
    placed = tmp_path / "copy" / "model"
    assert placed.samefile(blob) and not placed.is_symlink()


def test_what_another_process_is_writing_is_read_as_far_as_it_goes(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n\n[2]\n{"step": 3}\n{"ste')
    assert io.read_whole_lines(file) == [{"step": 1}, {"step": 3}]
    for text in ('{"step', "[1]", ""):
        file.write_text(text)
        assert io.read_json_object(file) == {}
    assert io.read_json_object(tmp_path / "absent") == {}


def test_sums(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_text(name)
    sums = [hashlib.sha256(name.encode()).hexdigest() for name in ("a.safetensors", "b.safetensors")]
    assert io.file_sha256(tmp_path / "a.safetensors") == sums[0]
    whole = io.weights_sha256(tmp_path)
    assert whole == hashlib.sha256("".join(sums).encode()).hexdigest()
    (tmp_path / "b.safetensors").write_text("other bytes")
    assert io.weights_sha256(tmp_path) != whole
    assert io.json_sha256({"a": 1, "b": [1, 2]}) == io.json_sha256({"b": [1, 2], "a": 1}) != io.json_sha256({"a": 1})
    assert io.json_sha256({"a": 1}) == hashlib.sha256(json.dumps({"a": 1}).encode()).hexdigest()


@pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0o022, 0o644)])
def test_files_and_folders_follow_the_umask(tmp_path, umask, mode):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch(0o600)
    before = os.umask(umask)
    try:
        io.write_json(tmp_path / "file", {})
        with io.atomic_folder(tmp_path / "model") as folder:
            # safetensors makes its files like this.
            (folder / "deep").mkdir()
            (folder / "deep" / "weights").touch(0o600)
            (folder / "script").touch(0o700)
            io.link_file(elsewhere, folder / "linked")
    finally:
        os.umask(before)
    names = ("file", "model/deep/weights", "model/script", "elsewhere")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in names] == [mode, mode, 0o700 | mode, 0o600]
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_spreadsheet_takes_no_text_of_a_csv_for_a_formula(tmp_path):
    texts = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(1)", "\t=1", "1=1", ""]
    io.write_csv(tmp_path / "a.csv", ["text", "number"], [{"text": text, "number": -0.5} for text in texts])
    with (tmp_path / "a.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["text"] for row in rows] == [*(f"'{text}" for text in texts[:5]), *texts[5:]]
    assert {row["number"] for row in rows} == {"-0.5"}


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[" * 100_000, b"1" * 5000], ids=["cut", "UTF-8", "nested", "long"]
)
def test_what_is_no_json_is_told_in_a_sentence(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    for read in (io.read_json, io.read_object):
        with pytest.raises(UserError, match=r"x\.json is not JSON"):
            read(tmp_path / "x.json")
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n\n' + content)
    with pytest.raises(UserError, match=r"x\.jsonl, line 3 is not JSON"):
        io.read_jsonl(tmp_path / "x.jsonl")
    assert io.read_json_object(tmp_path / "x.json") == {}
    assert io.read_whole_lines(tmp_path / "x.jsonl") == [{"a": 1}]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
@pytest.mark.parametrize("proc", [True, False])
def test_the_umask_is_read_and_never_changed(tmp_path, monkeypatch, umask, proc):
    """In between another thread would make a file that everybody may write."""
    if not proc:
        read = io.Path.read_text
        monkeypatch.setattr(
            io.Path, "read_text", lambda path, **how: "" if path.name == "status" else read(path, **how)
        )
    before, called = os.umask(umask), []
    sys.setprofile(lambda frame, event, argument: called.append(argument) if event == "c_call" else None)
    try:
        found = io.current_umask()
        io.write_json(tmp_path / "made.json", {})
    finally:
        sys.setprofile(None)
        os.umask(before)
    assert found == umask and os.umask not in called
    assert (tmp_path / "made.json").stat().st_mode & 0o777 == 0o666 & ~umask
