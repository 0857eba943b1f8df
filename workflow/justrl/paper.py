"""What "the paper" is: a set of values, and what a run or a result has in their place.

papers/justrl/paper.yaml holds the values. A configuration is compared with them when something is started
(`operations.paper_check`); pages compare what run.json and results say of themselves, since a name says nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from justrl import config_files
from justrl.config import Experiment, HubDataset, HubModel, Recipe, SeedRun
from justrl.config_files import differences, merge
from justrl.published import RELEASED, published_steps

PAPER = "paper"
FILE = config_files.ROOT / "papers/justrl/paper.yaml"
# Of a run, what the paper's value is not asked for: its name, its seeds, what ends it.
_FREE_OF_RUN = ("run.", "experiment.", "seed.", "recipe.data_seed.", "recipe.alarms.")
# Of a benchmark, what says which questions it holds.
_QUESTIONS = ("source", "hub_id", "hub_config", "split")


@cache
def values() -> dict[str, Any]:
    """The file's values, with defaults and with the whole recipe of each run."""
    found = config_files.read_yaml(FILE)
    for group, part in (("models", HubModel), ("datasets", HubDataset)):
        found[group] = {name: part.model_validate(entry).as_dict() for name, entry in found[group].items()}
    for run in found["runs"].values():
        run["recipe"] = Recipe.model_validate(merge(found["recipe"], run["recipe"])).as_dict()
    return found


def in_the_paper(run: str) -> bool:
    """Whether the paper has a run of this name."""
    return run in values()["runs"] and run not in values()["not_in_the_paper"]


def final_steps(run: str) -> int | None:
    """Steps of the paper's run; None for a run that it does not have."""
    return values()["runs"][run]["steps"] if in_the_paper(run) else None


def last_steps(run: str) -> int:
    """The last step of one of the file's runs that the paper reports anything of."""
    entry = values()["runs"][run]
    return max(entry["steps"], *published_steps(entry["family"]))


# The stamp of a result or page: the experiment's name or, of what the paper does not have, "paper/<its name>".
def stamp(experiment: Experiment, name: str) -> str:
    """The stamp of a run, a checkpoint or a published model of an experiment."""
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
    """The stamp of a run by its run.json, whose values must be the paper's; None where it names no experiment."""
    experiment, run = described.get("experiment"), str(described.get("run"))
    if experiment != PAPER or (in_the_paper(setting(run)) and not any(run_differences(described))):
        return experiment
    return f"{PAPER}/{run}"


def together(stamps: Iterable[str]) -> str | None:
    """The stamp of a page of several, which names each that is not the paper's; None for different experiments."""
    parts = [stamp.split("/", 1) for stamp in stamps]
    if len({experiment for experiment, *_ in parts}) != 1:
        return None
    own = sorted({name for _, *names in parts for text in names for name in text.split(", ")})
    return parts[0][0] + (f"/{', '.join(own)}" if own else "")


def experiment_of(stamp: str) -> str:
    """The experiment that a stamp is of."""
    return stamp.partition("/")[0]


def mark(stamp: str) -> str:
    """What stands on every figure and page that is not the paper's; nothing on the paper's."""
    experiment, _, own = stamp.partition("/")
    if own:
        return f"{own}: not the paper's run – not a paper result"
    return "" if experiment == PAPER else f"{experiment} experiment – not a paper result"


def setting(run: str) -> str:
    """The run that a training is of: `deepseek_s1` is a seed of `deepseek`."""
    return re.sub(r"_s\d+$", "", run)


def run_differences(described: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Key, the paper's value and ours, for each in which a run.json differs from the paper's run of its name."""
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
        # A start has compared the hashes of local files.
        if part in ("model", "dataset") and described[part].get("source") == "local":
            continue
        for key, theirs, ours in differences({part: _of_keys(described[part], wanted[part])}, {part: described[part]}):
            if not f"{key}.".startswith(_FREE_OF_RUN) and not (key.endswith(".revision") and theirs is None):
                yield key, theirs, ours


def _of_keys(described: Any, wanted: Any) -> Any:
    """The paper's values of the keys that a description has; an older one may lack some."""
    if not isinstance(wanted, Mapping) or not isinstance(described, Mapping):
        return wanted
    return {key: _of_keys(value, wanted.get(key)) for key, value in described.items()}


def result_differences(data: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Key, the paper's value and ours, for each in which a result's protocol, questions or samples differ.

    Of benchmarks that the paper does not have, only the protocol is compared.
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
    """Whether a base model is the paper's of a family: by its repository or, where nothing says it, by its run."""
    runs = values()["runs"]
    if model.get("source", "local") == "local":
        return setting(run) in runs and runs[setting(run)]["family"] == family
    return family in runs and model.get("hub_id") == values()["models"][runs[family]["model"]]["hub_id"]


def is_released(family: str, name: str, model: Mapping[str, Any]) -> bool:
    """Whether a model is a family's released weights: by its repository or, where nothing says it, by its name."""
    if model:
        return RELEASED.get(str(model.get("hub_id"))) == family
    return values()["external"].get(name, {}).get("family") == family


def in_words(found: Iterable[tuple[str, Any, Any]], most: int = 4) -> str:
    """Differences as one clause: each key with the value here and the paper's."""
    found = list(found)
    said = [f"{key} is {_text(ours)} here and {_text(theirs)} in the paper" for key, theirs, ours in found[:most]]
    return "; ".join(said) + (f"; and {len(found) - most} more" if len(found) > most else "")


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping) and "file" in value:
        return f"{value['file']}:{value['function']}"
    return repr(value) if isinstance(value, str) and (not value or any(map(str.isspace, value))) else str(value)
