"""Two steps of both engines on a real language model: SmolLM2-135M, its own tokenizer, template and weights.

On verl the weights go through FSDP and vLLM on a CPU, so that what is sampled and what is trained are compared on them.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import real_models
from justrl import config as experiment
from justrl.data import arithmetic
from justrl.io import read_jsonl, write_json
from justrl.training.alarms import differs
from tiny_model import MADE_HERE

RECIPE = {
    "prompts_per_step": 4,
    "rollouts_per_prompt": 4,
    "mini_batch_prompts": 2,
    "micro_batch_per_gpu": 8,
    "learning_rate": 1e-5,
    "warmup_steps": 0,
    "max_prompt_length": 128,
    "max_response_length": 16,
    "prompt_separator": " ",
    "prompt_suffix": "Give only the answer.",
    "dtype": "float32",
    "gradient_checkpointing": False,
}
HARDWARE = {"gpu": "none", "nodes": 1, "gpus_per_node": 1, "cpus_per_node": 2, "save_every": 2}


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("engine", ["reference", pytest.param("verl", marks=pytest.mark.verl)])
def test_two_steps(engine, tmp_path):
    if engine == "verl":
        pytest.importorskip("verl", reason="verl is not installed here (make verl-env, then make test-verl)")
    model = real_models.folder("smollm2-135m-q4")
    # Half of the answers are right whatever they say, so that the weights move.
    (tmp_path / "reward.py").write_text(
        "def score(completion, gold, row):\n    return 1.0 if sum(map(ord, completion)) % 2 else -1.0\n"
    )
    recipe = experiment.load().runs["deepseek"].recipe.as_dict() | RECIPE
    recipe["reward"] = {"file": str(tmp_path / "reward.py")}
    sums = arithmetic.training_rows(20, digits=1, seed=1)
    questions = arithmetic.as_training_examples(sums, recipe["prompt_suffix"], recipe["prompt_separator"])
    arithmetic.write_parquet(questions, tmp_path / "train.parquet")
    write_json(tmp_path / "run.json", MADE_HERE | {"run": "real", "engine": engine, "seed": 7, "recipe": recipe})
    write_json(tmp_path / "hardware.json", HARDWARE | {"hang_timeout_minutes": 20})
    command = [sys.executable, "-m", "justrl", "train", "segment", "--run-file", tmp_path / "run.json"]
    command += ["--model", model, "--data", tmp_path / "train.parquet", "--hardware", tmp_path / "hardware.json"]
    command += ["--start-step", "0", "--to-step", "2", "--work-dir", tmp_path / "work"]
    command += ["--model-out", tmp_path / "out/model", "--metrics-out", tmp_path / "out/metrics.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    rows = read_jsonl(tmp_path / "out/metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    print(json.dumps([{key: row[key] for key in ("rollout_probs_diff_mean", "entropy", "grad_norm")} for row in rows]))
    assert not any(differs(row, 1e-3) for row in rows), "the second step was sampled with the weights of the first"
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "out/model/model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    moved = (after[name].float() - before[name].float()).abs().max()
    assert 0 < moved < 1e-3 and torch.isfinite(after[name]).all()
