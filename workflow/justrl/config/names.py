"""Names of configuration keys: those of other GRPO scripts, those of earlier versions, and errors that name a key."""

import math
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from justrl.errors import UserError, did_you_mean

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
# Names of a recipe's keys in other GRPO scripts, each with ours: for `JustRLGRPOTrainer`'s dictionary and overrides.
RECIPE = {other: ours for ours, others in _OTHER_NAMES.items() for other in others.split()}
# Names in versions up to 0.1, each with today's: keys of the configuration and a value of `models.<name>.source`.
EARLIER = {
    "overlays": "figures",
    "keep_exports": "keep_checkpoints",
    "own_graders": "custom_graders",
    "taught": "tiny",
}


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown key: its name today, the key it is an alias of, or the nearest."""
    known = list(known)
    if (now := EARLIER.get(name)) in known:
        return f": it is called {now} now"
    return f": did you mean {RECIPE[name]}?" if RECIPE.get(name) in known else did_you_mean(name, known)


def with_todays_names(document: Mapping[str, Any]) -> dict[str, Any]:
    """Translate what an earlier version wrote: a started configuration, a run.json, or a result's configuration."""
    renamed = {EARLIER.get(key, key): value for key, value in document.items()}
    if renamed.get("source") == "taught":
        renamed["source"] = EARLIER["taught"]
    for part in ("evaluation", "model"):
        if isinstance(renamed.get(part), Mapping):
            renamed[part] = with_todays_names(renamed[part])
    if isinstance(models := renamed.get("models"), Mapping):
        renamed["models"] = {
            name: with_todays_names(entry) if isinstance(entry, Mapping) else entry for name, entry in models.items()
        }
    return renamed


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


# Regular expressions for text, and the message for each.
NAME, EXPERIMENT_NAME, HUB_ID = r"^[a-z][a-z0-9_]*$", r"^[a-z][a-z0-9_-]*$", r"^\w[\w.-]*/\w[\w.-]*$"
FORMS = {
    NAME: "must have lower-case letters, digits and _ only, a letter first",
    EXPERIMENT_NAME: "must have lower-case letters, digits, _ and - only, a letter first",
    HUB_ID: "must be a hub id, owner/name",
}


def explain(error: ValidationError, root: type[BaseModel], own_recipes: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence per problem; a problem of the common recipe is reported once, not for every run."""
    problems = error.errors()
    common = {problem["loc"][1:] for problem in problems if problem["loc"][:1] == ("recipe",)}
    for problem in problems:
        where, owner, field = _place(root, problem["loc"])
        if problem["loc"][:1] == ("runs",) and problem["loc"][2:3] == ("recipe",) and len(problem["loc"]) > 3:
            own = own_recipes.get(str(problem["loc"][1]))
            if problem["loc"][3:] in common and (not isinstance(own, dict) or problem["loc"][3] not in own):
                continue
        yield _sentence(problem, where, owner, field)


def _sentence(problem: Mapping[str, Any], where: str, owner: type[BaseModel] | None, field: Any) -> str:
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden" and owner is not None:
        parent, _, name = where.rpartition(".")
        ours, recipe = RECIPE.get(name, name), owner.model_fields.get("recipe")
        in_recipe = recipe is not None and any(ours in part.model_fields for part in _variants(recipe.annotation))
        way = f": did you mean recipe.{ours}?" if in_recipe else suggestion(name, owner.model_fields)
        return f"unknown key {name} in {parent or 'the configuration'}{way}"
    meaning = f" ({field.description})" if field is not None and field.description else ""
    if kind == "missing":
        return f"{where} is missing{meaning}"
    if kind == "union_tag_invalid":
        known, given = problem["ctx"]["expected_tags"].replace("'", ""), value.get("source")
        now = f": it is called {EARLIER[given]} now" if given in EARLIER else ""
        return f"{where}.source: {given!r} is not one of {known}{now}"
    if kind == "union_tag_not_found":
        return f"{where}.source is missing"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    shown = repr(value) if len(repr(value)) < 80 else type(value).__name__
    if isinstance(value, float) and not math.isfinite(value):
        message = "must be a finite number"
    if kind == "string_pattern_mismatch":
        message = FORMS.get(problem["ctx"]["pattern"], message)
    return f"{where or 'top level'}: {message}, got {shown}{meaning}"


def _place(root: type[BaseModel], location: tuple) -> tuple[str, type[BaseModel] | None, Any]:
    """Return a location's dotted key, the part that owns it, and its field if it is one."""
    node: Any = root
    owner, field, words = None, None, []
    for word in location:
        if isinstance(node, type) and issubclass(node, BaseModel):
            words.append(str(word))
            owner, field = node, node.model_fields.get(word)
            node = field.annotation if field is not None else None
            continue
        variants = _variants(node)
        tagged = [v for v in variants if word in (v.__name__, *_sources(v))]
        if tagged:
            node = tagged[0]
        elif typing.get_origin(node) is dict:
            words.append(str(word))
            node = typing.get_args(node)[1]
        elif isinstance(word, int):
            words.append(str(word))
    return ".".join(words), owner, field


def _sources(variant: type[BaseModel]) -> tuple:
    field = variant.model_fields.get("source")
    return typing.get_args(field.annotation) if field else ()


def _variants(node: Any) -> list[type[BaseModel]]:
    """Return the members of a union, which are distinguished by `source` or by their class."""
    if typing.get_origin(node) is Annotated:
        node = typing.get_args(node)[0]
    if isinstance(node, type) and issubclass(node, BaseModel):
        return [node]
    return [part for inner in typing.get_args(node) if not isinstance(inner, str) for part in _variants(inner)]
