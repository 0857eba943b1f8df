"""Trains a tiny model by the reference engine's command line, in processes that can be killed for real.

Processes are forked from a server that has torch and transformers imported already, so that each costs a second and not
ten. `kill_at` makes one send itself SIGKILL when it is about to call a function for the n-th time.
"""

import importlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pyarrow import parquet

from justrl.io import read_jsonl, write_json
from justrl.training.segment import TIMING_FIELDS
from tiny_model import MADE_HERE

STEPS = 8
RECIPE = {
    "algorithm": "grpo",
    "advantage_epsilon": 1e-6,
    "kl_coefficient": 0.0,
    "entropy_coefficient": 0.0,
    "prompts_per_step": 8,
    "rollouts_per_prompt": 4,
    "mini_batch_prompts": 4,
    "micro_batch_per_gpu": 8,
    "clip_ratio_low": 0.2,
    "clip_ratio_high": 0.28,
    "clip_ratio_c": 10.0,
    "loss_aggregation": "token-mean",
    "learning_rate": 1e-3,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "adam_betas": [0.9, 0.999],
    "gradient_clip": 1.0,
    "max_prompt_length": 32,
    "max_response_length": 24,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "reward": "paper",
    # A model this small gets few sums right; the length penalty gives it something to learn from in every group.
    "overlong_penalty": {"enabled": True, "buffer": 24, "factor": 1.0},
    "prompt_suffix": "Please reason step by step, and put your final answer within \\boxed{}.",
    "prompt_separator": "\n\n",
    "dtype": "float32",
    "gradient_checkpointing": False,
}
WARM_START = {
    "family": "deepseek",
    "context_length": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "layers": 2,
    "heads": 2,
    "key_value_heads": 1,
    "steps": 80,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "digits": 1,
    "harder_share": 0.3,
    "wrong_share": 0.5,
    "slip_share": 0.0,
}

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["reference_run", "justrl.training.reference.loop", "torch.utils.tensorboard", "transformers.models.qwen2"]
)


def make_materials(folder: Path, **settings) -> Path:
    """Write a warm-started model (`settings` over its own), training data and a run file; return the folder."""
    from justrl.cli.main import main as justrl

    described = ["--settings", json.dumps(WARM_START | settings)]
    justrl(["data", "warm-start", *described, "--seed", "5", "--threads", "1", "--output", str(folder / "base")])
    # 20 questions and 8 a step: epochs end in mid-step.
    data = ["--rows", "20", "--digits", "1", "--seed", "5", "--output", str(folder / "train.parquet")]
    justrl(["data", "arithmetic", "train", "--formatted", *data])
    write_json(folder / "run.json", MADE_HERE | {"run": "tiny", "engine": "reference", "seed": 11, "recipe": RECIPE})
    return folder


@dataclass(frozen=True)
class Run:
    """One training: where its materials are, and where its results go."""

    materials: Path
    folder: Path

    def arguments(self, start: int = 0, to: int = STEPS, *more: str) -> list[str]:
        """The command line of a segment."""
        return [
            "segment",
            *("--run-file", str(self.materials / "run.json")),
            *("--model", str(self.materials / "base")),
            *("--data", str(self.materials / "train.parquet")),
            *("--start-step", str(start), "--to-step", str(to)),
            *("--work-dir", str(self.work)),
            *("--model-out", str(self.model(to)), "--metrics-out", str(self.metrics_file(to))),
            *("--threads", "1", "--device", "cpu", "--save-every", "2", "--log-every", "1"),
            *more,
        ]

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def model(self, to: int = STEPS) -> Path:
        return self.folder / str(to) / "model"

    def metrics_file(self, to: int = STEPS) -> Path:
        return self.folder / str(to) / "metrics.jsonl"

    @property
    def output(self) -> str:
        """All that the processes of this run have printed."""
        path = self.folder / "output.txt"
        return path.read_text() if path.exists() else ""

    def weights(self, to: int = STEPS) -> bytes:
        return (self.model(to) / "model.safetensors").read_bytes()

    def metrics(self, to: int = STEPS) -> list[dict]:
        """The published metrics, without what depends on the clock."""
        return [{k: v for k, v in row.items() if k not in TIMING_FIELDS} for row in read_jsonl(self.metrics_file(to))]

    def rollouts(self, to: int = STEPS) -> list[dict]:
        """The published rollouts; no file, no rollouts."""
        path = self.metrics_file(to).with_name("rollouts.parquet")
        return parquet.read_table(path).to_pylist() if path.exists() else []

    def start(self, *arguments: str, kill_at: tuple[str, int] | None = None, **limits):
        """Start a process; see `_child` for what `limits` can be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        process = FORK.Process(
            target=_child, args=(list(arguments) or self.arguments(), str(self.folder / "output.txt"), kill_at, limits)
        )
        process.start()
        return process

    def finish(self, *arguments: str, **options) -> int:
        """Run a process to its end and return its exit status, negative for a signal."""
        process = self.start(*arguments, **options)
        process.join()
        return process.exitcode


def _child(
    arguments: list[str],
    output: str,
    kill_at: tuple[str, int] | None,
    limits: dict,
) -> None:
    """Run `justrl train` in this process.

    Args:
        kill_at: ("module:name", n): SIGKILL before the n-th call of that function.
        limits: hang_at (the n-th step's rollouts never end), stop_at (SIGSTOP before the n-th step's), file_bytes (no
            file may grow longer), nan_reward_at (the n-th batch's rewards are not a number), sampler_fault
            (temperature, stops or stale: the sampler's are others than the trainer's).
    """
    from justrl.cli.main import console

    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    if kill_at:
        _before_call(*kill_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if "hang_at" in limits:
        _before_call(
            "justrl.training.reference.rollout:TransformersRollouts.generate",
            limits["hang_at"],
            lambda: time.sleep(6000),
        )
    if "stop_at" in limits:
        rollouts = "justrl.training.reference.rollout:TransformersRollouts.generate"
        _before_call(rollouts, limits["stop_at"], lambda: os.kill(os.getpid(), signal.SIGSTOP))
    if "file_bytes" in limits:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"], limits["file_bytes"]))
    if "nan_reward_at" in limits:
        from justrl.verifiers.rewards import ExactReward as Reward
        from justrl.verifiers.rewards import Mark

        batches, real = iter(range(10**9)), Reward.mark

        def mark(reward, pairs):
            marks = real(reward, pairs)
            return [Mark(float("nan"))] * len(marks) if next(batches) >= limits["nan_reward_at"] else marks

        Reward.mark = mark
    if "sampler_fault" in limits:
        _put_in_fault(limits["sampler_fault"])
    sys.argv = ["justrl", "train", *arguments]
    console()


def _put_in_fault(fault: str) -> None:
    """Make the sampler another than what is trained."""
    import copy
    from dataclasses import replace

    from justrl.training.reference import loop

    class Sampler(loop.TransformersRollouts):
        def __init__(self, model, tokenizer, sampling, **options):
            changed = {"temperature": {"temperature": 1.5}, "stops": {"stop_token_ids": (0,)}, "stale": {}}[fault]
            model = copy.deepcopy(model) if fault == "stale" else model
            super().__init__(model, tokenizer, replace(sampling, **changed), **options)

    loop.TransformersRollouts = Sampler


def _before_call(target: str, count: int, action) -> None:
    """Make `action` happen before the `count`-th call of "module:name" or "module:class.name"."""
    module_name, _, path = target.partition(":")
    holder = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    real, calls = getattr(holder, name), [0]

    def wrapper(*args, **kwargs):
        calls[0] += 1
        if calls[0] == count:
            action()
        return real(*args, **kwargs)

    setattr(holder, name, wrapper)
