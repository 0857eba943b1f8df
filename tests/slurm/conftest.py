"""One real Slurm for all tests of this folder, or a skip that says why there is none."""

import shutil
import signal
import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from machines import Machines, why_impossible
from slurm_cluster import SlurmCluster, why_unavailable
from workflow_run import WorkflowRun

# All disturbed runs and the whole experiment go on side by side, each on a node of its own; one is spare.
NODES = 13
# The paper's training job has four nodes.
MACHINES = 4
FIRST_SEGMENT = "results/faults/runs/mini/segments/6/metrics.jsonl"
# Under nohup what is started here would ignore a hang-up, and so does our executor, on purpose. A signal that is
# handled, if only by doing nothing, is as usual again in a program that is started.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


def pytest_collection_modifyitems(items):
    """Tests of the whole experiment come last: it takes minutes, mostly of waiting, beside the other tests."""
    items.sort(key=lambda item: "experiment" in item.fixturenames)


@pytest.fixture(scope="session")
def cluster():
    """A Slurm with pretended nodes of 8 GPUs, 128 CPUs and 2 TB each, some of them with addresses of their own."""
    reason = why_unavailable()
    if reason:
        pytest.skip(reason)
    # Not below pytest's own folder, which is closed to others: munged wants its socket where all may go.
    state = Path(tempfile.mkdtemp(prefix="justrl-slurm-"))
    try:
        joined = nullcontext() if why_impossible() else Machines(MACHINES)
        with joined as network, SlurmCluster(state, nodes=NODES, machines=network) as running:
            yield running
    finally:
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def experiment(cluster, tmp_path_factory):
    """A project in which `snakemake all --profile slurm` has been started."""
    run = WorkflowRun(tmp_path_factory.mktemp("experiment"), cluster, more_resources=("cpu_partition=cpu",))
    run.start("all")
    yield run
    if run.process.poll() is None:
        run.kill_snakemake()


@pytest.fixture(scope="session")
def beside_experiment(request):
    """The whole experiment is started first, if a test will ask for it."""
    if any("experiment" in item.fixturenames for item in request.session.items):
        request.getfixturevalue("experiment")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A project in which the first of two segments is trained; the disturbed runs go on in copies of it."""
    run = WorkflowRun(tmp_path_factory.mktemp("prepared"), cluster=None)
    run.prepare(FIRST_SEGMENT)
    return run
