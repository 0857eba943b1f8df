"""Check that an experiment named `paper` is the paper's: its resolved configuration against papers/justrl/paper.yaml.

All keys of the entries in that file are compared, including new keys; FREE lists those that may differ. Parts of the
configuration that are not in the file (hardware, hub, seed, trackers, figures, compare, canary, keep_checkpoints) may
differ freely. So may an entry with a new name, which is not the paper's.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from justrl.config import Experiment, Part, Run, paper, settings
from justrl.config.files import differences, find
from justrl.config.layout import Layout
from justrl.data.sources import Kind, local_source, read_lock, source_key
from justrl.errors import UserError

FREE: dict[str, tuple[str, ...]] = {
    "recipe": ("data_seed", "alarms"),
    "runs": ("enabled", "evaluate", "segment_steps", "evaluate_every", "seed", "seeds", "recipe"),
    "external": ("enabled",),
    "benchmarks": ("label",),
    "evaluation": ("benchmarks", "validation_benchmarks", "graders", "custom_graders", "shards", "together"),
}
# A local source has a path instead of these keys.
PLACE = ("source", "hub_id", "hub_config", "revision")
SOURCES: dict[str, Kind] = {"models": "model", "datasets": "dataset", "benchmarks": "dataset"}
OWN_NAME = "give the experiment a name of its own (`experiment` and `pathvars`, docs/change.md)"
LOCK = "data.lock.json"

Difference = tuple[str, Any, Any]  # key, the paper's value, the configured value


def check_paper(experiment: Experiment, results: Path | None = None) -> None:
    """Raise UserError if an experiment named `paper` differs from it, or if another one would write to its folder."""
    if found := list(differences_from_paper(experiment)):
        raise UserError(f"config: {paper.in_words(found)} (papers/justrl/paper.yaml): {OWN_NAME}")
    name = experiment.experiment
    if name != paper.PAPER and results is not None and results.resolve() == Path("results").resolve():
        raise UserError(
            f"config: experiment {name} would write to results/, where the paper's experiment lives; give it a folder "
            f"of its own, such as `pathvars: {{results: results/{name}}}`"
        )


def differences_from_paper(experiment: Experiment) -> Iterator[Difference]:
    """Each key in which an experiment named `paper` differs from the paper; empty for other experiments."""
    if experiment.experiment != paper.PAPER:
        return
    values = paper.values()
    changed = list(_part("recipe", experiment.recipe, values["recipe"], FREE["recipe"]))
    yield from changed
    yield from _runs(experiment, changed)
    for group in SOURCES:
        for name, wanted in values[group].items():
            if name in getattr(experiment, group):
                yield from _source(experiment, group, name, wanted)
    for group in ("external", "protocols"):
        for name, wanted in values[group].items():
            if name in getattr(experiment, group):
                yield from _part(f"{group}.{name}", getattr(experiment, group)[name], wanted, FREE.get(group, ()))
    yield from _part("evaluation", experiment.evaluation, values["evaluation"], FREE["evaluation"])


def _part(where: str, part: Part, wanted: Mapping[str, Any], free: tuple[str, ...]) -> Iterator[Difference]:
    """The keys in which a part differs from `wanted`, completed by the defaults; `free` keys are ignored."""
    here = part.as_dict()
    expected = type(part).model_validate({**wanted, **{key: here[key] for key in free}}).as_dict()
    for key, theirs, ours in differences(expected, here):
        if not (key.rpartition(".")[2] == "revision" and theirs is None):
            yield f"{where}.{key}", theirs, ours


def _runs(experiment: Experiment, changed: list[Difference]) -> Iterator[Difference]:
    """The differences of the paper's runs, without those that the common recipe already has."""
    known, found = {(key, str(ours)) for key, _, ours in changed}, settings(experiment.runs)
    for name, wanted in paper.values()["runs"].items():
        for member in found.get(name, []):
            entry = experiment.runs[member]
            # A training of one of several seeds is compared as the run that it belongs to.
            run = Run(**{key: getattr(entry, key) for key in Run.model_fields})
            steps = run.steps if run.steps <= paper.last_steps(name) else wanted["steps"]
            yield from _part(f"runs.{name}", run, {**wanted, "steps": steps}, FREE["runs"])
            for key, theirs, ours in _part("recipe", run.recipe, wanted["recipe"], FREE["recipe"]):
                if (key, str(ours)) not in known:
                    yield f"runs.{name}.{key}", theirs, ours
            break


def _source(experiment: Experiment, group: str, name: str, wanted: Mapping[str, Any]) -> Iterator[Difference]:
    """The differences of a model, data set or benchmark; local files are the paper's if the lock has their hashes."""
    entry, where = getattr(experiment, group)[name], f"{group}.{name}"
    if entry.source not in ("hub", "local"):
        yield f"{where}.source", wanted["source"], entry.source
        return
    if entry.source == "local":
        kind, path = SOURCES[group], find(entry.path)
        if not path.exists():
            path = _taken(experiment, group, name)
        if problem := _not_locked(path, kind, wanted["hub_id"], wanted.get("hub_config")):
            yield f"{where}.path", f"{wanted['hub_id']} ({problem})", entry.path
            return
        local = {"source": "local", "path": entry.path}
        wanted = {**{key: value for key, value in wanted.items() if key not in PLACE}, **local}
        wanted = {key: value for key, value in wanted.items() if key in type(entry).model_fields}
    yield from _part(where, entry, wanted, FREE.get(group, ()))


def _taken(experiment: Experiment, group: str, name: str) -> Path:
    """The copy of a local source in the results, which remains if the source itself is deleted."""
    layout = Layout(experiment, str(experiment.results))
    return Path({"models": layout.model, "datasets": layout.raw_data, "benchmarks": layout.raw_benchmark}[group](name))


def _not_locked(path: Path, kind: Kind, hub_id: str, subset: str | None) -> str:
    """Why local files are not those of a repository in the lock file; an empty string if they are."""
    entry = read_lock(find(LOCK)).get(source_key(kind, hub_id, subset))
    if entry is None:
        return f"{LOCK} has no hashes of it to compare with"
    if not path.exists():
        return "no such file"
    if _data(local_source(path, kind).files) != _data(entry["files"]):
        return f"with other hashes in {LOCK}"
    return ""


def _data(files: Mapping[str, str]) -> list[str]:
    """The hashes of files, except documentation and licences."""
    return sorted(sha for name, sha in files.items() if not Path(name).name.startswith(("README", "LICENSE")))
