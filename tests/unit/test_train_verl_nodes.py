"""A node of several whose Ray starts too late for Ray itself."""

import socket
import sys
from contextlib import closing

import pytest

from justrl.train.verl import nodes, progress

LATE = "Exception: The current node timed out during startup. This could happen because"


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node whose head answers, and whose Ray is a program that is given, which counts its starts."""
    monkeypatch.setenv(progress.ATTEMPT_VARIABLE, str(tmp_path))
    with closing(socket.create_server(("127.0.0.1", 0), backlog=100)) as head:
        made = nodes.Node(f"127.0.0.1:{head.getsockname()[1]}", nodes=2, cpus=1, gpus=0)

        def ray(says: str):
            program = f"open({str(tmp_path / 'starts')!r}, 'a').write('x'); print({says!r}); raise SystemExit(1)"
            made.start = [sys.executable, "-c", program]
            return made

        yield ray


@pytest.mark.parametrize(("says", "starts"), [(LATE, nodes.STARTS), ("another error", 1)])
def test_it_is_started_again_a_few_times(node, tmp_path, monkeypatch, says, starts):
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.05)
    assert node(says).follow() == 1
    assert (tmp_path / "starts").read_text() == "x" * starts
