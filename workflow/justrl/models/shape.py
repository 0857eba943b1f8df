"""Shape of a model, from which its size, memory and speed are computed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from justrl.config import HubModel, LocalModel, TinyModel
from justrl.config.files import find
from justrl.io import read_json_object
from justrl.models.folder import check_numbers

# Vocabulary size of a warm-started tiny model, rounded up from its characters and words.
TAUGHT_VOCABULARY = 512


@dataclass(frozen=True)
class ModelShape:
    """A decoder with gated feed-forward layers, like Qwen2 and Llama; `tied` shares input and output embedding."""

    layers: int
    width: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    @property
    def embedding(self) -> int:
        """Parameters of the embedding and, if it is a separate matrix, of the output layer."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        wide = (self.heads + 2 * self.key_value_heads) * self.head_size
        attention = wide * (self.width + 1) + self.heads * self.head_size * self.width
        return attention + 3 * self.width * self.intermediate + 2 * self.width

    @property
    def largest_tensor(self) -> int:
        """Maximum parameters of a tensor: an embedding, or the first two feed-forward matrices fused."""
        return self.width * max(self.vocabulary, 2 * self.intermediate)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding + self.layers * self.layer + self.width

    @property
    def multiplied(self) -> int:
        """Parameters that multiply each token: all except the input embedding, which is a lookup."""
        return self.layers * self.layer + self.vocabulary * self.width

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values of one token in 16 bits."""
        return 4 * self.layers * self.key_value_heads * self.head_size


# The paper's two models.
DEEPSEEK = ModelShape(28, 1536, 8960, 12, 2, 128, 151_936, tied=False)
NEMOTRON = replace(DEEPSEEK, tied=True)
# By family and size, from each model's config.json, to plan before anything is downloaded.
QWEN25 = {
    "0.5B": ModelShape(24, 896, 4864, 14, 2, 64, 151_936, tied=True),
    "1.5B": NEMOTRON,
    "3B": ModelShape(36, 2048, 11_008, 16, 2, 128, 151_936, tied=True),
    "7B": ModelShape(28, 3584, 18_944, 28, 4, 128, 152_064, tied=False),
    "14B": ModelShape(48, 5120, 13_824, 40, 8, 128, 152_064, tied=False),
    "32B": ModelShape(64, 5120, 27_648, 40, 8, 128, 152_064, tied=False),
    "72B": ModelShape(80, 8192, 29_568, 64, 8, 128, 152_064, tied=False),
}
QWEN3 = {
    "0.6B": ModelShape(28, 1024, 3072, 16, 8, 128, 151_936, tied=True),
    "1.7B": ModelShape(28, 2048, 6144, 16, 8, 128, 151_936, tied=True),
    "4B": ModelShape(36, 2560, 9728, 32, 8, 128, 151_936, tied=True),
    "8B": ModelShape(36, 4096, 12_288, 32, 8, 128, 151_936, tied=False),
    "14B": ModelShape(40, 5120, 17_408, 40, 8, 128, 151_936, tied=False),
    "32B": ModelShape(64, 5120, 25_600, 64, 8, 128, 151_936, tied=False),
}
LLAMA = {
    "3.2-1B": ModelShape(16, 2048, 8192, 32, 8, 64, 128_256, tied=True),
    "3.2-3B": ModelShape(28, 3072, 8192, 24, 8, 128, 128_256, tied=True),
    "3.1-8B": ModelShape(32, 4096, 14_336, 32, 8, 128, 128_256, tied=False),
}
KNOWN = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": DEEPSEEK,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": LLAMA["3.1-8B"],
    "agentica-org/DeepScaleR-1.5B-Preview": DEEPSEEK,
    "hbx/JustRL-DeepSeek-1.5B": DEEPSEEK,
    "opencompass/CompassVerifier-3B": QWEN25["3B"],
    "hbx/JustRL-Nemotron-1.5B": NEMOTRON,
}
KNOWN |= {f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}": QWEN25[size] for size in ("7B", "14B", "32B")}
KNOWN |= {f"nvidia/OpenMath-Nemotron-{size}": QWEN25[size] for size in ("1.5B", "7B", "14B", "32B")}
KNOWN |= {f"Qwen/Qwen2.5-{size}{kind}": shape for size, shape in QWEN25.items() for kind in ("", "-Instruct")}
KNOWN |= {
    f"Qwen/Qwen2.5-Math-{size}{kind}": QWEN25[size] for size in ("1.5B", "7B", "72B") for kind in ("", "-Instruct")
}
KNOWN |= {f"Qwen/Qwen3-{size}": shape for size, shape in QWEN3.items()}
KNOWN |= {f"Qwen/Qwen3-{size}-Base": QWEN3[size] for size in ("0.6B", "1.7B", "4B", "8B", "14B")}
KNOWN |= {f"Qwen/Qwen3-4B-{kind}-2507": QWEN3["4B"] for kind in ("Instruct", "Thinking")}
KNOWN |= {f"meta-llama/Llama-{size}{kind}": shape for size, shape in LLAMA.items() for kind in ("", "-Instruct")}


def read_shape(folder: str | Path) -> ModelShape | None:
    """Read the shape from a model folder's config.json; None if it is missing or not of a usual decoder.

    Raises UserError: it has numbers that no model can have.
    """
    path = Path(folder) / "config.json"
    config = read_json_object(path)
    check_numbers(config, path)
    return shape_in(config)


def shape_in(config: dict[str, Any]) -> ModelShape | None:
    """Return the shape in a configuration of transformers; None if it is not of a usual decoder."""
    keys = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if not all(isinstance(config.get(key), int) for key in keys) or any("expert" in key for key in config):
        return None
    layers, width, intermediate, heads, vocabulary = (config[key] for key in keys)
    key_value_heads, head_size = config.get("num_key_value_heads") or heads, config.get("head_dim") or width // heads
    tied = bool(config.get("tie_word_embeddings"))
    return ModelShape(layers, width, intermediate, heads, key_value_heads, head_size, vocabulary, tied)


def shape_of(model: HubModel | LocalModel | TinyModel, folder: str | Path | None = None) -> ModelShape | None:
    """Return the shape of a `models` entry: from its folder if it exists, else from known models; None if unknown."""
    if folder is not None and (found := read_shape(folder)):
        return found
    if isinstance(model, LocalModel):
        return read_shape(find(model.path))
    if isinstance(model, TinyModel):
        size = model.hidden_size // model.heads
        feed_forward, key_values = model.intermediate_size, model.key_value_heads
        return ModelShape(
            model.layers, model.hidden_size, feed_forward, model.heads, key_values, size, TAUGHT_VOCABULARY, False
        )
    return KNOWN.get(model.hub_id)
