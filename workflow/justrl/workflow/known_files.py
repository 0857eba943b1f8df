"""Find files in a results folder that its configuration does not know, such as results of an earlier one."""

import re
from collections.abc import Iterator
from pathlib import Path

from justrl.config import Experiment, outputs
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.report import pages
from justrl.workflow import config_snapshots

READ = (".json", ".jsonl", ".md", ".csv", ".html", ".svg", ".png", ".parquet")
# Folders without results of the configuration: earlier runs, records, and folders that `justrl` manages itself.
NOT_LOOKED_AT = ("experiments", "logs", "set_aside", "timings", "models")
# The endings of a page in this version and in earlier ones.
PAGE = r"\.(html|json|md|csv|(narrow\.)?svg|png)"


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
        elif path.name in outputs.FOLDERS or not config_snapshots.newest(path):
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


def result_pattern(layout: Layout) -> str:
    """A regular expression for the names of results, without file ending: groups `benchmark` and `name`."""
    known = outputs.wildcards(layout)
    return f"(?P<benchmark>{known['benchmark']})_(?P<name>{known['name']})"


def result_of(layout: Layout, path: Path) -> tuple[str, str, str] | None:
    """The name, benchmark and protocol of the result at a path; None for other files."""
    experiment = layout.experiment
    match = re.fullmatch(rf"{result_pattern(layout)}\.json", path.name)
    protocol = experiment.evaluation.protocol if path.parent == Path(layout.root) else path.parent.name
    return (match["name"], match["benchmark"], protocol) if match and protocol in experiment.protocols else None


def _pattern(layout: Layout) -> re.Pattern[str]:
    """One regular expression for all paths, relative to the results, that an experiment may have."""
    known = {name: f"(?:{pattern})" for name, pattern in outputs.wildcards(layout).items()}
    run, benchmark, protocol, data = known["run"], known["benchmark"], known["protocol"], f"data/{known['dataset']}"
    paths = [
        *(rf"{page.pattern(layout)}{PAGE}" for page in pages.PAGES),
        rf"(hardware|checksums|ro-crate-metadata)\.json|provenance{PAGE}",
        rf"({protocol}/)?{result_pattern(layout)}\.json",
        rf"first_1000/{run}/(metrics\.jsonl|run\.json)",
        rf"runs/{run}/((run|preflight|verdict)\.json|verdict\.html|metrics\.jsonl|verl\.yaml)",
        rf"runs/{run}/segments/\d+/(model/.*|metrics\.jsonl|rollouts\.parquet)",
        rf"runs/{run}/work(?:/.*)",
        rf"{data}/raw/.*",
        rf"{data}/{known['model']}/(train\.parquet|prepared/(data_card\.json|train\.parquet))",
        rf"benchmarks/{benchmark}/(raw/.*|questions\.parquet)",
        rf"evaluations/{known['target']}/{benchmark}/{protocol}/"
        r"(completions/.*|grades_(rules|model)\.parquet)",
    ]
    return re.compile("|".join(re.sub(r"\?P<\w+>", "?:", path) for path in paths))
