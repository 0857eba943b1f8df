"""The reference engine with vLLM's rollouts: what samples is what is trained."""

import os
import subprocess
import sys

import pytest
import torch
from reference_run import Run, make_materials

from justrl.cli.train import LOCAL_HARDWARE
from justrl.io import read_jsonl, write_json
from justrl.training.reference.rollout import _any_kernels

pytest.importorskip("vllm", reason="vLLM is not installed here (make verl-env)")


def test_vllm_samples_from_the_policy_as_it_is_after_each_update(tmp_path):
    # vLLM's CPU kernels want heads of at least 32 dimensions.
    run = Run(make_materials(tmp_path, hidden_size=64), tmp_path / "run")
    hardware = tmp_path / "hardware.json"
    write_json(hardware, LOCAL_HARDWARE | {"rollouts": "vllm"})
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "justrl", "train", *run.arguments(0, 4), "--hardware", str(hardware)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-5000:]
    rows = read_jsonl(run.metrics_file(4))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    # The policy has moved by then, and a sampler left behind would differ by far more.
    assert rows[1]["approx_kl"] != 0 and rows[2]["grad_norm"] > 0
    assert all(row["rollout_probs_diff_mean"] < 1e-3 for row in rows)
    assert all(row["entropy"] > 0 and row["response_length_mean"] > 1 for row in rows)


def test_the_trainers_determinism_does_not_reach_vllm():
    """They share a process: vLLM's kernels have no deterministic form, and the trainer's must keep theirs."""
    torch.use_deterministic_algorithms(True)
    try:
        with _any_kernels():
            assert not torch.are_deterministic_algorithms_enabled()
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
