"""Every output path of an experiment and its producer, to check that no path has two producers."""

import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

from justrl.config import settings
from justrl.config.layout import JUDGE, Layout
from justrl.errors import UserError

# Folders that the program creates in the results folder, in which each protocol has a folder, too.
FOLDERS = {
    "benchmarks": "the questions of benchmarks",
    "canary": "the results of canaries",
    "compared": "the pages of `compare`",
    "comparison": "the tables of families",
    "data": "the training sets",
    "evaluations": "completions and grades",
    "experiments": "the configurations of starts",
    "figures": "the figures",
    "first_1000": "the pages of `snakemake first_1000`",
    "golden": "the pages of `snakemake golden`",
    "logs": "the logs",
    "models": "the models",
    "runs": "the runs",
    "samples": "the pages of answers",
    "set_aside": "the runs moved away by `justrl set-aside`",
    "timings": "the times of jobs",
}


# Folders of this repository and of the system that must not contain results.
OURS = ["bench", "docs", "envs", "examples", "mini", "one_gpu", "papers", "rules", "slurm", "tests", "workflow"]
SYSTEM = ["bin", "boot", "etc", "lib", "lib32", "lib64", "proc", "sbin", "sys", "usr"]


def check_folder(given: str, here: Path) -> None:
    """Raise UserError if `given` cannot be a folder for results alone; `here` is the working directory."""
    path = (here / given).resolve()
    inside = path.relative_to(here.resolve()).parts if path.is_relative_to(here.resolve()) else ()
    wrong = None
    if not given.strip() or here.resolve().is_relative_to(path):
        wrong = f"is {path} itself"
    elif given.startswith("~") or re.search(r"\$[A-Za-z_{(]", given):
        wrong = "is used literally: ~ and $ are not expanded; write the full path"
    elif not given.isprintable():
        wrong = "has characters that are not printed"
    elif taken := next((part for part in (path, *path.parents) if part.exists() and not part.is_dir()), None):
        wrong = f"cannot be created: {taken} is a file; choose another folder"
    elif inside and (inside[0] in OURS or inside[0].startswith(".")):
        wrong = f"is in {inside[0]}, which holds other things"
    elif not inside and path.parts[1] in SYSTEM:
        wrong = f"is in /{path.parts[1]}, which is the system's"
    if wrong:
        raise UserError(
            f"config: pathvars.results: {given!r} {wrong}; name a folder that is for results alone, as results/mine"
        )


def any_of(names: Iterable[str]) -> str:
    """A regular expression that matches exactly these names; without names, nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


def wildcards(layout: Layout) -> dict[str, str]:
    """A regular expression for the values of each wildcard in the rules' paths."""
    experiment = layout.experiment
    runs, external = any_of(experiment.runs), any_of(experiment.external)
    families = {run.family for run in experiment.runs.values()} | {
        entry.family for entry in experiment.external.values()
    }
    return {
        "run": runs,
        "model": any_of(layout.model_sources),
        "dataset": any_of(experiment.datasets),
        "benchmark": any_of(experiment.benchmarks),
        "protocol": any_of(experiment.protocols),
        "overlay": any_of(experiment.figures),
        "pair": any_of(experiment.compare),
        "family": any_of(sorted(filter(None, families))),
        "step": r"\d+",
        "shard": r"\d+",
        "name": rf"(?:{runs})(?:@(?:\d+|base))?|{external}",
        "target": rf"(?:{runs})@\d+|(?:{any_of([*experiment.runs, *settings(experiment.runs)])})@base|{external}",
    }


def check_paths(layout: Layout) -> None:
    """Raise UserError if two parts of an experiment would write to the same path, naming both."""
    made: dict[str, str] = {}
    for path, what in outputs(layout):
        if made.setdefault(path, what) != what:
            raise UserError(f"config: {made[path]} and {what} would both be {path}: give one of them another name")


def outputs(layout: Layout) -> Iterator[tuple[str, str]]:
    """Yield the output paths of an experiment, each with a description of its producer.

    A folder or the common prefix of several files counts as one path. Pages with the same names as results are not
    listed again.
    """
    yield from _of_names(layout)
    yield from _of_data(layout)
    yield from _of_results(layout)


def _of_names(layout: Layout) -> Iterator[tuple[str, str]]:
    experiment, root = layout.experiment, layout.root
    for name, what in FOLDERS.items():
        yield f"{root}/{name}", what
    for name in experiment.protocols:
        # Its folder is listed above, and `with_canaries` reserves the name.
        if name != "canary":
            yield f"{root}/{name}", f"the results under protocols.{name}"
    yield layout.model(JUDGE), "the model that judges (evaluation.model_grader)"
    for key in ("models", "external"):
        for name in getattr(experiment, key):
            yield layout.model(name), f"{key}.{name}"
    yield f"{root}/figures/overlays", "the figures of several runs"
    yield f"{root}/golden/claims", "the claims of `snakemake golden`"
    for name, run in experiment.runs.items():
        yield f"{root}/figures/{name}", f"the figures of runs.{name}"
        family = "the table of the canaries" if run.canary else f"the table of the family {run.family}"
        yield f"{root}/comparison/{run.family}", family
    families = {run.family for run in experiment.runs.values()}
    families |= {entry.family for entry in experiment.external.values() if entry.family}
    for name in sorted(families):
        yield f"{root}/golden/{name}", f"the table of the family {name}"


def _of_data(layout: Layout) -> Iterator[tuple[str, str]]:
    for dataset in layout.experiment.datasets:
        raw = layout.raw_data(dataset)
        yield raw, f"datasets.{dataset} as it was downloaded"
        for model in layout.experiment.models:
            made = f"datasets.{dataset} for models.{model}"
            yield str(Path(raw).parent / model), made
            yield f"{layout.root}/logs/prepare_training_data/{dataset}_{model}", made


def _of_results(layout: Layout) -> Iterator[tuple[str, str]]:
    experiment = layout.experiment
    every = list(experiment.benchmarks)
    models = [(name, f"runs.{name}") for name in experiment.runs]
    models += [(f"{name}@base", f"runs.{name}") for name in experiment.runs]
    models += [(name, f"external.{name}") for name in experiment.external]
    for name, what in models:
        asked = [experiment.canary.benchmark] if layout.is_canary(name) else every
        for benchmark, file in zip(asked, layout.results(name, asked), strict=True):
            yield file, f"benchmarks.{benchmark} of {what}"
    targets = dict.fromkeys(layout.target(name) for name, _ in models)
    for target, benchmark, protocol in product(targets, every, experiment.protocols):
        made = f"benchmarks.{benchmark} of {target} under protocols.{protocol}"
        yield f"{layout.root}/logs/generate/{target}_{benchmark}_{protocol}", made
