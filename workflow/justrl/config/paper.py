"""The paper's values, and how a run or a result differs from them.

papers/justrl/paper.yaml holds the values. A configuration is compared with them at each start
(`workflow.paper_check`). Pages compare the contents of run.json and results, because a name alone proves nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from justrl.config import Experiment, HubDataset, HubModel, Recipe, SeedRun
from justrl.config import files as config_files
from justrl.config.files import differences, merge
from justrl.config.published import RELEASED, published_steps

PAPER = "paper"
FILE = config_files.ROOT / "papers/justrl/paper.yaml"
# Keys of a run that need not have the paper's values: its name and experiment, its seeds, its alarms.
_FREE_OF_RUN = ("run.", "experiment.", "seed.", "recipe.data_seed.", "recipe.alarms.")
# Keys of a benchmark that identify its questions.
_QUESTIONS = ("source", "hub_id", "hub_config", "split")


@cache
def values() -> dict[str, Any]:
    """Return the file's values, with defaults and with the whole recipe of each run."""
    found = config_files.read_yaml(FILE)
    for group, part in (("models", HubModel), ("datasets", HubDataset)):
        found[group] = {name: part.model_validate(entry).as_dict() for name, entry in found[group].items()}
    for run in found["runs"].values():
        run["recipe"] = Recipe.model_validate(merge(found["recipe"], run["recipe"])).as_dict()
    return found


def in_the_paper(run: str) -> bool:
    """Return whether the paper has a run of this name."""
    return run in values()["runs"] and run not in values()["not_in_the_paper"]


def final_steps(run: str) -> int | None:
    """Return the steps of the paper's run; None for a run that is not in the paper."""
    return values()["runs"][run]["steps"] if in_the_paper(run) else None


def last_steps(run: str) -> int:
    """Return the last step for which the paper reports anything of one of the file's runs."""
    entry = values()["runs"][run]
    return max(entry["steps"], *published_steps(entry["family"]))


# The label of a result or page is the experiment's name or, for what is not in the paper, "paper/<name>".
def stamp(experiment: Experiment, name: str) -> str:
    """Return the label of a run, a checkpoint or a published model of an experiment."""
    name = name.partition("@")[0]
    if experiment.experiment != PAPER:
        return experiment.experiment
    run, published = experiment.runs.get(name), experiment.external.get(name)
    if run is not None:
        known = in_the_paper(run.setting if isinstance(run, SeedRun) else name)
    else:
        known = published is None or published.model in RELEASED
    return PAPER if known else f"{PAPER}/{name}"


def stamp_of_run(described: Mapping[str, Any]) -> str | None:
    """Return the label of a run by its run.json: the paper's only if its values are; None if it has no experiment."""
    experiment, run = described.get("experiment"), str(described.get("run"))
    if experiment != PAPER or (in_the_paper(setting(run)) and not any(run_differences(described))):
        return experiment
    return f"{PAPER}/{run}"


def together(stamps: Iterable[str]) -> str | None:
    """Return the label of a page of several, naming each that is not the paper's; None for different experiments."""
    parts = [stamp.split("/", 1) for stamp in stamps]
    if len({experiment for experiment, *_ in parts}) != 1:
        return None
    own = sorted({name for _, *names in parts for text in names for name in text.split(", ")})
    return parts[0][0] + (f"/{', '.join(own)}" if own else "")


def experiment_of(stamp: str) -> str:
    """Return the experiment in a label."""
    return stamp.partition("/")[0]


def mark(stamp: str) -> str:
    """Return the notice for figures and pages that are not the paper's; empty for the paper's."""
    experiment, _, own = stamp.partition("/")
    if own:
        return f"{own}: not the paper's run – not a paper result"
    return "" if experiment == PAPER else f"{experiment} experiment – not a paper result"


def setting(run: str) -> str:
    """Return the run that a training belongs to: `deepseek_s1` is a seed of `deepseek`."""
    return re.sub(r"_s\d+$", "", run)


def run_differences(described: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each key in which a run.json differs from the paper's run of its name, with the paper's value and ours."""
    paper = values()
    run = paper["runs"].get(setting(str(described["run"])))
    if run is None:
        return
    wanted = {
        "engine": run["engine"],
        "model": paper["models"][run["model"]],
        "dataset": paper["datasets"][run["dataset"]],
        "recipe": run["recipe"],
    }
    for part in wanted.keys() & described.keys():
        # The hashes of local files were compared at the start.
        if part in ("model", "dataset") and described[part].get("source") == "local":
            continue
        for key, theirs, ours in differences({part: _of_keys(described[part], wanted[part])}, {part: described[part]}):
            if not f"{key}.".startswith(_FREE_OF_RUN) and not (key.endswith(".revision") and theirs is None):
                yield key, theirs, ours


def _of_keys(described: Any, wanted: Any) -> Any:
    """Return the paper's values of the keys in a description; an older one may lack some."""
    if not isinstance(wanted, Mapping) or not isinstance(described, Mapping):
        return wanted
    return {key: _of_keys(value, wanted.get(key)) for key, value in described.items()}


def result_differences(data: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield each key in which a result's protocol, questions or samples differ, with the paper's value and ours.

    For benchmarks that are not in the paper, only the protocol is compared.
    """
    protocol = data.get("protocol") or {}
    for key, theirs in values()["protocols"][PAPER].items():
        if key != "samples" and protocol.get(key) != theirs:
            yield f"protocol.{key}", theirs, protocol.get(key)
    benchmark = values()["benchmarks"].get(data["benchmark"])
    if benchmark is None:
        return
    for key, name in (("rows", "n_questions"), ("samples", "samples_per_question")):
        if data.get(name) != benchmark[key]:
            yield key, benchmark[key], data.get(name)
    asked = ((data.get("provenance") or {}).get("config") or {}).get("questions") or {}
    if asked.get("source", "local") != "local":
        for key in _QUESTIONS:
            if asked.get(key) != benchmark.get(key):
                yield f"questions.{key}", benchmark.get(key), asked.get(key)


def is_base_of(family: str, run: str, model: Mapping[str, Any]) -> bool:
    """Return whether a base model is the paper's for a family: by its repository or, if unknown, by its run."""
    runs = values()["runs"]
    if model.get("source", "local") == "local":
        return setting(run) in runs and runs[setting(run)]["family"] == family
    return family in runs and model.get("hub_id") == values()["models"][runs[family]["model"]]["hub_id"]


def is_released(family: str, name: str, model: Mapping[str, Any]) -> bool:
    """Return whether a model is a family's released weights: by its repository or, if unknown, by its name."""
    if model:
        return RELEASED.get(str(model.get("hub_id"))) == family
    return values()["external"].get(name, {}).get("family") == family


def in_words(found: Iterable[tuple[str, Any, Any]], most: int = 4) -> str:
    """Format differences as one clause: each key with the value here and in the paper."""
    found = list(found)
    said = [f"{key} is {_text(ours)} here and {_text(theirs)} in the paper" for key, theirs, ours in found[:most]]
    return "; ".join(said) + (f"; and {len(found) - most} more" if len(found) > most else "")


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping) and "file" in value:
        return f"{value['file']}:{value['function']}"
    return repr(value) if isinstance(value, str) and (not value or any(map(str.isspace, value))) else str(value)
