"""What goes wrong on a cluster, done to a running experiment; each returns what happened, in a few words."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from workflow_run import WorkflowRun

# A fault lands in the middle of the second segment (steps 7 to 12, saved at 8 and 10); the first is trained already.
MIDDLE = 9
# Long enough that nothing goes on until a test lets it.
HELD = 3600


def hold_at(run: WorkflowRun, step: int) -> str:
    """Wait until a step is trained, hold the trainer there, and return its Slurm job."""
    run.wait_for_step(step)
    run.pause(HELD)
    return run.running_job()


def until_ended(run: WorkflowRun, job: str, *states: str, running: bool = True) -> str:
    """Wait until a job has left the node for one of these states; `running` says whether Snakemake must be."""

    def ended():
        state = run.cluster.job(job).get("JobState")
        return state if state in states else None

    return run.wait_for(ended, f"job {job} is {'/'.join(states)}", running=running)


def end_orphans(run: WorkflowRun, processes: list[int]) -> None:
    """Kill what is left of an ended job, as the control group of a real node does, and wait until all of it is dead.

    The Slurm of the tests has none (proctrack/linuxproc): it loses sight of a process whose parent has ended.
    """

    def alive(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    kill_all(processes)
    # Whether Snakemake is still there is another question: some faults end it first.
    run.wait_for(lambda: not any(map(alive, processes)), "the processes of the job are dead", running=False)


def _limit(run: WorkflowRun, job: str) -> None:
    """Bring a job's time limit forward to one or two minutes from now, so that no test waits for a real one.

    No nearer: Slurm looks at limits every 30 seconds, and warns of none that it finds already passed.
    """
    hours, minutes, _ = map(int, run.cluster.job(job)["RunTime"].split(":"))
    run.cluster.run("scontrol", "update", f"jobid={job}", f"timelimit={60 * hours + minutes + 2}")


def warned_before_the_limit(run: WorkflowRun) -> str:
    """Slurm's warning arrives; the trainer saves and leaves before the limit."""
    job = hold_at(run, MIDDLE)
    _limit(run, job)
    run.wait_for(lambda: "SIGURG" in run.signals(), "the trainer has the warning")
    run.pause(0)
    # The trainer's status 75 makes the job a failed one; on a busy machine its time may be up before it has ended.
    return f"SIGURG, saved, {until_ended(run, job, 'FAILED', 'TIMEOUT')}"


def time_limit(run: WorkflowRun) -> str:
    """No warning, and a step that outlasts the grace: killed at the limit."""
    job = hold_at(run, MIDDLE)
    processes = run.job_processes(job)
    _limit(run, job)
    state = until_ended(run, job, "TIMEOUT")
    end_orphans(run, processes)
    run.pause(0)
    return f"{state}, killed in mid-step"


def cancelled(run: WorkflowRun) -> str:
    """Somebody types scancel."""
    job = hold_at(run, MIDDLE)
    run.cluster.run("scancel", job)
    run.pause(0)
    return until_ended(run, job, "CANCELLED")


def preempted(run: WorkflowRun) -> str:
    """A job of a partition of higher priority takes the node; Slurm requeues this one."""
    job = hold_at(run, MIDDLE)
    node = run.cluster.job(job)["BatchHost"]
    request = ["--gpus=8", "--cpus-per-task=64", "--mem=512G", f"--nodelist={node}", "--output=/dev/null"]
    run.cluster.run("sbatch", "--partition=urgent", *request, "--wrap", "sleep 1")
    run.wait_for(lambda: run.cluster.job(job).get("Restarts") == "1", f"job {job} is requeued")
    run.pause(0)
    return "requeued, same job id"


def node_lost(run: WorkflowRun) -> str:
    """The node loses its power under the job, and comes back later."""
    job = hold_at(run, MIDDLE)
    node, processes = run.cluster.job(job)["BatchHost"], run.job_processes(job)
    # Drained as well: its slurmd is alive here, so a node that is only down would report for duty again within seconds.
    for state in ("drain", "down"):
        run.cluster.run("scontrol", "update", f"nodename={node}", f"state={state}", "reason=fault test")
    run.wait_for(lambda: run.cluster.job(job).get("Restarts") == "1", f"job {job} is requeued")
    end_orphans(run, processes)
    run.pause(0)
    run.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
    return f"{node} down, requeued on another node"


def job_killed(run: WorkflowRun) -> str:
    """SIGKILL to every process of the job at once, as the kernel does when memory runs out."""
    job = hold_at(run, MIDDLE)
    processes = run.job_processes(job)
    kill_all(processes)
    run.pause(0)
    return f"{len(processes)} processes killed, {until_ended(run, job, 'FAILED', 'CANCELLED')}"


def checkpoint_torn(run: WorkflowRun) -> str:
    """The machine dies while a state is being written: its newest file is cut in half."""
    job = hold_at(run, MIDDLE + 2)
    kill_all(run.job_processes(job))
    newest = max((run.work / "checkpoints").glob("step_*"))
    largest = max(newest.rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    run.pause(0)
    return f"{newest.name}/{largest.name} cut in half, job killed"


def snakemake_killed(run: WorkflowRun) -> str:
    """SIGKILL to Snakemake; started again while its orphan still trains, it goes on with that one."""
    job = hold_at(run, MIDDLE)
    run.kill_snakemake()
    start_again(run)
    run.wait_until_said(f"Slurm's job {job} of an earlier Snakemake")
    run.pause(0)
    return f"orphan {until_ended(run, job, 'COMPLETED', running=False)}, waited for"


def snakemake_gone(run: WorkflowRun) -> str:
    """SIGKILL to Snakemake; started again when its orphan has finished, and nobody has noted that it has."""
    job = hold_at(run, MIDDLE)
    run.kill_snakemake()
    run.pause(0)
    state = until_ended(run, job, "COMPLETED", running=False)
    start_again(run)
    return f"orphan {state} alone, its outputs were taken"


def start_again(run: WorkflowRun) -> None:
    """What docs/cluster.md says: unlock, and the same command again."""
    subprocess.run([*run.command(), "--unlock"], cwd=run.folder, env=run.environment(), check=True, capture_output=True)
    run.start()


def disk_full(run: WorkflowRun) -> str:
    """The file system of the working folder fills up before a save, and is freed after the job has failed."""
    job = hold_at(run, MIDDLE)
    filler = run.work / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as handle:
        while True:
            handle.write(bytes(4096))
    run.pause(0)
    state = until_ended(run, job, "FAILED")
    run.wait_for(lambda: "no room" in run.tail() or "No space" in run.tail(), "the full disk is named")
    filler.unlink()
    return f"{state}, freed before the retry"


def mount_small_disk(run: WorkflowRun) -> None:
    """Put the working folder, and what is in it, on a file system of its own, of 8 MB."""
    before = run.work.rename(run.work.with_name("work_before"))
    run.work.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(run.work)], check=True)
    shutil.copytree(before, run.work, dirs_exist_ok=True)


def unmount(run: WorkflowRun) -> None:
    subprocess.run(["umount", "--lazy", str(run.work)], check=False, capture_output=True)


def kill_all(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    time.sleep(0.2)
