"""Tokenized training questions, in an order that is a function of the seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from justrl.errors import UserError
from justrl.training.reward import question_row


@dataclass(frozen=True)
class Question:
    """A prompt as token ids, the reference answer, and the data row for custom reward functions."""

    prompt: list[int]
    gold: str
    row: Mapping[str, Any] = field(default_factory=dict)


def load_questions(path: Path, tokenizer, max_prompt_length: int) -> list[Question]:
    """Read a training Parquet file (verl's schema) and apply the model's chat template to every prompt.

    Raises UserError: a column is missing, the file is empty, or a prompt is longer than `max_prompt_length` tokens.
    """
    import pyarrow.parquet as pq

    names = set(pq.read_schema(path).names)
    missing = {"prompt", "reward_model"} - names
    if missing:
        raise UserError(f"{path}: no column {' or '.join(sorted(missing))}; write it with `justrl data prepare`")
    wanted = ["prompt", "reward_model", *sorted(names & {"data_source", "extra_info"})]
    rows = pq.read_table(path, columns=wanted).to_pylist()
    if not rows:
        raise UserError(f"{path}: no rows to train on")
    messages = [row["prompt"] for row in rows]
    prompts = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    for index, prompt in enumerate(prompts):
        if len(prompt) > max_prompt_length:
            raise UserError(
                f"{path}: row {index} has {len(prompt)} prompt tokens, recipe.max_prompt_length is "
                f"{max_prompt_length}: prepare the data again with this model and length"
            )
    return [
        Question(
            prompt, row["reward_model"]["ground_truth"], question_row(row.get("data_source"), row.get("extra_info"))
        )
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def step_questions(step: int, prompts_per_step: int, questions: int, seed: int) -> list[int]:
    """Return the indices of the questions of a step (counted from 1).

    Every epoch has its own permutation. Steps go through the epochs without a gap, so a step may take the end of one
    epoch and the beginning of the next. The result depends only on the arguments, so there is no position to save.
    """
    chosen: list[int] = []
    position = (step - 1) * prompts_per_step
    while len(chosen) < prompts_per_step:
        epoch, offset = divmod(position + len(chosen), questions)
        order = np.random.default_rng([seed, epoch]).permutation(questions)
        chosen += order[offset : offset + prompts_per_step - len(chosen)].tolist()
    return chosen
