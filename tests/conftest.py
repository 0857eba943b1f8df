"""Fixtures shared by all tests."""

import os
from pathlib import Path

import hypothesis
import pytest

import justrl  # noqa: F401  sets how OpenMP waits, before a test imports torch

ROOT = Path(__file__).resolve().parents[1]

# No example is ever too slow: a busy machine would fail it.
hypothesis.settings.register_profile("justrl", deadline=None)
hypothesis.settings.load_profile("justrl")


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
