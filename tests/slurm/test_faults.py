"""Whatever happens to a job, the run ends with the same weights and metrics as if nothing had, to the bit."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faults
import pytest
from workflow_run import PAPER_GRANT, WorkflowRun, granted

from justrl.plan.planning import most_full_states

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

STEPS = 12


@dataclass
class Outcome:
    """How one disturbed run ended."""

    happened: str
    computed: int
    trained: dict
    jobs: list[dict]
    most_states: int


# Runs that go on side by side: they wait more than they compute, but their starts would take all of a small machine.
AT_ONCE = 5
# name: (the fault, options of the run)
FAULTS = {
    "undisturbed": (lambda run: "nothing", {}),
    "time limit, warned": (faults.warned_before_the_limit, {"warning": "--signal=URG@25"}),
    "time limit": (faults.time_limit, {"warning": ""}),
    "scancel": (faults.cancelled, {}),
    "preempted": (faults.preempted, {}),
    "node down": (faults.node_lost, {}),
    "job SIGKILLed": (faults.job_killed, {}),
    "Snakemake SIGKILLed": (faults.snakemake_killed, {}),
    "Snakemake gone": (faults.snakemake_gone, {}),
    "disk full": (faults.disk_full, {}),
    "checkpoint torn": (faults.checkpoint_torn, {}),
}


@pytest.fixture(scope="module")
def outcomes(cluster, beside_experiment, prepared, tmp_path_factory):
    """Runs side by side, each on a node of its own; an Outcome or the exception for each name."""
    folder = tmp_path_factory.mktemp("runs")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = {
            name: pool.submit(disturb, prepared, cluster, folder / str(index), name)
            for index, name in enumerate(FAULTS)
        }
    return {name: future.exception() or future.result() for name, future in futures.items()}


def disturb(prepared, cluster, folder, name) -> Outcome:
    """Train in a copy of the prepared project, do the fault to it, and wait for the end."""
    fault, options = FAULTS[name]
    shutil.copytree(prepared.folder, folder, symlinks=True)
    run = WorkflowRun(folder, cluster, **options)
    run.pause(1)
    if fault is faults.disk_full:
        faults.mount_small_disk(run)
    states = StateCounter(run)
    try:
        run.start()
        happened = fault(run)
        assert run.finish() == 0, run.tail()
        return Outcome(happened, run.steps_computed(), run.trained(), run.training_jobs(), states.stop())
    finally:
        states.stop()
        if run.process.poll() is None:
            run.kill_snakemake()
        if fault is faults.disk_full:
            faults.unmount(run)


class StateCounter(threading.Thread):
    """Counts the full training states of a run again and again, those in the making included."""

    def __init__(self, run: WorkflowRun):
        super().__init__(daemon=True)
        self.run_, self.most, self.stopped = run, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.stopped.is_set():
            checkpoints = self.run_.work / "checkpoints"
            found = [path for path in checkpoints.glob("*") if "step_" in path.name] if checkpoints.is_dir() else []
            self.most = max(self.most, len(found))
            time.sleep(0.02)

    def stop(self) -> int:
        self.stopped.set()
        return self.most


def test_table(outcomes, capsys):
    """Print what was done to each run and what became of it."""
    reference = outcomes["undisturbed"]
    assert isinstance(reference, Outcome), reference
    lines = [f"{'fault':<22}{'what happened':<48}{'steps lost':>11}  {'equal'}"]
    for name, outcome in outcomes.items():
        if isinstance(outcome, Outcome):
            equal = "yes" if outcome.trained == reference.trained else "NO"
            lines.append(f"{name:<22}{outcome.happened:<48}{outcome.computed - STEPS:>11}  {equal}")
        else:
            lines.append(f"{name:<22}{str(outcome).splitlines()[0][:90]}")
    with capsys.disabled():
        print("\n\n" + "\n".join(lines))


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "undisturbed"])
def test_the_end_is_the_same(outcomes, name):
    outcome, reference = outcomes[name], outcomes["undisturbed"]
    if isinstance(outcome, Exception):
        raise outcome
    assert outcome.trained["metrics"] == reference.trained["metrics"]
    assert outcome.trained["weights"].keys() == reference.trained["weights"].keys()
    for file, content in reference.trained["weights"].items():
        assert outcome.trained["weights"][file] == content, f"{file} differs"


@pytest.mark.parametrize("name", list(FAULTS))
def test_no_step_is_in_the_metrics_twice(outcomes, name):
    assert [row["step"] for row in outcomes[name].trained["metrics"]] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("name", list(FAULTS))
def test_jobs_went_through_slurm_with_the_papers_request(outcomes, name):
    jobs = outcomes[name].jobs
    # A requeued job keeps its number, and so does an orphan that the next Snakemake waits for: no other holds GPUs.
    kept = name in ("undisturbed", "preempted", "node down", "Snakemake SIGKILLed", "Snakemake gone")
    assert len(jobs) == 1 if kept else len(jobs) >= 2
    for job in jobs:
        assert job["TresPerJob"] == "gres:gpu:8"
        assert granted(job) == PAPER_GRANT


@pytest.mark.parametrize("name", list(FAULTS))
def test_no_more_full_states_than_planned(outcomes, name):
    assert 1 <= outcomes[name].most_states <= most_full_states()


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        # The state of step 8 is the last one; step 9 is repeated, and whatever was begun.
        ("undisturbed", 0),
        ("Snakemake SIGKILLed", 0),
        ("Snakemake gone", 0),
        ("job SIGKILLed", 1),
        ("time limit", 1),
        # Step 11 and those since the state before the torn one.
        ("checkpoint torn", 3),
    ],
)
def test_no_more_is_lost_than_since_the_last_save(outcomes, name, lost):
    assert outcomes[name].computed - STEPS == lost


def test_a_warned_job_loses_nothing(outcomes):
    assert outcomes["time limit, warned"].computed == STEPS
