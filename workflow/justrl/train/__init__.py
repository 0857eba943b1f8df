"""The two training engines behind one interface."""

from importlib import import_module
from importlib.util import find_spec
from typing import Protocol

from justrl.errors import UserError
from justrl.machine import require_verl
from justrl.train.segment import SegmentRequest

ENGINES = ("reference", "verl")


class Engine(Protocol):
    """Trains a run from one checkpoint step to the next and publishes model and metrics."""

    def train_segment(self, request: SegmentRequest) -> None:
        """Leave the model in `request.model_out` and the metrics in `request.metrics_out`, or raise."""
        ...


def get_engine(name: str) -> Engine:
    """Return the engine called `name`, a module with `train_segment`.

    Raises UserError: an unknown engine, or one whose packages are not installed here.
    """
    if name not in ENGINES:
        raise UserError(f"unknown engine {name!r}: choose one of {', '.join(ENGINES)}")
    if name == "verl":
        require_verl()
    if find_spec("torch") is None:
        raise UserError("PyTorch is not installed here: `make mini` makes the environment")
    return import_module(f"justrl.train.{name}.engine")
