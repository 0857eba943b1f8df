"""Start verl's trainer on a resolved configuration: `python -m justrl.train.verl.launch FILE`.

This is the process that the engine supervises. It connects to the Ray cluster that RAY_ADDRESS names, or starts one.
"""

import os
import sys
from pathlib import Path


def task_runner():
    """verl's task runner as a Ray actor class that installs our trainer before it runs."""
    import ray
    from verl.trainer.main_ppo import TaskRunnerV1

    class TaskRunner(TaskRunnerV1.__ray_metadata__.modified_class.__ray_actor_class__):
        """verl's own, with the segment trainer as its synchronous one."""

        def run(self, config):
            """Train until the segment's last step."""
            from justrl.train.verl.segment_trainer import install

            install()
            super().run(config)

    # On the head: there the supervisor reads its progress, and there it looks for the request to stop.
    return ray.remote(num_cpus=1, resources={"node:__internal_head__": 0.001})(TaskRunner)


def load(path: Path):
    """Read the configuration; to join a running cluster, drop what only its starter may say."""
    from omegaconf import OmegaConf

    configuration = OmegaConf.load(path)
    if os.environ.get("RAY_ADDRESS"):
        for key in ("num_cpus", "num_gpus"):
            configuration.ray_kwargs.ray_init.pop(key, None)
    OmegaConf.set_struct(configuration, True)
    return configuration


def main() -> None:
    """Run verl until the segment ends; Ray goes down with this process."""
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    configuration = load(Path(sys.argv[1]))
    validate_config(configuration, need_reference_policy(configuration), need_critic(configuration))
    run_ppo(configuration, task_runner_class=task_runner())


if __name__ == "__main__":
    main()
