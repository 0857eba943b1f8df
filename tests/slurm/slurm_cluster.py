"""A real Slurm on one machine, for tests: munged, slurmctld and slurmd started by hand and stopped by their pids.

Each node pretends to have 8 GPUs, 128 CPUs and 2 TB of memory (`config_overrides`), so that the requests of the paper
are granted as on a cluster while the jobs use what the machine has. The GPUs are device nodes that reach /dev/null, and
`CUDA_VISIBLE_DEVICES` is set in jobs as on a real node. State lives in one folder; the only thing outside it is
/etc/slurm/slurm.conf, which job steps read whatever SLURM_CONF says; it is removed at the end.

`python tests/slurm/slurm_cluster.py FOLDER [NODES [MACHINES]]` keeps a cluster up until Ctrl-C, for a look around.
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import accounting
from machines import Machine, Machines

NAME = "justrl-tests"
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
SYSTEM_GRES = Path("/etc/slurm/gres.conf")
MARK = "# written by tests/slurm/slurm_cluster.py and removed when its tests end; process"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")


class SlurmUnavailable(Exception):
    """Why no Slurm can be started here, as one sentence for a skip."""


def why_unavailable() -> str | None:
    """Return the reason for which no Slurm can be started on this machine, or None."""
    if os.geteuid() != 0:
        return "starting slurmctld and slurmd for a test needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (run tests/slurm/install.sh)"
    for path in (SYSTEM_CONF, SYSTEM_GRES):
        if path.exists() and not path.read_text().startswith(MARK):
            return f"this machine has its own {path}, which a test must not replace"
    owner = configuration_owner()
    if owner and Path(f"/proc/{owner}").exists():
        return f"process {owner} has a Slurm of these tests up already"
    return None


def configuration_owner() -> str | None:
    """The process that wrote the system-wide configuration for its tests; None if there is no such file."""
    if not SYSTEM_CONF.exists():
        return None
    return SYSTEM_CONF.read_text().splitlines()[0].rpartition(" ")[2]


def free_port() -> int:
    """Return a TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class SlurmCluster:
    """One slurmctld and `nodes` slurmd processes on this machine; a context manager.

    The first node takes jobs by default; the others exist so that several disturbed runs can go on side by side.
    All partitions cover all nodes: `gpu` (the default), `cpu`, and `urgent`, whose jobs preempt and requeue all others.
    `machines` are nodes with addresses of their own, in a partition `machines` of their own.
    `accounts` says whether there is accounting; `min_job_age` for how many seconds a job that has ended is remembered;
    `kills_for_memory` whether a job that takes more memory than it asked for is killed, as control groups do elsewhere.
    """

    state: Path
    nodes: int = 1
    machines: Machines | None = None
    gpus: int = 8
    cpus: int = 128
    memory_mb: int = 2_000_000
    requeue_delay: int = 5
    min_job_age: int = 3600
    accounts: bool = False
    kills_for_memory: bool = False
    more_configuration: tuple[str, ...] = ()
    processes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def node_names(self) -> list[str]:
        return [f"node{index}" for index in range(1, self.nodes + 1)]

    @property
    def _machines(self) -> list[Machine]:
        return self.machines.machines if self.machines else []

    def slurmd_of(self, machine: Machine) -> tuple[list[str], Path]:
        """The command that makes a machine a node, and the log for it."""
        return ["slurmd", "-D", "-N", machine.name], self.state / "log" / f"{machine.name}.out"

    @property
    def completed_jobs_file(self) -> Path:
        return self.state / "completed_jobs.txt"

    def __enter__(self) -> "SlurmCluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        """Write the configuration, start the daemons and wait until every node is idle."""
        reason = why_unavailable()
        if reason:
            raise SlurmUnavailable(reason)
        self.state = self.state.resolve()
        for folder in ("munge", "controller", "spool", "dev", "log"):
            (self.state / folder).mkdir(parents=True, exist_ok=True)
        # munged refuses a socket below a folder that others may not enter, and a key that others may read.
        self.state.chmod(0o755)
        (self.state / "munge").chmod(0o755)
        key = self.state / "munge" / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for gpu in range(self.gpus):
            device = self.state / "dev" / f"nvidia{gpu}"
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        self._write_configuration()
        munge = self.state / "munge"
        self._spawn(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={munge}/munge.socket",
            f"--pid-file={munge}/munged.pid",
            f"--log-file={munge}/munged.log",
            f"--seed-file={munge}/munged.seed",
        )
        self._wait(lambda: (munge / "munge.socket").exists(), "munged did not open its socket")
        if self.accounts:
            self._start_accounting()
        self.start_daemon("slurmctld")
        for name in self.node_names:
            self._spawn("slurmd", "-D", "-N", name)
        for machine in self._machines:
            machine.start(*self.slurmd_of(machine))
        self._wait(self._all_idle, "the nodes did not come up")

    def stop(self) -> None:
        """Cancel what runs, stop the daemons, remove the system-wide configuration file."""
        if self.processes:
            subprocess.run(["scancel", "--user=root", "--full"], capture_output=True, timeout=20)
            self._settle()
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()
        for machine in self._machines:
            machine.kill()
        if configuration_owner() == str(os.getpid()):
            SYSTEM_CONF.unlink()
            SYSTEM_CONF.with_name("slurmdbd.conf").unlink(missing_ok=True)
            SYSTEM_GRES.unlink(missing_ok=True)

    def _start_accounting(self) -> None:
        folder = self.state / "database"
        self._spawn(*accounting.database_command(folder, self.database_port))
        self._wait(lambda: (folder / "socket").exists(), "the database did not open its socket")
        self.start_daemon("slurmdbd")
        self._wait(lambda: self.run("sacctmgr", "show", "cluster", check=False), "slurmdbd did not answer")
        self.run("sacctmgr", "-i", "add", "cluster", NAME)

    def start_daemon(self, name: str) -> None:
        """Start slurmctld or slurmdbd, for the first time or again."""
        self._spawn(name, "-D")

    def end_daemon(self, name: str) -> None:
        """End slurmctld or slurmdbd, and nothing else."""
        (daemon,) = (process for process in self.processes if name in process.args)
        self.processes.remove(daemon)
        daemon.terminate()
        daemon.wait(timeout=20)

    def wait_until_it_answers(self) -> None:
        """Wait until slurmctld answers."""
        self._wait(lambda: self.run("scontrol", "ping", check=False).count(" UP"), "slurmctld does not answer")

    def run(self, *command: str, check: bool = True) -> str:
        """Run a Slurm command and return what it printed."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """Return one job as `scontrol show job` has it, e.g. {"JobState": "RUNNING", "TRES": "cpu=64,mem=512G,..."}."""
        text = self.run("scontrol", "--oneliner", "show", "job", job_id, check=False)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def jobs(self) -> list[dict[str, str]]:
        """Return all jobs that the controller remembers, oldest first."""
        text = self.run("scontrol", "--oneliner", "show", "job", check=False)
        rows = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines()]
        return sorted((row for row in rows if "JobId" in row), key=lambda row: int(row["JobId"]))

    def _all_idle(self) -> bool:
        words = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", check=False).split()
        states = dict(zip(words[::2], words[1::2], strict=False))
        return all(states.get(name) == "idle" for name in [*self.node_names, *(m.name for m in self._machines)])

    def _settle(self) -> None:
        """Give cancelled jobs a moment to die, so that none outlives the cluster."""
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and self.run("squeue", "--noheader", check=False).strip():
            time.sleep(0.2)

    def _wait(self, ready, complaint: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            dead = [" ".join(process.args) for process in self.processes if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"{complaint}; died: {dead or 'none'}; logs in {self.state}/log")
            time.sleep(0.1)

    def _spawn(self, *command: str) -> None:
        # A daemon must not outlive its test, however that ends.
        bound = ("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()
        with (self.state / "log" / f"{command[0]}.out").open("ab") as log:
            # A session of its own: a Ctrl-C at the tests must reach Snakemake and not the daemons.
            self.processes.append(
                subprocess.Popen(
                    [*bound, *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
                )
            )

    def _write_configuration(self) -> None:
        state, host = self.state, socket.gethostname()
        lines = [
            f"{MARK} {os.getpid()}",
            f"ClusterName={NAME}",
            f"SlurmctldHost={host}({self.machines.address if self.machines else '127.0.0.1'})",
            f"SlurmctldPort={free_port()}",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            # A requeued job waits until its credential has expired: 120 s by default.
            f"AuthInfo=socket={state}/munge/munge.socket,cred_expire={self.requeue_delay}",
            f"StateSaveLocation={state}/controller",
            f"SlurmdSpoolDir={state}/spool/%n",
            f"SlurmctldPidFile={state}/slurmctld.pid",
            f"SlurmdPidFile={state}/slurmd.%n.pid",
            f"SlurmctldLogFile={state}/log/slurmctld.log",
            f"SlurmdLogFile={state}/log/slurmd.%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            f"JobAcctGatherType=jobacct_gather/{'linux' if self.kills_for_memory else 'none'}",
            "MpiDefault=none",
            "SlurmdParameters=config_overrides",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "GresTypes=gpu",
            "ReturnToService=2",
            f"MinJobAge={self.min_job_age}",
            "JobRequeue=1",
            "KillWait=10",
            "InactiveLimit=0",
            "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=5",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "JobCompType=jobcomp/filetxt",
            f"JobCompLoc={self.completed_jobs_file}",
        ]
        if self.accounts:
            port, self.database_port = free_port(), free_port()
            lines += accounting.cluster_lines(state, port)
            # slurmdbd reads a file that nobody else may read, beside the one that SLURM_CONF names for it.
            conf = SYSTEM_CONF.with_name("slurmdbd.conf")
            conf.write_text(f"{MARK} {os.getpid()}\n" + accounting.slurmdbd_conf(state, port, self.database_port))
            conf.chmod(0o600)
        size = (
            f"CPUs={self.cpus} Boards=1 SocketsPerBoard=2 CoresPerSocket={self.cpus // 2} ThreadsPerCore=1 "
            f"RealMemory={self.memory_mb} Gres=gpu:{self.gpus}"
        )
        lines += [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} {size}"
            for name in self.node_names
        ]
        lines += [f"NodeName={machine.name} NodeAddr={machine.address} {size}" for machine in self._machines]
        nodes = ",".join(self.node_names)
        lines.append(f"PartitionName=gpu Nodes={nodes} Default=YES MaxTime=1-00:00:00 PriorityTier=1 GraceTime=0")
        lines.append(f"PartitionName=cpu Nodes={nodes} MaxTime=1-00:00:00 PriorityTier=1")
        lines.append(f"PartitionName=urgent Nodes={nodes} MaxTime=1-00:00:00 PriorityTier=10 PreemptMode=OFF")
        if self.kills_for_memory:
            lines += ["JobAcctGatherParams=OverMemoryKill", "JobAcctGatherFrequency=task=1"]
        lines += self.more_configuration
        if self._machines:
            names = ",".join(machine.name for machine in self._machines)
            lines.append(f"PartitionName=machines Nodes={names} MaxTime=1-00:00:00 PriorityTier=1")
        # Counted GPUs without files leave the node INVAL, so each needs a device.
        devices = f"{state}/dev/nvidia[0-{self.gpus - 1}]"
        all_names = [*self.node_names, *(machine.name for machine in self._machines)]
        gres = [f"NodeName={name} Name=gpu File={devices} Flags=nvidia_gpu_env" for name in all_names]
        SYSTEM_CONF.parent.mkdir(parents=True, exist_ok=True)
        SYSTEM_CONF.write_text("\n".join(lines) + "\n")
        SYSTEM_GRES.write_text("\n".join([f"{MARK} {os.getpid()}", *gres]) + "\n")


def main() -> None:
    """Keep a cluster up for a look around."""
    nodes, machines = (int(word) for word in (sys.argv[2:4] + ["1", "0"][len(sys.argv[2:4]) :]))
    joined = Machines(machines) if machines else nullcontext()
    with joined as network, SlurmCluster(Path(sys.argv[1]), nodes, network) as cluster:
        print(cluster.run("sinfo", "--Node", "--long"))
        print("up; Ctrl-C stops it")
        signal.pause()


if __name__ == "__main__":
    main()
