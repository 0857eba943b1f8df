"""Shape of a model: what its size, its memory and its speed are computed from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from justrl.config import HubModel, LocalModel, TaughtModel
from justrl.config_files import find
from justrl.io import read_json_object

# Vocabulary of a taught model, rounded up to what its characters and words come to.
TAUGHT_VOCABULARY = 512


@dataclass(frozen=True)
class ModelShape:
    """A decoder with gated feed-forward layers, as Qwen2 and Llama are; `tied` shares the two embeddings."""

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
        """Parameters of the embedding and, where it is another matrix, of the output layer."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        wide = (self.heads + 2 * self.key_value_heads) * self.head_size
        attention = wide * (self.width + 1) + self.heads * self.head_size * self.width
        return attention + 3 * self.width * self.intermediate + 2 * self.width

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.embedding + self.layers * self.layer + self.width

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values of one token in 16 bits."""
        return 4 * self.layers * self.key_value_heads * self.head_size


# The paper's two models and that of the one-GPU experiment on a small card, from their config.json, for a plan before
# anything is downloaded.
DEEPSEEK = ModelShape(28, 1536, 8960, 12, 2, 128, 151_936, tied=False)
NEMOTRON = ModelShape(28, 1536, 8960, 12, 2, 128, 151_936, tied=True)
QWEN_HALF = ModelShape(24, 896, 4864, 14, 2, 64, 151_936, tied=True)
KNOWN = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": DEEPSEEK,
    "nvidia/OpenMath-Nemotron-1.5B": NEMOTRON,
    "Qwen/Qwen2.5-0.5B-Instruct": QWEN_HALF,
}


def read_shape(folder: str | Path) -> ModelShape | None:
    """The shape in a model folder's config.json; None without one, or where it is no decoder of the usual form."""
    return shape_in(read_json_object(Path(folder) / "config.json"))


def shape_in(config: dict[str, Any]) -> ModelShape | None:
    """The shape in a configuration of transformers; None where it is none of a decoder of the usual form."""
    keys = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if not all(isinstance(config.get(key), int) for key in keys) or any("expert" in key for key in config):
        return None
    layers, width, intermediate, heads, vocabulary = (config[key] for key in keys)
    key_value_heads, head_size = config.get("num_key_value_heads") or heads, config.get("head_dim") or width // heads
    tied = bool(config.get("tie_word_embeddings"))
    return ModelShape(layers, width, intermediate, heads, key_value_heads, head_size, vocabulary, tied)


def shape_of(model: HubModel | LocalModel | TaughtModel, folder: str | Path | None = None) -> ModelShape | None:
    """The shape of a `models` entry: of its folder where it is there, else of the known models; None if unknown."""
    if folder is not None and (found := read_shape(folder)):
        return found
    if isinstance(model, LocalModel):
        return read_shape(find(model.path))
    if isinstance(model, TaughtModel):
        size = model.hidden_size // model.heads
        feed_forward, key_values = model.intermediate_size, model.key_value_heads
        return ModelShape(
            model.layers, model.hidden_size, feed_forward, model.heads, key_values, size, TAUGHT_VOCABULARY, False
        )
    return KNOWN.get(model.hub_id)
