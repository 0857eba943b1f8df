"""What Snakemake says while it works: which rule works on what, how far it is and how long it will take, a line each.

In a terminal a bar for each job that works and one for the whole; in a log a line when a job begins, when it ends, and
every so many seconds (JUSTRL_PROGRESS_SECONDS, 60) for each that works. All else, errors and warnings above all, comes
as Snakemake has it. The Snakefile puts it in the place of Snakemake's own; `--logger`, `--verbose`, `--printshellcmds`,
`--debug-dag` and `--quiet` bring that back.
"""

import atexit
import logging
import os
import re
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

import bounded_configuration
from justrl.operations import job_progress
from justrl.operations.planning import duration

# Snakemake imports its plugins before it reads a configuration file.
bounded_configuration.install()

SNAKEMAKES_OWN = "DefaultStreamHandler"
# What is told here in another way, or says nothing to whoever starts an experiment.
DROPPED = {LogEvent.RESOURCES_INFO, LogEvent.JOB_STARTED, LogEvent.PROGRESS, LogEvent.SHELLCMD}
DROPPED_LINES = (
    "Assuming unrestricted shared filesystem usage.",
    "Select jobs to execute...",
    "Using shell: /usr/bin/bash",
    "Conda environments: ignored",
    "Singularity containers: ignored",
)
# Seconds between two looks at the files of the jobs that work.
LOOK_SECONDS = 0.5
WIDEST_NAME = 44
HERE = re.escape(str(Path(__file__).resolve().parents[2]))
# As Snakemake shows an exception of our rules, raised there or by an input function.
OUR_ERROR = re.compile(
    rf'WorkflowError in file "{HERE}/(?:Snakefile|rules/)[^"]*", line \d+:\n(?P<raised>.*?)(?:\n  File .*)?$'
    rf'|InputFunctionException in rule \w+ in file "{HERE}/rules/[^"]*", line \d+:\nError:\n  WorkflowError:\n'
    r"    (?P<asked>.*?)\nWildcards:.*",
    re.DOTALL,
)


def install(workflow: Any) -> str | None:
    """Put this handler in the place of Snakemake's, unless another output is asked for.

    Returns the file to which jobs shall write their standard output, which would tear the bars; None where Snakemake's
    own handler stays.
    """
    logger, settings = workflow.logger_manager.logger, workflow.logger_manager.settings
    own = next((handler for handler in logger.handlers if handler.name == SNAKEMAKES_OWN), None)
    other = settings.dryrun or settings.verbose or settings.printshellcmds or settings.debug_dag
    silent = {Quietness.ALL, Quietness.PROGRESS} & set(settings.quiet or ())
    if own and not settings.verbose:
        own.addFilter(one_sentence)
    if own and settings.dryrun and Quietness.RULES in (settings.quiet or ()) and workflow.is_main_process:
        own.addFilter(OneScreen())
    if own is None or other or silent or not workflow.is_main_process:
        return None
    # Made first: what goes wrong in it is said by Snakemake's own.
    handler = LogHandler(settings, None, lambda: not workflow.local_exec)
    logger.removeHandler(own)
    logger.addHandler(handler)
    return str(handler.output.log)


def one_sentence(record: logging.LogRecord) -> bool:
    """Leave of an error that our rules raise its sentence, without the places in code that it came through."""
    if getattr(record, "event", None) == LogEvent.ERROR and (found := OUR_ERROR.match(record.getMessage())):
        record.msg, record.args = f"error: {found['raised'] or found['asked']}", ()
    return True


class OneScreen(logging.Filter):
    """Of a dry run that is to be quiet about rules: the table of jobs once, and no list of reasons by rule."""

    shown = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is to be seen."""
        again, self.shown = self.shown, self.shown or getattr(record, "event", None) == LogEvent.RUN_INFO
        return not (
            again and (getattr(record, "event", None) == LogEvent.RUN_INFO or "Reasons:" in record.getMessage())
        )


@dataclass
class Job:
    """A job that works, or waits in a queue."""

    number: int
    name: str
    rule: str
    output: list[str]
    log: Path | None
    usual: float | None
    said: job_progress.LogReader | None
    begun: float = field(default_factory=time.time)

    @property
    def waits(self) -> bool:
        """Whether nothing of it is there yet: its log is the first thing that it writes."""
        return self.log is not None and not self.log.exists()

    def how_far(self) -> job_progress.HowFar | None:
        """How far it is, where its files say so."""
        if self.rule == "train_segment":
            metrics = next(Path(file) for file in self.output if file.endswith("metrics.jsonl"))
            return job_progress.of_training(metrics, int(metrics.parent.name), time.time())
        return job_progress.of_log(self.log) if self.log and not self.waits else None

    def seconds_left(self, far: job_progress.HowFar | None) -> float | None:
        """How long it will take yet: by its own progress, else as long as others of its rule took."""
        if far and far.seconds_left is not None:
            return far.seconds_left
        if far and far.done:
            return (time.time() - self.begun) / far.done * (far.total - far.done)
        return max(0.0, self.begun + self.usual - time.time()) if self.usual is not None else None


class LogHandler(LogHandlerBase):
    """Snakemake's messages with jobs as calm lines, or bars; see the module's description."""

    def __init__(self, common_settings, settings, is_remote=lambda: False):
        self._is_remote = is_remote
        super().__init__(common_settings, settings)

    def __post_init__(self) -> None:
        stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self._every = _interval()
        self._jobs: dict[int, Job] = {}
        self._took: dict[str, list[float]] = {}
        self._done, self._total = 0, 0
        self._bars = _bars(stream) if stream.isatty() and os.environ.get("TERM") != "dumb" else None
        self._snakemake = self._like_snakemakes(_Above(stream, self._bars) if self._bars else stream)
        number, name = tempfile.mkstemp(prefix="justrl-output-")
        os.close(number)
        self.output = job_progress.LogReader(Path(name))
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._look_again, daemon=True)
        atexit.register(self.close)

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def _like_snakemakes(self, stream: Any) -> logging.Handler:
        """Snakemake's own handler on the stream. What `quiet` says of rules does not hide what failed."""
        settings = self.common_settings
        handler = ColorizingTextHandler(nocolor=settings.nocolor, stream=stream)
        quiet = set(settings.quiet or ())
        handler.addFilter(DefaultFilter(quiet - {Quietness.RULES}, settings.debug_dag, False, False, False))
        handler.addFilter(one_sentence)
        handler.setFormatter(DefaultFormatter(quiet, settings.show_failed_logs))
        return handler

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of what Snakemake says of jobs, and pass on all else."""
        try:
            event = getattr(record, "event", None)
            if event == LogEvent.JOB_INFO:
                self._begin(record)
            elif event == LogEvent.JOB_FINISHED:
                self._finish(record.job_id)  # type: ignore[attr-defined]
            elif event == LogEvent.PROGRESS:
                self._done, self._total = record.done, record.total  # type: ignore[attr-defined]
            elif event == LogEvent.RUN_INFO:
                self._total = record.stats.get("total", 0)  # type: ignore[attr-defined]
            elif event == LogEvent.JOB_ERROR:
                self._fail(record.jobid)  # type: ignore[attr-defined]
            if event not in (*DROPPED, LogEvent.JOB_INFO, LogEvent.JOB_FINISHED) and record.msg not in DROPPED_LINES:
                self._snakemake.handle(record)
        except Exception:
            self.handleError(record)

    def _begin(self, record: Any) -> None:
        name = " ".join([record.rule_name, *map(str, record.wildcards.values())])
        log = Path(record.log[0]) if record.log else None
        timing = Path(record.benchmark) if record.benchmark else None
        earlier = self._took.get(record.rule_name) or (job_progress.earlier_seconds(timing) if timing else [])
        # What jobs of a queue say stays in their logs.
        said = job_progress.LogReader(log) if log and (record.local or not self._is_remote()) else None
        job = Job(
            number=record.jobid,
            name=name,
            rule=record.rule_name,
            output=[str(file) for file in record.output],
            log=log,
            usual=median(earlier) if earlier else None,
            said=said,
        )
        self._jobs[job.number] = job
        if self._bars is None:
            usual = f", about {duration(job.usual)}" if job.usual is not None else ""
            self._say(f"begun  {name}{usual}")
        if not self._clock.is_alive() and not self._ended.is_set():
            self._clock.start()
        self._draw()

    def _finish(self, number: int) -> None:
        if (job := self._jobs.pop(number, None)) is None:
            return
        took, far = time.time() - job.begun, job.how_far()
        self._took.setdefault(job.rule, []).append(took)
        self._pass_on(job)
        facts = f", {far.says}" if far and far.unit else ""
        self._done = min(self._done + 1, self._total)
        self._say(f"done   {job.name} in {duration(took)}{facts}{self._of_all()}")
        self._draw()

    def _fail(self, number: int) -> None:
        job = self._jobs.pop(number, None)
        # Snakemake shows the whole log below, where it is told to.
        if job and not self.common_settings.show_failed_logs:
            self._pass_on(job)
        self._draw()

    def _of_all(self) -> str:
        return f" ({self._done} of {self._total} jobs)" if self._total else ""

    def _pass_on(self, job: Job) -> None:
        """Print what a job has said since the last look, and what any has written to standard output."""
        for line in self.output.lines():
            self._print(line)
        for line in job.said.lines() if job.said else ():
            self._print(f"{job.name}: {line}")

    def _say(self, line: str) -> None:
        self._print(f"{time.strftime('%H:%M:%S')} {line}")

    def _print(self, line: str) -> None:
        stream = self._snakemake.stream  # type: ignore[attr-defined]
        stream.write(f"{line}\n")
        stream.flush()

    def _look_again(self) -> None:
        """Until the end: draw the bars anew, or say every so often how far each job is."""
        told = time.monotonic()
        while not self._ended.wait(LOOK_SECONDS):
            with self.lock:  # type: ignore[union-attr]
                for job in self._jobs.values():
                    self._pass_on(job)
                self._draw()
                if self._bars is None and self._jobs and time.monotonic() - told >= self._every:
                    told = time.monotonic()
                    for job in self._jobs.values():
                        self._say(f"works  {job.name}: {self._sentence(job, job.how_far())}{self._of_all()}")

    def _sentence(self, job: Job, far: job_progress.HowFar | None) -> str:
        """How far a job is, and how long it will take."""
        if job.waits and self._is_remote():
            return f"in the queue for {duration(time.time() - job.begun)}"
        left = job.seconds_left(far)
        parts = [" ".join(filter(None, [far.unit, f"{far.done:,} of {far.total:,}"]))] if far else []
        parts += [far.says] if far and far.says else []
        parts += [f"{duration(time.time() - job.begun)} so far"] if not far else []
        parts += [f"about {duration(left)} left"] if left else []
        return ", ".join(parts)

    def _draw(self) -> None:
        if self._bars is not None:
            looked = [(job, job.how_far()) for job in self._jobs.values()]
            drawn = [(job, far, self._sentence(job, far)) for job, far in looked]
            self._bars.draw(drawn, self._done, self._total)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._ended.set()
        with self.lock:  # type: ignore[union-attr]
            if self._bars is not None:
                self._bars.stop()
        self.output.log.unlink(missing_ok=True)
        super().close()


def _interval() -> float:
    """Seconds between two lines of a job that works, in a log."""
    text = os.environ.get("JUSTRL_PROGRESS_SECONDS", "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise WorkflowError(
            f"JUSTRL_PROGRESS_SECONDS is {text!r}: set it to a number of seconds above 0, or not at all"
        )
    return seconds


def _bars(stream: Any) -> "Bars | None":
    """Bars on a terminal; None where rich is missing, as in a Snakemake that was installed by itself."""
    try:
        return Bars(stream)
    except ImportError:
        print("rich is not installed: printing lines instead of progress bars", file=stream)
        return None


class Bars:
    """A bar for each job that works, and one below them for all."""

    def __init__(self, stream: Any):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = Console(file=stream)
        name = TextColumn("{task.description}", markup=False)
        says = TextColumn("{task.fields[says]}", markup=False)
        # Drawn by whoever looks at the files, so that there is one thread fewer.
        self._progress = Progress(name, BarColumn(24), says, console=self.console, auto_refresh=False, transient=True)
        self._tasks: dict[int, Any] = {}
        self._all: Any = None

    def draw(self, jobs: list[tuple[Job, job_progress.HowFar | None, str]], done: int, total: int) -> None:
        """Draw the bars of these jobs, with how far each is and a sentence."""
        bars = self._progress
        if self._all is None:
            bars.start()
            self._all = bars.add_task("jobs", total=total or None, says="")
        for number in self._tasks.keys() - {job.number for job, *_ in jobs}:
            bars.remove_task(self._tasks.pop(number))
        # The bar of all stands last.
        bars.remove_task(self._all)
        for job, far, sentence in jobs:
            if job.number not in self._tasks:
                self._tasks[job.number] = bars.add_task(job.name[:WIDEST_NAME], total=None, says="")
            shown = {"completed": far.done, "total": far.total} if far else _by_time(job)
            bars.update(self._tasks[job.number], says=sentence, **shown)
        self._all = bars.add_task("all jobs", total=total or None, completed=done, says=f"{done} of {total}")
        bars.refresh()

    def stop(self) -> None:
        """Take the bars from the terminal."""
        self._progress.stop()


def _by_time(job: Job) -> dict[str, float]:
    """The state of a bar by the time that others of the rule took; one that swings to and fro where none is known."""
    if job.waits or not job.usual:
        return {}
    return {"completed": min(time.time() - job.begun, job.usual), "total": job.usual}


class _Above:
    """A stream whose whole lines are written above the bars."""

    def __init__(self, stream: Any, bars: Bars):
        self._stream, self._bars, self._line = stream, bars, ""

    def write(self, text: str) -> None:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._bars.console.out(line, highlight=False)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()
