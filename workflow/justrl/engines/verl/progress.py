"""What the trainer tells its supervisor: how far it is, in one small file; and what it is told: to save and stop."""

import json
import os
import time
from pathlib import Path

# Folder in which one attempt's trainer and its supervisor meet.
ATTEMPT_VARIABLE = "JUSTRL_ATTEMPT"
# Seconds between two looks at the rollouts under way, where verl's own 2.0 would be most of a tiny step.
POLL_VARIABLE = "JUSTRL_POLL_SECONDS"
# The phases before the first step of an attempt.
START, LOAD_STATE, LOAD_WEIGHTS = STARTING = ("start", "load state", "load weights into vLLM")


class Progress:
    """The files of one attempt: `progress.json`, written by the trainer, and `stop`, written by the supervisor."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.file = self.folder / "progress.json"
        self.stop_file = self.folder / "stop"

    @classmethod
    def of_this_attempt(cls) -> "Progress":
        """The files of the attempt that this process belongs to."""
        return cls(os.environ[ATTEMPT_VARIABLE])

    def report(self, step: int, phase: str) -> None:
        """Say that `phase` of `step` begins."""
        # Not flushed to disk: only a living supervisor reads it.
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({"step": step, "phase": phase, "time": time.time(), "pid": os.getpid()}))
        partial.replace(self.file)

    def last(self) -> dict:
        """The latest report, or an empty mapping before the first."""
        try:
            return json.loads(self.file.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def ask_to_stop(self) -> None:
        """Ask the trainer to save at the next safe moment and end."""
        self.stop_file.touch()

    def stop_requested(self) -> bool:
        """Whether the trainer should save and end."""
        return self.stop_file.exists()
