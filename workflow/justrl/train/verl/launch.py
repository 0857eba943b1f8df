"""Resolve what is asked for and start verl's trainer on it: `python -m justrl.train.verl.launch settings.json`.

The configuration is written to config.yaml in the same folder. This is the process that the engine supervises. It
connects to the Ray cluster that RAY_ADDRESS names, or starts one.
"""

import os
import sys
from pathlib import Path

from justrl.errors import UserError
from justrl.io import read_json
from justrl.machine import usable_cores
from justrl.train.verl import ray_start, translate
from justrl.train.verl.progress import Progress
from justrl.train.verl.request import Row

# Of the process that computes between the phases of the GPUs, while the others wait for it. More bring little.
MOST_THREADS = 8


def task_runner():
    """verl's task runner as a Ray actor class that installs our trainer before it runs."""
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1

    class TaskRunner(TaskRunnerV1.__ray_metadata__.modified_class.__ray_actor_class__):
        """verl's own, with the segment trainer as its synchronous one."""

        def run(self, config):
            """Train until the segment's last step."""
            import torch

            from justrl.train.verl.segment_trainer import install

            # Ray has told it to take one for each of its CPUs, which is one.
            torch.set_num_threads(min(MOST_THREADS, usable_cores()))
            install()
            super().run(config)

    # On the head: there the supervisor reads its progress, and there it looks for the request to stop.
    return ray.remote(num_cpus=1, resources={"node:__internal_head__": 0.001})(TaskRunner)


def load(path: Path):
    """Resolve and write the configuration; to join a running cluster, drop what only its starter may say."""
    from omegaconf import OmegaConf

    configuration = translate.compose(Row(**row) for row in read_json(path))
    translate.write_configuration(configuration, path.with_name("config.yaml"))
    if os.environ.get("RAY_ADDRESS"):
        for key in ("num_cpus", "num_gpus"):
            configuration.ray_kwargs.ray_init.pop(key, None)
    OmegaConf.set_struct(configuration, True)
    return configuration


def main() -> None:
    """Run verl until the segment ends; Ray goes down with this process."""
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
