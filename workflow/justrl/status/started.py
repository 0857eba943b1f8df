"""Find started experiments by their results, with their running, trained and evaluated parts."""

import shlex
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from justrl.config import Experiment, paper
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.plan.planning import duration
from justrl.status.run_status import RunProgress, find_runs, owner_state, read_run, render
from justrl.training.run_lock import HEARTBEAT_SECONDS
from justrl.workflow import config_snapshots

# A trainer that has not touched its lock for this many heartbeats does not count as running.
MISSED_HEARTBEATS = 10


@dataclass(frozen=True)
class Started:
    """A started experiment: its results folder, its runs, and the progress of each target.

    `waiting` are enabled runs without a step. `evaluations` maps a target (all, golden, canary, first_1000) to the
    numbers of finished and of all its results. `touched` is the time of the last change. `problem` is the reason why
    its configuration cannot be read.
    """

    results: Path
    name: str
    runs: Sequence[RunProgress]
    waiting: Sequence[str]
    evaluations: dict[str, tuple[int, int]]
    touched: float
    problem: str = ""

    def running(self, now: float | None = None) -> bool:
        """True if a trainer is at work, according to its lock."""
        now = time.time() if now is None else now
        fresh = now - MISSED_HEARTBEATS * HEARTBEAT_SECONDS
        return any(
            run.owner and run.touched and run.touched > fresh and "dead" not in owner_state(run.owner)
            for run in self.runs
            if not run.finished
        )


def results_folder(given: Path | None) -> Path:
    """The results folder to use: the given one, else `results` in the working directory or a folder above.

    Raises UserError if there is none.
    """
    if given is not None:
        if not given.is_dir():
            raise UserError(f"no folder {given}: give --results the folder of an experiment, such as results/mini")
        return given
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "results").is_dir():
            return Path("results") if folder == here else folder / "results"
    raise UserError(f"no folder results in {here} or above it: start this in the checkout, or give --results")


def find(results: Path, experiment: Experiment | None = None) -> list[Started]:
    """The experiments in a results folder and one level below it: those with a running trainer first, then the newest.

    Without `experiment`, each is read from the snapshot of its last start.
    """
    folders = [folder for folder in (results, *sorted(results.glob("*/"))) if is_started(folder)]
    found = [_read(folder, experiment) for folder in folders]
    return sorted(found, key=lambda started: (started.running(), started.touched), reverse=True)


def is_started(folder: Path) -> bool:
    """True if anything was started in a folder."""
    return config_snapshots.newest(folder) is not None or any(folder.glob("runs/*/run.json"))


def _read(folder: Path, experiment: Experiment | None) -> Started:
    problem, file = "", config_snapshots.newest(folder)
    if experiment is None and file:
        try:
            experiment = Experiment.from_mapping(config_snapshots.read(file)[0])
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{file} cannot be read ({error!s:.200}): the number of steps of its runs is unknown"
    if experiment:
        experiment = experiment.with_canaries()
    steps = {name: run.steps for name, run in experiment.runs.items()} if experiment else {}
    runs = [read_run(run, steps.get(run.name)) for run in find_runs(folder) if run.parent.parent == folder]
    layout = Layout(experiment, str(folder)) if experiment else None
    named = (
        experiment.experiment
        if experiment
        else next((paper.experiment_of(run.experiment) for run in runs), folder.name)
    )
    return Started(
        results=folder,
        name=named,
        runs=runs,
        waiting=sorted(set(experiment.enabled if experiment else ()) - {run.name for run in runs}),
        evaluations=dict(_evaluations(layout)) if layout else {},
        touched=max(_times(folder, runs), default=0.0),
        problem=problem,
    )


def _evaluations(layout: Layout) -> Iterator[tuple[str, tuple[int, int]]]:
    """Finished and total results of each target; a target with results of its own is listed once one of them exists."""
    targets = {
        "all": layout.evaluation_results(),
        "canary": layout.canary_evaluations(),
        "golden": layout.golden_evaluations(),
        "first_1000": layout.first_thousand_evaluations(),
    }
    everything = set(targets["all"])
    for target, files in targets.items():
        done = sum(Path(file).is_file() for file in set(files))
        if target == "all" or any(Path(file).is_file() for file in set(files) - everything):
            yield target, (done, len(set(files)))


def _times(folder: Path, runs: Iterable[RunProgress]) -> Iterator[float]:
    for run in runs:
        yield from (moment for moment in (run.updated, run.touched) if moment)
    for pattern in ("*.json", "experiments/*.json", "runs/*/run.json"):
        yield from (path.stat().st_mtime for path in folder.glob(pattern))


def text(shown: Started, others: Sequence[Started] = (), now: float | None = None) -> str:
    """The status as text: the experiment, its runs, its evaluations, and other experiments."""
    lines = [f"experiment {shown.name} in {shown.results}, {state(shown, now)}"]
    lines += [f"  {shown.problem}"] if shown.problem else []
    if shown.runs:
        lines += ["", render(shown.runs, now), ""]
    lines += [f"not started: {', '.join(shown.waiting)}"] if shown.waiting else []
    lines += [evaluations(shown)] if shown.evaluations else []
    lines += [f"curves:      {tensorboard(shown)}"] if shown.runs else []
    for other in others:
        lines.append(
            f"also here:   {other.name}, {state(other, now)}: justrl status --results {_quoted(other.results)}"
        )
    return "\n".join(lines)


def state(started: Started, now: float | None = None) -> str:
    """Whether an experiment is being trained, else the time of its last change."""
    now = time.time() if now is None else now
    if started.running(now):
        return "running"
    return f"last changed {duration(max(0.0, now - started.touched))} ago"


def evaluations(started: Started) -> str:
    """Numbers of finished results, of the whole experiment and of its other targets."""
    parts = [f"{done} of {total} {target}" for target, (done, total) in started.evaluations.items()]
    return "evaluations: " + ", ".join(parts).replace(" all", "", 1)


def tensorboard(started: Started) -> str:
    """The command that shows the curves of all its runs in TensorBoard."""
    return f"tensorboard --logdir {_quoted(started.results / 'runs')}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
