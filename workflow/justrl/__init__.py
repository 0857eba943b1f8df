"""JustRL, reproduced: data, verifiers, GRPO, two training engines, evaluation and analysis.

The names below are the package's public API. They are imported on first use, so that commands which do not need torch
do not import it.
"""

import os
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

# Waiting threads of GNU OpenMP spin for milliseconds; with this setting they sleep after some microseconds. On an idle
# machine this costs a small model nothing; if other processes need the cores, spinning makes it half as slow again. The
# setting only has an effect before torch is imported. A user's own setting is kept.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "5000"

_PUBLIC = {
    "JustRLGRPOTrainer": "justrl.public",
    "MathRuleVerifier": "justrl.verifiers.rewards",
    "PaperVerifier": "justrl.verifiers.rewards",
    "ParquetDataset": "justrl.data.parquet",
    "apply_chat_template": "justrl.public",
    "collate_fn": "justrl.data.parquet",
    "compute_group_advantages": "justrl.training.reference.loss",
    "extract_question": "justrl.public",
    "load_eval_dataset": "justrl.data.benchmarks",
    "log_training_metrics": "justrl.public",
    "process_dapo_dataset": "justrl.data.dapo",
}

# Import paths of earlier versions that scripts of users and verl's settings name; docs/api.md lists them.
_MOVED = {
    "justrl.train": "justrl.training",
    "justrl.generation": "justrl.models",
    "justrl.generation.base": "justrl.models.sampling",
}

__all__ = sorted(_PUBLIC)


class _EarlierPaths(MetaPathFinder, Loader):
    """Import a module by its path in an earlier version; it is the same module as by its present path."""

    def find_spec(self, fullname, path=None, target=None):
        old = max((old for old in _MOVED if f"{fullname}.".startswith(f"{old}.")), key=len, default=None)
        if old is None:
            return None
        return ModuleSpec(fullname, self, origin=_MOVED[old] + fullname.removeprefix(old))

    def create_module(self, spec):
        module = import_module(spec.origin)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module):
        """Give the module back its own spec, which the import system replaced."""
        module.__spec__ = module.__spec__.loader_state


# Before the finder of files, which would import the files of a moved package once more under its earlier name.
sys.meta_path.insert(0, _EarlierPaths())


def __getattr__(name: str):
    """Import a public name from the module that defines it (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'justrl' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
