"""Snakemake on a cluster that forgets, refuses and goes away ends with the same bits; what can never work, it says.

One Slurm of its own for this module, with accounting, that remembers an ended job for two seconds.
"""

import re
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import controller_faults as faults
import pytest
from accounting import why_no_accounting
from faults import kill_all
from slurm_cluster import SlurmCluster, why_unavailable
from workflow_run import TRAINED, WorkflowRun

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900 + faults.OUTAGE_SECONDS + faults.INACTIVE_SECONDS)]

STEPS = 12
# name: (the fault, the kind of run, its options)
FAULTS = {
    "controller away": (faults.away, WorkflowRun, {}),
    "away at submission": (faults.away_at_submission, WorkflowRun, {"more_resources": (f"qos={faults.CROWDED}",)}),
    "PreemptMode=CANCEL": (faults.preempted_for_good, WorkflowRun, {"partition": faults.CHEAP}),
    "node lost for good": (faults.node_lost_for_good, WorkflowRun, {}),
    "SIGTERM, SIGHUP": (faults.ended_by_signals, WorkflowRun, {}),
    "controller is a job": (faults.controller_requeued, faults.ControllerRun, {}),
}
NODES = len(FAULTS) + 2
# name: (what is asked for, the sentence that says why it cannot be)
REFUSED = {
    "wrong account": ("slurm_account=nobody", "Slurm refuses it: .*Invalid account"),
    "impossible request": ("gpu=16", "Slurm refuses it: .*Requested node configuration is not available"),
    "too long": ("runtime=3000", r"Slurm would never start it \(PartitionTimeLimit\)"),
    # Less than a job's own Snakemake takes: it starts, and is killed. By a control group it would be OUT_OF_MEMORY.
    "too little memory": ("mem_mb=50", r"\ntrain_segment: .* exceeded memory limit \(\d+ > \d+\), being killed"),
}


@pytest.fixture(scope="module")
def cluster():
    """A Slurm with accounting, in which what has ended is soon forgotten."""
    if reason := why_unavailable() or why_no_accounting():
        pytest.skip(reason)
    state = Path(tempfile.mkdtemp(prefix="justrl-slurm-"))
    more = (f"PartitionName={faults.CHEAP} Nodes=ALL MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=CANCEL",)
    try:
        with SlurmCluster(
            state, nodes=NODES, accounts=True, min_job_age=2, kills_for_memory=True, more_configuration=more
        ) as running:
            running.run("sacctmgr", "-i", "add", "qos", faults.CROWDED, "MaxSubmitJobsPerUser=1")
            qos = f"qos=normal,{faults.CROWDED}"
            running.run("sacctmgr", "-i", "modify", "user", "root", "set", qos, "defaultqos=normal")
            yield running
    finally:
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="module")
def copy_of(cluster, prepared, tmp_path_factory):
    """A function that makes a run of its own, in which the first segment is trained."""

    def copy(kind=WorkflowRun, **options):
        folder = tmp_path_factory.mktemp("run") / "project"
        shutil.copytree(prepared.folder, folder, symlinks=True)
        return kind(folder, cluster, **options)

    return copy


@pytest.fixture(scope="module")
def outcomes(cluster, copy_of):
    """All runs side by side: (what happened, steps computed, what was trained) of each, or the error."""
    runs = {name: copy_of(kind, **options) for name, (_, kind, options) in FAULTS.items()}
    outage = faults.Outage(cluster, len(runs))
    with ThreadPoolExecutor(len(runs) + 1) as pool:
        futures = {name: pool.submit(disturb, run, FAULTS[name][0], outage) for name, run in runs.items()}
        undisturbed = pool.submit(train_here, copy_of())
        with suppress(threading.BrokenBarrierError):
            outage.happen()
    outcomes = {name: future.exception() or future.result() for name, future in futures.items()}
    return outcomes | {"undisturbed": undisturbed.result()}


def disturb(run, fault, outage):
    """Do the fault to a run, and wait for its end."""
    run.pause(0.5)
    try:
        if fault is not faults.away_at_submission:
            run.start()
        happened = fault(run, outage)
        assert run.finish(faults.PATIENCE + faults.INACTIVE_SECONDS) == 0, run.tail()
        return happened, run.steps_computed(), run.trained()
    except BaseException:
        outage.ready.abort()
        raise
    finally:
        if run.process and run.process.poll() is None:
            run.kill_snakemake()
            kill_all(run.job_processes())


def train_here(run):
    """The same without Slurm."""
    run.prepare(*TRAINED)
    return "nothing", run.steps_computed(), run.trained()


def test_table(outcomes, capsys):
    """Print what was done to each Snakemake and what became of its run."""
    reference = outcomes["undisturbed"][2]
    lines = [f"{'fault':<22}{'what happened':<48}{'steps lost':>11}  {'equal'}"]
    for name, outcome in outcomes.items():
        if isinstance(outcome, BaseException):
            lines.append(f"{name:<22}{str(outcome).splitlines()[0][:90]}")
        else:
            happened, computed, trained = outcome
            lines.append(f"{name:<22}{happened:<48}{computed - STEPS:>11}  {'yes' if trained == reference else 'NO'}")
    with capsys.disabled():
        print("\n\n" + "\n".join(lines))


@pytest.mark.parametrize("name", FAULTS)
def test_the_end_is_the_same(outcomes, name):
    if isinstance(outcomes[name], BaseException):
        raise outcomes[name]
    assert outcomes[name][2] == outcomes["undisturbed"][2]


@pytest.mark.parametrize("name", ["controller away", "away at submission", "controller is a job"])
def test_no_step_is_lost(outcomes, name):
    assert outcomes[name][1] == STEPS


@pytest.fixture(scope="module")
def refused(copy_of, outcomes):
    """Runs that ask for what cannot be, side by side: the status of Snakemake, and what it said."""

    def attempt(run):
        run.start()
        return run.finish(600), run.log.read_text()

    runs = [copy_of(more_requests=(request,)) for request, _ in REFUSED.values()]
    with ThreadPoolExecutor(len(runs)) as pool:
        return dict(zip(REFUSED, pool.map(attempt, runs), strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_said_at_once(refused, name):
    status, said = refused[name]
    assert status == 1
    assert re.search(REFUSED[name][1], said), said[-3000:]
