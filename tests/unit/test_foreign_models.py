"""A model's folder from elsewhere: what would hang, exhaust, crash or mislead whoever opens it is refused by name."""

import json
import os
import re
import shutil
import socket
import struct
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from justrl.data.dapo import PromptLength
from justrl.data.sources import Hub, add_entry, download, local_source, locate, read_lock
from justrl.data.tables import find_data_files
from justrl.errors import UserError
from justrl.hardware import gpu_lease
from justrl.io import file_sha256, read_json, read_json_object, write_json
from justrl.models import chat_template
from justrl.models.chat_template import ChatTokenizer
from justrl.models.folder import INDEX, SINGLE, check_download, check_model_folder, check_weights
from justrl.models.sampling import copy_tokenizer, load_tokenizer
from justrl.models.shape import read_shape
from justrl.training.run_lock import hold
from tiny_model import make_tiny_model

pytestmark = pytest.mark.timeout(120)
TEMPLATE = "chat_template.jinja"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("whole") / "model", family="nemotron")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pipe(path):
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def bind(path):
    path.unlink()
    with socket.socket(socket.AF_UNIX) as end:
        here = os.open(path.parent, os.O_RDONLY)
        end.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


READERS = {
    "check": check_model_folder,
    "tokenizer": load_tokenizer,
    "weights": check_weights,
    "copy": lambda folder: copy_tokenizer(folder, folder.parent),
    "take": lambda folder: download(local_source(folder, "model"), folder.parent / "taken"),
    "mirror": lambda folder: locate("model", "owner/model", hub=Hub(mirror=folder.parent / "mirror")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("file", "spoil", "words"),
    [
        ("config.json", pipe, "named pipe"),
        ("tokenizer.json", pipe, "named pipe"),
        (TEMPLATE, pipe, "named pipe"),
        (SINGLE, pipe, "named pipe"),
        ("generation_config.json", bind, "a socket"),
        (SINGLE, lambda path: link(path, "/dev/zero"), "a device"),
        ("tokenizer_config.json", lambda path: link(path, "nowhere"), "which does not exist"),
        (SINGLE, lambda path: link(path, path.name), "which does not exist"),
        (TEMPLATE, lambda path: link(path, "/etc/passwd"), "a link out of the model's folder"),
        ("vocab.json", lambda path: path.mkdir(), "a folder"),
    ],
)
def test_what_is_no_regular_file_of_the_folder_is_refused_by_name(folder, reader, file, spoil, words):
    spoil(folder / file)
    if reader == "mirror":
        place = folder.parent / "mirror/owner/model"
        place.parent.mkdir(parents=True)
        folder.rename(place)
    with pytest.raises(UserError, match=rf"{re.escape(file)} is .*{words}"):
        READERS[reader](folder)


def test_links_that_people_have_are_taken(folder, tmp_path):
    """Weights elsewhere on the disk, Hugging Face's cache, a link within the folder, the folder itself a link."""
    elsewhere = tmp_path / "disk/weights.safetensors"
    elsewhere.parent.mkdir()
    (folder / SINGLE).rename(elsewhere)
    link(folder / SINGLE, elsewhere)
    (folder / TEMPLATE).rename(folder / "template.txt")
    link(folder / TEMPLATE, "template.txt")
    blobs = tmp_path / "hub/models--owner--name/blobs"
    snapshot = blobs.with_name("snapshots") / ("c" * 40)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.copyfile(path, blobs / file_sha256(path))
        (snapshot / path.name).symlink_to(f"../../blobs/{file_sha256(path)}")
    (tmp_path / "linked").symlink_to(folder)
    for number, place in enumerate((folder, snapshot, tmp_path / "linked")):
        load_tokenizer(place)
        check_weights(place)
        taken = download(local_source(place, "model"), tmp_path / f"taken{number}")
        assert not [path for path in taken.iterdir() if path.is_symlink()]
        check_weights(taken)


def test_a_mirror_may_share_files_within_itself(folder, tmp_path):
    place = tmp_path / "mirror/owner/model"
    place.parent.mkdir(parents=True)
    folder.rename(place)
    (place / "tokenizer.json").rename(tmp_path / "mirror/shared.json")
    link(place / "tokenizer.json", "../../shared.json")
    assert "tokenizer.json" in locate("model", "owner/model", hub=Hub(mirror=tmp_path / "mirror")).files


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers"),
        ({"vocab_size": -1}, "vocab_size must be a whole number"),
        ({"vocab_size": True}, "vocab_size"),
        ({"hidden_size": 64.0}, "hidden_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": 2**62}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": 3}, "not a multiple of num_attention_heads 3"),
        ({"num_key_value_heads": 5}, "not a multiple of num_key_value_heads 5"),
        ({"num_key_value_heads": -2}, "num_key_value_heads"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "four"}}, "factor"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers"),
        ({"encoder_layers": 10**7}, "encoder_layers"),
        ({"num_local_experts": 10**8}, "num_local_experts"),
    ],
)
def test_numbers_of_which_no_model_can_be_made_are_refused(folder, values, words):
    change(folder / "config.json", **values)
    for read in (check_model_folder, check_weights, read_shape):
        with pytest.raises(UserError, match=words) as refusal:
            read(folder)
        assert str(folder / "config.json") in str(refusal.value)


# What real models' config.json have, by the names on the hub.
REAL = {
    "Qwen2.5-Math-1.5B": """{"hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2,
        "num_hidden_layers": 28, "vocab_size": 151936, "max_window_layers": 21, "intermediate_size": 8960,
        "rms_norm_eps": 1e-06, "rope_theta": 10000}""",
    "Llama-3.1-405B": """{"hidden_size": 16384, "num_attention_heads": 128, "num_key_value_heads": 8,
        "num_hidden_layers": 126, "vocab_size": 128256,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "rope_type": "llama3"}}""",
    "DeepSeek-V3": """{"hidden_size": 7168, "num_attention_heads": 128, "num_key_value_heads": 128,
        "num_hidden_layers": 61, "n_routed_experts": 256, "moe_layer_freq": 1, "first_k_dense_replace": 3,
        "v_head_dim": 128, "vocab_size": 129280, "num_nextn_predict_layers": 1}""",
    "gemma-3n-E2B": """{"text_config": {"hidden_size": 2048, "intermediate_size": [8192, 8192], "head_dim": 256,
        "vocab_size_per_layer_input": 262144, "num_hidden_layers": 30, "num_attention_heads": 8,
        "num_key_value_heads": 2, "vocab_size": 262400, "rope_scaling": null},
        "vision_config": {"hidden_size": 2048, "vocab_size": 128}}""",
    "Nemotron-H-8B": """{"hidden_size": 4096, "num_attention_heads": 32, "time_step_limit": [0.0, Infinity],
        "num_hidden_layers": 52, "head_dim": 128, "layer_norm_epsilon": 1e-05, "vocab_size": 131072}""",
    "gpt2": """{"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "n_inner": null}""",
    "Qwen3-0.6B": """{"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "rope_scaling": null, "num_hidden_layers": 28, "sliding_window": null, "vocab_size": 151936}""",
    "Falcon-7B": """{"hidden_size": 4544, "num_attention_heads": 71, "multi_query": true, "num_hidden_layers": 32}""",
    "Llama-4-Scout": """{"text_config": {"max_position_embeddings": 10485760, "interleave_moe_layer_step": 1}}""",
    "SmolLM2-135M": """{"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}""",
}


@pytest.mark.parametrize("model", REAL)
def test_numbers_of_real_models_are_taken(tmp_path, model):
    (tmp_path / "config.json").write_text(REAL[model])
    check_model_folder(tmp_path)


def header(length, content=b"{}", rest=b""):
    return lambda path: path.write_bytes(struct.pack("<Q", length) + content + rest)


def two_sets(folder):
    save_file(load_file(folder / SINGLE), folder / "other.safetensors", {"format": "pt"})
    names = dict.fromkeys(load_file(folder / SINGLE), "other.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))


def index(content):
    def spoil(folder):
        (folder / SINGLE).rename(folder / "part.safetensors")
        (folder / INDEX).write_text(json.dumps(content))

    return spoil


def sparse(name, size):
    def spoil(folder):
        with (folder / name).open("ab") as handle:
            handle.truncate(size)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: header(2**63)(folder / SINGLE), SINGLE),
        (lambda folder: header(9)(folder / SINGLE), SINGLE),
        (lambda folder: header(50_000_000, b" " * 50_000_000)(folder / SINGLE), f"{SINGLE} has a header of 50,000,000"),
        (lambda folder: (folder / SINGLE).write_bytes(b""), SINGLE),
        (lambda folder: (folder / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda folder: (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-9]), f"{SINGLE} is truncated"),
        (sparse("tokenizer.json", 2**40), r"tokenizer\.json has 1,099,511,627,776 bytes"),
        (sparse("config.json", 2**30), r"config\.json has"),
        (sparse(TEMPLATE, 2**21), rf"{TEMPLATE} has"),
        (index({"weight_map": {"a": "../part.safetensors"}}), f"{INDEX} is not an index.*'../part.safetensors'"),
        (index({"weight_map": {"a": "/etc/passwd"}}), f"{INDEX} is not an index"),
        (index({"weight_map": {"a": 3}}), f"{INDEX} is not an index"),
        (index({"weight_map": {"a": ["part.safetensors"]}}), f"{INDEX} is not an index"),
        (index({"weight_map": {}}), f"{INDEX} is not an index"),
        (index({"weight_map": []}), f"{INDEX} is not an index"),
        (lambda folder: pipe(folder / INDEX), f"{INDEX} is a named pipe"),
        (two_sets, f"holds {SINGLE} and {INDEX}"),
        (lambda folder: write_json(folder / "adapter_config.json", {"base_model_name_or_path": "a/b"}), "an adapter"),
    ],
)
@pytest.mark.parametrize("reader", ["check", "take"])
def test_sizes_and_indexes_are_those_of_a_model(folder, spoil, words, reader):
    if "part" in words or INDEX in words:
        (folder / INDEX).unlink(missing_ok=True)
    spoil(folder)
    with pytest.raises(UserError, match=words) as refusal:
        READERS[reader](folder)
    assert str(folder) in str(refusal.value)


def tokenizer_with(**parts):
    def spoil(path):
        change(path, **parts)

    return spoil


def growing(letter):
    """Each of forty replacements makes ten letters of one."""
    steps = [{"type": "Replace", "pattern": {"String": letter}, "content": letter * 10} for _ in range(40)]
    return {"type": "Sequence", "normalizers": steps}


def regex(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def nested(path):
    change(path, normalizer="HERE")
    deep = '{"type":"Sequence","normalizers":[' * 50_000 + "]}" * 50_000
    path.write_text(path.read_text().replace('"HERE"', deep))


@pytest.mark.parametrize(
    "spoil",
    [
        tokenizer_with(normalizer=growing("a")),
        tokenizer_with(normalizer=growing("~")),
        tokenizer_with(pre_tokenizer=regex("(a+)+$|(a|a)*b|(.*)*\\1{9}")),
        tokenizer_with(pre_tokenizer=regex("(")),
        tokenizer_with(model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}),
        tokenizer_with(model={"type": "Unigram", "unk_id": 7, "vocab": [["a", float("-1e308")]]}),
        tokenizer_with(model=None),
        nested,
        lambda path: path.write_bytes(b"[" * 1_000_000),
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: path.write_bytes(b"\xff\xfe" * 100),
    ],
    ids=["memory", "~", "regex", "parenthesis", "merge", "unigram", "none", "deep", "brackets", "cut", "bytes"],
)
def test_a_hostile_tokenizer_ends_in_a_sentence_that_names_the_folder(folder, spoil, monkeypatch):
    monkeypatch.setattr(chat_template, "TOKENIZER_SECONDS", 5)
    monkeypatch.setattr(chat_template, "TOKENIZER_MEMORY", 2**30)
    spoil(folder / "tokenizer.json")
    for read in (load_tokenizer, PromptLength):
        with pytest.raises(UserError, match=re.escape(str(folder))) as refusal:
            read(folder)
        assert len(str(refusal.value).splitlines()) == 1


def test_a_panic_after_the_trial_is_a_sentence_too(folder):
    """Of a text that no trial can guess; the library's own exception is no Exception."""
    change(folder / "tokenizer.json", pre_tokenizer=regex("(?:(?:ж|ж)*)*q\\b"))
    tokenizer = ChatTokenizer(folder)
    with pytest.raises(UserError, match=re.escape(str(folder))):
        list(tokenizer.encode(["ж" * 60 + "qq"]))


@pytest.mark.parametrize(
    ("values", "words"),
    [({"eos_token": 3}, "eos_token"), ({"bos_token": {"text": "x"}}, "bos_token"), ({"chat_template": 3}, "must be")],
)
def test_odd_values_of_a_tokenizers_settings_are_said(folder, values, words):
    (folder / TEMPLATE).unlink()
    change(folder / "tokenizer_config.json", **values)
    with pytest.raises(UserError, match=words):
        ChatTokenizer(folder)


def test_a_tokenizer_is_tried_once_for_each_state_of_its_file(folder, monkeypatch):
    started, run = [], chat_template.subprocess.run

    def counted(*arguments, **options):
        started.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(chat_template.subprocess, "run", counted)
    for _ in range(3):
        ChatTokenizer(folder)
    assert len(started) == 1
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError):
        ChatTokenizer(folder)
    assert len(started) == 2


@pytest.fixture
def downloaded(folder):
    files = {path.name: file_sha256(path) for path in folder.iterdir()}
    write_json(folder / "source.json", {"kind": "model", "hub_id": "a/b", "revision": "c" * 40, "files": files})
    return folder


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: pipe(folder / "source.json"), "source.json is a named pipe"),
        (lambda folder: pipe(folder / SINGLE), f"{SINGLE} is a named pipe"),
        (lambda folder: change(folder / "source.json", files={}), "source.json is not a download record"),
        (lambda folder: change(folder / "source.json", files={"../x": "0"}), "names '../x'"),
        (lambda folder: change(folder / "source.json", files={"/etc/passwd": "0"}), "names '/etc/passwd'"),
        (
            lambda folder: shutil.copy(folder / SINGLE, folder / "more.safetensors"),
            "more.safetensors was not downloaded into",
        ),
        (lambda folder: (folder / "added_tokens.json").write_text("{}"), "added_tokens.json was not downloaded into"),
    ],
)
def test_a_download_is_what_its_record_lists(downloaded, spoil, words):
    check_download(downloaded)
    spoil(downloaded)
    for read in (check_download, lambda folder: local_source(folder, "model"), PromptLength):
        with pytest.raises(UserError, match=re.escape(words)):
            read(downloaded)


def test_a_pipe_in_the_place_of_what_is_remembered_is_not_waited_for(downloaded):
    pipe(downloaded.with_name(".model.checked.json"))
    check_download(downloaded)
    assert read_json(downloaded.with_name(".model.checked.json"))


@pytest.mark.parametrize("read", [local_source, find_data_files])
@pytest.mark.parametrize("name", ["q.jsonl", "folder/train.parquet", "folder/data/q.csv"])
def test_data_in_a_pipe_is_refused_by_name(tmp_path, read, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/more.jsonl").write_text("{}")
    pipe(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} is a named pipe"):
        read(tmp_path / name.partition("/")[0])


FILES = {"revision": "c" * 40, "files": {"a.parquet": "0" * 64}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "data.lock.json is a named pipe"),
        ({"sources": []}, "is not a lock file"),
        ({"sources": {"dataset:a/b": {}}}, "is not a lock file"),
        ({"sources": {"dataset:a/b": FILES | {"files": []}}}, "dataset:a/b has no revision, or no files"),
        ({"sources": {"dataset:a/b": FILES | {"revision": None}}}, "dataset:a/b has no revision, or no files"),
    ],
)
def test_a_lock_of_downloads_lists_files(tmp_path, content, words):
    path = tmp_path / "data.lock.json"
    pipe(path) if content is None else write_json(path, content)
    with pytest.raises(UserError, match=words):
        read_lock(path)
    write_json(path, {"sources": {"dataset:a/b": FILES}})
    assert read_lock(path)


def test_locks_are_not_waited_for_where_they_are_pipes(tmp_path):
    pipe(tmp_path / "LOCK")
    with pytest.raises(UserError, match="LOCK is a named pipe instead"), hold(tmp_path / "LOCK"):
        pytest.fail("held")
    pipe(tmp_path / ".data.lock.json.guard")
    with pytest.raises(UserError, match=r"\.data\.lock\.json\.guard is a named pipe"):
        add_entry(tmp_path / "data.lock.json", "dataset:a/b", FILES)
    pipe(tmp_path / "gpus/turn.lock")
    with pytest.raises(UserError, match=r"turn\.lock is a named pipe"):
        gpu_lease._open_lock(tmp_path / "gpus/turn.lock")


def test_no_json_is_read_from_a_pipe(tmp_path):
    pipe(tmp_path / "x.json")
    assert read_json_object(tmp_path / "x.json") == {}
    with pytest.raises(UserError, match=r"x\.json is a named pipe"):
        read_json(tmp_path / "x.json")
