"""Machines of their own on this one, for the nodes of a Slurm: joined by a bridge, each with an address of its own.

Each has network, processes, host name and shared memory of its own (Linux namespaces); file system, processor and main
memory are this machine's. All its processes are descendants of one, so it can lose its power.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

NETWORK = "10.231.64"
OWN_SPACES = ("--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def why_impossible() -> str | None:
    """Return the reason for which there can be no machines on this one, or None."""
    missing = [program for program in ("ip", "unshare", "nsenter", "setpriv") if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        return f"machines on one machine need root, iproute2 and util-linux (missing: {', '.join(missing) or 'root'})"
    probe = f"jrl{os.getpid()}p"
    made = subprocess.run(["ip", "link", "add", probe, "type", "bridge"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "link", "delete", probe], capture_output=True, check=False)
    spaces = subprocess.run(["unshare", "--net", *OWN_SPACES, "true"], capture_output=True, text=True, check=False)
    if made.returncode or spaces.returncode:
        return f"this kernel makes no bridge or no namespaces: {made.stderr.strip()} {spaces.stderr.strip()}"
    return None


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


def remove_forgotten() -> None:
    """Remove the networks of tests that were killed; their names have the process that made them."""
    for kind in ("netns", "link"):
        listed = subprocess.run(["ip", kind], capture_output=True, text=True, check=True).stdout
        for name, process in re.findall(r"\b(jrl(\d+)(?:m\d+)?)\b", listed):
            if not Path(f"/proc/{process}").exists():
                _ip(kind, "delete", name, check=False)


class Machine:
    """One machine: `name`, `address`, and the one process that all its processes descend from."""

    def __init__(self, index: int, bridge: str, hosts: Path):
        self.name, self.address = f"machine{index}", f"{NETWORK}.{10 + index}"
        self.space, self.bridge, self.hosts = f"{bridge}m{index}", bridge, hosts
        self.init: subprocess.Popen | None = None

    def plug_in(self) -> None:
        """Make its network and connect it to the bridge."""
        _ip("netns", "add", self.space)
        _ip("link", "add", self.space, "type", "veth", "peer", "name", "eth0", "netns", self.space)
        _ip("link", "set", self.space, "master", self.bridge, "up")
        for words in (("addr", "add", f"{self.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
            _ip("-n", self.space, *words)
        _ip("-n", self.space, "link", "set", "lo", "up")

    def start(self, command: list[str], log: Path) -> None:
        """Switch it on: run one command, whose orphans the shell beside it collects."""
        mounts = f"mount -t tmpfs tmpfs /dev/shm && mount --bind {self.hosts} /etc/hosts"
        setup = f'hostname {self.name} && {mounts} && "$@"; exit $?'
        # Not `ip netns exec`, which mounts another /sys: slurmd wants the control groups that are there.
        enter = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self.space}", "unshare", *OWN_SPACES]
        with log.open("ab") as output:
            self.init = subprocess.Popen(
                [*enter, "sh", "-c", setup, "sh", *command],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def lose_power(self) -> None:
        """Kill it as a power cut does: nothing of it says a last word, not even its network card."""
        _ip("link", "set", self.space, "down")
        self.kill()

    def kill(self) -> None:
        """Kill all its processes."""
        if self.init and self.init.poll() is None:
            self.init.send_signal(signal.SIGKILL)
            self.init.wait()

    def restart(self, command: list[str], log: Path) -> None:
        """Switch it on again after a power cut."""
        _ip("link", "set", self.space, "up")
        self.start(command, log)

    def remove(self) -> None:
        """Kill it and take its network away."""
        self.kill()
        _ip("netns", "delete", self.space, check=False)
        _ip("link", "delete", self.space, check=False)

    def processes(self) -> list[str]:
        """What runs on it, one command line each, without what started it."""
        mine = Path(f"/run/netns/{self.space}").stat().st_ino
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns" / "net").stat().st_ino == mine:
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        return [line for line in found if line and not line.startswith(("unshare", "sh -c hostname"))]


class Machines:
    """Some machines and the bridge between them and this one, which is at `address`; a context manager."""

    def __init__(self, number: int):
        self.bridge, self.address = f"jrl{os.getpid()}", f"{NETWORK}.1"
        # Its name service: torch's gloo asks for the address that its own host name has.
        self.hosts = Path(tempfile.gettempdir()) / f"{self.bridge}.hosts"
        self.machines = [Machine(index, self.bridge, self.hosts) for index in range(1, number + 1)]

    def __enter__(self) -> "Machines":
        remove_forgotten()
        try:
            _ip("link", "add", self.bridge, "type", "bridge")
            _ip("addr", "add", f"{self.address}/24", "dev", self.bridge)
            _ip("link", "set", self.bridge, "up")
            names = [f"{machine.address} {machine.name}" for machine in self.machines]
            self.hosts.write_text("\n".join(["127.0.0.1 localhost", *names, ""]))
            for machine in self.machines:
                machine.plug_in()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for machine in self.machines:
            machine.remove()
        self.hosts.unlink(missing_ok=True)
        _ip("link", "delete", self.bridge, check=False)
