"""Other names of settings: what scripts around GRPO call them, and what they are called here.

One table for the keys of `JustRLGRPOTrainer`'s dictionary and for overrides on `justrl train run`.
"""

from collections.abc import Mapping
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
    "runs.{run}.steps": "total_steps max_steps num_steps total_training_steps",
    "hardware.nodes": "nnodes",
    "hardware.gpus_per_node": "n_gpus n_gpus_per_node",
    "hardware.save_every": "save_freq save_steps",
}
_OURS = {other: ours for ours, others in _OTHER_NAMES.items() for other in others.split()}

RECIPE = {other: ours for other, ours in _OURS.items() if "." not in ours}
"""Names of a recipe's keys, each with ours."""

ELSEWHERE = {other: ours for other, ours in _OURS.items() if "." in ours}
"""Names of keys outside the recipe, each with ours; `{run}` is the run that is trained."""

OPTIONS = {
    "train_files": "the option --data FILE (the Parquet file of `justrl data`)",
    "train_file": "the option --data FILE (the Parquet file of `justrl data`)",
    "val_files": "`justrl evaluate --dataset FILE`; a training without Snakemake does not evaluate",
    "model_path": "the option --model FOLDER",
    "model_name_or_path": "the option --model FOLDER",
    "output_dir": "the option --output FOLDER",
    "project_name": "the environment variable WANDB_PROJECT or TRACKIO_PROJECT, together with `--tracker NAME`",
    "experiment_name": "the option --run NAME, a name under `runs` in the configuration",
    "total_epochs": "a number of steps, runs.{run}.steps=N",
    "num_epochs": "a number of steps, runs.{run}.steps=N",
    "test_freq": "runs.{run}.evaluate_every, which only the workflow reads",
}
"""Names of what is no key of the configuration but an option or another command, each with what to write here."""


def translate_override(override: str, run: str) -> str:
    """An override of `justrl train run` (`name=value`) by our name; one that has our name already stays as it is.

    Raises UserError: it is an option or another command here; the sentence says which.
    """
    key, separator, value = override.partition("=")
    name = key.removeprefix("recipe.")
    if name in OPTIONS:
        raise UserError(f"override {override!r}: {name} is {OPTIONS[name].format(run=run)} here")
    if name in RECIPE:
        return f"recipe.{RECIPE[name]}{separator}{_read(name, value)}"
    if key in ELSEWHERE:
        return ELSEWHERE[key].format(run=run) + separator + value
    return override


def translate_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe, or of a part of one, by our names.

    Raises UserError: two of the keys are names of the same thing.
    """
    translated: dict[str, Any] = {}
    for name, value in recipe.items():
        ours = RECIPE.get(name, name)
        if ours in translated:
            raise UserError(f"{ours} is given twice, the second time as {name}: {value!r}")
        translated[ours] = distance_from_one(name, value) if isinstance(value, int | float) else value
    return translated


def distance_from_one(name: str, value: float) -> float:
    """A clip range as the distance from a ratio of 1; other settings stay as they are.

    The paper prints the bounds of the ratio, [0.8, 1.28], the configuration has the distances, 0.2 and 0.28. A
    `clip_range_low` above 0.5 and a `clip_range_high` of 1 or more are read as bounds.
    """
    if name == "clip_range_low" and value > 0.5:
        return round(1 - value, 12)
    if name == "clip_range_high" and value >= 1:
        return round(value - 1, 12)
    return value


def _read(name: str, text: str) -> str:
    """The text of a value, changed where it is a bound of the clip range; the configuration says what is no number."""
    try:
        number = float(text)
    except ValueError:
        return text
    distance = distance_from_one(name, number)
    return text if distance == number else repr(distance)
