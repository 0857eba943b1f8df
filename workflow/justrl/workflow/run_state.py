"""Contents of a results folder: the trained state of runs, and files that the configuration does not know.

The latter are, for example, results of an earlier configuration.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from justrl.config import Experiment, SeedRun, outputs
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.io import read_object
from justrl.report import pages
from justrl.training import run_lock
from justrl.training.segment import NOT_KEPT, WorkDir, step_name
from justrl.workflow import config_snapshots

READ = (".json", ".jsonl", ".md", ".csv", ".html", ".svg", ".png", ".parquet")
# Folders without results of the configuration: earlier runs, records, and folders that `justrl` manages itself.
NOT_LOOKED_AT = ("experiments", "logs", "set_aside", "timings", "models")
# The endings of a page in this version and in earlier ones.
PAGE = r"\.(html|json|md|csv|(narrow\.)?svg|png)"
_STATE = re.compile(r"(?:global_)?step_(\d+)")


def finished_steps(run: Path) -> set[int]:
    """The last steps of a run's finished segments: published ones, and archived ones, which are published again."""
    published = {file.parent.name for file in run.glob("segments/*/metrics.jsonl")}
    archived = {file.parent.name.removeprefix("step_") for file in run.glob("work/finished/step_*/segment.json")}
    return {int(step) for step in published | archived if step.isdigit()}


def saved_step(run: Path) -> int:
    """The step of a run's newest training state, of either engine; 0 without one."""
    names = [_STATE.fullmatch(folder.name) for folder in run.glob("work/checkpoints/*step_*")]
    return max((int(match[1]) for match in names if match), default=0)


def segment_ends(experiment: Experiment, results: Path) -> dict[str, list[int]]:
    """The steps at which the segments of every run end, such that nothing is retrained.

    Finished segments keep their ends, whatever the current `segment_steps`. The next segment ends as configured, but
    not before the newest training state, so that steps after the last finished segment are not lost.
    """
    layout, ends = Layout(experiment, str(results)), {}
    for name, run in experiment.runs.items():
        folder = Path(layout.run(name))
        finished = finished_steps(folder)
        least = max(saved_step(folder), max(finished, default=0) + 1)
        ends[name] = sorted(finished | {step for step in run.segment_ends if step >= least})
    return ends


def own_bases(experiment: Experiment, results: Path) -> set[str]:
    """The seeds of runs with several whose base model was evaluated per seed, before they shared one evaluation."""
    seeds = [name for name, run in experiment.runs.items() if isinstance(run, SeedRun)]
    return {name for name in seeds if (results / "evaluations" / f"{name}@base").is_dir()}


def layout_of(experiment: Experiment, results: Path) -> Layout:
    """The layout of an experiment with the segments and base evaluations in its results folder."""
    return Layout(experiment, str(results), segment_ends(experiment, results), own_bases(experiment, results))


def segment_of(path: str, layout: Layout) -> tuple[str, int] | None:
    """The run and the last step of the segment that a file or folder belongs to; None for other paths."""
    match = re.fullmatch(rf"{re.escape(layout.root)}/runs/([^/]+)/segments/(\d+)/[^/]+", path)
    return (match[1], int(match[2])) if match else None


def check_kept(target: str, layout: Layout) -> None:
    """Raise UserError if the model of a checkpoint was not kept or will not be (`keep_checkpoints: evaluated`)."""
    run, _, step = target.partition("@")
    if run not in layout.experiment.runs or not step.isdigit():
        return
    layout.start_step(run, step)
    folder = Path(layout.segment_model(run, step))
    kept = f"those of {', '.join(f'{run}@{end}' for end in layout.evaluated_steps(run))} are"
    if (folder / NOT_KEPT).is_file():
        raise UserError(
            f"{target}: its model was not kept ({folder / NOT_KEPT}), {kept}: request one of these, or "
            f"retrain with `keep_checkpoints: all` after `justrl set-aside {run} --results {layout.root}`"
        )
    if not layout.keeps_export(run, step) and not folder.is_dir():
        raise UserError(
            f"{target}: `keep_checkpoints: evaluated` will not keep its model, {kept}: ask for one of these, or set "
            "`keep_checkpoints: all`"
        )


def planned_segments(paths: Iterable[str], layout: Layout) -> set[tuple[str, int]]:
    """The segments that must be trained to make these files; archived segments are published without training.

    Raises UserError if one belongs to a run that is not enabled.
    """
    found = {segment for path in paths if (segment := segment_of(path, layout))}
    found = {segment for segment in found if not archive_of(segment, layout).is_file()}
    for run in sorted({run for run, _ in found}):
        if not layout.may_train(run):
            entry = layout.experiment.runs[run]
            name = entry.setting if isinstance(entry, SeedRun) else run
            raise UserError(
                f"the request needs steps of {run} that are not trained, and this run is not enabled: set "
                f"runs.{name}.enabled to true (`--config 'runs={{{name}: {{enabled: true}}}}'`)"
            )
    return found


def archive_of(segment: tuple[str, int], layout: Layout) -> Path:
    """The archive of a finished segment in its run's work folder, from which it is published again."""
    run, step = segment
    return WorkDir(Path(layout.run(run)) / "work").finished / step_name(step) / "segment.json"


def set_aside(run: str, results: Path) -> Path:
    """Move a run and the results of its checkpoints to <results>/set_aside/; nothing is deleted.

    Evaluations of its base model do not belong to the run and are not moved.

    Raises UserError if there is no such run, or if it is being trained.
    """
    folder = results / "runs" / run
    if not folder.is_dir():
        raise UserError(f"no run in {folder}")
    if (folder / "work").is_dir():
        with run_lock.hold(folder / "work/LOCK"):  # fails while the run is being trained
            pass
    made = [path for path in results.glob(f"evaluations/{run}@*") if path.name != f"{run}@base"]
    for path in [*results.glob(f"*_{run}*.json"), *results.glob(f"*/*_{run}*.json")]:
        name = read_object(path).get("name", "")
        if name == run or (name.startswith(f"{run}@") and name != f"{run}@base"):
            made.append(path)
    made += [path for part in ("figures", "first_1000") if (path := results / part / run).is_dir()]
    number = 1 + len(list(results.glob(f"set_aside/{run}.*")))
    place = results / "set_aside" / f"{run}.{number}"
    # Move the run last: what is left of an interrupted move is then found and moved by the next call.
    for path in [*made, folder]:
        target = place / path.relative_to(results)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return place


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


def results_here(layout: Layout) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield each existing result, also of disabled runs and other protocols: file; name, benchmark and protocol."""
    root = Path(layout.root)
    for path in sorted([*root.glob("*.json"), *root.glob("*/*.json")]):
        if of := result_of(layout, path):
            yield path, of


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
