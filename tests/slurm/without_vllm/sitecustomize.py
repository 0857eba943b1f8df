"""On the PYTHONPATH of the test of several nodes: verl without vLLM, which needs more memory than one machine has.

Everything else is verl's: its trainer, agent loops, reward workers and TransferQueue, and on each node a worker whose
FSDP2 shards, gradients and saves go over the network. In place of vLLM's servers answers are drawn at random, and no
weights go to any server.

JUSTRL_TEST_HOLD   file; while it holds a number, the trainer waits when so many steps are logged
"""

import os
import sys
import time
from pathlib import Path

HOLD = os.environ.get("JUSTRL_TEST_HOLD")
MODULE = "justrl.training.verl.segment_trainer"


def without_servers(trainer):
    """The trainer, with answers drawn at random."""

    class WithoutServers(trainer):
        _enable_hybrid_replicas = False

        def _setup(self):
            # Servers on nodes of their own, which nobody starts.
            self.config.actor_rollout_ref.rollout.nnodes = 1
            super()._setup()
            self.checkpoint_manager.update_weights = lambda *_: None

        def get_llm_client(self):
            from random_answers import RandomAnswers

            return RandomAnswers(self.config)

        def on_step_begin(self):
            while Path(HOLD).is_file() and Path(HOLD).read_text() == str(self.global_steps - 1):
                self._progress.report(self.global_steps, "held by the test")
                time.sleep(0.2)
            super().on_step_begin()

    return WithoutServers


def replace_trainer(module) -> None:
    """Put the trainer without servers in the place of the project's."""
    module.SegmentTrainer = without_servers(module.SegmentTrainer)


if HOLD:
    sys.path.append(str(Path(__file__).parents[1]))
    from when_imported import WhenImported

    sys.meta_path.insert(0, WhenImported(MODULE, replace_trainer))
