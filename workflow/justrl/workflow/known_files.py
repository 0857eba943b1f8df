"""Find files in a results folder that its configuration does not know, such as results of an earlier one."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from justrl.config import Experiment
from justrl.config.layout import FIGURES, Layout
from justrl.config.outputs import FOLDERS
from justrl.errors import UserError
from justrl.workflow import config_snapshots

READ = (".json", ".jsonl", ".md", ".csv", ".html", ".svg", ".png", ".parquet")
# Folders without results of the configuration: earlier runs, records, and folders that `justrl` manages itself.
NOT_LOOKED_AT = ("experiments", "logs", "set_aside", "timings", "models")
TOP = r"hardware\.json|checksums\.json|ro-crate-metadata\.json|(claims|provenance|summary)\.(html|json|md)"


def unknown_files(layout: Layout, results: Path) -> Iterator[tuple[Path, str]]:
    """Yield each unknown file or folder, and the name of the earlier snapshot that knew it, or an empty string."""
    known = _pattern(layout)
    earlier: dict[str, re.Pattern[str]] | None = None
    named: set[Path] = set()
    for path in _files(results):
        name = path.relative_to(results).as_posix()
        if known.fullmatch(name):
            continue
        earlier = _earlier(results) if earlier is None else earlier
        of = next((start for start, pattern in earlier.items() if pattern.fullmatch(name)), None)
        # An unknown run or target has many files: report its folder.
        first = results.joinpath(*path.relative_to(results).parts[:2])
        what = first if first.is_dir() and first.parent.name in ("runs", "evaluations", "benchmarks", "data") else path
        if what not in named:
            named.add(what)
            yield what, of or ""


def _files(results: Path) -> Iterator[Path]:
    """The files that people read, of this experiment only: another experiment's folder may be inside this one."""
    for path in sorted(results.iterdir()) if results.is_dir() else []:
        if path.name.startswith(".") or path.name in NOT_LOOKED_AT:
            continue
        if path.is_file():
            # Skip a user's own pages, such as a report, at the top; results and tables are JSON files.
            yield from [path] if path.suffix == ".json" else []
        elif path.name in FOLDERS or not config_snapshots.newest(path):
            inside = (file for file in sorted(path.rglob("*")) if file.suffix in READ and file.is_file())
            yield from (
                file for file in inside if not any(part.startswith(".") for part in file.relative_to(results).parts)
            )


def _earlier(results: Path) -> dict[str, re.Pattern[str]]:
    """The path patterns of earlier snapshots, by file name, the newest first."""
    found = {}
    for path in sorted(results.glob(f"{config_snapshots.FOLDER}/[0-9]*.json"), reverse=True):
        try:
            experiment = Experiment.from_mapping(config_snapshots.read(path)[0]).with_canaries()
        except (UserError, OSError, KeyError, TypeError, ValueError):
            continue
        found[path.name] = _pattern(Layout(experiment, str(results)))
    return found


def _any(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, names)) or "(?!)"


def result_pattern(experiment: Experiment) -> str:
    """A regular expression for the names of results, without file ending: groups `benchmark` and `name`."""
    runs, external = _any(experiment.runs), _any(experiment.external)
    return rf"(?P<benchmark>{_any(experiment.benchmarks)})_(?P<name>(?:{runs})(?:@(?:\d+|base))?|{external})"


def result_of(layout: Layout, path: Path) -> tuple[str, str, str] | None:
    """The name, benchmark and protocol of the result at a path; None for other files."""
    experiment = layout.experiment
    match = re.fullmatch(rf"{result_pattern(experiment)}\.json", path.name)
    protocol = experiment.evaluation.protocol if path.parent == Path(layout.root) else path.parent.name
    return (match["name"], match["benchmark"], protocol) if match and protocol in experiment.protocols else None


def _pattern(layout: Layout) -> re.Pattern[str]:
    """One regular expression for all paths, relative to the results, that an experiment may have."""
    experiment = layout.experiment
    result = re.sub(r"\?P<\w+>", "", result_pattern(experiment))
    protocols, runs = _any(experiment.protocols), _any(experiment.runs)
    names = [run.family for run in experiment.runs.values()]
    names += [entry.family for entry in experiment.external.values() if entry.family]
    families = _any(sorted(set(names)))
    figures = rf"(?:{_any(FIGURES)})\.((narrow\.)?svg|png|json)"
    target = rf"(?:{runs})@(?:\d+|base)|{_any(experiment.external)}"
    page = r"\.(html|json|md|csv|(narrow\.)?svg|png)"
    of_run = (
        r"(run|health|preflight|verdict)\.json|verdict\.html|metrics\.jsonl|model_card\.md|rollouts\.html|verl\.yaml"
    )
    paths = [
        TOP,
        rf"((?:{protocols})/)?({result})\.json",
        rf"((?:{protocols})/)?samples/({result})\.html",
        rf"(comparison|golden)/(?:{families}){page}",
        rf"(golden|first_1000)/claims{page}",
        rf"compared/(?:{_any(experiment.compare)}){page}",
        rf"(figures|first_1000)/(?:{runs})/{figures}",
        rf"figures/overlays/(?:{_any(experiment.figures)}){page}",
        rf"first_1000/(?:{runs})/(metrics\.jsonl|run\.json)",
        rf"runs/(?:{runs})/({of_run})",
        rf"runs/(?:{runs})/segments/\d+/(model/.*|metrics\.jsonl|rollouts\.parquet)",
        rf"runs/(?:{runs})/work(?:/.*)",
        rf"data/(?:{_any(experiment.datasets)})/raw/.*",
        rf"data/(?:{_any(experiment.datasets)})/(?:{_any(experiment.models)})/(contamination{page}|train\.parquet"
        r"|prepared/(data_card\.json|train\.parquet))",
        rf"benchmarks/(?:{_any(experiment.benchmarks)})/(raw/.*|questions\.parquet)",
        rf"evaluations/(?:{target})/(?:{_any(experiment.benchmarks)})/(?:{protocols})/"
        r"(completions/.*|grades_(rules|model)\.parquet)",
    ]
    return re.compile("|".join(f"(?:{path})" for path in paths))
