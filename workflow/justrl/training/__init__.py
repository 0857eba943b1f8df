"""The two training engines behind one interface."""

from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from justrl.errors import UserError
from justrl.hardware.machine import require_verl
from justrl.training.segment import SegmentRequest

ENGINES = {"reference": "justrl.training.reference.loop", "verl": "justrl.training.verl.engine"}


class Engine(Protocol):
    """Training engine: trains a run from one checkpoint step to the next and publishes model and metrics."""

    def train_segment(self, request: SegmentRequest) -> None:
        """Write the model to `request.model_out` and the metrics to `request.metrics_out`, or raise."""
        ...


def require_engine(name: str) -> None:
    """Raise UserError if the engine is unknown or its packages are not installed here."""
    if name not in ENGINES:
        raise UserError(f"unknown engine {name!r}: choose one of {', '.join(ENGINES)}")
    if name == "verl":
        require_verl()
    if find_spec("torch") is None:
        raise UserError("PyTorch is not installed here: `make mini` makes the environment")


def get_engine(name: str) -> Engine:
    """Return the module of the engine `name`, which has `train_segment`; raises UserError as `require_engine` does."""
    require_engine(name)
    return import_module(ENGINES[name])
