"""GRPO steps by the reference engine, in a process like TRL's: python bench/our_step.py PROBLEM.

PROBLEM is a folder as for trl_step.py. The result is `ours.json` in it: the cost, sampled tokens and updates of each
step after the first, and the share of matrix products and attention in one more step.
"""

import sys
from pathlib import Path

import torch
from step_probe import Probe, reward

from justrl.config import Recipe, read_part
from justrl.io import read_json, write_json
from justrl.models.sampling import Completed, Sampling, SamplingRequest
from justrl.training.reference.policy import load_model, make_deterministic, make_optimizer
from justrl.training.reference.rollout import TransformersRollouts
from justrl.training.reference.step import GRPOTrainer, RolloutBatch


class Engine:
    """Policy, sampler and trainer, combined as in the training loop."""

    def __init__(self, folder: Path):
        self.problem = read_json(folder / "problem.json")
        self.recipe = read_part(Recipe, self.problem["recipe"], "the recipe")
        make_deterministic(self.problem["threads"], "cpu")
        self.model, tokenizer = load_model(folder / "model", "cpu", gradient_checkpointing=False)
        self.sampling = Sampling(1.0, 1.0, -1, self.problem["tokens"], tuple(self.problem["stop"]), log_probs=True)
        self.rollouts = TransformersRollouts(self.model, tokenizer, self.sampling)
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.trainer = GRPOTrainer(self.model, self.optimizer, self.recipe)

    def sample(self, step: int) -> list[Completed]:
        """Sample the responses, group after group; with `lengths` in the problem, each has exactly the given length."""
        group = self.problem["group"]
        slots = [(slot, sample) for slot in range(len(self.problem["prompts"])) for sample in range(group)]
        prompts = [self.problem["prompts"][slot] for slot, _ in slots]
        seeds = [(self.problem["seed"], step, slot, sample) for slot, sample in slots]
        if not self.problem["lengths"]:
            return self.rollouts.generate(prompts, seeds)
        return self.sample_lengths(prompts, seeds, self.problem["lengths"][step])

    def sample_lengths(self, prompts: list[list[int]], seeds: list, lengths: list[int]) -> list[Completed]:
        """Like `TransformersRollouts.generate`, with a given length for each row."""
        requests = [
            SamplingRequest(str(row), prompt, seed, Sampling(1.0, 1.0, -1, length, (), log_probs=True))
            for row, (prompt, seed, length) in enumerate(zip(prompts, seeds, lengths, strict=True))
        ]
        self.model.eval()
        return sorted(self.rollouts._backend.generate(requests), key=lambda answer: int(answer.id))

    def step(self, number: int) -> dict:
        """Sample, compute rewards and train."""
        answers, group = self.sample(number), self.problem["group"]
        responses = [list(answer.token_ids) for answer in answers]
        prompts = [prompt for prompt in self.problem["prompts"] for _ in range(group)]
        rewards = torch.tensor([reward(response) for response in responses]).view(-1, group)
        batch = RolloutBatch(prompts, responses, rewards, [answer.log_probs for answer in answers])
        before = self.updates()
        metrics = self.trainer.train_step(batch)
        return {"tokens": sum(map(len, responses)), "updates": self.updates() - before, "loss": metrics["policy_loss"]}

    def updates(self) -> int:
        """Number of updates by the optimizer."""
        return max((int(state["step"]) for state in self.optimizer.state.values()), default=0)


def share_of_products(engine: Engine, number: int) -> float:
    """Share of matrix products and attention, which any engine needs, in a step's processor time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        engine.step(number)
    events = seen.key_averages()
    products = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm"}
    needed = [one for one in events if one.key in products or one.key.startswith("aten::_scaled_dot_product")]
    return sum(one.self_cpu_time_total for one in needed) / sum(one.self_cpu_time_total for one in events)


def main(folder: Path) -> None:
    """Train, and save the measurements."""
    engine, probe = Engine(folder), Probe()
    steps = [engine.step(0)]
    for number in range(1, 1 + engine.problem["timed"]):
        probe.start()
        steps.append(engine.step(number))
        probe.stop()
    share = share_of_products(engine, len(steps) - 1)
    write_json(folder / "ours.json", probe.measured() | {"steps": steps, "share": share})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
