"""verl's whole stack by the other losses, on two ranks of a processor, against the reference engine."""

import json
import os
import shutil
from pathlib import Path

import pytest

import recorded_steps
from justrl.io import write_json

pytest.importorskip("verl", reason="verl is not installed here (make verl-env, then make test-verl)")
from test_verl_run import check_by_the_reference_engine, finish, place, start  # noqa: F401  place is a fixture

# That each loss is verl's, on verl's own functions, is shown in test_verl_equivalence.py without a start.
REASON = "two more starts of verl: set JUSTRL_LONG_VERL=1"
pytestmark = [
    pytest.mark.verl,
    pytest.mark.timeout(1500),
    pytest.mark.skipif("JUSTRL_LONG_VERL" not in os.environ, reason=REASON),
]


@pytest.mark.parametrize("loss", ["dr_grpo", "gspo"])
def test_both_engines_make_the_same_steps(place: Path, tmp_path: Path, loss: str):  # noqa: F811
    """Three steps of two updates, the first at rate 0; entropy is a mean over tokens under every loss."""
    described = json.loads((place / "run.json").read_text())
    described["recipe"] |= {"loss": loss, "loss_aggregation": None}
    write_json(tmp_path / "run.json", described)
    shutil.copytree(place / "model", tmp_path / "model")
    shutil.copy(place / "train.parquet", tmp_path)
    assert finish(tmp_path, start(tmp_path, last=3)) == 0, (tmp_path / "output.txt").read_text()[-4000:]
    check_by_the_reference_engine(tmp_path, recorded_steps.read_steps(tmp_path / "work" / "verl"))
