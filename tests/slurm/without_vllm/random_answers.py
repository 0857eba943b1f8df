"""Answers drawn at random, in place of vLLM's."""

import random

from transformers import AutoTokenizer
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput


class RandomAnswers(LLMServerClient):
    """Answers every question with a number from 0 to 9, in a box."""

    def __init__(self, config):
        super().__init__(config)
        tokenizer = AutoTokenizer.from_pretrained(config.actor_rollout_ref.model.path)
        boxes = [f"\\boxed{{{number}}}" for number in range(10)]
        self.answers = [[*tokenizer.encode(box, add_special_tokens=False), tokenizer.eos_token_id] for box in boxes]

    async def generate(self, request_id, *, prompt_ids, sampling_params, **_):
        answer = random.choice(self.answers)
        return TokenOutput(
            token_ids=answer,
            log_probs=[-1.0] * len(answer),
            stop_reason="completed",
            # The steps whose weights answered, which verl's metrics want.
            extra_fields={"min_global_steps": 0, "max_global_steps": 0},
        )
