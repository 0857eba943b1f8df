"""JustRL, reproduced: data, verifiers, GRPO, two training engines, evaluation and analysis.

The names below are the package's public API. They are imported on first use, so that commands which do not need torch
do not import it.
"""

import os
from importlib import import_module

# Waiting threads of GNU OpenMP spin for milliseconds; with this setting they sleep after some microseconds. On an idle
# machine this costs a small model nothing; if other processes need the cores, spinning makes it half as slow again. The
# setting only has an effect before torch is imported. A user's own setting is kept.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "5000"

_PUBLIC = {
    "JustRLGRPOTrainer": "justrl.public",
    "MathRuleVerifier": "justrl.verifiers.exact",
    "PaperVerifier": "justrl.verifiers.exact",
    "ParquetDataset": "justrl.data.parquet",
    "apply_chat_template": "justrl.public",
    "collate_fn": "justrl.data.parquet",
    "compute_group_advantages": "justrl.train.reference.advantages",
    "extract_question": "justrl.public",
    "load_eval_dataset": "justrl.data.benchmarks",
    "log_training_metrics": "justrl.public",
    "process_dapo_dataset": "justrl.data.dapo",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    """Import a public name from the module that defines it (PEP 562)."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'justrl' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
