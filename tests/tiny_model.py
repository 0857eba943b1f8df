"""A tiny Qwen2 with a tokenizer and a chat template, for tests that need a real model.

Its heads have 32 dimensions, the fewest for which vLLM has CPU kernels.
"""

from pathlib import Path

from justrl.data import tiny_model
from justrl.io import read_json, write_json

# The parts of a run.json that say where a test's model and data are from; the tests make both themselves.
MADE_HERE = {
    "experiment": "test",
    "model": {"source": "local", "path": "base", "context_length": 4096},
    "dataset": {"source": "local", "path": "train.parquet"},
}

_CORPUS = [
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "What is the sum of the positive integers that divide the number? Let $x$ and $y$ be such that the value of it is",
    "Find the number of ways in which all of the points are on the circle and the triangle has the length of a side",
    "Determine the smallest possible real number $n$ for which there exists a function $f(x)$ with the given property,",
    "where each of these $a_{1}, a_{2}, \\ldots, a_{n}$ can be written as $\\frac{m}{n}$, relatively prime, find $mn$.",
    "Suppose that two players take turns; the first chooses from a set at random. What is the probability that it is",
]


def make_tiny_model(
    folder: Path,
    *,
    family: str = "nemotron",
    seed: int = 0,
    positions: int = 4096,
    hidden: int = 64,
    spread: float = 0.1,
) -> Path:
    """Write a model of a family into `folder`; `spread` is the deviation of its weights (more: surer predictions)."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    like = tiny_model.FAMILIES[family]
    tokenizer = tiny_model.build_tokenizer(like, corpus=tuple(_CORPUS))
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        initializer_range=spread,
        **tiny_model.token_settings(tokenizer, like),
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = tiny_model.stop_ids(tokenizer, like)
    model.save_pretrained(folder)
    tiny_model.save_tokenizer(tokenizer, like, folder)
    return folder


def name_another_end(folder: Path) -> None:
    """Make all files of a nemotron-like model but its chat template name `<|endoftext|>`, as Qwen2.5's bases do."""
    from transformers import AutoTokenizer

    end = AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("<|endoftext|>")
    for name, change in (
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
        ("config.json", {"eos_token_id": end}),
        ("generation_config.json", {"eos_token_id": end}),
    ):
        write_json(folder / name, read_json(folder / name) | change)
