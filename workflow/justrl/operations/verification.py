"""Whether the results of an experiment are what they say: held against inputs, hashes, models and the configuration.

Every number is taken again from completions and verdicts. Files that are absent, cut short, edited, or of another
protocol, recipe, model or benchmark than the configuration has today are problems, one sentence each.
"""

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from justrl.analysis.results import load_result
from justrl.config import Experiment, completed
from justrl.errors import UserError
from justrl.evaluation.completions import model_fingerprint
from justrl.evaluation.scoring import score_files
from justrl.generation.downloads import check_download, read_record
from justrl.io import file_sha256, json_sha256, read_json, read_json_object, read_object
from justrl.layout import Layout
from justrl.operations import trained
from justrl.train.segment import NOT_KEPT, WorkDir, step_name

# Numbers of other versions of the same libraries may differ in the last digits.
CLOSE = 1e-9
# Larger files of a segment's model are not hashed; the models that answered are known by their fingerprints.
SMALL = 2**26


@dataclass(frozen=True)
class Verified:
    """One file or folder of an experiment: its path below the results, what it says, and what is wrong with it."""

    what: str
    found: str
    problems: list[str]


def verify(experiment: Experiment, results: Path) -> list[Verified]:
    """Check everything that an experiment has or should have: sources, runs, results, pages."""
    whole = experiment.with_canaries()
    layout = trained.layout_of(whole, results)
    checked = [_source(Path(folder), results) for folder in layout.hub_folders()]
    checked += [_run(layout, run, results) for run in experiment.runs if _is_due(layout, run)]
    fingerprint = functools.lru_cache(maxsize=None)(model_fingerprint)
    for path in dict.fromkeys([*map(Path, layout.evaluation_results()), *found_results(layout, results)]):
        checked.append(_result(layout, path, results, fingerprint))
    pages = [path for path in map(Path, layout.analysis_results()) if not path.is_file()]
    return checked + [Verified(_below(path, results), "", ["it is missing"]) for path in pages]


def table(checked: Iterable[Verified]) -> str:
    """One line for each thing that was checked, its problems below it."""
    rows = list(checked)
    width = max((len(row.what) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{'WRONG' if row.problems else 'ok':<6}{row.what:<{width}}  {row.found}".rstrip())
        lines += [f"{'':<6}  -> {problem}" for problem in row.problems]
    return "\n".join(lines)


def found_results(layout: Layout, results: Path) -> Iterator[Path]:
    """The result files that are there, whoever asked for them: other protocols, checkpoints, runs that are off."""
    for path in sorted([*results.glob("*.json"), *results.glob("*/*.json")]):
        if _named(layout, path, results):
            yield path


def _named(layout: Layout, path: Path, results: Path) -> tuple[str, str, str] | None:
    """The name, benchmark and protocol that a path says a result is of; None for other files."""
    experiment = layout.experiment
    benchmarks, runs, external = (
        "|".join(map(re.escape, names)) or "(?!)"
        for names in (experiment.benchmarks, experiment.runs, experiment.external)
    )
    match = re.fullmatch(rf"({benchmarks})_((?:{runs})(?:@(?:\d+|base))?|{external})\.json", path.name)
    protocol = experiment.evaluation.protocol if path.parent == results else path.parent.name
    return (match[2], match[1], protocol) if match and protocol in experiment.protocols else None


def _is_due(layout: Layout, run: str) -> bool:
    """Whether a run is enabled or has begun."""
    return layout.experiment.runs[run].enabled or Path(layout.run_file(run)).is_file()


def _source(folder: Path, results: Path) -> Verified:
    try:
        check_download(folder, required=True)
    except UserError as error:
        return Verified(_below(folder, results), "", [str(error)])
    revision = read_record(folder / "source.json").get("revision")
    return Verified(_below(folder, results), f"as downloaded, revision {revision or 'unknown'}", [])


def _run(layout: Layout, run: str, results: Path) -> Verified:
    """A run's configuration, training data and segments; what comes after its last segment is not due yet."""
    entry = layout.experiment.runs[run]
    described = layout.experiment.described(run).as_dict()
    problems = [*_run_file_problems(Path(layout.run_file(run)), described), *_data_problems(layout, run)]
    ends = layout.segment_ends(run)
    kept = [end for end in ends if Path(layout.segment_metrics(run, end)).is_file()]
    for end in ends[: ends.index(kept[-1]) + 1 if kept else 0]:
        problems += _segment_problems(layout, run, end)
    if kept and kept[-1] >= entry.steps and not Path(layout.metrics(run)).is_file():
        problems.append(f"{layout.metrics(run)} is missing")
    trained = f"{kept[-1] if kept else 0} of {entry.steps} steps"
    return Verified(_below(Path(layout.run(run)), results), trained, problems)


def _run_file_problems(path: Path, described: Mapping[str, Any]) -> Iterator[str]:
    try:
        written = completed(read_object(path))
    except FileNotFoundError:
        yield f"{path.name} is missing"
        return
    except UserError as error:
        yield str(error)
        return
    if changed := _differences(written, described):
        yield f"it was trained with another configuration: {changed}"


def _segment_problems(layout: Layout, run: str, end: int) -> Iterator[str]:
    """A segment against what was kept of it when it ended: its metrics, its data, the small files of its model."""
    metrics, model = Path(layout.segment_metrics(run, end)), Path(layout.segment_model(run, end))
    for path in (metrics, model / "config.json"):
        if not path.is_file() and not (path.parent / NOT_KEPT).is_file():
            yield f"{path} is missing"
    kept = read_json_object(WorkDir(Path(layout.run(run)) / "work").finished / step_name(end) / "segment.json")
    published = {"metrics.jsonl": metrics} | {f"model/{path.name}": path for path in model.glob("*")}
    for name, expected in kept.get("sha256", {}).items():
        path = published.get(name, model.parent / name)
        if not path.is_file() or (path.stat().st_size <= SMALL and file_sha256(path) != expected):
            yield f"{path} is not what the segment ended with"
    data, trained_on = Path(layout.training_data(run)), kept.get("identity", {}).get("train_file_sha256")
    if trained_on and data.is_file() and file_sha256(data) != trained_on:
        yield f"{data} is not the file that the segment to step {end} was trained on"


def _data_problems(layout: Layout, run: str) -> Iterator[str]:
    """A run's prepared questions against the hash that their data card has."""
    if not Path(layout.training_data(run)).is_file():
        yield f"{layout.training_data(run)} is missing"
    folder = Path(layout.training_data(run)).parent / "prepared"
    try:
        card = read_json(folder / "data_card.json")
        if file_sha256(folder / "train.parquet") != card["output"]["sha256"]:
            yield f"{folder}/train.parquet is not the file that its data card describes"
    except (OSError, UserError, KeyError, TypeError) as error:
        yield f"the training data cannot be checked: {error}"


def _result(layout: Layout, path: Path, results: Path, fingerprint) -> Verified:
    what = _below(path, results)
    if not path.is_file():
        return Verified(what, "", ["it is missing"])
    try:
        result = load_result(path)
        average = result.average()["value"]
        samples = result.data["samples_per_question"]
    except (UserError, KeyError, TypeError) as error:
        return Verified(what, "", [f"it is no whole result: {error!s:.200}"])
    name, benchmark, protocol = _named(layout, path, results) or ("", "", "")
    found = f"avg@{samples} {average:.2%} by {result.headline}"
    problems = [
        *_configuration_problems(layout.configuration(name, benchmark, protocol), result.data),
        *_input_problems(layout, (name, benchmark, protocol), result.data),
        *_model_problems(layout, name, result.data, fingerprint),
    ]
    # Of other files, or for another configuration, the numbers need not be the same.
    if not problems:
        problems = list(_number_problems(layout, (name, benchmark, protocol), result.data))
    return Verified(what, found, problems)


def _configuration_problems(now: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    made = result.get("provenance") or {}
    config = made.get("config")
    if not isinstance(config, dict) or not made.get("inputs"):
        yield "it does not say of which configuration and inputs it is: delete it and make it again"
    elif made.get("config_sha256") != json_sha256(config):
        yield "its configuration was edited: the hash is of another"
    elif changed := _differences(config | {"model": completed(config.get("model") or {})}, now):
        yield f"it was made for another configuration: {changed}"


def _input_problems(layout: Layout, of: tuple[str, str, str], result: Mapping[str, Any]) -> Iterator[str]:
    recorded = (result.get("provenance") or {}).get("inputs") or {}
    for kind, paths in _inputs(layout, of).items():
        known = {entry["file"]: entry["sha256"] for entry in recorded.get(kind, [])}
        for path in map(Path, paths):
            made_from = known.pop(path.name, None)
            if not path.is_file():
                yield f"{path} is missing"
            elif recorded and file_sha256(path) != made_from:
                yield f"{path} is not the file that it was made from"
        if known:
            yield f"it was made from {', '.join(sorted(known))} too"


def _inputs(layout: Layout, of: tuple[str, str, str]) -> dict[str, list[str]]:
    return {
        "completions": layout.completions(*of),
        "grades": layout.grades(*of),
        "benchmark": [layout.questions(of[1])],
    }


def _model_problems(layout: Layout, name: str, result: Mapping[str, Any], fingerprint) -> Iterator[str]:
    try:
        folder = Path(layout.target_model(layout.target(name)))
    except UserError as error:
        yield str(error)
        return
    made = ((result.get("provenance") or {}).get("generation") or {}).get("model_fingerprint")
    if not (folder / "config.json").is_file():
        yield f"the model {folder} is missing"
    elif made is not None and fingerprint(folder) != made:
        yield f"the model {folder} is another than the one that answered"


def _number_problems(layout: Layout, of: tuple[str, str, str], result: Mapping[str, Any]) -> Iterator[str]:
    """Every number, taken again from completions and verdicts."""
    name, benchmark, protocol = of
    files = _inputs(layout, of)
    try:
        again, _, _ = score_files(
            files["completions"],
            files["grades"],
            files["benchmark"][0],
            name=name,
            experiment=layout.stamp(name),
            headline=layout.experiment.evaluation.headline_grader,
            asked=layout.generation(name, benchmark, protocol),
            family=layout.family(name),
        )
    except UserError as error:
        yield str(error)
        return
    if changed := _differences({key: value for key, value in result.items() if key != "provenance"}, again):
        yield f"its numbers are not those of its completions and verdicts: {changed}"


def _differences(there: Any, here: Any) -> str:
    """The first few keys in which two values differ, both said: `recipe.temperature is 0.7 instead of 1.0`."""
    found = list(_different(there, here, ""))
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(f"{key} is {a!r:.60} instead of {b!r:.60}" for key, a, b in found[:3]) + more


def _different(there: Any, here: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in dict.fromkeys([*here, *there]):
            yield from _different(there.get(name), here.get(name), f"{key}.{name}" if key else str(name))
    elif isinstance(there, list | tuple) and isinstance(here, list | tuple) and len(there) == len(here):
        for number, (a, b) in enumerate(zip(there, here, strict=True)):
            yield from _different(a, b, f"{key}[{number}]")
    elif isinstance(there, int | float) and isinstance(here, int | float):
        if not math.isclose(there, here, rel_tol=CLOSE, abs_tol=CLOSE):
            yield key, there, here
    elif there != here:
        yield key, there, here


def _below(path: Path, results: Path) -> str:
    return path.relative_to(results).as_posix()
