"""Training on more than one node: Ray on every node of a Slurm job, the trainer on the first.

The launcher, on the job's first node, starts `python -m justrl.training.verl.nodes ... -- TRAINER` on every node by
srun, each under guard. The node with the head's address starts Ray's head and, once all nodes have joined, the trainer;
the other nodes join the head. When the trainer ends, a node is lost or Ray dies on a node, all of them end.

`ray symmetric-run` is not used: on a shared node it refuses to start next to another Ray, and its final `ray stop`
kills all of the user's Ray processes there, including those of other jobs.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing

from justrl.config import Hardware
from justrl.errors import UserError
from justrl.training.verl.progress import Progress

# On a busy cluster, nodes do not all start at the same time.
JOIN_SECONDS = 600.0
# A head that does not answer may only be slow, unlike one that refuses the connection.
SILENCE_SECONDS = 60.0
POLL_SECONDS = 2.0
# The launcher chooses the head's port and the kernel all others, so that clusters on a shared node do not collide.
RAY_OPTIONS = [
    *("--block", "--disable-usage-stats"),
    *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
]
HEAD_OPTIONS = ["--head", "--include-dashboard=false"]


def ask_slurm(*command: str) -> str:
    """Return the output of a Slurm command.

    Raises:
        UserError: the command does not exist or fails.
    """
    if not shutil.which(command[0]):
        raise UserError(
            f"{command[0]} is not there: training on more than one node needs Slurm's commands on its nodes"
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed ({done.returncode}): {done.stderr.strip()}")
    return done.stdout.strip()


def allocation(nodes: int) -> tuple[list[str], int]:
    """Return the nodes of the Slurm job, and its number of CPUs on each.

    They are requested from the controller: inside a job step, SLURM_JOB_NODELIST names only the nodes of that step.

    Raises:
        UserError: this is not a job, or it has another number of nodes.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        raise UserError(
            f"hardware.nodes is {nodes}, but this is not a Slurm job: training on more than one node "
            "needs --profile slurm"
        )
    nodelist, _, cpus = ask_slurm("squeue", "--noheader", "--jobs", job, "--format=%N %C").partition(" ")
    names = ask_slurm("scontrol", "show", "hostnames", nodelist).split()
    if len(names) != nodes:
        raise UserError(f"hardware.nodes is {nodes}, but Slurm job {job} has {len(names)} nodes ({nodelist})")
    return names, int(cpus) // nodes


def srun(hardware: Hardware, cpus: int) -> list[str]:
    """Return the srun command that runs a program once on each node, with all resources of the job there.

    All options are explicit: a step inherits nothing reliable from the job or from the step that starts it.
    """
    nodes = hardware.nodes
    return [
        *("srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        *(f"--cpus-per-task={min(cpus, hardware.cpus_per_node)}", "--mem=0", "--overlap"),
        *([f"--gpus-per-node={hardware.gpus_per_node}"] if hardware.gpus_per_node else []),
        *([f"--cpu-bind={hardware.cpu_bind}"] if hardware.cpu_bind else []),
        *("--kill-on-bad-exit=1", "--export=ALL", "--label"),
    ]


def head_address(names: list[str]) -> str:
    """Return an address and a free port of this node, as the second node reaches it over Slurm's network."""
    words = ask_slurm("scontrol", "--oneliner", "show", "node", names[1]).split()
    other = next(word.partition("=")[2] for word in words if word.startswith("NodeAddr="))
    # Connecting a datagram socket sends nothing, but determines the route.
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as route:
        route.connect((other, 9))
        host = route.getsockname()[0]
    return f"{host}:{free_port(host)}"


def free_port(host: str) -> int:
    """Return a port of this node that nothing listens on."""
    with closing(socket.socket()) as free:
        free.bind((host, 0))
        return free.getsockname()[1]


def commands(hardware: Hardware, head: str, cpus: int, gpus: int) -> list[str]:
    """Return the command for every node, to be followed by the trainer's; `cpus` and `gpus` are Ray's per node."""
    numbers = {"nodes": hardware.nodes, "cpus": cpus, "gpus": gpus}
    options = [f"--{name}={number}" for name, number in numbers.items()]
    return [sys.executable, "-m", "justrl.training.verl.nodes", f"--head={head}", *options, "--"]


class Node:
    """This node's part in the cluster with the head at `head`, HOST:PORT."""

    def __init__(self, head: str, nodes: int, cpus: int, gpus: int):
        host, _, port = head.rpartition(":")
        self.head, self.place, self.nodes = head, (host, int(port)), nodes
        self.log = Progress.of_this_attempt().folder / f"ray-{socket.gethostname()}.log"
        self.start = [sys.executable, "-m", "justrl.training.verl.ray_start", "start", *RAY_OPTIONS]
        # Set on every node: a joining node would otherwise use a folder with the head's name.
        self.start += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--temp-dir={tempfile.gettempdir()}"]

    def run(self, trainer: list[str]) -> int:
        """Run as the head or as another node until the training ends; return this node's exit status."""
        if not self.is_head():
            return self.follow()
        try:
            return self.lead(trainer)
        finally:
            Progress.of_this_attempt().ended.touch()

    def is_head(self) -> bool:
        """Return whether the head's address belongs to this node."""
        with closing(socket.socket()) as probe:
            try:
                probe.bind((self.place[0], 0))
            except OSError:
                return False
        return True

    def lead(self, trainer: list[str]) -> int:
        """Start Ray's head, wait for the other nodes, run the trainer; end when it ends or a node is lost."""
        host, port = self.place
        place = [f"--node-ip-address={host}", f"--port={port}", f"--ray-client-server-port={free_port(host)}"]
        ray = self.start_ray(*HEAD_OPTIONS, *place)
        if not self.wait_for_head(ray) or not self.wait_for_nodes():
            return 1
        process = subprocess.Popen(trainer, env=os.environ | {"RAY_ADDRESS": self.head})
        while (status := process.poll()) is None:
            time.sleep(POLL_SECONDS)
            if ray.poll() is not None:
                say(f"Ray ended on the head with status {ray.returncode}: see {self.log}")
                return 1
            if len(left := self.alive()) < self.nodes:
                say(f"a node is lost, Ray has only {', '.join(left)} left: the attempt ends")
                return 1
        return status

    def follow(self) -> int:
        """Join the head, and run until the head or this node's Ray ends."""
        if not self.wait_for_head():
            return 1
        ray = self.start_ray(f"--address={self.head}")
        while ray.poll() is None:
            if not self.head_answers():
                return 0
            time.sleep(POLL_SECONDS)
        say(f"Ray ended with status {ray.returncode}: see {self.log}")
        return 1

    def start_ray(self, *options: str) -> subprocess.Popen:
        """Start Ray's processes here; their output is logged in the folder of the trainer's log."""
        with self.log.open("wb") as log:
            return subprocess.Popen([*self.start, *options], stdout=log, stderr=subprocess.STDOUT)

    def head_answers(self) -> bool:
        """Return whether Ray's head accepts connections; wait up to SILENCE_SECONDS for one that does not answer."""
        deadline = time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(self.place, timeout=5).close()
                return True
            except ConnectionRefusedError:
                return False
            except OSError:
                time.sleep(1)
        return False

    def wait_for_head(self, ray: subprocess.Popen | None = None) -> bool:
        """Wait until Ray's head accepts connections; False if it does not, or has ended."""
        deadline = time.monotonic() + JOIN_SECONDS
        while not self.head_answers():
            if ray and ray.poll() is not None:
                say(f"Ray's head did not start: see {self.log}")
                return False
            if time.monotonic() > deadline:
                say(f"no Ray at {self.head} within {JOIN_SECONDS:.0f} s")
                return False
            time.sleep(0.5)
        return True

    def wait_for_nodes(self) -> bool:
        """Connect to the cluster and wait until all nodes have joined; False if they do not."""
        import ray

        ray.init(address=self.head, log_to_driver=False)
        deadline = time.monotonic() + JOIN_SECONDS
        while len(found := self.alive()) < self.nodes:
            if time.monotonic() > deadline:
                say(
                    f"only {', '.join(found)} joined Ray within {JOIN_SECONDS:.0f} s, but hardware.nodes "
                    f"is {self.nodes}"
                )
                return False
            time.sleep(0.5)
        say(f"Ray has its {self.nodes} nodes: {', '.join(found)}")
        return True

    def alive(self) -> list[str]:
        """Return the addresses of Ray's living nodes."""
        import ray

        return sorted(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"])


def say(text: str) -> None:
    """Print a line to the attempt's log."""
    print(f"{socket.gethostname()}: {text}", file=sys.stderr, flush=True)


def ask_to_stop(*_) -> None:
    """Forward Slurm's warning: it signals job steps, but the supervisor runs in the batch script."""
    Progress.of_this_attempt().stop.touch()


def main() -> int:
    """Run this node's part."""
    parser = argparse.ArgumentParser(prog="python -m justrl.training.verl.nodes", description=__doc__)
    parser.add_argument("--head", required=True, help="HOST:PORT of Ray's head")
    for name in ("nodes", "cpus", "gpus"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("trainer", nargs="+", help="after --")
    args = parser.parse_args()
    signal.signal(signal.SIGURG, ask_to_stop)
    return Node(args.head, args.nodes, args.cpus, args.gpus).run(args.trainer)


if __name__ == "__main__":
    sys.exit(main())
