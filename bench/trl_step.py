"""GRPO steps by TRL's GRPOTrainer, in its environment: python bench/trl_step.py PROBLEM.

PROBLEM is a folder with `model/` and `problem.json` (see step_rows.py). The results are written into it: `trl.json`,
with the cost of each step after the first and the mini-batches of each step; `trl.safetensors`, the weights after the
first step.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import save_file
from step_probe import Probe, reward
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def arguments(folder: Path, problem: dict) -> GRPOConfig:
    """The recipe as TRL options, with the fastest settings on a CPU (its defaults are bfloat16 and checkpointing)."""
    rows = problem["mini_batch_prompts"] * problem["group"]
    updates = len(problem["messages"]) // problem["mini_batch_prompts"]
    low, high = problem["clip"]
    beta1, beta2 = problem["adam_betas"]
    return GRPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,
        steps_per_generation=updates,
        num_iterations=1,
        num_generations=problem["group"],
        max_completion_length=problem["tokens"],
        max_steps=updates * (1 + problem["timed"]),
        temperature=1.0,
        loss_type="dapo",
        scale_rewards="group",
        beta=0.0,
        epsilon=low,
        epsilon_high=high,
        delta=problem["dual_clip"],
        learning_rate=problem["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=problem["weight_decay"],
        adam_beta1=beta1,
        adam_beta2=beta2,
        max_grad_norm=problem["gradient_clip"],
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        seed=problem["seed"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class Watch(TrainerCallback):
    """Measures from the end of one step's last update to that of the next, and saves the training data."""

    def __init__(self, folder: Path, updates: int):
        self.folder, self.updates = folder, updates
        self.trainer: GRPOTrainer
        self.probe, self.steps = Probe(), []

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Called after the last update of a step, when its log is written."""
        if state.global_step % self.updates or "grad_norm" not in (logs or {}):
            return
        if self.steps:
            self.probe.stop()
        self.keep(state)
        self.probe.start()

    def keep(self, state) -> None:
        """Save the mini-batches and gradient norms of a step, and the weights after the first step."""
        if not self.steps:
            weights = {name: p.detach().clone() for name, p in self.trainer.model.named_parameters()}
            save_file(weights, self.folder / "trl.safetensors")
        logs = state.log_history[-self.updates :]
        self.steps.append(
            {
                "mini_batches": [mini_batch(part) for part in self.trainer._buffered_inputs],
                "grad_norms": [float(log["grad_norm"]) for log in logs],
            }
        )


def mini_batch(part: dict) -> dict:
    """A mini-batch as lists without padding."""

    def rows(ids, mask):
        return [row[keep.bool()].tolist() for row, keep in zip(part[ids], part[mask], strict=True)]

    prompts, completions = rows("prompt_ids", "prompt_mask"), rows("completion_ids", "completion_mask")
    return {"prompts": prompts, "completions": completions, "advantages": part["advantages"].tolist()}


def main(folder: Path) -> None:
    """Train, and save the measurements."""
    problem = json.loads((folder / "problem.json").read_text())
    if problem["threads"]:
        torch.set_num_threads(problem["threads"])
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model.generation_config.eos_token_id = problem["stop"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    watch = Watch(folder, len(problem["messages"]) // problem["mini_batch_prompts"])
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completion_ids, **_: [reward(tokens) for tokens in completion_ids],
        args=arguments(folder, problem),
        train_dataset=Dataset.from_list([{"prompt": messages} for messages in problem["messages"]]),
        processing_class=tokenizer,
        callbacks=[watch],
    )
    # TRL adds the tokenizer's own end token, which may not be one of the problem's.
    trainer.eos_token_ids = trainer.generation_config.eos_token_id = problem["stop"]
    trainer.generation_kwargs["eos_token_id"] = problem["stop"]
    watch.trainer = trainer
    trainer.train()
    made = watch.probe.measured() | {"steps": watch.steps}
    (folder / "trl.json").write_text(json.dumps(made))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
