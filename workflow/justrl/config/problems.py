"""pydantic's validation errors as sentences that name the key, its value and the fix."""

import math
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from justrl.config.recipe_names import RECIPE
from justrl.errors import did_you_mean

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
        way = f": did you mean {meant}?" if (meant := _meant(name, owner)) else did_you_mean(name, owner.model_fields)
        return f"unknown key {name} in {parent or 'the configuration'}{way}"
    meaning = f" ({field.description})" if field is not None and field.description else ""
    if kind == "missing":
        return f"{where} is missing{meaning}"
    if kind == "union_tag_invalid":
        known = problem["ctx"]["expected_tags"].replace("'", "")
        return f"{where}.source: {value.get('source')!r} is not one of {known}"
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


def _meant(name: str, owner: type[BaseModel]) -> str | None:
    """Return the key that the name is an alias of, or the key of the owner's recipe with this name."""
    ours, recipe = RECIPE.get(name, name), owner.model_fields.get("recipe")
    if ours in owner.model_fields:
        return ours
    known = _variants(recipe.annotation) if recipe else []
    return f"recipe.{ours}" if any(ours in part.model_fields for part in known) else None


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


def _variants(node: Any) -> list[type[BaseModel]]:
    """Return the members of a union, which are distinguished by `source` or by their class."""
    if typing.get_origin(node) is Annotated:
        node = typing.get_args(node)[0]
    if isinstance(node, type) and issubclass(node, BaseModel):
        return [node]
    return [part for inner in typing.get_args(node) if not isinstance(inner, str) for part in _variants(inner)]


def _sources(variant: type[BaseModel]) -> tuple:
    field = variant.model_fields.get("source")
    return typing.get_args(field.annotation) if field else ()
