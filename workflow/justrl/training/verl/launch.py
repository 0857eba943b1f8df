"""Resolve the settings and start verl's trainer with them: `python -m justrl.training.verl.launch settings.json`.

The configuration is written to config.yaml in the same folder. The engine supervises this process, which connects to
the Ray cluster at RAY_ADDRESS or starts one.
"""

import os
import sys
from pathlib import Path

from justrl.errors import UserError
from justrl.hardware.machine import usable_cores
from justrl.io import read_json
from justrl.training.verl import ray_start, translate
from justrl.training.verl.progress import Progress
from justrl.training.verl.settings import Row

# Threads of the process that computes between the GPU phases, while the other processes wait; more hardly help.
MOST_THREADS = 8


def task_runner():
    """Return verl's task runner as a Ray actor class that installs our trainer before it runs."""
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1

    class TaskRunner(TaskRunnerV1.__ray_metadata__.modified_class.__ray_actor_class__):
        """verl's task runner, with the segment trainer as its synchronous trainer."""

        def run(self, config):
            """Train until the segment's last step."""
            import torch

            from justrl.training.verl.segment_trainer import install

            # Ray sets one thread per CPU of an actor, and this actor has one CPU.
            torch.set_num_threads(min(MOST_THREADS, usable_cores()))
            install()
            super().run(config)

    # On the head node, where the supervisor reads its progress and creates the request to stop.
    return ray.remote(num_cpus=1, resources={"node:__internal_head__": 0.001})(TaskRunner)


def load(path: Path):
    """Resolve and write the configuration; when joining a cluster, drop the keys that only its starter may set."""
    from omegaconf import OmegaConf

    configuration = translate.compose(Row(**row) for row in read_json(path))
    translate.write_configuration(configuration, path.with_name("config.yaml"))
    if os.environ.get("RAY_ADDRESS"):
        for key in ("num_cpus", "num_gpus"):
            configuration.ray_kwargs.ray_init.pop(key, None)
    OmegaConf.set_struct(configuration, True)
    return configuration


def main() -> None:
    """Run verl until the segment ends; Ray ends with this process."""
    from verl.trainer.main_ppo import run_ppo

    try:
        configuration = load(Path(sys.argv[1]))
    except UserError as error:
        Progress.of_this_attempt().fail(str(error))
        raise
    ray_start.wait_longer()
    run_ppo(configuration, task_runner_class=task_runner())


if __name__ == "__main__":
    main()
