"""Benchmark rows of one whole GRPO step, sampling included: TRL 1.16's GRPOTrainer and ours, in separate processes.

Both have the same weights, questions, reward and hyperparameters, float32 and four updates per generation; old
log-probabilities are computed before the first update. Where TRL differs:

1. It shuffles the sequences of a step before splitting them into mini-batches; here a mini-batch has whole groups. 2.
It divides a mini-batch's loss by the mean number of tokens of the four; here by its own number. 3. It adds 1e-4 to a
group's deviation; here 1e-6. Its dual clip is `delta`, set to the recipe's value. 4. Biases and norms have no weight
decay; here, as in verl, all parameters have it.

The results count as equal if our training on TRL's samples (with its order, its advantages scaled for 2, and its weight
decay) moves the weights as TRL did: within TOLERANCE of the length of the whole movement, and with the same mean norm
of the gradients, which Adam's normalisation would hide. For the timing, each side samples for itself, as many tokens in
as many updates.

The floor is the model's matrix products and attention, which TRL needs too; each row shows their share of our time.
Most of the rest of a tiny step is the model's element-wise code, the same on both sides. In addition, TRL reads a
prompt once per sample, where our groups share it, passes prompts through the output layer, and copies its cache at each
token.
"""

import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from work import ROOT, Timed, Work

from justrl.config import load
from justrl.errors import UserError
from justrl.io import read_json, write_json

# 2e-5 and 3e-8 were measured. A misplaced mini-batch, or one scaled by its own tokens, is far outside.
TOLERANCE = 1e-3
NORM_TOLERANCE = 1e-5
TINY = {"hidden_size": 128, "intermediate_size": 256, "layers": 3, "heads": 4, "key_value_heads": 2}
LARGE = {"hidden_size": 512, "intermediate_size": 1408, "layers": 8, "heads": 8, "key_value_heads": 2}


def tiny() -> Work:
    """The mini experiment's shape and batch; every response has the full length."""
    folder = make_problem(TINY, prompts=32, timed=5)
    return row("GRPO step, 0.4 M parameters, 256 x 32 tokens", folder)


def two_threads() -> Work:
    """The same in elapsed time, with two cores for each side."""
    folder = make_problem(TINY, prompts=32, timed=5, threads=2)
    return row("GRPO step, 0.4 M parameters, 256 x 32 tokens, two threads, by the clock", folder, by_the_clock=True)


def ragged() -> Work:
    """The same with one token in 16 as a stop token: responses of 1 to 32 tokens, ours with the lengths of TRL's."""
    folder = make_problem(TINY, prompts=32, timed=5, stop_every=16)
    steps = run_trl(folder)["steps"]
    lengths = [[len(x) for part in step["mini_batches"] for x in part["completions"]] for step in steps]
    write_json(folder / "problem.json", read_json(folder / "problem.json") | {"lengths": lengths})
    return row("GRPO step, 0.4 M parameters, 256 ragged responses", folder)


def large() -> Work:
    """A model of about 39 million parameters with a vocabulary of 32,768."""
    folder = make_problem(LARGE, prompts=4, timed=3, vocabulary=32_768)
    return row("GRPO step, 39 M parameters, 32 x 32 tokens", folder)


def real() -> Work:
    """SmolLM2-135M, from a package, on two cores in elapsed time: eight prompts of about 50 tokens.

    Raises UserError if the model folder is missing.
    """
    model = ROOT / "models/local/smollm2-135m-q4"
    if not model.is_dir():
        raise UserError("SmolLM2 is not there (`make smollm2`)")
    folder = make_problem(model, prompts=8, timed=2, threads=2)
    return row("GRPO step, SmolLM2-135M, 64 x 32 tokens, two threads, by the clock", folder, by_the_clock=True)


def row(name: str, folder: Path, by_the_clock: bool = False) -> Work:
    """Our step and TRL's on the problem in a folder."""
    return Work(
        name,
        "TRL 1.16, GRPOTrainer",
        lambda: side(run_ours(folder), by_the_clock),
        lambda: side(run_trl(folder), by_the_clock),
        functools.partial(agree, folder),
        "matrix products and attention",
        target=1.6,
        rounds=5,
        library=None if by_the_clock else lambda: read_json(folder / "ours.json")["share"],
    )


def make_problem(
    shape: dict[str, int] | Path,
    *,
    prompts: int,
    timed: int,
    stop_every: int = 0,
    vocabulary: int | None = None,
    threads: int = 0,
) -> Path:
    """Create a folder with a model, its tokenizer, questions and settings, for trl_step.py and our_step.py.

    Args:
        shape: of the model, with the mini experiment's keys; or a folder with a model.
        prompts: questions per step, in four mini-batches.
        timed: measured steps, after one that is not measured.
        stop_every: one in this many tokens ends a response; 0: none does.
        vocabulary: rows of the embedding, if not the tokenizer's number of tokens.
        threads: of torch; 0: from OMP_NUM_THREADS.
    """
    import random

    from justrl.data import tiny_model
    from justrl.data.arithmetic import question_text
    from justrl.data.messages import DEFAULT_SUFFIX, build_messages
    from justrl.models.sampling import load_tokenizer

    folder, chance = Path(tempfile.mkdtemp()), random.Random(0)
    if isinstance(shape, Path):
        shutil.copytree(shape, folder / "model")
        tokenizer = load_tokenizer(folder / "model")
        size = read_json(folder / "model" / "config.json")["vocab_size"]
    else:
        family = "deepseek" if vocabulary is None else "nemotron"
        tokenizer = tiny_model.sums_tokenizer(family, DEFAULT_SUFFIX)
        model = tiny_model.build_model(shape | {"family": family, "context_length": 8192}, tokenizer, seed=0)
        if vocabulary:
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
        model.save_pretrained(folder / "model")
        tiny_model.save_tokenizer(tokenizer, tiny_model.FAMILIES[family], folder / "model")
        size = model.config.vocab_size
    sums = [tiny_model.draw_training_sum(chance.choice((2, 3)), chance) for _ in range(prompts)]
    messages = [build_messages(question_text(*pair)) for pair in sums]
    group = 8
    recipe = (
        load([ROOT / "mini/experiment.yaml"])
        .runs["mini"]
        .recipe.model_copy(
            update={
                "prompts_per_step": prompts,
                "mini_batch_prompts": prompts // 4,
                "rollouts_per_prompt": group,
                "learning_rate": 1e-6,
                "max_response_length": 32,
            }
        )
    )
    problem = {
        "messages": messages,
        "prompts": tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False),
        "lengths": None,
        "stop": list(range(0, size, stop_every)) if stop_every else [size],
        "tokens": 32,
        "group": group,
        "mini_batch_prompts": prompts // 4,
        "timed": timed,
        "seed": 1,
        "threads": threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or None,
        "clip": [recipe.clip_ratio_low, recipe.clip_ratio_high],
        "dual_clip": recipe.clip_ratio_c,
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "adam_betas": list(recipe.adam_betas),
        "gradient_clip": recipe.gradient_clip,
        "recipe": recipe.model_dump(mode="json"),
    }
    write_json(folder / "problem.json", problem)
    return folder


def run_ours(folder: Path) -> dict[str, Any]:
    """Run our steps on the problem in a folder; see our_step.py."""
    run([sys.executable, str(ROOT / "bench/our_step.py"), str(folder)])
    return read_json(folder / "ours.json")


def run_trl(folder: Path) -> dict[str, Any]:
    """Run TRL's steps on the problem in a folder; see trl_step.py.

    Raises UserError if TRL is not installed.
    """
    python = ROOT / ".venv-trl/bin/python"
    if not python.is_file():
        raise UserError("TRL is not installed (`make .venv-trl/.ready`)")
    run([str(python), str(ROOT / "bench/trl_step.py"), str(folder)])
    return read_json(folder / "trl.json")


def run(command: list[str]) -> None:
    """Run one side to its end.

    Raises UserError with the last line of its output if it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{Path(command[1]).name}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")


def side(made: dict[str, Any], by_the_clock: bool) -> Timed:
    """The median step of one side, and its peak memory."""
    return Timed(made["steps"], statistics.median(made["elapsed" if by_the_clock else "seconds"]), max(made["memory"]))


def agree(folder: Path, ours: list[dict], theirs: list[dict]) -> bool:
    """True if both sampled as many tokens in as many updates, and our update on TRL's first batch equals TRL's."""
    counts = [(step["tokens"], step["updates"]) for step in ours]
    peers = [
        (sum(len(x) for part in step["mini_batches"] for x in part["completions"]), len(step["mini_batches"]))
        for step in theirs
    ]
    difference, norms = replay(folder, theirs[0])
    return counts == peers and difference < TOLERANCE and norms < NORM_TOLERANCE


def replay(folder: Path, step: dict) -> tuple[float, float]:
    """Train on TRL's batch with TRL's settings, and compare with its result.

    Returns:
        the distance of our weights from TRL's over the length of TRL's movement, and the relative difference of the
        mean gradient norm.
    """
    import torch
    from our_step import Engine
    from safetensors.torch import load_file

    engine, parts = Engine(folder), step["mini_batches"]
    before = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    tokens = [sum(map(len, part["completions"])) for part in parts]
    # Our loss is divided by a mini-batch's own tokens, TRL's by the mean of all mini-batches.
    scales = [count * len(parts) / sum(tokens) for count in tokens]
    advantages = [x * scale for part, scale in zip(parts, scales, strict=True) for x in part["advantages"]]
    batch = engine_batch(engine, parts, torch.tensor(advantages))
    engine.trainer.optimizer = engine.optimizer = trl_optimizer(engine)
    norm = engine.trainer.train_step(batch)["grad_norm"]
    theirs = load_file(folder / "trl.safetensors")
    moved = [(theirs[name] - before[name], p.detach() - before[name]) for name, p in engine.model.named_parameters()]
    distance = sum(float((a - b).double().square().sum()) for a, b in moved) ** 0.5
    length = sum(float(a.double().square().sum()) for a, _ in moved) ** 0.5
    wanted = statistics.mean(step["grad_norms"])
    return distance / length, abs(norm - wanted) / wanted


def engine_batch(engine, parts: list[dict], advantages):
    """Concatenate TRL's mini-batches to a batch of the engine."""
    from justrl.training.reference.step import RolloutBatch

    group = engine.problem["group"]
    prompts, completions = ([row for part in parts for row in part[name]] for name in ("prompts", "completions"))
    advantages = advantages.view(-1, group)
    return RolloutBatch(prompts, completions, advantages, advantages=advantages)


def trl_optimizer(engine):
    """AdamW with TRL's settings: no weight decay for biases and norms."""
    import torch

    plain = [p for p in engine.model.parameters() if p.ndim < 2]
    decayed = [p for p in engine.model.parameters() if p.ndim >= 2]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    recipe = engine.recipe
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=recipe.adam_betas, weight_decay=recipe.weight_decay, fused=True
    )
