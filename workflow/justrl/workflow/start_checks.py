"""Checks while Snakemake plans, before the first job: errors that can be refused early.

The data and the base model of a trained run are compared by content, because Snakemake does not notice a changed file
behind an ancient() input: the identity in a run's segments and states records the hashes of its data and base model.
"""

import difflib
import os
import shlex
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from justrl.config import Experiment, LocalBenchmark, LocalDataset, with_defaults
from justrl.config.files import differences, find, in_words
from justrl.config.layout import JUDGE, Layout
from justrl.data.contamination import TRAINED
from justrl.data.sources import changed_since
from justrl.errors import UserError
from justrl.hardware.machine import visible_devices
from justrl.io import file_sha256, is_hub_id, link_file, read_json_object, read_object, weights_sha256
from justrl.models.folder import check_files
from justrl.models.sampling import require_backend
from justrl.report import pages
from justrl.training import alarms, require_engine, trackers
from justrl.training.segment import EXECUTION_KEYS
from justrl.workflow import run_state

# Settings that may change in the middle of a training.
EXECUTION = tuple(f"recipe.{key}." for key in EXECUTION_KEYS)


def check_unchanged(experiment: Experiment, results: Path) -> None:
    """Raise UserError if a run that has trained steps would continue, or restart, with other settings."""
    layout = Layout(experiment, str(results))
    for name in experiment.runs:
        written, folder = Path(layout.run_file(name)), Path(layout.run(name))
        steps = max([run_state.saved_step(folder), *run_state.finished_steps(folder)])
        if not written.is_file() or not steps:
            continue
        found = differences(with_defaults(_described_by(written)), experiment.described(name).as_dict())
        changed = in_words(row for row in found if not f"{row[0]}.".startswith(EXECUTION))
        if changed:
            raise UserError(
                f"config: run {name} has trained {steps} steps in {folder}, with other settings than now: "
                f"{changed}. Undo the change, use a new run name, or retrain after `justrl set-aside "
                f"{name} --results {results}`, which moves the run and its results away."
            )


def _described_by(written: Path) -> dict[str, Any]:
    """The content of a run.json. Raises UserError if it cannot be read."""
    try:
        return read_object(written)
    except UserError as error:
        raise UserError(
            f"{error}: restore the file, or delete it so that the next start writes it again; trained "
            "steps are kept, and the run continues only with the settings that its segments record"
        ) from None


def check_local_files(layout: Layout) -> None:
    """Raise UserError if a local file is missing and was never copied, or has changed since it was copied.

    An edited benchmark is copied again (`stale`).

    Raise UserError also for a hub id that names a folder here, unless its model or data was already downloaded or
    copied.
    """
    experiment, sources = layout.experiment, layout.model_sources
    entries: list[tuple[str, Any, str]] = [
        *((f"models.{name}", entry, layout.model(name)) for name, entry in experiment.models.items()),
        *((f"external.{name}", sources[name], layout.model(name)) for name in experiment.external),
        ("evaluation.model_grader", sources[JUDGE], layout.model(JUDGE)),
        *((f"datasets.{name}", entry, layout.raw_data(name)) for name, entry in experiment.datasets.items()),
        *((f"benchmarks.{name}", entry, layout.raw_benchmark(name)) for name, entry in experiment.benchmarks.items()),
    ]
    for key, entry, folder in entries:
        if entry.source == "hub" and not Path(folder).is_dir():
            check_no_folder(key, entry.hub_id, experiment.hub.mirror)
            own = key.removeprefix("external.") in experiment.enabled_external and not experiment.hub.mirror
            if own and not is_hub_id(entry.hub_id):
                raise UserError(
                    f"config: {key}.model: no such folder: {entry.hub_id}; set `path` for a folder, or a hub id"
                )
        if entry.source != "local":
            continue
        path = find(entry.path)
        if not Path(folder).is_dir() and not path.exists():
            raise UserError(
                f"config: {key}.path: no such file or folder: {entry.path} (relative to the working "
                "directory or the repository)"
            )
        if path.is_dir() and not Path(folder).is_dir() and not key.startswith(("datasets.", "benchmarks.")):
            with _named(f"{key}.path"):
                check_files(path)
        if not key.startswith("benchmarks.") and (changed := changed_since(path, folder)):
            raise UserError(
                f"config: {key}.path: {changed} has been edited since it was copied to {folder}, which "
                "results were computed from: undo the edit, or add a new entry for the edited file"
            )


def local_data(layout: Layout) -> Iterator[str]:
    """Yield a line for each local data set and benchmark that will be copied: its questions and the first answers.

    Raises UserError, before any job starts, for errors that the job would find.
    """
    from justrl.data.benchmarks import look_at_benchmark
    from justrl.data.dapo import look_at_dataset

    for name, dataset in layout.experiment.datasets.items():
        if isinstance(dataset, LocalDataset) and not Path(layout.raw_data(name)).is_dir():
            with _named(key := f"datasets.{name}"):
                yield f"{key}: {look_at_dataset(dataset)}"
    for name, benchmark in layout.experiment.benchmarks.items():
        raw = layout.raw_benchmark(name)
        if isinstance(benchmark, LocalBenchmark) and (
            not Path(raw).is_dir() or changed_since(find(benchmark.path), raw)
        ):
            with _named(key := f"benchmarks.{name}"):
                yield f"{key}: {look_at_benchmark(name, benchmark)}"


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Context manager: prefix a UserError with the entry of the configuration that caused it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"config: {key}: {error}") from None


def check_no_folder(key: str, hub_id: str, mirror: str | None) -> None:
    """Raise UserError if a hub id names a folder here that is not the mirror's."""
    here = find(hub_id)
    if here.is_dir() and not (mirror and (Path(mirror) / hub_id).is_dir() and (Path(mirror) / hub_id).samefile(here)):
        local = "path" if key.startswith("external.") else "source: local, path"
        way = "" if key == "evaluation.model_grader" else f" write `{local}: {hub_id}` to take it, or"
        raise UserError(f"config: {key}: {hub_id} is a folder here, and not asked of the hub:{way} rename the folder")


@dataclass(frozen=True)
class Planned:
    """A job that Snakemake is about to start: its outputs, whether it must run anyway, and Snakemake's reason.

    A job must run anyway if it was forced, or if it was interrupted.
    """

    outputs: tuple[str, ...]
    must_run: bool
    reason: str

    @property
    def replaced(self) -> list[str]:
        """The existing outputs that would be recomputed."""
        return [] if self.must_run else [path for path in self.outputs if Path(path).exists()]


def start_command(words: Sequence[str], setting: str) -> str:
    """The command line of this start with one more `--config` setting.

    `words` are the command line of this start without the program.
    """
    kept = [word for word in words if word not in ("-n", "--dry-run", "--dryrun", setting)]
    given = next((place for place, word in enumerate(kept) if word in ("--config", "-C")), None)
    if given is None:
        end = kept.index("--") if "--" in kept else len(kept)
        kept[end:end] = ["--config", setting]
    else:
        kept.insert(given + 1, setting)
    return shlex.join(["snakemake", *kept])


def check_nothing_lost(jobs: Iterable[Planned], layout: Layout, accept: str | None) -> None:
    """Raise UserError if finished segments would be retrained, or answers sampled again.

    A segment that its run's work folder has archived is published from there without training. `accept` is the command
    that accepts sampling answers again; None if the user has already accepted.
    """
    answers = []
    for job in jobs:
        for path in job.replaced:
            if step := run_state.segment_of(path, layout):
                if not run_state.archive_of(step, layout).is_file():
                    raise UserError(
                        f"{path} exists and would be trained again ({job.reason:.300}): restore the "
                        f"missing files, or retrain after `justrl set-aside {step[0]} --results {layout.root}`"
                    )
            elif "/completions/" in path:
                answers.append((path, job.reason))
        answers += [(path, "evaluation.shards was another") for path in filter(_is_in_other_shards, job.outputs)]
    if answers and accept:
        path, reason = answers[0]
        more = f" and {len(answers) - 1} more files of completions" if len(answers) > 1 else ""
        raise UserError(
            f"{path}{more} would be generated again and replaced ({reason:.300}): undo the change, use a "
            f"new protocol for new sampling settings, or accept this with `{accept}`"
        )


def marked(segments: Iterable[tuple[str, int]], layout: Layout) -> Iterator[str]:
    """Yield a line for each run with segments to train that an alarm has ended, since its jobs would end at once."""
    for run in sorted({run for run, _ in segments}):
        if alarm := alarms.standing(Path(layout.run(run)) / "work"):
            yield f"{run}: {alarm}"


def _is_in_other_shards(path: str) -> bool:
    """True if a missing file of answers would contain answers that exist in another number of shards."""
    file = Path(path)
    if file.parent.name != "completions" or file.exists():
        return False
    counts = Counter(other.stem.rpartition("-of-")[2] for other in file.parent.glob("*-of-*.parquet"))
    own = file.stem.rpartition("-of-")[2]
    return any(number != own and number == str(found) for number, found in counts.items())


def behind_results(layout: Layout, planned: Container[str] = ()) -> Iterator[str]:
    """Yield a line about missing completions, verdicts and models of existing results, unless they are `planned`.

    Snakemake does not notice missing inputs of a finished file. Deleting a model to free disk space is legitimate.
    """
    experiment = layout.experiment
    names = [name for run in layout.evaluated for name in (f"{run}@base", *layout.checkpoints(run), run)]
    protocol, files = experiment.evaluation.protocol, []
    for name in [*names, *experiment.enabled_external]:
        for benchmark in experiment.evaluation.benchmarks:
            result = Path(layout.results(name, [benchmark])[0])
            if result.is_file():
                target = _made_of(name, result, layout)
                files += layout.completions(target, benchmark, protocol) + layout.grades(target, benchmark, protocol)
                files.append(layout.target_model(target))
    gone = [path for path in dict.fromkeys(files) if path not in planned and not Path(path).exists()]
    if gone:
        yield (
            f"Inputs of finished results are missing ({len(gone)} files or folders), and no rule creates "
            f"them again: {gone[0]}"
            f"{' and others' if len(gone) > 1 else ''}; `justrl verify {layout.root}` lists them."
        )


def _made_of(name: str, result: Path, layout: Layout) -> str:
    """The checkpoint of a result. If the run's number of steps was raised since, that is its earlier last step."""
    step = read_json_object(result).get("step")
    known = name in layout.experiment.runs and step in layout.segment_ends(name)
    return f"{name}@{step}" if known else layout.target(name)


def unknown_target(target: str, rules: Iterable[str], layout: Layout) -> str:
    """The error message for an unknown target: the nearest file or rule, or where both are listed."""
    results = [*layout.evaluation_results(), *layout.golden_evaluations(), *layout.downloads()]
    made = [*pages.files(layout, "all"), *pages.files(layout, "golden"), f"{layout.root}/checksums.json"]
    files = [*made, *results]
    known = files if "/" in target else [*rules, *files]
    close = difflib.get_close_matches(target, dict.fromkeys(known), n=1, cutoff=0.8)
    way = f"did you mean {close[0]}?" if close else "docs/results.md lists the files, `snakemake --list` the rules"
    return f"no rule creates {target}: {way}"


def check_installed(experiment: Experiment, trained: Iterable[str], outputs: Iterable[str]) -> None:
    """Raise UserError if the engine, backend or tracker of jobs that take hours is not installed here.

    Args:
        trained: the runs that will be trained.
        outputs: the files of all planned jobs; those that sample answers are picked out.
    """
    trackers.check_installed(experiment.trackers)
    for engine in sorted({experiment.runs[run].engine for run in trained}):
        require_engine(engine)
    if _sample_answers(outputs):
        require_backend(experiment.evaluation.backend)


def _sample_answers(outputs: Iterable[str]) -> bool:
    return any(Path(path).parent.name == "completions" for path in outputs)


def check_gpus_here(experiment: Experiment, trained: bool, outputs: Iterable[str]) -> None:
    """Raise UserError if a job that would run on this machine uses more GPUs than it has.

    Args:
        trained: whether any of the planned jobs trains.
        outputs: the files of all planned jobs; those that sample answers are picked out.
    """
    hardware = experiment.hardware
    uses = {"gpus_per_node": hardware.gpus_per_node * trained}
    uses["gpus_per_evaluation"] = hardware.gpus_per_evaluation * _sample_answers(outputs)
    here = len(visible_devices())
    if too_many := [f"hardware.{key} is {count}" for key, count in uses.items() if count > here]:
        raise UserError(
            f"{' and '.join(too_many)}, but this machine shows {here} GPUs: set it to what is here (0: the CPU), or "
            "run where they are (`--profile slurm`)"
        )


def check_gpus_granted(experiment: Experiment, granted: int | None, trained: bool) -> None:
    """Raise UserError if Snakemake's GPU limit is below what a job needs: it would start the job with fewer.

    Args:
        granted: the GPUs of `--resources gpu=N`; None without a limit.
        trained: whether any of the planned jobs trains.
    """
    hardware = experiment.hardware
    if granted is not None and trained and granted < hardware.gpus:
        nodes = f"hardware.nodes ({hardware.nodes}) x " if hardware.nodes > 1 else ""
        raise UserError(
            f"--resources gpu={granted}: a training job uses {nodes}hardware.gpus_per_node ({hardware.gpus_per_node}) "
            "GPUs; set these in the configuration to what this machine has, or raise gpu"
        )


def check_something_to_report(experiment: Experiment, results: Path) -> None:
    """Raise UserError if there is nothing to report; Snakemake would name only the first missing file."""
    if not any((results / part).exists() for part in ("data", "benchmarks", "figures")):
        raise UserError(
            f"the experiment {experiment.experiment} has no results in {results} yet: run it first, or "
            "add the profile of a finished experiment (`--profile mini`). For an unfinished experiment, "
            "list its finished files on the command line."
        )


def identity(run: Path) -> dict[str, Any]:
    """The identity recorded in the run's newest finished segment or state; {} if it has none."""
    work = run / "work"
    segments = sorted(work.glob("finished/step_*/segment.json"), reverse=True)
    found = [read_json_object(file).get("identity") for file in segments]
    states = sorted(work.glob("checkpoints/step_*/state.json"), reverse=True)
    found += [read_json_object(file).get("identity") for file in states]
    found.append(read_json_object(work / "checkpoints/identity.json"))
    return next((known for known in found if isinstance(known, dict) and known), {})


def check_trained_runs(layout: Layout, segments: Container[str], planned: Container[str]) -> None:
    """Raise UserError if a trained run of `segments` would continue with other data or another base model.

    Files that are `planned` will be recomputed by this start. Training data is then restored as it was
    (`keep_training_data`). A base model from which a run has trained may not be recomputed.
    """
    for run in layout.experiment.runs:
        known = identity(Path(layout.run(run)))
        sources = [
            ("train_file_sha256", layout.training_data(run), file_sha256),
            ("base_model_sha256", layout.base_model(run), weights_sha256),
        ]
        for key, path, sha256 in sources if run in segments else ():
            if known.get(key) and path not in planned and Path(path).exists() and sha256(path) != known[key]:
                raise UserError(
                    f"{path} has changed since run {run} trained with it (SHA-256 {sha256(path):.12}..., it was "
                    f"{known[key]:.12}...): restore the file, or retrain the run after "
                    f"`justrl set-aside {run} --results {layout.root}`"
                )
        model = layout.base_model(run)
        if known and model in planned and Path(model).exists():
            raise UserError(
                f"{model} would be created again, but run {run} was trained from it: undo the change that "
                f"causes this, or retrain the run after `justrl set-aside {run} --results {layout.root}`"
            )


def keep_training_data(layout: Layout, planned: Container[str]) -> None:
    """Keep the training data of trained runs where the job that recomputes it will find it.

    Benchmarks decide which questions are removed only until the first step is trained. Overlaps with benchmarks that
    are added later are only reported.
    """
    for run in layout.experiment.runs:
        data = Path(layout.training_data(run))
        if str(data) in planned and data.is_file():
            known = identity(Path(layout.run(run))).get("train_file_sha256")
            kept = data.with_name(TRAINED)
            if known == file_sha256(data) and not (kept.is_file() and file_sha256(kept) == known):
                kept.unlink(missing_ok=True)
                link_file(data, kept)


def report_of(words: Sequence[str]) -> Path | None:
    """The file to which a Snakemake command line writes a report; None if it writes none."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option == "--report":
            value = value if equals else after
            return Path(value if value and not value.startswith("-") else "report.html")
    return None


def answer_pages(layout: Layout, report: Path) -> Iterator[tuple[str, str]]:
    """For each existing page of answers, its link, relative to the report, and the link's text.

    A report that embeds these pages would be ten times as large.
    """
    for page in map(Path, pages.files(layout, "all", "samples", "rollouts")):
        if page.is_file():
            yield quote(os.path.relpath(page, report.parent)), _link_text(page, layout)


def _link_text(page: Path, layout: Layout) -> str:
    if page.stem == "rollouts":
        return f"{page.parent.name}, rollouts of its training"
    benchmarks = layout.experiment.benchmarks
    asked = max((name for name in benchmarks if page.stem.startswith(f"{name}_")), key=len)
    name = page.stem.removeprefix(f"{asked}_").replace("@base", ", base model").replace("@", ", step ")
    return f"{name}: {benchmarks[asked].label}"
