"""Aliases of settings: names that other GRPO scripts use, mapped to ours.

One table serves the keys of `JustRLGRPOTrainer`'s dictionary and overrides of the recipe on `justrl train run`.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from justrl.errors import UserError

_OTHER_NAMES = {
    "kl_coefficient": "kl_coef kl_loss_coef",
    "entropy_coefficient": "entropy_coef entropy_coeff",
    "clip_ratio_low": "clip_range_low",
    "clip_ratio_high": "clip_range_high",
    "rollouts_per_prompt": "n_rollouts num_rollouts num_generations group_size",
    "prompts_per_step": "train_batch_size batch_size",
    "mini_batch_prompts": "mini_batch_size ppo_mini_batch_size",
    "micro_batch_per_gpu": "micro_batch_size micro_batch_size_per_gpu ppo_micro_batch_size_per_gpu",
    "learning_rate": "lr",
    "warmup_steps": "lr_warmup_steps",
    "gradient_clip": "max_grad_norm grad_clip",
    "max_response_length": "max_tokens max_new_tokens response_length",
    "max_prompt_length": "prompt_length",
    "loss": "loss_mode",
    "loss_aggregation": "loss_agg_mode",
}
RECIPE = {other: ours for ours, others in _OTHER_NAMES.items() for other in others.split()}
"""Names of a recipe's keys, each with ours."""


def translate_override(override: str) -> str:
    """Translate an override of `justrl train run` (`name=value`) if its key is an alias; leave others unchanged."""
    key, separator, value = override.partition("=")
    name = key.removeprefix("recipe.")
    _check_distance(name, value)
    return f"recipe.{RECIPE[name]}{separator}{value}" if name in RECIPE else override


def translate_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the keys of a recipe, or of a part of one, to our names.

    Raises UserError: two keys mean the same setting, or a clip range is given as bounds of the ratio.
    """
    translated: dict[str, Any] = {}
    for name, value in recipe.items():
        ours = RECIPE.get(name, name)
        if ours in translated:
            raise UserError(f"{ours} is given twice, the second time as {name}: {value!r}")
        _check_distance(name, value)
        translated[ours] = value
    return translated


def _check_distance(name: str, value: Any) -> None:
    """Refuse a bound of the ratio, as the paper prints it, because the configuration needs its distance from 1."""
    if name not in ("clip_range_low", "clip_range_high"):
        return
    distance = 0.0
    with suppress(TypeError, ValueError):  # other values are rejected together with the rest of the recipe
        distance = float(value)
    if distance > 0.5:
        raise UserError(
            f"{name} {value}: give the distance from a ratio of 1 as {RECIPE[name]}; the bounds [0.8, 1.28] are "
            "clip_ratio_low 0.2 and clip_ratio_high 0.28"
        )
