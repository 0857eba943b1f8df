"""Progress and health of runs and of started experiments, read from their files while they train."""

import math
import shlex
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean, median

from justrl.config import Experiment, Hardware, RunDescription, paper, read_part
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.io import read_json_object, read_object, read_whole_lines
from justrl.models.shape import shape_of
from justrl.plan.planning import duration, hang_timeout_minutes
from justrl.report.health import COLLAPSE_FACTOR, EXPLOSION_FACTOR, problems, summarize_run, verdict
from justrl.report.metrics import series
from justrl.training import alarms
from justrl.training.run_lock import HEARTBEAT_SECONDS, process_start
from justrl.training.watchdog import START_SECONDS, state_of
from justrl.workflow import config_snapshots

SHOWN = (("reward_mean", "reward"), ("entropy", "entropy"), ("response_length_mean", "length"))
# A run counts as stalled if it logs no step for this many times the duration of a step.
STALLED_STEPS = 3
STALLED_SECONDS = 600
ENTROPY_WINDOW = 20
# A trainer that has not touched its lock for this many heartbeats does not count as running.
MISSED_HEARTBEATS = 10


@dataclass(frozen=True)
class RunProgress:
    """One run: its metrics rows by step, when it last wrote, and the owner of its lock.

    `total` is the configured number of steps. `merged` is the last step of a run whose segments are all finished.
    `touched` is when the trainer last touched its lock. `hang_seconds` is how long the trainer may go without progress.
    `unreadable` lists files that cannot be read. `alarm` describes the alarm that ended the training.
    """

    name: str
    experiment: str
    rows: list[dict]
    total: int | None = None
    updated: float | None = None
    owner: Mapping = field(default_factory=dict)
    merged: int | None = None
    touched: float | None = None
    hang_seconds: float | None = None
    unreadable: Sequence[str] = ()
    alarm: str = ""

    @property
    def step(self) -> int:
        return self.rows[-1]["step"] if self.rows else 0

    @property
    def finished(self) -> bool:
        return self.step >= self.total if self.total is not None else self.step == (self.merged or -1)

    def recent(self, metric: str, last: int = 10) -> float | None:
        """Mean of the last values of a metric, or None without values."""
        _, values = series(self.rows[-last:], metric)
        return fmean(values) if values else None

    @property
    def step_seconds(self) -> float | None:
        _, values = series(self.rows[-50:], "step_seconds")
        return median(values) if values else None

    @property
    def seconds_left(self) -> float | None:
        if self.total is None or self.step_seconds is None:
            return None
        return max(0, self.total - self.step) * self.step_seconds


def find_runs(results: str | Path) -> list[Path]:
    """Folders of runs in a results folder or one level below it (`results/mini`)."""
    results = Path(results)
    found = {path.parent for pattern in ("runs/*/run.json", "*/runs/*/run.json") for path in results.glob(pattern)}
    return sorted(found)


def read_run(folder: str | Path, total: int | None = None) -> RunProgress:
    """Read a run's published and live metrics; a step in both counts once, an incomplete last line is ignored."""
    folder = Path(folder)
    described, unreadable = read_json_object(folder / "run.json"), []
    try:
        hang_seconds = _hang_seconds(folder)
    except (UserError, OSError) as error:
        hang_seconds = None
        unreadable.append(f"{error}: the limit on the time of a step is unknown")
    published = sorted((folder / "segments").glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime)
    live = sorted((folder / "work").glob("**/metrics*.jsonl"), key=lambda path: path.stat().st_mtime)
    rows: dict[int, dict] = {}
    for path in [*live, *published]:
        try:
            rows |= _rows(path)
        except (OSError, UserError) as error:
            why = getattr(error, "strerror", None) or error
            unreadable.append(f"{path} cannot be read ({why}): its steps are missing here")
    try:
        alarm = alarms.standing(folder / "work")
    except (UserError, OSError) as error:
        alarm = str(error)
    merged, lock = folder / "metrics.jsonl", folder / "work" / "LOCK"
    return RunProgress(
        folder.name,
        paper.stamp_of_run(described) or "?",
        [rows[step] for step in sorted(rows)],
        total,
        max((path.stat().st_mtime for path in [*published, *live]), default=None),
        read_json_object(lock),
        max(_rows(merged), default=None) if merged.is_file() else None,
        lock.stat().st_mtime if lock.is_file() else None,
        hang_seconds,
        unreadable,
        alarm,
    )


def _rows(path: Path) -> dict[int, dict]:
    return {row["step"]: row for row in read_whole_lines(path) if isinstance(row.get("step"), int)}


def _hang_seconds(folder: Path) -> float | None:
    """The hang timeout of a run's trainer, from the input files of its jobs; None if they do not exist."""
    run_file, hardware_file = folder / "run.json", folder.parent.parent / "hardware.json"
    described = read_object(run_file)
    if not hardware_file.exists():
        return None
    run = read_part(RunDescription, described, run_file)
    hardware = read_part(Hardware, read_object(hardware_file), hardware_file)
    return 60 * hang_timeout_minutes(hardware, run.engine, run.recipe, shape_of(run.model))


def findings(run: RunProgress, now: float | None = None) -> list[str]:
    """The problems of a run, one sentence each; empty for a healthy run."""
    unusual = [*filter(None, [run.alarm]), *run.unreadable, *_silence(run, time.time() if now is None else now)]
    if not run.rows:
        return unusual
    found = problems(summarize_run(run.rows, run.experiment)["findings"])
    # The last tenth of a long run hides a collapse for weeks, so check the newest steps as well.
    recent = run.recent("entropy", ENTROPY_WINDOW)
    _, entropies = series(run.rows[:ENTROPY_WINDOW], "entropy")
    if recent is not None and entropies and not any("entropy" in sentence for sentence in found):
        first = fmean(entropies)
        if recent < first * COLLAPSE_FACTOR or recent > first * EXPLOSION_FACTOR:
            what = "collapsed" if recent < first else "ran away"
            found.append(
                f"entropy {what} in the last {ENTROPY_WINDOW} steps: {first:.3g} at the start, {recent:.3g} now"
            )
    return [*unusual, *found]


def _silence(run: RunProgress, now: float) -> list[str]:
    """Report a run that should make steps and does not, or whose trainer is suspended."""
    heard = [time_ for time_ in (run.updated, _since(run.owner)) if time_ is not None]
    if run.finished or not heard or not (run.rows or run.owner):
        return []
    silence, hang = now - max(heard), run.hang_seconds or math.inf
    state = owner_state(run.owner, now - run.touched if run.touched else 0.0)
    if silence > (hang if run.rows else max(hang, START_SECONDS)):
        allowed = f"longer than its hang timeout of {duration(hang)}"
        return [f"no step for {duration(silence)}, {allowed}, {state}: look at the log of train_segment"]
    if run.rows and silence > max(STALLED_SECONDS, STALLED_STEPS * (run.step_seconds or 0)):
        return [f"no step for {duration(silence)}, {state}: look at the log of train_segment"]
    return [state] if "stopped" in state else []


def _since(owner: Mapping) -> float | None:
    """When the lock's owner took it, in seconds since the epoch."""
    try:
        # Versions up to 0.1 wrote a time without a zone: take it as this machine's local time.
        return datetime.fromisoformat(owner["since"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None


def owner_state(owner: Mapping, silent_seconds: float = 0.0) -> str:
    """Describe the owner of the run's lock, and whether it can be alive, as far as this machine knows.

    `silent_seconds` is the time since the owner last touched the lock, which it does every HEARTBEAT_SECONDS.
    """
    if not owner:
        return "no trainer is running"
    host, pid, job = owner.get("host"), owner.get("pid"), owner.get("slurm_job_id")
    who = f"held by {f'Slurm job {job}' if job else f'process {pid}'} on {host}"
    if host == socket.gethostname() and isinstance(pid, int):
        if (started := process_start(pid)) is None or started != owner.get("started", started):
            return f"{who}, which is dead"
        if "stopped" in (state := state_of(pid)):
            return f"{who}, which {state}; `kill -CONT {pid}` continues it"
    if silent_seconds > 10 * HEARTBEAT_SECONDS:
        return f"{who}, who has given no sign of life for {duration(silent_seconds)}"
    return who


def render(runs: Sequence[RunProgress], now: float | None = None) -> str:
    """All runs as text: step and speed, then reward, entropy and length, and problems."""
    if not runs:
        return "no run has started yet"
    return "\n\n".join(_render_run(run, now) for run in runs)


def headline(run: RunProgress) -> str:
    """A run in one line: step, speed, time left."""
    of = f" of {run.total:,}" if run.total else ""
    if not run.rows:
        return f"{run.name} ({_stamped(run)})  step 0{of}, {owner_state(run.owner)}"
    parts = [f"step {run.step:,}{of}"]
    if run.total:
        parts[0] += f" ({run.step / run.total:.0%})"
    if run.step_seconds is not None:
        parts.append(f"{run.step_seconds:,.1f} s/step")
    speed = run.recent("tokens_per_second")
    if speed is not None:
        parts.append(f"{speed:,.0f} tokens/s")
    if run.finished:
        parts.append("finished")
    elif run.seconds_left is not None:
        parts.append(f"{duration(run.seconds_left)} left")
    return f"{run.name} ({_stamped(run)})  " + "  ".join(parts)


def _stamped(run: RunProgress) -> str:
    """The experiment of a run; for an experiment that is not the paper's, the label on its pages."""
    return run.experiment if paper.experiment_of(run.experiment) == run.experiment else paper.mark(run.experiment)


def _render_run(run: RunProgress, now: float | None) -> str:
    health = [f"  health  {sentence}" for sentence in findings(run, now)]
    if not run.rows:
        return "\n".join([headline(run), *health])
    lines = [headline(run), _metrics(run)]
    truncated = run.recent("response_clip_ratio")
    if truncated is not None:
        lines.append(f"  truncated {truncated:.1%} of the responses (length limit)")
    return "\n".join(lines + (health or [f"  health  {verdict(run.rows, [])}"]))


def _metrics(run: RunProgress) -> str:
    """Reward, entropy and length in one line: the newest value of each and its range."""
    parts = []
    for metric, label in SHOWN:
        _, values = series(run.rows, metric)
        if values:
            newest = values[-1] if (recent := run.recent(metric)) is None else recent
            parts.append(f"{label} {newest:.4g} ({min(values):.4g} to {max(values):.4g})")
    return "  " + "  ".join(parts)


@dataclass(frozen=True)
class ExperimentStatus:
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


def find_experiments(results: Path, experiment: Experiment | None = None) -> list[ExperimentStatus]:
    """The experiments in a results folder and one level below it: those with a running trainer first, then the newest.

    Without `experiment`, each is read from the snapshot of its last start.
    """
    folders = [folder for folder in (results, *sorted(results.glob("*/"))) if is_started(folder)]
    found = [_read(folder, experiment) for folder in folders]
    return sorted(found, key=lambda one: (one.running(), one.touched), reverse=True)


def is_started(folder: Path) -> bool:
    """True if anything was started in a folder."""
    return config_snapshots.newest(folder) is not None or any(folder.glob("runs/*/run.json"))


def _read(folder: Path, experiment: Experiment | None) -> ExperimentStatus:
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
    return ExperimentStatus(
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


def render_experiment(
    shown: ExperimentStatus, others: Sequence[ExperimentStatus] = (), now: float | None = None
) -> str:
    """The status as text: the experiment, its runs, its evaluations, and other experiments."""
    lines = [f"experiment {shown.name} in {shown.results}, {_state(shown, now)}"]
    lines += [f"  {shown.problem}"] if shown.problem else []
    if shown.runs:
        lines += ["", render(shown.runs, now), ""]
    lines += [f"not started: {', '.join(shown.waiting)}"] if shown.waiting else []
    if shown.evaluations:
        parts = [f"{done} of {total} {target}" for target, (done, total) in shown.evaluations.items()]
        lines.append("evaluations: " + ", ".join(parts).replace(" all", "", 1))
    if shown.runs:
        lines.append(f"curves:      tensorboard --logdir {shlex.quote(str(shown.results / 'runs'))}")
    for other in others:
        place = shlex.quote(str(other.results))
        lines.append(f"also here:   {other.name}, {_state(other, now)}: justrl status --results {place}")
    return "\n".join(lines)


def _state(shown: ExperimentStatus, now: float | None = None) -> str:
    """Whether an experiment is being trained, else the time of its last change."""
    now = time.time() if now is None else now
    if shown.running(now):
        return "running"
    return f"last changed {duration(max(0.0, now - shown.touched))} ago"
