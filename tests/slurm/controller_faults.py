"""What a cluster does to Snakemake itself in the weeks of a run; each returns what happened, in a few words."""

import os
import signal
import subprocess
import threading
import time

import faults
from workflow_run import TRAINED, WorkflowRun

# How long Slurm is away, and how long a partition takes no jobs; longer than the defaults where one has the time.
OUTAGE_SECONDS = float(os.environ.get("JUSTRL_OUTAGE_SECONDS", 60))
INACTIVE_SECONDS = float(os.environ.get("JUSTRL_INACTIVE_SECONDS", 10))
# How long a run waits for the others to be where the outage shall find them, and for its end.
PATIENCE = 400 + OUTAGE_SECONDS
CROWDED, CHEAP = "crowded", "cheap"
# Takes the job, and says that it has not.
LOSE_ANSWER = """#!/bin/sh
real=$(PATH=${PATH#*:} command -v sbatch)
[ -e bin/lost ] || { touch bin/lost; "$real" "$@" >/dev/null
    echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1; }
exec "$real" "$@"
"""


# Snakemake asks this while its executor is made: the thread that watches the queue is there before that is done.
SLOW_ANSWER = """#!/bin/sh
sleep 3
exec "$(PATH=${PATH#*:} command -v scontrol)" "$@"
"""


class Outage:
    """slurmctld and slurmdbd away for a while, once, when all runs are where it shall find them."""

    def __init__(self, cluster, runs: int):
        self.cluster, self.ready = cluster, threading.Barrier(runs + 1)
        self.begun, self.may_end, self.over = threading.Event(), threading.Event(), threading.Event()

    def wait_until_over(self) -> None:
        """Be found by it, and go on after it."""
        self.ready.wait(PATIENCE)
        assert self.over.wait(PATIENCE)

    def happen(self) -> None:
        """Bring it about; in the main thread, as the daemons end with the thread that starts them."""
        self.ready.wait(PATIENCE)
        for daemon in ("slurmctld", "slurmdbd"):
            self.cluster.end_daemon(daemon)
        self.begun.set()
        time.sleep(OUTAGE_SECONDS)
        self.may_end.wait(PATIENCE)
        for daemon in ("slurmdbd", "slurmctld"):
            self.cluster.start_daemon(daemon)
        self.cluster.wait_until_it_answers()
        self.over.set()


def away(run: WorkflowRun, outage: Outage) -> str:
    """The controller is away; meanwhile the job ends, and the queue forgets it two seconds after its return."""
    faults.hold_at(run, faults.MIDDLE)
    outage.ready.wait(PATIENCE)
    assert outage.begun.wait(PATIENCE)
    began = time.monotonic()
    run.wait_until_said("Slurm does not respond")
    run.pause(0)
    run.wait_for((run.run / "segments" / "12" / "metrics.jsonl").is_file, "the job has ended")
    outage.may_end.set()
    assert outage.over.wait(PATIENCE)
    seconds = time.monotonic() - began
    run.wait_until_said("Slurm responds again")
    return f"away {seconds:.0f} s, the job ended meanwhile"


def away_at_submission(run: WorkflowRun, outage: Outage) -> str:
    """Snakemake starts while the controller is away; then a limit of the QOS on jobs is full for a while."""
    request = ["--parsable", f"--qos={CROWDED}", "--output=/dev/null"]
    other = run.cluster.run("sbatch", *request, "--wrap", f"sleep {PATIENCE + 200:.0f}").strip()
    outage.ready.wait(PATIENCE)
    assert outage.begun.wait(PATIENCE)
    run.start()
    run.wait_until_said("Unable to contact slurm controller")
    assert outage.over.wait(PATIENCE)
    run.wait_until_said("QOSMaxSubmitJobPerUserLimit")
    run.cluster.run("scancel", other)
    run.pause(0)
    return "no controller, then QOSMaxSubmitJob"


def preempted_for_good(run: WorkflowRun, outage: Outage) -> str:
    """A partition cancels what it preempts, and takes no jobs for a while."""
    job = faults.hold_at(run, faults.MIDDLE)
    node, processes = run.cluster.job(job)["BatchHost"], run.job_processes(job)
    outage.wait_until_over()
    run.cluster.run("scontrol", "update", f"partitionname={CHEAP}", "state=inactive")
    request = ["--gpus=8", "--cpus-per-task=64", "--mem=512G", f"--nodelist={node}", "--output=/dev/null"]
    run.cluster.run("sbatch", "--partition=urgent", *request, "--wrap", "sleep 1")
    run.wait_until_said(f"job {job} is PREEMPTED")
    faults.end_orphans(run, processes)
    run.wait_until_said("Required partition not available")
    time.sleep(INACTIVE_SECONDS)
    run.pause(0)
    run.cluster.run("scontrol", "update", f"partitionname={CHEAP}", "state=up")
    return f"PREEMPTED, partition inactive {INACTIVE_SECONDS:.0f} s"


def node_lost_for_good(run: WorkflowRun, outage: Outage) -> str:
    """A node is lost and its job is not requeued; then Slurm takes the next one and the answer is lost."""
    job = faults.hold_at(run, faults.MIDDLE)
    node, processes = run.cluster.job(job)["BatchHost"], run.job_processes(job)
    outage.wait_until_over()
    run.cluster.run("scontrol", "update", f"jobid={job}", "requeue=0")
    (run.folder / "bin").mkdir()
    (run.folder / "bin" / "sbatch").write_text(LOSE_ANSWER)
    (run.folder / "bin" / "sbatch").chmod(0o755)
    for state in ("drain", "down"):
        run.cluster.run("scontrol", "update", f"nodename={node}", f"state={state}", "reason=fault test")
    run.wait_until_said(f"job {job} is NODE_FAIL")
    faults.end_orphans(run, processes)
    run.wait_until_said("Socket timed out")
    run.pause(0)
    run.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
    return "NODE_FAIL, the next sbatch's answer lost"


def ended_by_signals(run: WorkflowRun, outage: Outage) -> str:
    """SIGTERM to Snakemake, and SIGHUP to the next one: each cancels its jobs and unlocks."""
    faults.hold_at(run, faults.MIDDLE)
    outage.wait_until_over()
    (run.folder / "bin").mkdir()
    (run.folder / "bin" / "scontrol").write_text(SLOW_ANSWER)
    (run.folder / "bin" / "scontrol").chmod(0o755)
    for number in (signal.SIGTERM, signal.SIGHUP):
        job = run.running_job()
        processes = run.job_processes(job)
        os.kill(run.process.pid, number)
        assert run.finish(PATIENCE) == 1
        run.wait_for(
            lambda job=job: run.cluster.job(job).get("JobState") not in ("RUNNING", "PENDING"), "", running=False
        )
        faults.end_orphans(run, processes)
        assert not list(run.folder.glob(".snakemake/locks/*"))
        run.start()
    run.pause(0)
    return "jobs cancelled, unlocked, both times"


class ControllerRun(WorkflowRun):
    """A run whose Snakemake is a Slurm job."""

    def start(self, *targets: str, **options) -> subprocess.Popen:
        """Submit it; the process here waits for its end."""
        self.started += 1
        words = self.command(*(targets or TRAINED), **options)
        arguments = words[words.index("snakemake") + 1 :]
        profile = arguments.index("--profile")
        del arguments[profile : profile + 2]
        request = [f"--output={self.log}", "--cpus-per-task=1", "--mem=2G", "--parsable"]
        self.controller = subprocess.run(
            ["sbatch", *request, "slurm/controller.sbatch", *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        state = f"sacct -nXP -j {self.controller} -o State 2>/dev/null"
        waiting = f"until {state} | grep -qv -e ING -e REQUEUED; do sleep 1; done; {state} | grep -q COMPLETED"
        self.process = subprocess.Popen(["sh", "-c", waiting], start_new_session=True)
        return self.process


def controller_requeued(run: ControllerRun, outage: Outage) -> str:
    """The controller's own job is put back into the queue while its training job goes on."""
    job = faults.hold_at(run, faults.MIDDLE)
    outage.wait_until_over()
    run.cluster.run("scontrol", "requeue", run.controller)
    run.wait_until_said(f"Slurm's job {job} of an earlier Snakemake")
    assert run.running_job() == job
    run.pause(0)
    return f"requeued, its job {job} went on"
