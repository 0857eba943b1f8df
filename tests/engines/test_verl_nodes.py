"""A job on two nodes: what srun would start on each is started in two network namespaces of this machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from justrl import config as experiment
from justrl.engines.verl import environment
from justrl.engines.verl.request import Request
from justrl.errors import UserError

CPUS = 3


def request(nodes: int) -> Request:
    config = experiment.load()
    hardware = config["hardware"] | {"nodes": nodes, "gpus_per_node": 8}
    return Request(recipe=experiment.recipe_of(config, "deepseek"), seed=42, hardware=hardware, cpus=CPUS)


def test_more_than_one_node_needs_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    with pytest.raises(UserError, match=r"hardware.nodes is 4, but this is no Slurm job"):
        environment.command(request(4), Path("config.yaml"), Path("left"))


def test_one_node_starts_no_srun():
    command = environment.command(request(1), Path("config.yaml"), Path("left"))
    assert "srun" not in command
    assert "symmetric-run" not in command


def test_cpus_are_those_of_the_allocation(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "48")
    assert environment.cpus({"cpus_per_node": 64}) == 48
    assert environment.cpus({"cpus_per_node": 32}) == 32
    # Ray needs a few to place its actors at all.
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    assert environment.cpus({"cpus_per_node": 64}) == environment.LEAST_CPUS


def namespaces_possible() -> bool:
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"], check=False).returncode == 0


@pytest.fixture
def two_nodes():
    """Two network namespaces with an address each, joined by a cable."""
    if not namespaces_possible():
        pytest.skip("two nodes on one machine need root, iproute2 and network namespaces")
    names = [f"jrl{os.getpid()}{side}" for side in "ab"]
    addresses = ["10.231.0.1", "10.231.0.2"]
    run = lambda *command: subprocess.run(["ip", *command], check=True)  # noqa: E731
    try:
        for name in names:
            run("netns", "add", name)
        run("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        for name, address in zip(names, addresses, strict=True):
            run("link", "set", name, "netns", name)
            run("-n", name, "addr", "add", f"{address}/24", "dev", name)
            run("-n", name, "link", "set", name, "up")
            run("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, addresses, strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


ON_THE_HEAD = """
import os, ray
assert os.environ.get("RAY_ADDRESS"), "the trainer must join the cluster, not start one"
ray.init()
nodes = [node for node in ray.nodes() if node["Alive"]]
@ray.remote(num_gpus=8)
def where():
    return ray.util.get_node_ip_address()
addresses = sorted(ray.get([where.remote() for _ in nodes]))
print("TRAINER", len(nodes), ray.cluster_resources()["CPU"], ray.cluster_resources()["GPU"], *addresses, flush=True)
"""


@pytest.mark.verl
def test_two_nodes_become_one_cluster_and_go_down_together(two_nodes, tmp_path):
    """Ray on both by `ray symmetric-run`, the program on the head only, nothing left when it ends."""
    pytest.importorskip("ray")
    head = two_nodes[0][1]
    cluster = environment.cluster(request(2), head)
    variables = environment.variables(request(2), tmp_path, tmp_path / "log") | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    nodes = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
                *(sys.executable, "-m", "justrl.engines.verl.guard", "--record", str(tmp_path / name)),
                *("--make-scratch", "--", *cluster, sys.executable, "-c", ON_THE_HEAD),
            ],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, _ in two_nodes
    ]
    try:
        printed = [node.communicate(timeout=500)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    # The status of `ray symmetric-run` says nothing: it is connected to the Ray that it stops.
    trainer = [line for line in printed[0].splitlines() if line.startswith("TRAINER")]
    assert trainer == [f"TRAINER 2 {2 * CPUS}.0 16.0 10.231.0.1 10.231.0.2"], printed
    assert "TRAINER" not in printed[1]
    assert not list(tmp_path.glob("*.json")), "a guard did not clean up"
