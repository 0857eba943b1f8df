"""The experiment as one mapping: loading, overlays, validation, and what a run is made of.

`config.yaml` holds every number; an overlay changes some of them. What is allowed stands in
workflow/schemas/config.schema.yaml; the rules that tie several keys together stand here.
"""

import copy
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from justrl.errors import UserError

Config = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_CONFIG = ROOT / "config.yaml"
# The C loader reads the same safe subset ten times as fast, which every job of the workflow pays for.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"


def merge(base: Mapping, overlay: Mapping) -> Config:
    """A deep copy of `base` in which mappings are merged with `overlay` and everything else is replaced by it."""
    merged = copy.deepcopy(dict(base))
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def read_yaml(path: str | Path) -> Config:
    """Read a YAML mapping; a missing file, broken YAML or anything but a mapping is a UserError."""
    path = Path(path)
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: a configuration is a mapping of keys to values, got {type(value).__name__}")
    return value


def read_overlay(path: str | Path) -> Config:
    """Read an overlay with the overlays it extends (paths relative to the repository) merged beneath it."""
    seen: list[str] = []
    layers = []
    current: str | None = str(path)
    while current:
        if current in seen:
            raise UserError(f"{path}: `extends` goes round in a circle: {' -> '.join([*seen, current])}")
        seen.append(current)
        layer = read_yaml(current if Path(current).is_file() else ROOT / current)
        current = layer.pop("extends", None)
        layers.append(layer)
    merged: Config = {}
    for layer in reversed(layers):
        merged = merge(merged, layer)
    return merged


def load(
    overlays: Sequence[str | Path] = (), overrides: Sequence[str] = (), base: str | Path = DEFAULT_CONFIG
) -> Config:
    """The validated experiment: `base`, then each overlay file, then `dotted.key=value` overrides.

    Raises:
        UserError: an unknown key, a value of the wrong kind, or keys that contradict each other.
    """
    config = read_yaml(base)
    for overlay in overlays:
        config = merge(config, read_overlay(overlay))
    config = apply_overrides(config, overrides)
    validate(config)
    return config


def apply_overrides(config: Mapping, overrides: Sequence[str]) -> Config:
    """Set existing keys by `dotted.key=value`, the value read as YAML; an unknown key is a UserError.

    Scientific notation without a dot (1e-6), which YAML 1.1 reads as text, is read as a number.
    """
    result = copy.deepcopy(dict(config))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"override {override!r}: write it as dotted.key=value")
        *parents, last = key.split(".")
        node = result
        for name in parents:
            if not isinstance(node.get(name), dict):
                raise UserError(f"override {override!r}: unknown key {name!r}{_did_you_mean(name, node)}")
            node = node[name]
        if last not in node:
            raise UserError(f"override {override!r}: unknown key {last!r}{_did_you_mean(last, node)}")
        node[last] = _read_value(text)
    return result


def _read_value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"override value {text!r}: not valid YAML: {error}") from None
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


def _did_you_mean(name: str, known: Mapping | Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), [str(key) for key in known], n=1)
    return f": did you mean {close[0]}?" if close else f" (known: {', '.join(map(str, known))})"


def validate(config: Mapping) -> None:
    """Check the experiment against its schema and against itself.

    Raises:
        UserError: one line for each problem, naming the key, its value and what would be right.
    """
    problems = list(_schema_problems(config)) or list(_contradictions(config))
    if problems:
        raise UserError("config: " + "\n  ".join(problems))


def _schema_problems(config: Mapping) -> Iterator[str]:
    import jsonschema

    schema = yaml.load(SCHEMA.read_text(encoding="utf-8"), Loader=_LOADER)
    # A round trip turns Snakemake's own mapping types into plain ones.
    plain = json.loads(json.dumps(config))
    for error in sorted(
        jsonschema.Draft202012Validator(schema).iter_errors(plain), key=lambda e: list(e.absolute_path)
    ):
        yield from _explain(error)


def _explain(error) -> Iterator[str]:
    where = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "oneOf" and isinstance(error.instance, dict):
        yield from _explain_variant(error, where)
    elif error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for name in error.instance:
            if name not in known:
                yield f"unknown key {name} in {where or 'the configuration'}{_did_you_mean(name, known)}"
    elif error.validator == "type" and isinstance(error.instance, str) and re.fullmatch(r"\d+e-?\d+", error.instance):
        yield f"{where}: YAML reads {error.instance} as text; write {error.instance.replace('e', '.0e')}"
    else:
        meaning = error.schema.get("description")
        yield f"{where or 'top level'}: {error.message}" + (f" ({meaning})" if meaning else "")


def _explain_variant(error, where: str) -> Iterator[str]:
    """Explain a mapping that fits none of its variants by the variant whose `source` it names."""
    sources = []
    for index, _variant in enumerate(error.validator_value):
        inner = [e for e in error.context if e.schema_path[0] == index]
        wrong_source = [e for e in inner if list(e.relative_path) == ["source"]]
        sources += [e.validator_value for e in wrong_source]
        if not wrong_source:
            for e in inner:
                yield from _explain(e)
            return
    yield f"{where}.source: {error.instance.get('source')!r} is none of {', '.join(map(str, sources))}"


def _contradictions(config: Mapping) -> Iterator[str]:
    for name, run in config["runs"].items():
        yield from _run_contradictions(config, name, run)
    evaluation = config["evaluation"]
    for key in ("benchmarks", "validation_benchmarks"):
        for benchmark in evaluation[key]:
            if benchmark not in config["benchmarks"]:
                yield f"evaluation.{key}: no benchmark {benchmark}{_did_you_mean(benchmark, config['benchmarks'])}"
    for overlay, runs in config["overlays"].items():
        for run in runs:
            if run not in config["runs"]:
                yield f"overlays.{overlay}: no run {run}{_did_you_mean(run, config['runs'])}"
    if config["canary"]["benchmark"] not in config["benchmarks"]:
        benchmark = config["canary"]["benchmark"]
        yield f"canary.benchmark: no benchmark {benchmark}{_did_you_mean(benchmark, config['benchmarks'])}"
    if config["canary"]["steps"] % config["canary"]["segment_steps"]:
        yield (
            f"canary.steps must be a multiple of segment_steps ({config['canary']['segment_steps']}), "
            f"got {config['canary']['steps']}"
        )
    if evaluation["protocol"] not in config["protocols"]:
        protocol = evaluation["protocol"]
        yield f"evaluation.protocol: no protocol {protocol}{_did_you_mean(protocol, config['protocols'])}"
    graders = [*evaluation["graders"]]
    if evaluation["model_grader"]["enabled"]:
        graders += ["model", "paper_rules+model"]
        if "paper_rules" not in graders:
            yield "evaluation.graders: model_grader judges what paper_rules rejected; add paper_rules or disable it"
    if evaluation["headline_grader"] not in graders:
        headline = evaluation["headline_grader"]
        yield f"evaluation.headline_grader: {headline} is not among the graders that run: {', '.join(graders)}"
    for name in config["external"]:
        if name in config["runs"] or name in config["models"]:
            yield f"external.{name}: the name is taken by a run or a model; choose another"


def _run_contradictions(config: Mapping, name: str, run: Mapping) -> Iterator[str]:
    where = f"runs.{name}"
    for key, group in (("model", "models"), ("dataset", "datasets")):
        if run[key] not in config[group]:
            yield f"{where}.{key}: no such entry in {group}: {run[key]}{_did_you_mean(run[key], config[group])}"
            return
    segment = run["segment_steps"]
    if run["steps"] % segment:
        yield f"{where}.steps must be a multiple of segment_steps ({segment}), got {run['steps']}"
    if run["evaluate_every"] % segment:
        yield f"{where}.evaluate_every must be a multiple of segment_steps ({segment}), got {run['evaluate_every']}"
    recipe = recipe_of(config, name)
    if recipe["prompts_per_step"] % recipe["mini_batch_prompts"]:
        yield (
            f"{where}: mini_batch_prompts ({recipe['mini_batch_prompts']}) must divide prompts_per_step "
            f"({recipe['prompts_per_step']})"
        )
    penalty = recipe["overlong_penalty"]
    if penalty["enabled"] and penalty["buffer"] >= recipe["max_response_length"]:
        yield (
            f"{where}: overlong_penalty.buffer ({penalty['buffer']}) must be below max_response_length "
            f"({recipe['max_response_length']})"
        )
    context = config["models"][run["model"]]["context_length"]
    needed = recipe["max_prompt_length"] + recipe["max_response_length"]
    if needed > context:
        yield (
            f"{where}: max_prompt_length + max_response_length = {needed} tokens do not fit the context_length of "
            f"models.{run['model']} ({context})"
        )
    protocol = config["protocols"].get(config["evaluation"]["protocol"])
    if protocol and recipe["max_prompt_length"] + protocol["max_tokens"] > context:
        yield (
            f"protocols.{config['evaluation']['protocol']}.max_tokens ({protocol['max_tokens']}) plus a prompt of "
            f"{recipe['max_prompt_length']} tokens do not fit the context_length of models.{run['model']} ({context})"
        )
    gpus = config["hardware"]["nodes"] * config["hardware"]["gpus_per_node"]
    sequences = recipe["mini_batch_prompts"] * recipe["rollouts_per_prompt"]
    if gpus and run["engine"] == "verl" and sequences % gpus:
        yield (
            f"{where}: mini_batch_prompts x rollouts_per_prompt = {sequences} sequences must be a multiple of the "
            f"{gpus} GPUs of hardware"
        )


def recipe_of(config: Mapping, run: str) -> Config:
    """The complete recipe of a run: the common one with the run's own keys over it.

    Raises:
        UserError: no such run.
    """
    if run not in config["runs"]:
        raise UserError(f"no run {run} in the configuration{_did_you_mean(run, config['runs'])}")
    return merge(config["recipe"], config["runs"][run]["recipe"])


def with_canaries(config: Mapping) -> Config:
    """The experiment plus a `canary_{run}` for each enabled run: the same recipe, few steps, short responses.

    They are evaluated under a protocol named `canary`: the experiment's own with short answers and few samples.
    """
    canary = config["canary"]
    length = canary["max_response_length"]
    runs = {
        f"canary_{name}": {
            **run,
            "family": "canary",
            "enabled": False,
            "steps": canary["steps"],
            "segment_steps": canary["segment_steps"],
            "evaluate_every": canary["steps"],
            "recipe": merge(
                run["recipe"],
                # A penalty on the last tokens of a short budget would need a buffer of its own.
                {"max_response_length": length, "overlong_penalty": {"enabled": False}},
            ),
        }
        for name, run in config["runs"].items()
        if run["enabled"]
    }
    protocol = {
        **config["protocols"][config["evaluation"]["protocol"]],
        "max_tokens": length,
        "samples": canary["samples"],
    }
    return merge(config, {"runs": runs, "protocols": {"canary": protocol}})


def segment_ends(run: Mapping) -> list[int]:
    """The steps at which a run's segments end, in order; the last one is the run's last step."""
    return list(range(run["segment_steps"], run["steps"] + 1, run["segment_steps"]))


def evaluated_steps(run: Mapping) -> list[int]:
    """The checkpoints that are evaluated while training: every `evaluate_every` steps and the last one."""
    return sorted({*range(run["evaluate_every"], run["steps"] + 1, run["evaluate_every"]), run["steps"]})
