"""Alarms on verl's whole stack, each with its fault put in; two faults a start, since a start costs minutes.

Healthy trainings, of which none ends, are in test_verl_run.py and tests/workflow/test_verl_mini.py.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from justrl.cli.main import main as justrl
from justrl.io import read_json, read_jsonl, write_json

pytest.importorskip("verl", reason="verl is not installed here (make verl-env, then make test-verl)")
from test_verl_run import RECIPE, attempts, finish, newest_state, place, start  # noqa: F401  place is a fixture

pytestmark = [pytest.mark.verl, pytest.mark.timeout(1500)]

# A step has 32 answers. Both alarms of a start are due at step 4; the steps before are saved by twos.
ALARMS = {"answers": 128, "least_reward_steps": 4, "truncated_steps": 4}


@pytest.fixture
def make_place(place, tmp_path):  # noqa: F811
    """A function that makes the folder of a training by another recipe."""

    def make(alarms, **changes) -> Path:
        described = json.loads((place / "run.json").read_text())
        described["recipe"] |= {"warmup_steps": 0, **changes}
        described["recipe"]["alarms"] = ALARMS | alarms
        write_json(tmp_path / "run.json", described)
        shutil.copytree(place / "model", tmp_path / "model")
        shutil.copy(place / "train.parquet", tmp_path)
        return tmp_path

    return make


def own_reward(folder: Path, score: str) -> dict[str, str]:
    """A reward function that gives each answer what `score` says."""
    (folder / "reward.py").write_text(f"def score(completion, gold, row):\n    return {score}\n")
    return {"file": str(folder / "reward.py")}


def raised(folder: Path) -> dict[str, int]:
    return {entry["alarm"]: entry["step"] for entry in read_json(folder / "work" / "alarms.json")}


def said(folder: Path) -> str:
    return (folder / "output.txt").read_text().splitlines()[-1]


def faults(*names: str) -> dict[str, str]:
    return {"VERL_USE_EXTERNAL_MODULES": "verl_faults", "JUSTRL_TEST_FAULTS": ",".join(names)}


def test_weights_that_stay_behind_and_answers_that_do_not_stop_end_it(make_place, tmp_path):
    """The sync works at the start and never again; without stop tokens of ours vLLM stops where the files say."""
    # Half of the answers are right whatever they say, so that the weights move.
    reward = own_reward(tmp_path, "1.0 if sum(map(ord, completion)) % 2 else -1.0")
    # Some of a tiny model's answers happen upon the end that the files name.
    folder = make_place({"probs_difference_steps": 3, "truncated": 0.5}, reward=reward, learning_rate=1e-2)
    assert finish(folder, start(folder, last=5, variables=faults("stale", "stops"))) == 2
    # The first step is sampled with the weights that it trains, the second is not.
    assert raised(folder) == {"probs_difference": 4, "truncated": 4}, said(folder)
    assert "its gold is '" in said(folder)
    rows = read_jsonl(folder / "work" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[0]["rollout_probs_diff_mean"] < 3e-3
    # Nothing of the step was trained, the state before it was saved, and answers are there to be read.
    assert newest_state(folder) == 3 and (folder / "work/rollouts/step_000004.parquet").is_file()
    before = attempts(folder)
    assert finish(folder, start(folder, last=5)) == 2
    first, again = [line for line in (folder / "output.txt").read_text().splitlines() if "alarm truncated" in line]
    assert again == first and attempts(folder) == before


@pytest.mark.skipif("JUSTRL_LONG_VERL" not in os.environ, reason="two more starts of verl: set JUSTRL_LONG_VERL=1")
def test_another_temperature_and_a_reward_that_is_always_the_least_end_it_until_accepted(make_place, tmp_path):
    folder = make_place({"probs_difference_steps": 4}, reward=own_reward(tmp_path, "-1.0"))
    assert finish(folder, start(folder, last=5, variables=faults("temperature"))) == 2
    assert raised(folder) == {"probs_difference": 4, "least_reward": 4}, said(folder)
    justrl(["train", "resume", str(folder), "--accept", "probs_difference", "--accept", "least_reward"])
    assert finish(folder, start(folder, last=5)) == 0, said(folder)
    assert "from step 3 to 5" in (folder / "output.txt").read_text()
    rows = read_jsonl(folder / "out" / "metrics.jsonl")
    assert [row.get("accepted_alarms") for row in rows] == [*[None] * 3, *["probs_difference, least_reward"] * 2]
    # Without the fault, sampler and trainer agree.
    assert rows[2]["rollout_probs_diff_mean"] > 0.05 and rows[3]["rollout_probs_diff_mean"] < 3e-3
