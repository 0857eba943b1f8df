"""Mirror, cache, hub and lock file: the real client against a server that speaks the hub's protocol."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serve

from justrl.data.sources import Hub as HubOptions
from justrl.data.sources import add_entry, local_source, locate, read_lock, wanted_files
from justrl.errors import UserError
from justrl.io import file_sha256

ROWS = b'{"question": "Why?", "answer": "1"}\n'
MODEL = {
    "config.json": b"{}",
    "tokenizer_config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
    "modeling_evil.py": b"code",
    "original/model.safetensors": b"other weights",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub()) as running:
        yield running


def download(folder: Path, endpoint: str, kind: str, *options: str, name: str = "out") -> subprocess.CompletedProcess:
    """Run the download command with a lock file and a cache of its own below `folder`."""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "justrl", "data", "download", kind, "--lock", str(folder / "data.lock.json")]
    command += ["--output", str(folder / name), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def lock_of(folder: Path) -> dict:
    return json.loads((folder / "data.lock.json").read_text())["sources"]


def refusal(done: subprocess.CompletedProcess) -> str:
    """The one sentence of a refused command."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_a_branch_is_resolved_once_and_stays_locked(hub: Hub, tmp_path: Path) -> None:
    first = hub.commit("datasets/org/set", {"README.md": b"A set.", "data/train.jsonl": ROWS, "script.py": b"code"})
    done = download(tmp_path, hub.endpoint, "dataset", "--hub-id", "org/set")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "data" / "train.jsonl").read_bytes() == ROWS
    assert not (tmp_path / "out" / "script.py").exists()
    record = json.loads((tmp_path / "out" / "source.json").read_text())
    assert (record["requested"], record["revision"], record["origin"]) == ("main", first, "hub")
    assert lock_of(tmp_path)["dataset:org/set"] == {"hub_id": "org/set", "revision": first, "files": record["files"]}

    # The branch moves on; the locked commit is still what comes.
    hub.commit("datasets/org/set", {"data/train.jsonl": ROWS * 2})
    again = download(tmp_path, hub.endpoint, "dataset", "--hub-id", "org/set", name="again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "data" / "train.jsonl").read_bytes() == ROWS

    # Asking for another commit than the locked one is a contradiction, and says so.
    other = hub.commit("datasets/org/set", {"data/train.jsonl": ROWS * 3})
    message = refusal(download(tmp_path, hub.endpoint, "dataset", "--hub-id", "org/set", "--revision", other))
    assert first in message
    assert other in message

    # Without a hub, the cache serves the locked commit.
    offline = download(tmp_path, "http://127.0.0.1:9", "dataset", "--hub-id", "org/set", "--offline", name="offline")
    assert offline.returncode == 0, offline.stderr
    assert json.loads((tmp_path / "offline" / "source.json").read_text())["origin"] == "cache"
    assert (tmp_path / "offline" / "data" / "train.jsonl").read_bytes() == ROWS


def test_changed_bytes_stop_with_both_hashes(hub: Hub, tmp_path: Path) -> None:
    hub.commit("datasets/org/set", {"train.jsonl": ROWS})
    assert download(tmp_path, hub.endpoint, "dataset", "--hub-id", "org/set").returncode == 0
    lock = json.loads((tmp_path / "data.lock.json").read_text())
    true = lock["sources"]["dataset:org/set"]["files"]["train.jsonl"]
    lock["sources"]["dataset:org/set"]["files"]["train.jsonl"] = "0" * 64
    (tmp_path / "data.lock.json").write_text(json.dumps(lock))
    message = refusal(download(tmp_path, hub.endpoint, "dataset", "--hub-id", "org/set", name="again"))
    assert true in message
    assert "0" * 64 in message
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("large", [False, True])
def test_a_first_download_that_was_damaged_on_its_way_is_refused(hub: Hub, tmp_path: Path, large: bool) -> None:
    hub.commit("datasets/org/set", {"README.md": b"A set.", "data/train.jsonl": ROWS})
    hub.large = {"data/train.jsonl"} if large else set()
    hub.damaged = {"data/train.jsonl": ROWS.replace(b"1", b"2")}
    assert len(hub.damaged["data/train.jsonl"]) == len(ROWS) and hub.damaged["data/train.jsonl"] != ROWS
    message = refusal(download(tmp_path, hub.endpoint, "dataset", "--hub-id", "org/set"))
    assert "train.jsonl is not what the hub holds" in message and "delete" in message
    assert not (tmp_path / "out").exists() and not (tmp_path / "data.lock.json").exists()
    # The way out that the message names.
    Path(message.partition("; delete ")[2].partition(" and run the command again")[0]).unlink()
    hub.damaged = {}
    assert download(tmp_path, hub.endpoint, "dataset", "--hub-id", "org/set").returncode == 0


def test_of_a_model_neither_pickles_nor_code_come(hub: Hub, tmp_path: Path) -> None:
    hub.commit("models/org/model", MODEL)
    done = download(tmp_path, hub.endpoint, "model", "--hub-id", "org/model")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", "model.safetensors", "source.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hub-id", "org/none"], "the hub has no dataset org/none"),
        (["--hub-id", "org/set", "--revision", "v9"], "org/set has no revision 'v9'"),
        (["--hub-id", "org/empty"], "org/empty has no Parquet, JSON or CSV file"),
    ],
)
def test_what_the_hub_lacks_is_said(hub: Hub, tmp_path: Path, options: list[str], message: str) -> None:
    hub.commit("datasets/org/set", {"train.jsonl": ROWS})
    hub.commit("datasets/org/empty", {"README.md": b"Nothing."})
    assert message in refusal(download(tmp_path, hub.endpoint, "dataset", *options))


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """A host that accepts connections and never answers, as a firewall makes one look."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()
        held = []

        def accept() -> None:
            server.settimeout(0.2)
            while not stop.is_set():
                try:
                    held.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        stop.set()
        thread.join()
        for connection, _ in held:
            connection.close()


@pytest.mark.parametrize("kind", ["closed", "silent"])
def test_without_a_network_one_sentence_says_what_would_serve(tmp_path: Path, silent_endpoint: str, kind: str) -> None:
    endpoint = silent_endpoint if kind == "silent" else "http://127.0.0.1:9"
    options = ["--hub-id", "org/model", "--mirror", str(tmp_path / "mirror"), "--timeout", "1"]
    start = time.monotonic()
    message = refusal(download(tmp_path, endpoint, "model", *options))
    # Not a measurement: a client that retries for minutes would be a fault.
    assert time.monotonic() - start < 60
    for part in ("model org/model", "the hub cannot be reached", f"{tmp_path}/mirror/org/model", "HF_HOME"):
        assert part in message


def make_mirror(folder: Path, hub_id: str, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / hub_id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_mirror_goes_before_the_network(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path / "mirror", "org/model", MODEL)
    lock = tmp_path / "lock.json"
    source = locate("model", "org/model", lock=lock, hub=HubOptions(mirror, offline=True))
    assert (source.origin, source.revision) == ("mirror", None)
    assert sorted(source.files) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    # A mirror is no authority: nothing of it is locked.
    assert not lock.exists()


def test_a_mirror_must_hold_the_locked_bytes(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path / "mirror", "org/set", {"train.jsonl": ROWS})
    lock, revision = tmp_path / "lock.json", "a" * 40
    files = {"README.md": "1" * 64, "train.jsonl": file_sha256(mirror / "org/set/train.jsonl")}
    add_entry(lock, "dataset:org/set", {"hub_id": "org/set", "revision": revision, "files": files})
    hub = HubOptions(mirror, offline=True)
    # The same bytes are the locked revision, with or without the card.
    assert locate("dataset", "org/set", lock=lock, hub=hub).revision == revision

    (mirror / "org/set/more.jsonl").write_bytes(ROWS)
    with pytest.raises(UserError, match=r"also has more\.jsonl, which .*not in .*lock\.json"):
        locate("dataset", "org/set", lock=lock, hub=hub)
    (mirror / "org/set/more.jsonl").rename(mirror / "org/set/train.jsonl")
    (mirror / "org/set/train.jsonl").write_bytes(ROWS * 2)
    with pytest.raises(UserError, match=f"has SHA-256 .*but .* has {files['train.jsonl']}"):
        locate("dataset", "org/set", lock=lock, hub=hub)
    (mirror / "org/set/train.jsonl").rename(mirror / "org/set/other.jsonl")
    with pytest.raises(UserError, match=r"train\.jsonl is in .*lock\.json but missing"):
        locate("dataset", "org/set", lock=lock, hub=hub)


def test_a_download_can_be_a_mirror_and_keeps_its_revision(hub: Hub, tmp_path: Path) -> None:
    commit = hub.commit("datasets/org/set", {"train.jsonl": ROWS})
    assert download(tmp_path, hub.endpoint, "dataset", "--hub-id", "org/set", name="mirror/org/set").returncode == 0
    options = HubOptions(tmp_path / "mirror", offline=True)
    assert locate("dataset", "org/set", hub=options).revision == commit
    with pytest.raises(UserError, match=f"is revision {commit} of org/set, but {'b' * 40} is asked for"):
        locate("dataset", "org/set", "b" * 40, hub=options)
    assert local_source(tmp_path / "mirror" / "org" / "set").revision == commit


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}", "pytorch_model.bin": b""}, r"no safetensors .*it has pytorch_model\.bin, pickled"),
        ({"model.safetensors": b""}, r"lacks config\.json, tokenizer_config\.json"),
        (
            MODEL | {"model.safetensors.index.json": b'{"weight_map": {"a": "model-00002-of-00002.safetensors"}}'},
            r"lacks model-00002-of-00002\.safetensors",
        ),
    ],
)
def test_an_unusable_model_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    mirror = make_mirror(tmp_path, "org/model", files)
    with pytest.raises(UserError, match=message):
        locate("model", "org/model", hub=HubOptions(mirror, offline=True))


def test_of_a_data_set_only_the_configuration_asked_for_comes() -> None:
    names = ["README.md", "OE_TO_maths_en_COMP/x.parquet", "OE_MM_maths_en_COMP/x.parquet", "images/1.png", "load.py"]
    assert wanted_files("dataset", names, "OE_TO_maths_en_COMP") == ["OE_TO_maths_en_COMP/x.parquet", "README.md"]
    assert len(wanted_files("dataset", names)) == 3


def test_downloads_at_the_same_time_lose_no_entry(tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    entry = {"hub_id": "x", "revision": "a" * 40, "files": {}}
    threads = [threading.Thread(target=add_entry, args=(lock, f"dataset:{i:02}", entry)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(read_lock(lock)) == [f"dataset:{i:02}" for i in range(20)]


def test_a_broken_lock_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text("[1")
    with pytest.raises(UserError, match=r"lock\.json is not a lock file"):
        read_lock(tmp_path / "lock.json")


def test_a_folder_that_is_no_download_is_not_replaced(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path / "mirror", "org/set", {"train.jsonl": ROWS})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    options = ["--hub-id", "org/set", "--mirror", str(mirror), "--offline"]
    assert "contains files that were not downloaded" in refusal(
        download(tmp_path, "http://127.0.0.1:9", "dataset", *options)
    )
    assert (tmp_path / "out" / "thesis.tex").exists()


@pytest.mark.parametrize("hub_id", ["../secret", "org/../../secret", "org/..", "/secret/set", ""])
def test_a_hub_id_does_not_leave_the_mirror(tmp_path: Path, hub_id: str) -> None:
    make_mirror(tmp_path, "secret", {"train.jsonl": ROWS})
    make_mirror(tmp_path, "mirror/org/set", {"train.jsonl": ROWS})
    with pytest.raises(UserError, match=r"neither a hub id \(owner/name\)"):
        locate("dataset", hub_id, hub=HubOptions(tmp_path / "mirror", offline=True))


def test_a_link_out_of_the_mirror_is_not_followed(tmp_path: Path) -> None:
    mirror = make_mirror(tmp_path / "mirror", "org/set", {"train.jsonl": ROWS, "../other.jsonl": ROWS})
    (mirror / "org/set/near.jsonl").symlink_to("../other.jsonl")
    locate("dataset", "org/set", hub=HubOptions(mirror, offline=True))
    (tmp_path / "mine.jsonl").write_bytes(ROWS)
    (mirror / "org/set/far.jsonl").symlink_to(tmp_path / "mine.jsonl")
    with pytest.raises(UserError, match=r"far\.jsonl is a link out of the mirror, to .*mine\.jsonl"):
        locate("dataset", "org/set", hub=HubOptions(mirror, offline=True))


def test_the_lock_follows_no_link_and_leaves_nothing_in_the_temporary_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    lock, entry = tmp_path / "lock.json", {"hub_id": "x", "revision": "a" * 40, "files": {}}
    add_entry(lock, "dataset:a", entry)
    assert not list((tmp_path / "tmp").iterdir())
    (guard,) = tmp_path.glob(".*.guard")
    guard.unlink()
    (tmp_path / "thesis.tex").write_text("years of work")
    guard.symlink_to(tmp_path / "thesis.tex")
    with pytest.raises(OSError, match=guard.name):
        add_entry(lock, "dataset:b", entry)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"hub_id": "\xe9"}', "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "is not a download record"),
        (b'{"files": {}, "hub_id": "a/b"}', "is not a download record"),
    ],
    ids=["cut", "nested", "not UTF-8", "list", "empty", "incomplete"],
)
def test_a_broken_record_is_told_in_a_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.jsonl").write_bytes(ROWS)
    (tmp_path / "raw" / "source.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"source\.json.*{message}"):
        local_source(tmp_path / "raw")


def test_a_mirror_with_a_broken_record_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "org" / "set"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_bytes(ROWS)
    (folder / "source.json").write_bytes(b"[]")
    with pytest.raises(UserError, match=r"source\.json must be a JSON object"):
        locate("dataset", "org/set", hub=HubOptions(tmp_path))


def test_downloaded_data_that_was_edited_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(ROWS)
    record = {"kind": "dataset", "hub_id": "org/set", "requested": "main", "revision": "c" * 40, "origin": "hub"}
    files = {"train.jsonl": file_sha256(folder / "train.jsonl")}
    (folder / "source.json").write_text(json.dumps(record | {"files": files}))
    assert local_source(folder).files == files
    (folder / "train.jsonl").write_bytes(ROWS.replace(b"1", b"2"))
    with pytest.raises(UserError, match=r"train\.jsonl is not the file that was downloaded"):
        local_source(folder)
