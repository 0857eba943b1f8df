"""Translation of a run to verl's complete configuration, resolved and checked by verl's own code.

`justrl verl config` writes the file. The trainer of each segment, which loads verl anyway, does the same with the
machine's paths filled in (`launch`). Only the rows of `settings` are changed, and keys that verl does not have are
rejected. The older names that verl accepts and ignores (`custom_reward_function.*`, `reward_model.*`) are therefore
rejected, too.
"""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from justrl.config import Hardware, RunDescription
from justrl.config.schema import engine_problems
from justrl.errors import UserError
from justrl.hardware.machine import require_verl
from justrl.io import atomic_write
from justrl.models.shape import shape_of
from justrl.training.verl import settings
from justrl.training.verl.settings import Row, VerlRequest

# Groups that verl keeps so that old commands still work, but never reads.
IGNORED_GROUPS = ("custom_reward_function", "reward_model", "sandbox_fusion")
# verl's GRPO adds this constant to the standard deviation and offers no key for it (compute_grpo_outcome_advantage).
VERL_ADVANTAGE_EPSILON = 1e-6


def default_configuration():
    """Return verl's own defaults for GRPO and PPO, as an OmegaConf tree with its interpolations."""
    require_verl()
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer")


def apply_row(configuration, row: Row, value: Any) -> None:
    """Set one key of the tree.

    Raises UserError: verl ignores the key, or the key does not exist and the row does not mark it as added.
    """
    from omegaconf import OmegaConf

    if row.key.split(".")[0] in IGNORED_GROUPS:
        raise UserError(f"verl ignores {row.key}: use the group `reward` instead")
    parent, _, last = row.key.rpartition(".")
    node = OmegaConf.select(configuration, parent)
    # A key without a default ("???") counts as known: `in` does not find it, `keys` does.
    known = node is not None and last in node.keys()  # noqa: SIM118
    if not known and not row.added:
        raise UserError(f"verl 0.9.1 has no setting {row.key}")
    OmegaConf.update(configuration, row.key, value, merge=False, force_add=row.added)


def asked(request: VerlRequest) -> list[Row]:
    """Return the rows for `request` with their values; this does not need verl.

    Raises UserError: a recipe that verl does not support, or would interpret differently.
    """
    for problem in engine_problems("verl", request.recipe):
        raise UserError(problem)
    if (epsilon := request.recipe.advantage_epsilon) != VERL_ADVANTAGE_EPSILON:
        raise UserError(
            f"recipe.advantage_epsilon: verl has {VERL_ADVANTAGE_EPSILON} built in and no key for another, got "
            f"{epsilon}; use `engine: reference` for that"
        )
    return [replace(row, value=row.value_for(request)) for row in settings.rows(request)]


def resolve(request: VerlRequest):
    """Return the complete configuration for `request`; raises UserError as `asked` and `compose` do."""
    return compose(asked(request))


def compose(rows: Iterable[Row]):
    """Return the complete configuration: verl's defaults with these rows, interpolations resolved, checked.

    Raises UserError: a key that verl does not have, or a value that its own checks reject.
    """
    configuration = default_configuration()
    for row in rows:
        apply_row(configuration, row, row.value)
    check(configuration)
    from omegaconf import OmegaConf

    return OmegaConf.create(OmegaConf.to_container(configuration, resolve=True))


def check(configuration) -> None:
    """Run verl's own validation, and construct the dataclasses that it skips.

    verl prints during the check; this output is dropped.
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
    """Write the configuration as YAML, keys in verl's order, so that two files can be compared line by line."""
    from omegaconf import OmegaConf

    with atomic_write(path) as handle:
        handle.write(OmegaConf.to_yaml(configuration))


def request_from_run(run: RunDescription, hardware: Hardware) -> VerlRequest:
    """Return the request for the run that a run.json describes, without steps and paths."""
    shape, name = shape_of(run.model), run.experiment
    return VerlRequest(run.recipe, run.seed, hardware, run=run.run, experiment=name, shape=shape)
