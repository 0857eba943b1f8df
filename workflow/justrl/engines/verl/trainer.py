"""verl's synchronous trainer, with what a supervised segment needs added at its hooks; the algorithm is verl's.

Added: reports of progress, the share of right answers as a metric, at most two full states on disk, and a save at the
first safe moment when the supervisor asks to stop, even in the middle of the rollouts.
"""

import os
from pathlib import Path

import numpy as np
import transfer_queue as tq
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from justrl.engines.verl import checkpoints
from justrl.engines.verl.progress import LOAD_STATE, LOAD_WEIGHTS, POLL_VARIABLE, START, Progress


class SegmentStopped(Exception):
    """The supervisor asked to stop, and the state is saved."""


class _Loader:
    """Stands in for the data loader while a state is saved, with the position at which the step began."""

    def __init__(self, position: dict):
        self.position = position

    def state_dict(self) -> dict:
        return self.position


class SegmentTrainer(PPOTrainerSync):
    """verl's trainer for one segment of a run."""

    def __init__(self, config):
        self._progress = Progress.of_this_attempt()
        self._progress.report(0, START)
        super().__init__(config)
        self._position: dict = {}
        self._saved_step = -1
        self._watch_rollouts()

    def _watch_rollouts(self) -> None:
        """Look for a request to stop whenever verl looks at the rollouts under way."""
        buffer = self.replay_buffer
        buffer.poll_interval = float(os.environ.get(POLL_VARIABLE, buffer.poll_interval))
        wait = buffer._wait_for_next_poll

        def wait_and_watch(partition_id: str, last_debug_time: float) -> float:
            if self._progress.stop_requested():
                self._save_before_this_step()
            return wait(partition_id, last_debug_time)

        buffer._wait_for_next_poll = wait_and_watch

    def _load_checkpoint(self):
        self._progress.report(0, LOAD_STATE)
        super()._load_checkpoint()
        self._saved_step = self.global_steps
        self._progress.report(self.global_steps, LOAD_WEIGHTS)

    def on_step_begin(self):
        self._position = self.train_dataloader.state_dict()
        self._progress.report(self.global_steps, "rollout")
        super().on_step_begin()

    def on_sample_end(self):
        super().on_sample_end()
        self._progress.report(self.global_steps, "update")

    def on_step_end(self):
        if self._progress.stop_requested() and self._saved_step != self.global_steps:
            self._save_checkpoint()
        super().on_step_end()
        self._progress.report(self.global_steps, "log")

    def _save_before_this_step(self) -> None:
        """Save the state in which this step began: nothing of it has changed while the rollouts are under way."""
        self.global_steps -= 1
        if self._saved_step != self.global_steps and self.global_steps > 0:
            loader, self.train_dataloader = self.train_dataloader, _Loader(self._position)
            self._save_checkpoint()
            self.train_dataloader = loader
        raise SegmentStopped(f"asked to stop; saved after step {self.global_steps}")

    def _save_checkpoint(self):
        self._progress.report(self.global_steps, "save")
        checkpoints.remove_all_but_newest(Path(self.config.trainer.default_local_dir))
        super()._save_checkpoint()
        self._saved_step = self.global_steps

    def _compute_metrics(self, batch, metrics, timing_raw, global_steps, epoch):
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        # tensordict hands out a stack or, where it has unpacked one before, a plain list.
        extra = data["extra_fields"]
        extra = extra.tolist() if hasattr(extra, "tolist") else extra
        right = [fields["reward_extra_info"]["acc"] for fields in extra]
        metrics["justrl/accuracy"] = float(np.mean(right))


def install() -> None:
    """Make verl's trainer mode "sync" this trainer, in the process that runs it."""
    TRAINER_REGISTRY["sync"] = SegmentTrainer
