"""A model folder that is incomplete, or wants its own code to run, is refused by everything that would load it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from justrl.errors import UserError
from justrl.io import file_sha256, read_json, write_json
from justrl.models import load_backend
from justrl.models.folder import check_download, check_weights
from justrl.preflight import experiment_checks
from justrl.training.reference.policy import load_model
from tiny_model import make_tiny_model

UP = "model.layers.1.mlp.up_proj.weight"
WEIGHTS = "model.safetensors"


def check_model(folder):
    check = experiment_checks.check_model(folder, "verl")
    if check.status != "ok":
        raise UserError(check.found)


LOADERS = {
    "reference": lambda folder: load_model(folder, "cpu", False),
    "transformers": lambda folder: load_backend("transformers", folder, dtype="float32"),
    "preflight": check_model,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("whole") / "model", family="nemotron")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "model"))


def change_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def cut(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-100])


def pickle(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def split(folder, lost):
    """The weights in two files with their index, the second of which is not there where it is `lost`."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for part in sorted(set(places.values()))[: 1 if lost else 2]:
        save_file({name: tensors[name] for name in tensors if places[name] == part}, folder / part, {"format": "pt"})
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: change_tensors(folder, lambda tensors: tensors.pop(UP)), [UP, "is missing"]),
        (
            lambda folder: change_tensors(folder, lambda tensors: tensors.update(more=torch.ones(2))),
            ["more is not one of its tensors"],
        ),
        (
            lambda folder: change_tensors(folder, lambda tensors: tensors.update({UP: torch.ones(3, 3)})),
            [f"{UP} has the shape (3, 3) instead of (128, 64)"],
        ),
        (cut, [WEIGHTS, "truncated"]),
        (pickle, [f"lacks {WEIGHTS}", "pytorch_model.bin is pickled"]),
        (lambda folder: split(folder, lost=True), ["lacks part-1.safetensors"]),
        (lambda folder: (folder / "tokenizer.json").unlink(), ["tokenizer.json"]),
    ],
    ids=["missing", "extra", "misshapen", "cut", "pickled", "shard", "tokenizer"],
)
def test_an_incomplete_folder_is_refused(folder, spoil, words, loader):
    spoil(folder)
    with pytest.raises(UserError) as refusal:
        LOADERS[loader](folder)
    for word in (str(folder), *words):
        assert word in str(refusal.value)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_whole_folder_is_not(folder, loader):
    LOADERS[loader](folder)
    split(folder, lost=False)
    LOADERS[loader](folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"[]"),
        ("config.json", b"[" * 100_000),
        ("config.json", {"hidden_size": "wide"}),
        ("config.json", {"num_attention_heads": 0}),
        ("config.json", {"hidden_act": "unheard_of"}),
        ("config.json", {"vocab_size": 10}),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer.json", b"{}"),
        ("generation_config.json", b"["),
        ("generation_config.json", b"[]"),
        ("generation_config.json", b'{"eos_token_id": "x"}'),
        ("generation_config.json", b'{"a": "\xe9"}'),
    ],
)
@pytest.mark.parametrize("loader", ["reference", "transformers"])
def test_broken_files_are_told_in_a_sentence(folder, file, content, loader):
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / file).read_text()) | content).encode()
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=str(folder)):
        LOADERS[loader](folder)


@pytest.fixture
def downloaded(folder):
    """The folder with the record that `justrl data download` writes."""
    files = {path.name: file_sha256(path) for path in folder.iterdir()}
    write_json(folder / "source.json", {"kind": "model", "hub_id": "a/b", "revision": "c" * 40, "files": files})
    return folder


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: flip_a_bit(folder / WEIGHTS), f"{WEIGHTS} is not the file that was downloaded"),
        (
            lambda folder: (folder / "tokenizer_config.json").unlink(),
            "lacks the downloaded file tokenizer_config.json",
        ),
        (lambda folder: (folder / "source.json").write_bytes(b"[" * 100_000), "source.json is not JSON"),
        (lambda folder: (folder / "source.json").write_bytes(b'{"files": "\xe9"}'), "source.json is not JSON"),
        (
            lambda folder: (folder / "source.json").write_bytes(b'{"files": ["a"]}'),
            "source.json is not a download record",
        ),
    ],
    ids=["weights", "lost", "nested", "not UTF-8", "no record"],
)
def test_a_download_must_be_what_was_downloaded(downloaded, spoil, words, loader):
    LOADERS[loader](downloaded)
    spoil(downloaded)
    with pytest.raises(UserError, match=re.escape(words)):
        LOADERS[loader](downloaded)


def test_gigabytes_are_hashed_once(downloaded):
    """What was found is remembered beside the folder, and believed for as long as no file changes."""
    check_download(downloaded)
    memory = downloaded.with_name(".model.checked.json")
    found = read_json(memory)
    size, changed, digest = found[WEIGHTS]
    assert digest == file_sha256(downloaded / WEIGHTS) and size == (downloaded / WEIGHTS).stat().st_size
    write_json(memory, found | {WEIGHTS: [size, changed, "0" * 64]})
    with pytest.raises(UserError, match=r"SHA-256 000000000000\.\.\."):
        check_download(downloaded)
    (downloaded / WEIGHTS).touch()
    check_download(downloaded)
    assert read_json(memory)[WEIGHTS][2] == digest


def test_looking_at_the_weights_draws_no_random_number(folder):
    before = torch.get_rng_state()
    check_weights(folder)
    assert torch.equal(before, torch.get_rng_state())


def test_either_of_tied_weights_may_stand_in_the_file_but_each_of_others_must(folder, tmp_path):
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    check_weights(folder)
    change_tensors(folder, lambda tensors: tensors.pop("model.embed_tokens.weight"))
    check_weights(folder)
    untied = make_tiny_model(tmp_path / "untied", family="deepseek")
    check_weights(untied)
    change_tensors(untied, lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"lm_head\.weight is missing"):
        check_weights(untied)


def test_a_folder_from_another_time_may_hold_what_is_computed_today(folder):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(folder, lambda tensors: tensors.update({name: torch.ones(16)}))
    check_weights(folder)


@pytest.mark.parametrize("known", [True, False], ids=["known type", "unknown type"])
@pytest.mark.parametrize("loader", LOADERS)
def test_code_of_a_folder_never_runs(folder, tmp_path, monkeypatch, loader, known):
    """Not even on a "y" from standard input, with which transformers asks."""
    touched = tmp_path / "touched"
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (folder / "own.py").write_text(
        f"open({str(touched)!r}, 'w')\n"
        "from transformers import PreTrainedTokenizerFast as Tokenizer, Qwen2Config, Qwen2ForCausalLM as Model\n"
        "class Config(Qwen2Config):\n    model_type = 'unheard_of'\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    config["model_type"] = config["model_type"] if known else "unheard_of"
    (folder / "config.json").write_text(json.dumps(config))
    if known:
        LOADERS[loader](folder)
    else:
        with pytest.raises(UserError, match=str(folder)):
            LOADERS[loader](folder)
    assert not touched.exists()
