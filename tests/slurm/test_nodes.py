"""Four nodes train a segment together through Snakemake and Slurm; one of them loses its power, and comes back."""

import re
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from machines import why_impossible
from workflow_run import HERE, ROOT, WorkflowRun, granted, read_rows

from justrl.train.verl import checkpoints

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]

CONFIG = HERE / "nodes.yaml"
STEPS = 4
HELD_AT = 3
RUN = "results/nodes/runs/mini"


def verl_python() -> str | None:
    """The Python that has verl, Ray and Snakemake: this one, or that of `make verl-env`."""
    if find_spec("verl"):
        return sys.executable
    made = ROOT / ".venv-verl" / "bin" / "python"
    return str(made) if made.exists() else None


@dataclass
class NodesRun(WorkflowRun):
    """A run on the machines, on verl without vLLM."""

    @property
    def run(self) -> Path:
        return self.folder / RUN

    @property
    def hold(self) -> Path:
        return self.folder / "hold"

    def command(self, *targets: str) -> list[str]:
        return [
            *(self.python, "-m", "snakemake", *targets, "--profile", "slurm", "--configfile", str(CONFIG)),
            *("--set-resources", "train_segment:runtime=120"),
            *("--default-resources", "slurm_partition=machines", "cpus_per_task=1", "mem_mb=2000", "runtime=30"),
            *("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10", "--local-cores", "1"),
        ]

    def environment(self) -> dict[str, str]:
        return super().environment() | {
            "PYTHONPATH": str(HERE / "without_vllm"),
            "JUSTRL_TEST_HOLD": str(self.hold),
            # Ray gives a node up after five silences of 13 seconds. Four nodes on one busy machine need more patience.
            "RAY_health_check_failure_threshold": "8",
        }

    def attempts(self) -> list[str]:
        """What each attempt printed."""
        return [log.read_text() for log in sorted(self.work.glob("verl/attempt_*/launch.log"))]

    def tail(self, lines: int = 60) -> str:
        ends = ["\n".join(text.splitlines()[-lines:]) for text in self.attempts()]
        return "\n== attempt\n".join([super().tail(lines), *ends])


@pytest.fixture(scope="module")
def finished(cluster, beside_experiment, tmp_path_factory):
    """The run, trained to its end although one of its nodes was lost in the middle."""
    if reason := why_impossible():
        pytest.skip(reason)
    if not (python := verl_python()):
        pytest.skip("verl is not installed: make verl-env")
    run = NodesRun(tmp_path_factory.mktemp("nodes"), cluster, python=python)
    run.prepare(f"{RUN}/preflight.json", f"{RUN}/verl.yaml", config=CONFIG)
    run.hold.write_text(str(HELD_AT))
    run.start(f"{RUN}/metrics.jsonl")
    try:
        run.wait_for(lambda: run.live_step() >= HELD_AT or len(run.attempts()) > 1, "the first attempt is at its hold")
        assert len(run.attempts()) == 1, run.tail()
        job = run.running_job()
        lost = cluster.machines.machines[2]
        lost.lose_power()
        run.wait_for(lambda: cluster.job(job)["JobState"] != "RUNNING", "the attempt has ended")
        run.hold.unlink()
        lost.restart(*cluster.slurmd_of(lost))
        assert run.finish(900) == 0, run.tail()
        yield run
    finally:
        if run.process.poll() is None:
            run.kill_snakemake()


def test_the_job_has_four_nodes_and_their_gpus(finished):
    first, second = finished.training_jobs()
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    for job in (first, second):
        assert job["NodeList"] == "machine[1-4]"
        assert granted(job) == {"cpu": 16, "node": 4, "mem": 4 * 4000}
        assert job["TresPerJob"] == "gres:gpu:4" and job["TresPerNode"] == "gres:gpu:1"


def test_every_node_joins_and_trains(finished):
    """One worker on each: Ray names the address of all but those beside the trainer."""
    addresses = [machine.address for machine in finished.cluster.machines.machines]
    for printed in finished.attempts():
        assert f"Ray has its 4 nodes: {', '.join(addresses)}" in printed
        workers = set(re.findall(r"\(WorkerDict pid=\d+, ip=([\d.]+)\)", printed))
        assert workers == set(addresses[1:])
    assert checkpoints.states(finished.work / "checkpoints")[-1].ranks == 4


def test_a_lost_node_ends_the_attempt_and_says_so(finished):
    first, _ = finished.attempts()
    assert "a node is lost, Ray has only 10.231.64.11, 10.231.64.12, 10.231.64.14 left" in first


def test_the_next_attempt_goes_on_from_the_last_save(finished):
    logs = "\n".join(log.read_text() for log in finished.folder.glob("results/logs/slurm/**/*.log"))
    assert f"from step 0 to {STEPS}" in logs and f"from step 2 to {STEPS}" in logs
    logged = [[row["step"] for row in read_rows(log)] for log in sorted(finished.work.glob("verl/attempt_*.jsonl"))]
    assert logged == [[1, 2, 3], [3, 4]]


def test_each_step_is_there_once_and_the_model_with_it(finished):
    assert [row["step"] for row in read_rows(finished.run / "metrics.jsonl")] == list(range(1, STEPS + 1))
    assert (finished.run / "segments" / str(STEPS) / "model" / "model.safetensors").is_file()


def test_nothing_is_left_on_any_node(finished):
    for machine in finished.cluster.machines.machines:
        assert [line for line in machine.processes() if not line.startswith("slurmd")] == []
    # Each guard writes down its temporary folder and shared memory, and forgets them when they are removed.
    assert not list(finished.work.glob("verl/leftovers*"))
