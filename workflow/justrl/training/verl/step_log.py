"""Translation of verl's log to the metrics that both engines share.

verl's file logger overwrites its file in every process, so each attempt has its own numbered file. If two attempts
trained the same step, the later one counts, because the training continued from it.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from justrl.config import Recipe
from justrl.io import read_whole_lines

# Our name -> verl's name.
NAMES = {
    "reward_mean": "critic/score/mean",
    "accuracy": "justrl/accuracy",
    "rollouts": "justrl/rollouts",
    "undecided": "justrl/undecided",
    "score_highest": "justrl/score_highest",
    "score_lowest": "justrl/score_lowest",
    "advantage_highest": "critic/advantages/max",
    "advantage_lowest": "critic/advantages/min",
    "entropy": "actor/entropy",
    "entropy_as_published": "justrl/entropy_as_published",
    "response_length_mean": "response_length/mean",
    "response_clip_ratio": "response_length/clip_ratio",
    "grad_norm": "actor/grad_norm",
    "clip_fraction": "actor/pg_clipfrac",
    "step_seconds": "timing_s/step",
    "clip_fraction_lower": "actor/pg_clipfrac_lower",
    "policy_loss": "actor/pg_loss",
    "approx_kl": "actor/ppo_kl",
    "response_length_max": "response_length/max",
    "prompt_length_mean": "prompt_length/mean",
    "staleness": "justrl/staleness",
    "rollout_probs_diff_mean": "training/rollout_probs_diff_mean",
    "rollout_seconds": "timing_s/gen",
    "old_log_prob_seconds": "timing_s/old_log_prob",
    "update_seconds": "timing_s/update_actor",
    "weight_sync_seconds": "timing_s/update_weights",
    "save_seconds": "timing_s/save_checkpoint",
    "memory_gb": "actor/perf/max_memory_allocated_gb",
    "epoch": "training/epoch",
}
REQUIRED = ("reward_mean", "accuracy", "entropy", "response_length_mean", "response_clip_ratio", "grad_norm",
            "clip_fraction", "step_seconds")  # fmt: skip


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate that a step (1-based) uses: verl's constant schedule after a linear warm-up from 0.

    verl logs the rate after the step, which is that of the next step.
    """
    warmup = recipe.warmup_steps
    return recipe.learning_rate * min(1.0, (step - 1) / warmup if warmup else 1.0)


def in_our_names(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return verl's metrics under our names; non-finite values are None, because JSON has no NaN."""
    return {ours: _finite(data[verls]) for ours, verls in NAMES.items() if verls in data}


def translate(line: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Translate one line of verl's log: `{"step": N, "data": {...}}` -> `{"step": N, "reward_mean": ...}`."""
    step, data = line["step"], line["data"]
    row: dict[str, Any] = {"step": step}
    row |= in_our_names(data)
    row["lr"] = learning_rate(recipe, step)
    # verl's perf/throughput is per GPU and includes prompts; ours is all processed tokens of the step per second.
    tokens, seconds = data.get("perf/total_num_tokens"), data.get("timing_s/step")
    row["tokens_per_second"] = tokens / seconds if tokens and seconds else None
    return row


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def read_attempts(folder: Path, recipe: Recipe) -> dict[int, dict[str, Any]]:
    """Return all steps logged by the attempts in `folder`, by step; lines left incomplete by a crash are skipped."""
    rows: dict[int, dict[str, Any]] = {}
    for file in sorted(folder.glob("attempt_*.jsonl")):
        rows |= {row["step"]: row for row in read_attempt(file, recipe)}
    return rows


def read_attempt(file: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the steps that one attempt logged, in order."""
    lines = [line for line in read_whole_lines(file) if all(NAMES[name] in line["data"] for name in REQUIRED)]
    return [translate(line, recipe) for line in lines]


def next_attempt(folder: Path) -> Path:
    """Return the file for the next attempt's log."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(file.stem.removeprefix("attempt_")) for file in folder.glob("attempt_*.jsonl")]
    return folder / f"attempt_{max(numbers, default=0) + 1:04d}.jsonl"
