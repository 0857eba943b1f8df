"""Snakemake's own Slurm executor, made resilient to failures of the cluster; the Snakefile installs it.

Submission is Snakemake's. The differences:

- Job states come from one `squeue`, never from accounting. If `squeue` does not answer, the jobs count as running and
  are queried again. A job that the queue has forgotten is finished if its mark exists, which its command creates last.
  A job that will never start, by the queue's own reason, is cancelled and has failed.
- A submission that Slurm cannot accept at the moment is retried later; one that it refuses has failed at once.
- The jobs of a Snakemake that died are adopted by the next one, if they run what it would submit.
"""

import asyncio
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from pathlib import Path

import snakemake_executor_plugin_slurm as plugin
import snakemake_executor_plugin_slurm_jobstep as jobstep
from snakemake_executor_plugin_slurm.utils import get_job_wildcards
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

# States in which a job has ended without finishing its work, with the reason or remedy.
FAILED = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "somebody cancelled it",
    "DEADLINE": "its deadline passed",
    "FAILED": "its log shows the reason",
    "NODE_FAIL": "its node was lost",
    "OUT_OF_MEMORY": "it was killed for memory: ask for more (`hardware` in config.yaml, mem_mb in slurm/config.yaml)",
    "PREEMPTED": "a job of higher priority took its place, and the partition does not requeue",
    "TIMEOUT": "its time was up",
}
# Errors of sbatch after which it may accept the same job later: no answer, or a queue that is closed or full.
LATER = re.compile(
    r"unable to contact|connect failure|connection (refused|reset)|timed out|not responding|zero bytes were"
    r"|temporarily|not connected|insane message|standby mode|munge|authentication"
    r"|partition not available|SubmitJobs?|too many jobs",
    re.IGNORECASE,
)
# Reasons for which a job would wait forever, and the one for which somebody has to release it.
NEVER = re.compile(r"PartitionTimeLimit|PartitionNodeLimit|BadConstraints|Invalid|NotAllowed|NeverSatisfied|PerJob")
HELD = re.compile(r"held", re.IGNORECASE)
# States that may be temporary ("": the queue does not list the job), and the key under which they are remembered.
PASSING, ABSENCE = ("", "PREEMPTED", "NODE_FAIL"), "away"
# In units of slurm-init-seconds-before-status-checks: the longest pause between two queries or two submission attempts.
LONGEST_PAUSE = 3
ENDING = (signal.SIGTERM, signal.SIGHUP)
IGNORED = [number for number in ENDING if signal.getsignal(number) is signal.SIG_IGN]


def install() -> None:
    """Make `executor: slurm` use this executor."""
    ExecutorPluginRegistry().get_plugin("slurm").executor = PatientExecutor


def bind(how: str) -> None:
    """Make the srun that starts a job's command bind it to cores in this way, whatever the cluster's default is.

    The option is appended to the srun command, because srun uses the last of two options and SLURM_CPU_BIND never
    reaches it.
    """
    setting = jobstep.get_cpu_setting
    jobstep.get_cpu_setting = lambda *given: f"{setting(*given)} --cpu-bind={shlex.quote(how)}"


def end_like_ctrl_c() -> None:
    """Make SIGTERM and SIGHUP act like Ctrl-C at the terminal, except if they were ignored before (nohup)."""

    def end(*_):
        for number in (*ENDING, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGINT)
        raise KeyboardInterrupt

    for number in ENDING:
        signal.signal(number, signal.SIG_IGN if number in IGNORED else end)


class PatientExecutor(plugin.Executor):
    """Snakemake's Slurm executor, made for runs of several weeks; see the module's docstring."""

    def __init__(self, *arguments, **options) -> None:
        # The thread that queries the queue starts before `__post_init__`, which asks Slurm and may take minutes.
        self._ready = threading.Event()
        super().__init__(*arguments, **options)

    def __post_init__(self, test_mode: bool = False) -> None:
        self._jobs: dict[str, SubmittedJobInfo] = {}  # jobs that have not ended, by Slurm's number
        self._numbers: set[str] = set()  # of all jobs
        self._silent_since: float | None = None
        self._pause = self.workflow.executor_settings.init_seconds_before_status_checks
        self._said: set[str] = set()
        super().__post_init__(test_mode)
        self._ready.set()

    def _record(self, job: JobExecutorInterface) -> Path:
        """Return the file about a job's submission, named by its whole command; with `.done` added, its mark."""
        commands = "\n".join(str(part.shellcmd) for part in (job.jobs if job.is_group() else [job]))
        folder = Path(self.workflow.persistence.path).resolve() / "slurm"
        folder.mkdir(exist_ok=True)
        return folder / hashlib.sha256(commands.encode()).hexdigest()[:32]

    def get_job_exec_suffix(self, job: JobExecutorInterface) -> str:
        """Return the command that runs after a job's command has succeeded: it creates the mark."""
        return f"touch {shlex.quote(str(self._record(job).with_suffix('.done')))}"

    def get_account_arg(self, job: JobExecutorInterface) -> Iterator[str]:
        """Yield the account as given; Snakemake's version would guess, and query accounting, which may not exist."""
        account = job.resources.get("slurm_account")
        yield f" -A {shlex.quote(str(account))}" if account else ""

    def get_partition_arg(self, job: JobExecutorInterface) -> str:
        """Return the partition; for a job without GPUs, `cpu_partition` if it is given."""
        cpu = job.resources.get("cpu_partition")
        return super().get_partition_arg(job) if job.resources.get("gpu") or not cpu else f" -p {shlex.quote(cpu)}"

    def run_job(self, job: JobExecutorInterface) -> None:
        """Submit a job, or adopt the one that an earlier Snakemake has submitted for the same command."""
        try:
            record = self._record(job)
            if earlier := _still_good(record, job):
                self.logger.info(
                    f"Job {job.jobid} is Slurm's job {earlier['job']} of an earlier Snakemake, waited for."
                )
                aux = {"slurm_logfile": earlier["log"]}
                self.report_job_submission(SubmittedJobInfo(job, external_jobid=earlier["job"], aux=aux))
                return
            record.with_suffix(".done").unlink(missing_ok=True)
        except Exception as error:
            super()._report_job_error_threadsafe(SubmittedJobInfo(job), f"Before its submission: {error!r}")
            return
        super().run_job(job)

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Record a submitted job, for this Snakemake and for a later one."""
        record = self._record(job_info.job)
        log = job_info.aux["slurm_logfile"]
        record.write_text(json.dumps({"job": job_info.external_jobid, "log": str(log)}), encoding="utf-8")
        self._jobs[job_info.external_jobid] = job_info
        self._numbers.add(job_info.external_jobid)
        job_info.aux["record"] = record
        super().report_job_submission(job_info, register_job)

    def _report_job_error_threadsafe(self, job_info: SubmittedJobInfo, msg: str) -> None:
        """Handle a failed submission: retry it later if the error is temporary."""
        quoted = re.search(r"The error message was '(.*?)'\.\n", msg, re.DOTALL)
        error = " ".join((quoted[1] if quoted else msg).split())
        if not LATER.search(error):
            self.logger.debug(msg)
            remedy = (
                "`justrl preflight` asks the queue about every kind of job; slurm/config.yaml has the lines to change"
            )
            sentence = f"Slurm refuses it: {error} ({remedy}). "
            job = job_info.job
            _note(self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / "refused.log", sentence)
            super()._report_job_error_threadsafe(job_info, sentence)
            return
        self._say(
            "Slurm accepts no jobs at the moment; each submission is retried every "
            f"{LONGEST_PAUSE * self._pause} s: {error}"
        )
        self._submit_later(job_info.job)

    def _submit_later(self, job: JobExecutorInterface) -> None:
        again = threading.Timer(LONGEST_PAUSE * self._pause, self._submit_again, [job])
        again.daemon = True
        again.start()

    def _submit_again(self, job: JobExecutorInterface) -> None:
        """Submit a job again, unless Slurm accepted it and only the answer was lost."""
        comment = "_wildcards_".join(filter(None, [f"rule_{job.name}", get_job_wildcards(job)]))
        if (rows := self._squeue("%i|%k", "--name", self.run_uuid)) is None:
            # Slurm may have the job, so that submitting now could submit it twice.
            self._submit_later(job)
            return
        for number, said in rows:
            if said == comment and number not in self._numbers:
                log = self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / f"{number}.log"
                self.report_job_submission(SubmittedJobInfo(job, number, {"slurm_logfile": log}))
                return
        try:
            self._job_submission_executor.submit(self.run_job, job)
        except RuntimeError:
            self.logger.debug("Snakemake is stopping; no more jobs are submitted")

    def _squeue(self, columns: str, *options: str) -> list[list[str]] | None:
        """Return rows of this user's jobs from the controller, including ended ones; None if it does not answer."""
        command = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", f"--format={columns}", *options]
        said, problem = _answer(command, 60)
        last = columns.count("|")
        rows = [line.split("|", last) for line in said.splitlines()]
        if not problem and any(len(row) <= last for row in rows):
            problem = f"a line of {last + 1} values was cut off"
        if problem:
            if self._silent_since is None:
                self._silent_since = time.monotonic()
                self.logger.warning(f"Slurm does not respond; its jobs continue and are queried again: {problem}")
            return None
        if self._silent_since is not None:
            self.logger.warning(f"Slurm responds again after {time.monotonic() - self._silent_since:.0f} s.")
            self._silent_since = None
        return rows

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Report the jobs that have ended, yield the others."""
        while not self._ready.is_set():
            await asyncio.sleep(0.1)
        pause = min(LONGEST_PAUSE * self._pause, self.next_seconds_between_status_checks + self._pause)
        rows = self._squeue("%i|%T|%r") if active_jobs else []
        states = {number: (state, reason) for number, state, reason in rows or []}
        for info in active_jobs:
            if rows is None:
                # Only consecutive answers show that a job stays away: in between it may have been listed.
                info.aux.pop(ABSENCE, None)
                yield info
            elif not self._is_over(info, *states.get(info.external_jobid, ("", ""))):
                yield info
            else:
                pause = self._pause
        self.next_seconds_between_status_checks = pause if active_jobs else self._pause

    def _is_over(self, info: SubmittedJobInfo, state: str, reason: str) -> bool:
        """Return whether a job in this state has ended, and report it if so."""
        number = info.external_jobid
        if state == "COMPLETED" or (not state and info.aux["record"].with_suffix(".done").exists()):
            self._forget(info)
            self.report_job_success(info)
            return True
        if not self._stays_away(info, state):
            return False
        if not state:
            state = _accounted_state(number)
            why = FAILED.get(state, "it left the queue before it finished; its log may show the reason")
        elif state in FAILED:
            why = FAILED[state]
        elif state == "PENDING" and NEVER.search(reason):
            if problem := _answer(["scancel", number], 60)[1]:
                self._say(f"Slurm's job {number} would never start ({reason}) and cannot be cancelled yet: {problem}")
                return False
            why = f"Slurm would never start it ({reason}): ask for less, see `justrl preflight`"
        else:
            if state == "PENDING" and HELD.search(reason):
                self._say(f"Slurm holds job {number} ({reason}): it waits until `scontrol release {number}`.")
            return False
        self._forget(info)
        sentence, log = f"Slurm's job {number} is {state}: {why}. ", info.aux["slurm_logfile"]
        _note(log, sentence)
        self.report_job_error(info, msg=sentence, aux_logs=[str(log)])
        return True

    def _stays_away(self, info: SubmittedJobInfo, state: str) -> bool:
        """Return whether a temporary state has lasted long enough; true for every other state.

        A forgotten job's mark may not have arrived yet through a shared file system, and a job that was preempted or
        whose node failed may be about to return to the queue. Any other state clears the remembered one.
        """
        if state not in PASSING:
            info.aux.pop(ABSENCE, None)
            return True
        before, since = info.aux.get(ABSENCE, (None, 0.0))
        if before != state:
            info.aux[ABSENCE] = (state, time.monotonic())
            return False
        return bool(state) or time.monotonic() - since >= self.workflow.execution_settings.latency_wait

    def _forget(self, info: SubmittedJobInfo) -> None:
        """Remove a job that has ended from the records."""
        self._jobs.pop(info.external_jobid, None)
        info.aux["record"].unlink(missing_ok=True)
        info.aux["record"].with_suffix(".done").unlink(missing_ok=True)

    def _say(self, sentence: str) -> None:
        """Print a warning once."""
        if sentence not in self._said:
            self._said.add(sentence)
            self.logger.warning(sentence)

    def cancel(self) -> None:
        """Stop everything that this Snakemake started: first end all submissions, then cancel all its jobs."""
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        super().cancel()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel all jobs that have not ended; `active_jobs` lacks those that are being queried at this moment."""
        # By name as well, because a job whose submission was interrupted has no known number.
        for which in ([f"--name={self.run_uuid}"], list(self._jobs)):
            if not which:
                continue
            try:
                subprocess.run(["scancel", *which], capture_output=True, text=True, timeout=60, check=True)
            except (OSError, subprocess.SubprocessError) as error:
                said = getattr(error, "stderr", "") or error
                again = "the same command continues with them, after --unlock"
                self.logger.error(f"Could not cancel jobs {', '.join(self._jobs)}, which continue ({said}); {again}.")
                return
        for info in list(self._jobs.values()):
            self._forget(info)


def _note(log: str | Path, sentence: str) -> None:
    """Add a sentence to a job's log, from which Snakemake's final message is taken."""
    with suppress(OSError), Path(log).open("a", encoding="utf-8") as file:
        file.write(f"error: {sentence}\n")


def _answer(command: list[str], seconds: float) -> tuple[str, str]:
    """Return a Slurm command's output, or why there is none: it failed, was killed, timed out or was cut off."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return "", f"{command[0]} gave no answer in {seconds:.0f} s"
    except OSError as error:
        return "", str(error)
    said, complaint = done.stdout, done.stderr.strip()
    if done.returncode < 0:
        return "", f"{command[0]} was ended by signal {-done.returncode}"
    if done.returncode or (complaint and not said):
        return "", complaint or f"{command[0]} ended with status {done.returncode}"
    if said and not said.endswith("\n"):
        return "", f"the answer of {command[0]} was cut off"
    return said, ""


def _accounted_state(number: str) -> str:
    """Return how a job ended that the queue has forgotten, if accounting answers."""
    command = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={number}", "--format=State"]
    said = _answer(command, 30)[0].split()
    return said[0] if said and said[0].isupper() and said[0].replace("_", "").isalpha() else "forgotten"


def _still_good(record: Path, job: JobExecutorInterface) -> dict[str, str] | None:
    """Return the recorded submission of the same command, unless an input has changed since."""
    try:
        written = record.stat().st_mtime
        if any(Path(path).stat().st_mtime > written for path in job.input):
            return None
        return json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
