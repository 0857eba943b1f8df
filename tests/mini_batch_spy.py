"""Writes down which trajectories verl's workers update on, in each mini-batch: a plugin that verl itself loads.

`VERL_USE_EXTERNAL_MODULES=mini_batch_spy` makes each rank write <attempt>/mini_batches.<rank>.jsonl.
"""

import json
import os
from pathlib import Path

from verl.utils import tensordict_utils

_original = tensordict_utils.make_iterator


def _values(td, key: str) -> list:
    """A field's value for each row."""
    value = td[key]
    return [row.tolist() for row in value.unbind()] if hasattr(value, "unbind") else list(value)


def _make_iterator(td, *args, **kwargs):
    import torch.distributed as dist

    rank = dist.get_rank() if dist.is_initialized() else 0
    path = Path(os.environ["JUSTRL_ATTEMPT"]) / f"mini_batches.{rank}.jsonl"
    for number, batch in enumerate(_original(td, *args, **kwargs)):
        keys = ("input_ids", "prompts", "responses", "loss_mask", "advantages", "uid", "session_id")
        rows = {key: _values(batch, key) for key in keys if key in batch.keys()}  # noqa: SIM118 - a TensorDict
        with path.open("a") as file:
            file.write(json.dumps({"mini_batch": number, "fields": sorted(map(str, batch.keys())), **rows}) + "\n")
        yield batch


tensordict_utils.make_iterator = _make_iterator
