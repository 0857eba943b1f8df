"""Fixtures shared by all tests."""

import os
from pathlib import Path

import hypothesis
import pytest

import justrl  # noqa: F401  sets how OpenMP waits, before a test imports torch

ROOT = Path(__file__).resolve().parents[1]
# Tests train the base model themselves, and leave nothing in the user's cache.
os.environ.setdefault("JUSTRL_CACHE", "")

# No example is ever too slow: a busy machine would fail it.
hypothesis.settings.register_profile("justrl", deadline=None)
hypothesis.settings.load_profile("justrl")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Side by side (pytest-xdist), a file's tests stay in one process, and those of all files that share an experiment.

    What takes longest comes first, so that no process is left with it in the end.
    """
    if not hasattr(config, "workerinput"):  # pytest-xdist is not at work
        return
    sharing = {item.path for item in items if "mini" in item.fixturenames}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("mini" if item.path in sharing else item.path.stem))
    items.sort(key=lambda item: (item.path not in sharing, item.path.parent.name == "unit"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_benchmarks() -> Path:
    """The folder of the nine real benchmarks as Parquet, or a skip that says where they were looked for."""
    folder = Path(os.environ.get("JUSTRL_REAL_BENCHMARKS", ROOT.parent / "shared" / "benchmarks"))
    if not (folder / "AIME24.parquet").is_file():
        pytest.skip(f"the real benchmark files are not at {folder} (set JUSTRL_REAL_BENCHMARKS)")
    return folder
