"""Tokenized training questions in an order that is a function of the seed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from justrl.errors import UserError


@dataclass(frozen=True)
class Question:
    """A prompt as token ids, and the answer it is checked against."""

    prompt: list[int]
    gold: str


def load_questions(path: Path, tokenizer, max_prompt_length: int) -> list[Question]:
    """Read a training Parquet file (verl's schema) and put every prompt through the model's chat template.

    Raises UserError: a column is missing, the file is empty, or a prompt is longer than `max_prompt_length` tokens.
    """
    import pyarrow.parquet as pq

    missing = {"prompt", "reward_model"} - set(pq.read_schema(path).names)
    if missing:
        raise UserError(f"{path}: no column {' or '.join(sorted(missing))}; write it with `justrl data prepare`")
    rows = pq.read_table(path, columns=["prompt", "reward_model"]).to_pylist()
    if not rows:
        raise UserError(f"{path}: no rows to train on")
    messages = [row["prompt"] for row in rows]
    prompts = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    for index, prompt in enumerate(prompts):
        if len(prompt) > max_prompt_length:
            raise UserError(
                f"{path}: row {index} has {len(prompt)} prompt tokens, recipe.max_prompt_length is "
                f"{max_prompt_length}: prepare the data again for this model and length"
            )
    return [Question(prompt, row["reward_model"]["ground_truth"]) for prompt, row in zip(prompts, rows, strict=True)]


def step_questions(step: int, prompts_per_step: int, questions: int, seed: int) -> list[int]:
    """List the questions of a step (counted from 1), by index.

    Every epoch is a shuffle of its own; the steps go through one after the other without a gap, so a step may take the
    end of one epoch and the beginning of the next. A function of its arguments alone: there is no position to lose.
    """
    chosen: list[int] = []
    position = (step - 1) * prompts_per_step
    while len(chosen) < prompts_per_step:
        epoch, offset = divmod(position + len(chosen), questions)
        order = np.random.default_rng([seed, epoch]).permutation(questions)
        chosen += order[offset : offset + prompts_per_step - len(chosen)].tolist()
    return chosen
