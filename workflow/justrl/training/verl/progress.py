"""Files between trainer and supervisor: the trainer's progress, the request to save and stop, the alarms' limits."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from justrl.config import Alarms
from justrl.io import read_json, read_json_object, write_json
from justrl.training.alarms import Watch, read_by_alarms

# Names the folder that one attempt's trainer and supervisor share.
ATTEMPT_VARIABLE = "JUSTRL_ATTEMPT"
# Seconds between two checks of the running rollouts; verl's 2.0 would lose half of that per step, with all GPUs idle.
POLL_VARIABLE = "JUSTRL_POLL_SECONDS"
# How many rollouts of each step the trainer saves for inspection.
KEEP_VARIABLE = "JUSTRL_ROLLOUTS_KEPT"
# The phases before the first step of an attempt.
START, LOAD_STATE, LOAD_WEIGHTS = STARTING = ("start", "load state", "load weights into vLLM")


class Progress:
    """The files of one attempt.

    The trainer writes `progress.json`, `problem.txt` and `ended`, the supervisor `stop` and `alarms.json`.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.file = self.folder / "progress.json"
        self.problem_file = self.folder / "problem.txt"
        self.alarms_file = self.folder / "alarms.json"
        # Made to ask the trainer to save at the next safe moment and end.
        self.stop = self.folder / "stop"
        # Made at the end of the trainer; with more than one node, srun may still wait for a lost node.
        self.ended = self.folder / "ended"

    @classmethod
    def of_this_attempt(cls) -> "Progress":
        """Return the files of the attempt that this process belongs to."""
        return cls(os.environ[ATTEMPT_VARIABLE])

    def report(self, step: int, phase: str) -> None:
        """Report that `phase` of `step` begins."""
        # Not flushed to disk, because only a running supervisor reads it.
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({"step": step, "phase": phase, "time": time.time(), "pid": os.getpid()}))
        partial.replace(self.file)

    def last(self) -> dict:
        """Return the latest report, or an empty mapping before the first."""
        return read_json_object(self.file)

    def fail(self, problem: str) -> None:
        """Record, as a sentence, why the trainer stops."""
        self.problem_file.write_text(problem, encoding="utf-8")

    def problem(self) -> str:
        """Return why the trainer stopped itself; empty if it did not."""
        return self.problem_file.read_text(encoding="utf-8") if self.problem_file.is_file() else ""

    def write_alarms(self, limits: Alarms, rows: Sequence[dict[str, Any]]) -> None:
        """Write the alarms' limits for the trainer, and the metrics of the steps that it continues from."""
        write_json(self.alarms_file, {"limits": limits.as_dict(), "rows": [read_by_alarms(row) for row in rows]})

    def alarms(self, work: Path) -> Watch:
        """Return the object that checks the trainer's steps and marks the run in the work directory."""
        told = read_json(self.alarms_file)
        return Watch(work, Alarms.model_validate(told["limits"]), told["rows"])
