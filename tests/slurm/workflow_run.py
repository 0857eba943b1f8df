"""A copy of the project with results of its own, and Snakemake running in it through the real Slurm profile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from slurm_cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
PARTS = ("Snakefile", "config.yaml", "rules", "workflow", "envs", "mini", "slurm", "papers")
# Fields that depend on the machine and the hour; all others must not depend on what happened to the run.
TIMINGS = ("step_seconds", "tokens_per_second", "rollout_seconds", "update_seconds")
# A mean of differences that are rounding themselves: seen to differ by 1e-11 between two attempts at a step, with equal
# weights after it.
ROUNDING = "rollout_probs_diff_mean"
# What the paper's training job asks for: one node's 8 GPUs, 64 cores, 512 GB.
PAPER_REQUEST = ("gpu=8", "cpus_per_task=64", "mem_mb=512000")
PAPER_GRANT = {"cpu": 64, "node": 1, "mem": 512_000}
TRAINED = ("results/faults/runs/mini/metrics.jsonl", "results/faults/runs/mini/segments/12/model")


@dataclass
class WorkflowRun:
    """One experiment in one folder, asking for what the paper's training job asks for."""

    folder: Path
    cluster: SlurmCluster
    runtime_minutes: int = 30
    warning: str = "--signal=URG@120"
    partition: str = "gpu"
    more_resources: tuple[str, ...] = ()
    more_requests: tuple[str, ...] = ()
    python: str = sys.executable
    process: subprocess.Popen | None = None
    started: int = field(default=0)

    def __post_init__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            if not (self.folder / part).exists():
                copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
                copy(ROOT / part, self.folder / part)

    @property
    def run(self) -> Path:
        return self.folder / "results" / "faults" / "runs" / "mini"

    @property
    def work(self) -> Path:
        return self.run / "work"

    @property
    def log(self) -> Path:
        return self.folder / f"snakemake_{self.started}.log"

    def command(self, *targets: str, config: Path = HERE / "faults.yaml") -> list[str]:
        """The Snakemake command: the profile as it is, but for what makes a test short."""
        wanted = [
            *PAPER_REQUEST,
            f"runtime={self.runtime_minutes}",
            f"slurm_extra='{self.warning}'",
            *self.more_requests,
        ]
        requests = [f"train_segment:{request}" for request in wanted]
        return [
            *(self.python, "-m", "snakemake", *targets, "--profile", "slurm", "--configfile", str(config)),
            *("--set-resources", *requests),
            *("--default-resources", f"slurm_partition={self.partition}", "cpus_per_task=1", "mem_mb=2000"),
            *("runtime=10", "gpu=0", *self.more_resources),
            *("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10", "--local-cores", "1"),
        ]

    def prepare(self, *targets: str, config: Path = HERE / "faults.yaml") -> None:
        """Make targets here and now, without Slurm."""
        command = [self.python, "-m", "snakemake", *targets, "--cores", "2", "--configfile", str(config)]
        done = subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def environment(self) -> dict[str, str]:
        """As in an activated environment: `python` in rules is the one that runs the tests."""
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{Path(self.python).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(HERE / "slow_steps"),
            "JUSTRL_TEST_TRACE": str(self.folder / "trace"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *targets: str, **options) -> subprocess.Popen:
        """Start Snakemake in the background."""
        self.started += 1
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(*(targets or TRAINED), **options),
                cwd=self.folder,
                env=self.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def pause(self, seconds: float) -> None:
        """Let each step of this run last so much longer, from now on."""
        path = self.folder / "pause"
        path.with_suffix(".new").write_text(str(seconds))
        path.with_suffix(".new").replace(path)

    def finish(self, seconds: float = 1800) -> int:
        """Wait for Snakemake and return its status."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill_snakemake()
            raise AssertionError(f"Snakemake did not end within {seconds:.0f} s\n{self.tail()}") from None

    def kill_snakemake(self) -> None:
        """SIGKILL to Snakemake and its helpers here; its Slurm jobs go on."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tail(self, lines: int = 60) -> str:
        """The end of everything that Snakemake and the jobs said, for a failed test."""
        logs = [self.log, *sorted(self.folder.glob("results/logs/slurm/**/*.log"))]
        return "\n".join(
            f"== {log}\n" + "\n".join(log.read_text().splitlines()[-lines:]) for log in logs if log.exists()
        )

    def wait_for(self, ready, what: str, seconds: float = 1500, running: bool = True):
        """Poll until `ready()` is true and return it; Snakemake must not have ended before if it is `running`."""
        deadline = time.monotonic() + seconds
        while not (value := ready()):
            if running and self.process.poll() is not None:
                raise AssertionError(f"Snakemake ended with {self.process.returncode} before: {what}\n{self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n{self.tail()}")
            time.sleep(0.3)
        return value

    def wait_until_said(self, words: str) -> None:
        """Wait until Snakemake has said something."""
        self.wait_for(lambda: words in self.log.read_text(), f"Snakemake says: {words}", seconds=120)

    def live_step(self) -> int:
        """The last step that the trainer has logged."""
        rows = read_rows(self.work / "metrics.jsonl")
        return rows[-1]["step"] if rows else 0

    def wait_for_step(self, step: int) -> None:
        self.wait_for(lambda: self.live_step() >= step, f"step {step} is trained")

    def training_jobs(self) -> list[dict[str, str]]:
        """The Slurm jobs of this run's training, oldest first, as the controller has them."""
        jobs = [job for job in self.cluster.jobs() if job["WorkDir"] == str(self.folder)]
        return [job for job in jobs if "rule_train_segment" in job.get("StdOut", "")]

    def running_job(self) -> str:
        """The id of the training job that runs now."""

        def running():
            return [job["JobId"] for job in self.training_jobs() if job["JobState"] == "RUNNING"]

        return self.wait_for(running, "a training job runs")[-1]

    def job_processes(self, job_id: str | None = None) -> list[int]:
        """All processes of a Slurm job, or of all jobs of this run, on this machine but Slurm's own."""
        wanted = {f"SLURM_SUBMIT_DIR={self.folder}".encode()}
        if job_id:
            wanted.add(f"SLURM_JOB_ID={job_id}".encode())
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "environ").read_bytes().split(b"\0")
                name = (process / "comm").read_text().strip()
            except OSError:
                continue
            if wanted.issubset(words) and name not in ("slurmstepd", "srun"):
                found.append(int(process.name))
        return found

    def signals(self) -> str:
        """Names of the stop signals that the trainer has taken."""
        noted = self.folder / "signals"
        return noted.read_text() if noted.is_file() else ""

    def steps_computed(self) -> int:
        """Training steps that were computed, repeated ones counted each time."""
        trace = self.folder / "trace"
        return len(trace.read_text().splitlines()) if trace.is_file() else 0

    def trained(self) -> dict:
        """What must not depend on what happened: deterministic metrics of all steps, and the bytes of the weights."""
        rows = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        kept = [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]
        for row in kept:
            if row.get(ROUNDING) is not None:
                row[ROUNDING] = round(row[ROUNDING], 8)
        weights = {
            f"{segment}/{path.name}": path.read_bytes()
            for segment in (6, 12)
            for path in sorted((self.run / "segments" / str(segment) / "model").glob("*.safetensors"))
        }
        return {"metrics": kept, "weights": weights}


def granted(job: dict[str, str]) -> dict[str, int]:
    """What a Slurm job was given: CPUs, nodes and MiB of memory, which Slurm writes as 512000M or as 500G."""
    given = dict(word.split("=") for word in job["TRES"].split(","))
    scale = {"M": 1, "G": 1024, "T": 1024**2}[given["mem"][-1]]
    return {"cpu": int(given["cpu"]), "node": int(given["node"]), "mem": round(float(given["mem"][:-1]) * scale)}


def read_rows(path: Path) -> list[dict]:
    """The whole lines of a metrics file that may be being written."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
