"""One real Slurm for all tests of this folder, or a skip that says why there is none."""

import shutil
import tempfile
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, why_unavailable
from workflow_run import WorkflowRun

# All disturbed runs and the whole experiment go on side by side, each on a node of its own; one is spare.
NODES = 13


def pytest_collection_modifyitems(items):
    """Tests of the whole experiment come last: it takes minutes, mostly of waiting, beside the other tests."""
    items.sort(key=lambda item: "experiment" in item.fixturenames)


@pytest.fixture(scope="session")
def cluster():
    """A Slurm with pretended nodes of 8 GPUs, 128 CPUs and 2 TB each."""
    reason = why_unavailable()
    if reason:
        pytest.skip(reason)
    # Not below pytest's own folder, which is closed to others: munged wants its socket where all may go.
    state = Path(tempfile.mkdtemp(prefix="justrl-slurm-"))
    try:
        with SlurmCluster(state, nodes=NODES) as running:
            yield running
    finally:
        shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def experiment(cluster, tmp_path_factory):
    """A project in which `snakemake all --profile slurm` has been started."""
    run = WorkflowRun(tmp_path_factory.mktemp("experiment"), cluster)
    run.start("all")
    yield run
    if run.process.poll() is None:
        run.kill_snakemake()


@pytest.fixture(scope="session", autouse=True)
def experiment_starts_first(request):
    """Start the whole experiment before the first test, if one of them will ask for it."""
    if any("experiment" in item.fixturenames for item in request.session.items):
        request.getfixturevalue("experiment")
