"""What becomes of a job is decided by answers of Slurm's commands, and by nothing that is no answer.

`squeue`, `sacct` and `scancel` are scripts here, on PATH; tests/slurm has the real ones.
"""

import asyncio
import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm_jobstep as jobstep
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

import slurm_executor

RUNNING, GONE, DONE = "printf '7|RUNNING|None\\n'", "true", "printf '7|COMPLETED|None\\n'"
PREEMPTED, LOST = "printf '7|PREEMPTED|None\\n'", "printf '7|NODE_FAIL|None\\n'"
# What is no answer, by what happens to the command.
SILENT = {
    "killed": "kill -9 $$",
    "killed after a part": "printf '8|RUNN'; kill -9 $$",
    "refused": "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1",
    "refused without a word": "exit 1",
    "complains and says nothing": "echo 'slurm_load_jobs error: Zero Bytes were transmitted' >&2",
    "cut off in a line": "printf '7|RUN'",
    "cut off before a value": "printf '8|RUNNING\\n'",
    "no text": "printf '\\377\\376'",
}


class Executor(slurm_executor.PatientExecutor):
    """The executor without Snakemake's workflow and threads, which keeps what it reports."""

    def __init__(self, latency_wait: float):
        self.workflow = SimpleNamespace(execution_settings=SimpleNamespace(latency_wait=latency_wait))
        self._ready, self._pause, self.next_seconds_between_status_checks = threading.Event(), 20, 20
        self._ready.set()
        self._jobs, self._numbers, self._said, self._silent_since = {}, set(), set(), None
        self.logger, self.run_uuid = logging.getLogger("test"), "uuid"
        self.over: list[str] = []
        self.submitted: list = []
        self._job_submission_executor = SimpleNamespace(submit=lambda _, job: self.submitted.append(job))

    def report_job_success(self, info):
        self.over.append("success")

    def report_job_error(self, info, msg, **_):
        self.over.append(msg)


@pytest.fixture
def look(tmp_path, monkeypatch):
    """A function that lets Slurm give one answer after the other, and says what was reported of job 7."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "record").write_text("{}")

    def after(*answers: str, latency_wait: float = 0.0, **others: str) -> list[str]:
        executor = Executor(latency_wait)
        aux = {"record": tmp_path / "record", "slurm_logfile": tmp_path / "log"}
        info = SubmittedJobInfo(SimpleNamespace(name="train_segment"), external_jobid="7", aux=aux)
        for name, script in others.items():
            write(tmp_path / name, script)
        active = [info]
        for answer in answers:
            assert active, f"the job was taken for over before {answer}: {executor.over}"
            write(tmp_path / "squeue", answer)
            active = asyncio.run(still_active(executor, active))
        return executor.over

    return after


@pytest.mark.parametrize("how", ["none", None])
def test_the_step_of_a_job_is_bound_as_the_configuration_says(tmp_path, monkeypatch, how):
    """The plugin's own code starts it, by an srun that writes down how it was called."""
    monkeypatch.setattr(jobstep, "get_cpu_setting", jobstep.get_cpu_setting)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_CPU_BIND", "cores")
    write(tmp_path / "srun", f'echo "$@" "[$SLURM_CPU_BIND]" > {tmp_path}/called')
    if how:
        slurm_executor.bind(how)

    class Resources(dict):
        cpus_per_task = 8

    class Job:
        resources, threads = Resources(cpus_per_task=8), 8
        is_group = staticmethod(lambda: False)

    step = object.__new__(jobstep.Executor)
    step.logger, step.gpu_job, step.job_array_task = logging.getLogger("test"), None, False
    step.workflow = SimpleNamespace(executor_settings=jobstep.ExecutorSettings())
    step.format_job_exec = lambda job: "python"
    step.report_job_submission = step.report_job_success = lambda info: None
    step.run_job(Job())
    said = (tmp_path / "called").read_text().split()
    assert [word for word in said if "bind" in word] == ["--cpu-bind=q", *([f"--cpu-bind={how}"] if how else [])]
    assert said[-2:] == ["python", "[]"]


def write(script: Path, text: str) -> None:
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)


async def still_active(executor: Executor, active: list) -> list:
    return [info async for info in executor.check_active_jobs(active)]


@pytest.mark.parametrize("silence", SILENT.values(), ids=SILENT)
def test_no_answer_says_nothing_of_a_job(look, silence):
    assert look(RUNNING, *[silence] * 5, RUNNING, DONE) == ["success"]


@pytest.mark.parametrize("between", [RUNNING, SILENT["killed"], SILENT["refused"]])
@pytest.mark.parametrize("passing", [GONE, PREEMPTED, LOST])
def test_only_what_lasts_from_answer_to_answer_ends_a_job(look, passing, between):
    assert look(RUNNING, *[passing, between] * 4, RUNNING, DONE) == ["success"]


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([GONE, GONE], "job 7 is forgotten: it left the queue before it finished"),
        ([PREEMPTED, PREEMPTED], "job 7 is PREEMPTED: a job of higher priority"),
        ([LOST, LOST], "job 7 is NODE_FAIL: its node was lost"),
        # Another passing state is the beginning of another absence.
        ([LOST, PREEMPTED, GONE, GONE], "job 7 is forgotten"),
        (["printf '7|OUT_OF_MEMORY|None\\n'"], "job 7 is OUT_OF_MEMORY"),
    ],
)
def test_what_lasts_ends_it(look, answers, sentence):
    (said,) = look(RUNNING, *answers, sacct=SILENT["refused"])
    assert sentence in said


def test_an_absence_lasts_as_long_as_a_mark_may_be_on_its_way(look):
    assert look(GONE, GONE, GONE, RUNNING, latency_wait=3600) == []


@pytest.mark.parametrize("silence", SILENT.values(), ids=SILENT)
def test_what_is_no_answer_of_the_accounting_is_no_state(look, silence):
    (said,) = look(GONE, GONE, sacct=silence)
    assert "job 7 is forgotten" in said


def test_the_accounting_says_how_a_forgotten_job_ended(look):
    (said,) = look(GONE, GONE, sacct="echo TIMEOUT")
    assert "job 7 is TIMEOUT: its time was up" in said


def test_a_job_that_cannot_be_cancelled_is_not_over(look):
    never = "printf '7|PENDING|PartitionTimeLimit\\n'"
    assert look(never, never, scancel="exit 1") == []
    (said,) = look(never, scancel="true")
    assert "would never start it (PartitionTimeLimit)" in said


def test_nothing_is_submitted_twice_while_nobody_says_whether_slurm_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    executor, job = Executor(0), SimpleNamespace(name="train_segment", wildcards=None)
    later: list = []
    executor._submit_later = later.append
    monkeypatch.setattr(slurm_executor, "get_job_wildcards", lambda _: "deepseek_60")
    write(tmp_path / "squeue", SILENT["killed"])
    executor._submit_again(job)
    assert later == [job] and not executor.submitted
    write(tmp_path / "squeue", "printf '9|another|comment\\n'")
    executor._submit_again(job)
    assert executor.submitted == [job]
