"""One real Slurm for all tests of this folder, or a skip that says why there is none."""

import shutil
import tempfile
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, why_unavailable

# As many as there are faults, so that all disturbed runs go on side by side, each on a node of its own.
NODES = 12


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
