"""What a canary says of verl's whole stack with a broken sync of weights, and of a sound one.

Two steps at the canary's own learning rate, without alarms, as config.yaml has it. Each start costs minutes.
"""

import json
import os
import shutil

import pytest

from justrl import config as experiment
from justrl.cli.main import main as justrl
from justrl.io import read_json, write_json

pytest.importorskip("verl", reason="verl is not installed here (make verl-env, then make test-verl)")
from test_verl_alarms import own_reward
from test_verl_run import finish, place, start  # noqa: F401  place is a fixture

pytestmark = [
    pytest.mark.verl,
    pytest.mark.timeout(1500),
    pytest.mark.skipif("JUSTRL_LONG_VERL" not in os.environ, reason="four more starts of verl: set JUSTRL_LONG_VERL=1"),
]


@pytest.mark.parametrize(("fault", "verdict"), [("stale", "no"), ("half", "no"), ("behind", "no"), ("none", "yes")])
def test_a_broken_sync_is_seen_in_two_steps(place, tmp_path, fault, verdict, capsys):  # noqa: F811
    described = json.loads((place / "run.json").read_text())
    trial = experiment.load().with_canaries().runs["canary_deepseek"].recipe
    # Half of the answers are right whatever they say, so that the weights move.
    reward = own_reward(tmp_path, "1.0 if sum(map(ord, completion)) % 2 else -1.0")
    described["recipe"] |= {
        "learning_rate": trial.learning_rate, "warmup_steps": trial.warmup_steps, "reward": reward,
        "alarms": trial.as_dict()["alarms"],
    }  # fmt: skip
    write_json(tmp_path / "run.json", described)
    shutil.copytree(place / "model", tmp_path / "model")
    shutil.copy(place / "train.parquet", tmp_path)
    variables = {"VERL_USE_EXTERNAL_MODULES": "verl_faults", "JUSTRL_TEST_FAULTS": fault}
    assert finish(tmp_path, start(tmp_path, last=2, variables=variables)) == 0, (tmp_path / "output.txt").read_text()
    judge = ["canary", "judge", "--metrics", str(tmp_path / "out" / "metrics.jsonl")]
    judge += ["--run-file", str(tmp_path / "run.json"), "--asked", json.dumps({"steps": 2, "segment_steps": 2})]
    justrl([*judge, "--output", str(tmp_path / "verdict.json")])
    answers = {answer["name"]: answer for answer in read_json(tmp_path / "verdict.json")["answers"]}
    print(fault, answers["sync"])
    assert answers["sync"]["verdict"] == verdict, answers["sync"]
