"""One real Slurm for all tests of this folder, or a skip that says why there is none."""

import shutil

import pytest
from slurm_cluster import SlurmCluster, why_unavailable

# As many as there are faults, so that all disturbed runs go on side by side, each on a node of its own.
NODES = 12


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Slurm with pretended nodes of 8 GPUs, 128 CPUs and 2 TB each."""
    reason = why_unavailable()
    if reason:
        pytest.skip(reason)
    state = tmp_path_factory.mktemp("slurm")
    # munged wants every folder above its socket to be nobody else's and open to all.
    for folder in (state, *state.parents):
        if folder.stat().st_uid == 0 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    with SlurmCluster(state, nodes=NODES) as running:
        yield running
    shutil.rmtree(state / "spool", ignore_errors=True)
