"""What a segment asks of verl, the form of a setting, and what the values of settings are computed from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from justrl.errors import UserError

# verl's GRPO adds this constant to the standard deviation and offers no key for it (compute_grpo_outcome_advantage).
VERL_ADVANTAGE_EPSILON = 1e-6

Value = Callable[["Request"], Any]


@dataclass(frozen=True)
class Request:
    """What one segment of a run asks of verl.

    `hardware` is the mapping of config.yaml. Paths are text, as they stand in the resolved configuration; the defaults
    name what is filled in when a segment starts, so that a run's configuration can be written without any machine's
    folders in it.
    """

    recipe: Mapping[str, Any]
    seed: int
    hardware: Mapping[str, Any]
    run: str = "run"
    experiment: str = "paper"
    start_step: int = 0
    to_step: int | None = None
    model: str = "<model>"
    train_file: str = "<train_file>"
    validation_file: str = "<train_file>"
    checkpoints: str = "<work>/checkpoints"
    rollouts: str | None = None
    cpus: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_cpu(self) -> bool:
        """Whether this machine has no GPU: the same stack then runs on gloo and vLLM's CPU backend."""
        return self.hardware["gpus_per_node"] == 0 or self.hardware["gpu"] == "none"

    @property
    def ranks_per_node(self) -> int:
        """Data-parallel workers on each node: one for each GPU, at least one on a CPU."""
        return max(1, self.hardware["gpus_per_node"])

    @property
    def ranks(self) -> int:
        """Data-parallel workers in all."""
        return self.ranks_per_node * self.hardware["nodes"]


@dataclass(frozen=True)
class Row:
    """One setting: what it is called in the recipe, verl's key, its value, where that comes from, and why.

    `added` marks a key that verl reads but does not have in its default configuration.
    """

    name: str
    key: str
    value: Value | Any
    source: str
    note: str = ""
    added: bool = False

    def value_for(self, request: Request) -> Any:
        """The value for one request."""
        return self.value(request) if callable(self.value) else self.value


def of(*keys: str) -> Value:
    """The recipe's value under `keys`."""

    def value(request: Request) -> Any:
        node = request.recipe
        for key in keys:
            node = node[key]
        return list(node) if isinstance(node, (list, tuple)) else node

    return value


def mixed_precision(dtype: str) -> dict[str, str]:
    """FSDP's precisions for a compute type: parameters in it, gradients summed and buffers kept in float32."""
    short = {"bfloat16": "bf16", "float32": "fp32"}
    if dtype not in short:
        raise UserError(f"recipe.dtype: verl trains in {' or '.join(short)}, got {dtype!r}")
    return {"param_dtype": short[dtype], "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def longest(request: Request) -> int:
    """Tokens of the longest sequence: prompt and response."""
    return request.recipe["max_prompt_length"] + request.recipe["max_response_length"]


def concurrent_sequences(request: Request) -> int:
    """Sequences that a vLLM replica may run at once: twice its even share of a step's rollouts, 256 at least."""
    rollouts = request.recipe["prompts_per_step"] * request.recipe["rollouts_per_prompt"]
    return max(256, 2 * -(-rollouts // request.ranks))


def check_recipe(request: Request) -> None:
    """Refuse what verl would ignore or compute in another way.

    Raises:
        UserError: naming the key of the recipe, its value and what verl can do.
    """
    recipe = request.recipe
    if request.on_cpu and recipe["kl_coefficient"]:
        raise UserError("recipe.kl_coefficient: verl's reference model needs a GPU; leave it 0.0 on a CPU")
    if recipe["algorithm"] != "grpo":
        raise UserError(f"recipe.algorithm: this project translates grpo for verl, got {recipe['algorithm']!r}")
    if recipe["advantage_epsilon"] != VERL_ADVANTAGE_EPSILON:
        raise UserError(
            f"recipe.advantage_epsilon: verl has {VERL_ADVANTAGE_EPSILON} built in and no key for another, got "
            f"{recipe['advantage_epsilon']}; use `engine: reference` for that"
        )
    if recipe["prompts_per_step"] % recipe["mini_batch_prompts"]:
        raise UserError(
            f"recipe.mini_batch_prompts ({recipe['mini_batch_prompts']}) must divide prompts_per_step "
            f"({recipe['prompts_per_step']}): verl would drop the rest without a word"
        )
