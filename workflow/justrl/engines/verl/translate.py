"""From a run to the complete configuration of verl, resolved and checked by verl's own code.

`python -m justrl.engines.verl.translate` writes the file; the engine does the same for each segment, with the paths of
the machine filled in. Nothing but the rows of `settings` is changed, and a key that verl does not have is refused, so
the older names that verl accepts and ignores (`custom_reward_function.*`, `reward_model.*`) cannot be asked for.
"""

import argparse
import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

from justrl import cli
from justrl.engines.verl import settings
from justrl.engines.verl.request import Request, Row, check_recipe
from justrl.errors import UserError
from justrl.io import atomic_write, read_json

# Groups that verl keeps so that old commands still compose, and never reads.
IGNORED_GROUPS = ("custom_reward_function", "reward_model", "sandbox_fusion")


def require_verl() -> None:
    """Raise a UserError that names the environment if verl is not installed here."""
    from importlib.util import find_spec

    if find_spec("verl") is None:
        raise UserError(
            "engine verl is not installed in this environment: make it with `make gpu-env` (GPUs) or `make verl-env` "
            "(CPU only), or choose `engine: reference` for the run"
        )


def default_configuration():
    """verl's own defaults for GRPO and PPO, as an OmegaConf tree with its interpolations."""
    require_verl()
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer")


def apply_row(configuration, row: Row, value: Any) -> None:
    """Set one key of the tree.

    Raises:
        UserError: the key is one that verl ignores, does not exist, or exists though the row calls it added.
    """
    from omegaconf import OmegaConf

    if row.key.split(".")[0] in IGNORED_GROUPS:
        raise UserError(f"verl ignores {row.key}: use the group `reward` instead")
    parent, _, last = row.key.rpartition(".")
    node = OmegaConf.select(configuration, parent)
    # A key without a default ("???") counts as known: `in` would deny it, `keys` does not.
    known = node is not None and last in node.keys()  # noqa: SIM118
    if not known and not row.added:
        raise UserError(f"verl 0.9.1 has no setting {row.key}")
    OmegaConf.update(configuration, row.key, value, merge=False, force_add=row.added)


def resolve(request: Request):
    """The complete configuration for `request`: verl's defaults with our rows, interpolations resolved, checked.

    Raises:
        UserError: a recipe that verl cannot follow, a key that it does not have, or what verl's own checks refuse.
    """
    check_recipe(request)
    configuration = default_configuration()
    for row in settings.rows(request):
        apply_row(configuration, row, row.value_for(request))
    check(configuration)
    from omegaconf import OmegaConf

    return OmegaConf.create(OmegaConf.to_container(configuration, resolve=True))


def check(configuration) -> None:
    """Run verl's own validation, and build the dataclasses that it skips.

    verl prints while it checks; its output is dropped unless the check fails.
    """
    from omegaconf import OmegaConf
    from verl.trainer.ppo.reward import resolve_reward_manager_cls
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            validate_config(
                configuration,
                use_reference_policy=need_reference_policy(configuration),
                use_critic=need_critic(configuration),
            )
            for group in ("actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm"):
                omega_conf_to_dataclass(OmegaConf.select(configuration, group))
            resolve_reward_manager_cls(configuration)
    except Exception as error:
        raise UserError(f"verl refuses this configuration: {error}") from error


def write_configuration(configuration, path: str | Path) -> None:
    """Write the configuration as YAML, keys in verl's order, so that two of them can be compared line by line."""
    from omegaconf import OmegaConf

    with atomic_write(path) as handle:
        handle.write(OmegaConf.to_yaml(configuration))


def request_from_run(run: dict, hardware: dict) -> Request:
    """The request that the written description of a run (run.json) makes, with no step or path filled in."""
    for key in ("recipe", "seed"):
        if key not in run:
            raise UserError(f"the run's description has no key {key!r}")
    return Request(
        recipe=run["recipe"],
        seed=run["seed"],
        hardware=hardware,
        run=run.get("run", "run"),
        experiment=run.get("experiment", "paper"),
    )


def main(argv: list[str] | None = None) -> None:
    """Write the resolved configuration of one run."""
    parser = argparse.ArgumentParser(
        prog="python -m justrl.engines.verl.translate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--run", type=Path, required=True, help="the run's description (run.json)")
    parser.add_argument("--hardware", required=True, help="the hardware of the configuration, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="YAML file to write")
    args = parser.parse_args(argv)
    # The configuration is made on machines without the accelerator: nothing here needs one.
    os.environ.setdefault("VERL_PLATFORM", "nvidia")
    write_configuration(resolve(request_from_run(read_json(args.run), json.loads(args.hardware))), args.output)


if __name__ == "__main__":
    cli.run(main)
