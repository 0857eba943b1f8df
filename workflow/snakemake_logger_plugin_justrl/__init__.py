"""Snakemake's progress messages: which rule works on what, how far it is and how long it will take, one line each.

Prints a line when a job begins, when it ends, and every JUSTRL_PROGRESS_SECONDS (60) while it runs. All other messages,
especially errors and warnings, are Snakemake's. The Snakefile replaces Snakemake's handler by this one
(`snakemake_messages`); `--logger`, `--verbose`, `--printshellcmds`, `--debug-dag` and `--quiet` restore Snakemake's.
"""

import logging
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

import bounded_configuration
from justrl.plan.planning import duration
from justrl.status import jobs

# Snakemake imports its plugins before it reads a configuration file.
bounded_configuration.install()

# Messages that are shown here in another way, or that are of no use to someone who runs an experiment.
DROPPED = {LogEvent.RESOURCES_INFO, LogEvent.JOB_STARTED, LogEvent.PROGRESS, LogEvent.SHELLCMD}
DROPPED |= {LogEvent.JOB_INFO, LogEvent.JOB_FINISHED}
DROPPED_LINES = (
    "Assuming unrestricted shared filesystem usage.",
    "Select jobs to execute...",
    "Using shell: /usr/bin/bash",
    "Conda environments: ignored",
    "Singularity containers: ignored",
)


@dataclass
class Job:
    """A job that runs, or waits in a queue; its log file is created when it starts."""

    name: str
    metrics: Path | None
    log: Path | None
    begun: float = field(default_factory=time.time)

    def how_far(self) -> jobs.JobProgress | None:
        """Return the job's progress, if its files contain it."""
        if self.metrics:
            return jobs.training_progress(self.metrics, int(self.metrics.parent.name), time.time())
        return jobs.log_progress(self.log, time.time() - self.begun) if self.log else None


class LogHandler(LogHandlerBase):
    """Shows Snakemake's messages with jobs as short lines; see the module's docstring.

    `snakemakes` is the handler that this one replaces; `is_remote` returns whether jobs go to a queue.
    """

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.is_remote = lambda: False
        self.snakemakes = logging.StreamHandler(sys.stdout if self.common_settings.stdout else sys.stderr)
        self._every = _interval()
        self._jobs: dict[int, Job] = {}
        self._done, self._total = 0, 0
        self._ended = threading.Event()
        threading.Thread(target=self._tell, daemon=True).start()

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        """Set the format of Snakemake's messages, which Snakemake gives to handlers without their own."""
        self.snakemakes.setFormatter(fmt)

    def emit(self, record: Any) -> None:
        """Process Snakemake's messages about jobs, and pass on all others."""
        try:
            event = getattr(record, "event", None)
            if event == LogEvent.JOB_INFO:
                self._begin(record)
            elif event == LogEvent.JOB_FINISHED:
                self._finish(record.job_id)
            elif event == LogEvent.RUN_INFO:
                self._total = record.stats.get("total", 0)
            if event in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR):
                self._jobs.pop(getattr(record, "jobid", -1), None)
                self.snakemakes.emit(record)  # not hidden by `quiet`, whatever it is set to for rules
            elif event not in DROPPED and record.msg not in DROPPED_LINES:
                self.snakemakes.handle(record)
        except Exception:
            self.handleError(record)

    def _begin(self, record: Any) -> None:
        name = " ".join([record.rule_name, *map(str, record.wildcards.values())])
        metrics = [Path(file) for file in map(str, record.output) if Path(file).match("segments/*/metrics.jsonl")]
        self._jobs[record.jobid] = Job(name, next(iter(metrics), None), next(map(Path, record.log or ()), None))
        self._say(f"begun  {name}")

    def _finish(self, number: int) -> None:
        if job := self._jobs.pop(number, None):
            self._done += 1
            facts = f", {far.says}" if (far := job.how_far()) and far.unit else ""
            self._say(f"done   {job.name} in {duration(time.time() - job.begun)}{facts}")

    def _say(self, line: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {line} ({self._done} of {self._total} jobs)"
        print(line, file=self.snakemakes.stream, flush=True)

    def _tell(self) -> None:
        """Print the progress of each job at intervals, until the end."""
        while not self._ended.wait(self._every):
            with self.lock:  # type: ignore[union-attr]
                for job in self._jobs.values():
                    says = far.sentence() if (far := job.how_far()) else f"{duration(time.time() - job.begun)} so far"
                    if self.is_remote() and job.log and not job.log.exists():
                        says = f"in the queue for {duration(time.time() - job.begun)}"
                    self._say(f"works  {job.name}: {says}")

    def close(self) -> None:
        """Stop printing."""
        self._ended.set()
        super().close()


def _interval() -> float:
    """Return the seconds between two lines about a running job."""
    text, seconds = os.environ.get("JUSTRL_PROGRESS_SECONDS", "60"), 0.0
    with suppress(ValueError):
        seconds = float(text)
    if not seconds > 0:
        raise WorkflowError(
            f"JUSTRL_PROGRESS_SECONDS is {text!r}: set it to a number of seconds above 0, or not at all"
        )
    return seconds
