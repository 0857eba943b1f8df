"""Two processes under torchrun train as one does: the same questions, the same samples, the same losses."""

import subprocess
import sys

import pytest
from reference_run import Run, make_materials

from justrl.io import read_jsonl

STEPS = 3


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    return make_materials(tmp_path_factory.mktemp("materials"))


def torchrun(run, *more):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "justrl.train",
    ]
    return subprocess.run(
        [*command, *run.arguments(0, STEPS), *more], capture_output=True, text=True, check=False, timeout=300
    )


def test_two_gloo_processes_train_as_one(materials, tmp_path):
    import torch
    from safetensors.torch import load_file

    alone, together = Run(materials, tmp_path / "alone"), Run(materials, tmp_path / "together")
    assert alone.finish(*alone.arguments(0, STEPS)) == 0, alone.output
    done = torchrun(together)
    assert done.returncode == 0, done.stderr
    one, two = alone.metrics(STEPS), together.metrics(STEPS)
    assert [row["step"] for row in two] == [1, 2, 3]
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5)
    # The rate is 0 at the first step, so these are updates that have been made.
    assert one[2]["kl"] != 0 and one[1]["lr"] > 0
    weights, theirs = (load_file(run.model(STEPS) / "model.safetensors") for run in (alone, together))
    base = load_file(materials / "base" / "model.safetensors")
    for name, tensor in weights.items():
        assert torch.allclose(theirs[name], tensor, atol=1e-4), name
    moved = max((weights[name] - base[name]).abs().max().item() for name in weights)
    assert moved > 1e-3
    # One process writes; the live metrics hold each step once.
    assert [row["step"] for row in read_jsonl(together.work / "metrics.jsonl")] == [1, 2, 3]


def test_a_mini_batch_that_does_not_divide_is_refused(materials, tmp_path):
    import json

    run = Run(materials, tmp_path / "run")
    changed = json.loads((materials / "run.json").read_text())
    changed["recipe"] |= {"mini_batch_prompts": 1}
    (tmp_path / "odd.json").write_text(json.dumps(changed))
    done = torchrun(run, "--run-file", str(tmp_path / "odd.json"))
    assert done.returncode != 0
    assert "mini_batch_prompts (1) must be a multiple of the 2 processes" in done.stderr
