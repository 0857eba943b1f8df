"""A segment's request to verl, the form of one setting, and functions that compute values of settings."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from justrl.config import Hardware, Recipe
from justrl.errors import UserError
from justrl.hardware.memory import Settings, settings_of
from justrl.models.shape import ModelShape

# verl's GRPO adds this constant to the standard deviation and offers no key for it (compute_grpo_outcome_advantage).
VERL_ADVANTAGE_EPSILON = 1e-6

Value = Callable[["VerlRequest"], Any]


@dataclass(frozen=True)
class VerlRequest:
    """A segment's request to verl.

    Paths are text, as in the resolved configuration. The defaults are placeholders for values that are filled in when a
    segment starts, so that a run's configuration can be written without the paths of a machine.
    """

    recipe: Recipe
    seed: int
    hardware: Hardware
    run: str = "run"
    experiment: str = "paper"
    start_step: int = 0
    to_step: int | None = None
    model: str = "<model>"
    shape: ModelShape | None = None
    train_file: str = "<train_file>"
    validation_file: str = "<train_file>"
    checkpoints: str = "<work>/checkpoints"
    rollouts: str | None = None
    cpus: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def on_cpu(self) -> bool:
        """Whether this machine has no GPU: the same stack then runs on gloo and vLLM's CPU backend."""
        return self.hardware.on_cpu

    @property
    def engine(self) -> Settings:
        """The engine's settings; those not configured are derived from the GPUs and the model."""
        return settings_of(self.hardware, self.recipe, self.shape)

    @property
    def ranks_per_node(self) -> int:
        """Data-parallel workers on each node: one per GPU, at least one on a CPU."""
        return max(1, self.hardware.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Data-parallel workers on all nodes."""
        return self.ranks_per_node * self.hardware.nodes


@dataclass(frozen=True)
class Row:
    """One setting: its name in the recipe, verl's key, its value, the source of the value, and a note.

    `added` marks a key that verl reads but that is missing from its default configuration.
    """

    name: str
    key: str
    value: Value | Any
    source: str
    note: str = ""
    added: bool = False

    def value_for(self, request: VerlRequest) -> Any:
        """Return the value for one request."""
        return self.value(request) if callable(self.value) else self.value


def of(*keys: str) -> Value:
    """Return a function that gives the recipe's value at the path `keys`."""

    def value(request: VerlRequest) -> Any:
        value = functools.reduce(getattr, keys, request.recipe)
        return list(value) if isinstance(value, tuple) else value

    return value


def reward_rule(request: VerlRequest) -> str:
    """Return the recipe's reward: its name, or a custom function as JSON."""
    reward = request.recipe.reward
    return reward if isinstance(reward, str) else json.dumps(reward.as_dict(), sort_keys=True)


def mixed_precision(dtype: str) -> dict[str, str]:
    """Return FSDP's precisions for a compute type: it for parameters, float32 for gradient sums and buffers."""
    return {
        "param_dtype": {"bfloat16": "bf16", "float32": "fp32"}[dtype],
        "reduce_dtype": "fp32",
        "buffer_dtype": "fp32",
    }


def longest(request: VerlRequest) -> int:
    """Return the tokens of the longest sequence: prompt and response."""
    return request.recipe.longest


def data_seed(request: VerlRequest) -> int:
    """Return the seed of the order of the questions."""
    return request.seed if request.recipe.data_seed is None else request.recipe.data_seed


def check_recipe(request: VerlRequest) -> None:
    """Refuse recipe values that verl would ignore or interpret differently.

    Raises UserError: names the key of the recipe, its value and what verl supports.
    """
    recipe = request.recipe
    if recipe.advantage_epsilon != VERL_ADVANTAGE_EPSILON:
        raise UserError(
            f"recipe.advantage_epsilon: verl has {VERL_ADVANTAGE_EPSILON} built in and no key for another, got "
            f"{recipe.advantage_epsilon}; use `engine: reference` for that"
        )
    if recipe.prompts_per_step % recipe.mini_batch_prompts:
        raise UserError(
            f"recipe.mini_batch_prompts ({recipe.mini_batch_prompts}) must divide prompts_per_step "
            f"({recipe.prompts_per_step}): verl would drop the rest without a word"
        )
