"""Two processes under torchrun train as one does: the same questions, the same samples, the same losses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from reference_run import TIMING_FIELDS, make_materials

from justrl.io import read_jsonl

pytestmark = pytest.mark.timeout(1200)
ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node=2", "-m", "justrl"]
SMALL = [
    *("runs.mini.steps=3", "runs.mini.segment_steps=3", "runs.mini.evaluate_every=3"),
    *("prompts_per_step=8", "mini_batch_prompts=4", "rollouts_per_prompt=4", "micro_batch_per_gpu=8"),
    *("max_prompt_length=32", "max_response_length=24", "learning_rate=1e-3", "warmup_steps=1", "seed=11"),
]


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    return make_materials(tmp_path_factory.mktemp("materials"))


def words(materials, output, *more):
    """`train run mini ...` as a person types it, on a model and steps that take seconds."""
    return [
        *("train", "run", "mini", "--config", "mini/experiment.yaml", "--model", str(materials / "base")),
        *("--data", str(materials / "train.parquet"), "--output", str(output)),
        *("--device", "cpu", "--threads", "1", *SMALL, *more),
    ]


def run(program, words):
    # A free port for the processes to meet at, so that two tests can run at a time.
    environment = os.environ | {"PET_STANDALONE": "1"}
    return subprocess.run(
        [*program, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def metrics(output):
    """The published metrics, without what depends on the clock."""
    return [{k: v for k, v in row.items() if k not in TIMING_FIELDS} for row in read_jsonl(output / "metrics.jsonl")]


@pytest.mark.parametrize("loss", ["vanilla", "gspo"])
def test_two_gloo_processes_train_as_one(materials, tmp_path, loss):
    import torch
    from safetensors.torch import load_file

    alone, together = tmp_path / "alone", tmp_path / "together"
    for program, output in (([sys.executable, "-m", "justrl"], alone), (TORCHRUN, together)):
        done = run(program, words(materials, output, f"loss={loss}"))
        assert done.returncode == 0, done.stderr
    one, two = metrics(alone), metrics(together)
    assert [row["step"] for row in two] == [1, 2, 3]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5)
    # The rate is 0 at the first step, so these are updates that have been made.
    assert one[2]["approx_kl"] != 0 and one[1]["lr"] > 0
    weights, theirs = (load_file(output / "model/model.safetensors") for output in (alone, together))
    base = load_file(materials / "base" / "model.safetensors")
    for name, tensor in weights.items():
        assert torch.allclose(theirs[name], tensor, atol=1e-4), name
    moved = max((weights[name] - base[name]).abs().max().item() for name in weights)
    assert moved > 1e-3
    # One process writes; the live metrics hold each step once.
    assert [row["step"] for row in read_jsonl(together / "work/metrics.jsonl")] == [1, 2, 3]


def test_a_mini_batch_that_does_not_divide_is_refused(materials, tmp_path):
    done = run(TORCHRUN, words(materials, tmp_path / "odd", "mini_batch_prompts=1"))
    assert done.returncode != 0
    assert "mini_batch_prompts (1) must be a multiple of the 2 processes" in done.stderr
