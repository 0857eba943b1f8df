"""More than one node, without Slurm: what srun would start on each is started in two namespaces of this machine.

tests/slurm/test_nodes.py is the whole of it, on a Slurm of four.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from justrl import config as experiment
from justrl.errors import UserError
from justrl.training.verl import environment, nodes, supervisor
from justrl.training.verl.settings import VerlRequest
from justrl.training.verl.supervisor import Supervisor

CPUS = 3


def request(nodes: int) -> VerlRequest:
    config = experiment.load(overrides=[f"hardware.nodes={nodes}"])
    return VerlRequest(recipe=config.runs["deepseek"].recipe, seed=42, hardware=config.hardware, cpus=CPUS)


def test_more_than_one_node_needs_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match=r"hardware.nodes is 4, but this is not a Slurm job"):
        environment.command(request(4), Path("config.yaml"), Path("left"))


def test_one_node_starts_no_srun():
    command = environment.command(request(1), Path("config.yaml"), Path("left"))
    assert "srun" not in command


def test_a_step_on_all_nodes_asks_for_what_the_job_has_there():
    hardware = request(4).hardware
    step = nodes.srun(hardware, cpus=hardware.cpus_per_node)
    wanted = {"--nodes=4", "--ntasks=4", "--ntasks-per-node=1", f"--cpus-per-task={hardware.cpus_per_node}"}
    assert wanted | {f"--gpus-per-node={hardware.gpus_per_node}", "--mem=0", "--kill-on-bad-exit=1"} <= set(step)
    assert "--cpus-per-task=3" in nodes.srun(hardware, cpus=3)


def test_what_slurm_says_of_one_step_is_no_wish_for_the_next(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    given = environment.variables(request(4), tmp_path, tmp_path / "log")
    assert given["SLURM_JOB_ID"] == "7" and "SLURM_NTASKS" not in given


def test_torchs_allocator_is_verls_to_set(monkeypatch, tmp_path):
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(name, "expandable_segments:True")
    given = environment.variables(request(1), tmp_path, tmp_path / "log")
    assert not [name for name in given if "ALLOC_CONF" in name]


def test_network_and_binding_are_as_configured(monkeypatch, tmp_path):
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    plain = request(2)
    assert environment.variables(plain, tmp_path, tmp_path / "log")["NCCL_SOCKET_IFNAME"] == "eth0"
    assert not [word for word in nodes.srun(plain.hardware, 8) if "bind" in word]
    hardware = experiment.load(
        overrides=["hardware.nodes=2", "hardware.network_interface=^lo,docker0", "hardware.cpu_bind=none"]
    ).hardware
    given = environment.variables(replace(plain, hardware=hardware), tmp_path, tmp_path / "log")
    assert given["NCCL_SOCKET_IFNAME"] == given["GLOO_SOCKET_IFNAME"] == "^lo,docker0"
    assert "--cpu-bind=none" in nodes.srun(hardware, 8)


def watched(tmp_path, program: str) -> Supervisor:
    """A supervisor of a program that knows the attempt's folder."""
    return Supervisor(
        attempt=tmp_path,
        command=[sys.executable, "-c", f"import pathlib, sys; attempt = pathlib.Path({str(tmp_path)!r}); {program}"],
        variables=dict(os.environ),
        idle_seconds=600,
        on_metrics=lambda: None,
        log=tmp_path / "log",
        is_done=lambda: False,
    )


def test_when_the_trainer_has_ended_a_lost_node_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("justrl.training.verl.supervisor.ENDING_SECONDS", 0.5)
    lost = watched(tmp_path, "(attempt / 'ended').touch(); sys.stdin.read(); sys.exit(1)")
    with pytest.raises(UserError, match="verl ended with status 1"):
        lost.run()


def test_a_warning_that_only_the_nodes_have_heard_is_one(tmp_path):
    assert watched(tmp_path, "(attempt / 'stop').touch(); sys.exit(1)").run()


@pytest.mark.parametrize(
    ("allocated", "cpus_per_node", "gpus", "declared"),
    [
        (48, 64, 8, 48),
        (48, 40, 8, 40),
        # verl waits for ever for Ray where there are fewer; they are declared, and shared by its processes.
        (32, 32, 8, 35),
        (64, 16, 4, 23),
        (2, 64, 0, 14),
    ],
)
def test_cpus_are_those_of_the_allocation_and_enough_for_verl(monkeypatch, allocated, cpus_per_node, gpus, declared):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(allocated))
    given = {"cpus_per_node": cpus_per_node, "gpus_per_node": gpus}
    assert environment.cpus(experiment.load().hardware.model_copy(update=given)) == declared


def test_a_process_that_is_no_child_is_asked_for_its_stack(tmp_path):
    """As those that srun starts: the daemon of a node is their parent."""
    program = "import sys; from justrl.training.verl.plugin import dump_stacks_on_signal as d; d(sys.argv[1]); input()"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=Path(environment.__file__).parents[3]) as process:
        try:
            deadline = time.monotonic() + 60
            while supervisor.answering(tmp_path) != [process.pid]:
                assert time.monotonic() < deadline
            (tmp_path / f"{socket.gethostname()}-{os.getpid()}.txt").touch()
            report = supervisor.dump_stacks(tmp_path)
        finally:
            process.kill()
    assert f"stacks of process {process.pid}" in report
    assert f"process {os.getpid()}" not in report, "a process without its file open would be ended by the signal"


HOLDS_MEMORY = """
import time, ray
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
@ray.remote(max_restarts=0)
class Worker:
    def hold(self):
        held = bytearray(200_000_000)
        time.sleep(5)
        return "LIVED"
print(ray.get(Worker.remote().hold.remote(), timeout=60))
"""


@pytest.mark.verl
def test_no_worker_is_ended_for_what_others_hold_of_the_nodes_memory(tmp_path):
    """To Ray the node is full from the start here, as where another job has filled it."""
    pytest.importorskip("ray")
    variables = environment.variables(request(1), tmp_path, tmp_path / "log") | {"RAY_memory_usage_threshold": "0.01"}
    guard = [sys.executable, "-m", "justrl.training.verl.guard", "--record", str(tmp_path / "left"), "--make-scratch"]
    command = [*guard, "--", sys.executable, "-c", HOLDS_MEMORY]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "LIVED"), done.stderr[-2000:]


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
import os, pathlib, signal, time, ray
assert os.environ.get("RAY_ADDRESS"), "the trainer must join the cluster, not start one"
ray.init()
nodes = [node for node in ray.nodes() if node["Alive"]]
@ray.remote(num_gpus=8)
def where():
    return ray.util.get_node_ip_address()
addresses = sorted(ray.get([where.remote() for _ in nodes]))
# Slurm's warning reaches all processes of a step.
os.kill(os.getppid(), signal.SIGURG)
while not (pathlib.Path(os.environ["JUSTRL_ATTEMPT"]) / "stop").exists():
    time.sleep(0.1)
print("TRAINER", len(nodes), ray.cluster_resources()["CPU"], ray.cluster_resources()["GPU"], *addresses, flush=True)
"""


@pytest.mark.verl
def test_two_nodes_become_one_cluster_and_go_down_together(two_nodes, tmp_path):
    """Ray on both, the program on the head only, nothing left when it ends."""
    pytest.importorskip("ray")
    cluster = nodes.commands(request(2).hardware, f"{two_nodes[0][1]}:6399", CPUS, gpus=8)
    variables = environment.variables(request(2), tmp_path, tmp_path / "log") | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    machines = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
                *(sys.executable, "-m", "justrl.training.verl.guard", "--record", str(tmp_path / name)),
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
        printed = [machine.communicate(timeout=500)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], printed
    trainer = [line for line in printed[0].splitlines() if line.startswith("TRAINER")]
    assert trainer == [f"TRAINER 2 {2 * CPUS}.0 16.0 10.231.0.1 10.231.0.2"], printed
    assert "TRAINER" not in printed[1]
    assert not list(tmp_path.glob("*.json")), "a guard did not clean up"
