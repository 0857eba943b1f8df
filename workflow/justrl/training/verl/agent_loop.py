"""Agent-loop workers for verl 0.9.1 with prompts and stop tokens of the tokenizer; the configuration names the manager.

1. The prompt builder fits the tokenizer. verl 0.9.1 uses its Qwen prompt builder for every model of type qwen2, and
   that builder needs `<|im_end|>`. DeepSeek's R1 distillations are of type qwen2 but have no such token: every rollout
   would fail at its start (verl#7637, fixed after 0.9.1).
2. The workers stop at all stop tokens of the model. verl leaves it to vLLM to stop an answer, and vLLM knows only the
   tokenizer's end token and generation_config.json. An answer that ends its turn with another token
   (`models.sampling.stop_tokens_by_source`) would run to the length limit.
"""

from typing import Any

import ray
from verl.experimental.agent_loop.agent_loop import AgentLoopBase
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from justrl.models.sampling import END_OF_TURN, stop_token_ids

DEEPSEEK_END = "<｜end▁of▁sentence｜>"


def builder_model_type(model_type: str | None, vocabulary: dict[str, int]) -> str | None:
    """Return the model type that makes verl choose a builder for this tokenizer; None for its generic builder."""
    if model_type != "qwen2" or END_OF_TURN in vocabulary:
        return model_type
    return "deepseek_v3" if DEEPSEEK_END in vocabulary else None


def refuse_longer(loop: AgentLoopBase, prompt: list[int]) -> list[int]:
    """Return the prompt if it is within the recipe's length; verl would silently cut off its beginning.

    Raises ValueError: it is longer; the step then lacks its rollouts, which stops the training.
    """
    if len(prompt) > (limit := loop.rollout_config.prompt_length):
        raise ValueError(
            f"a prompt of the training data has {len(prompt)} tokens, recipe.max_prompt_length is "
            f"{limit}: prepare the data again with this model and length"
        )
    return prompt


class _Worker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):  # the class under Ray's actor
    hf_model_type: str | None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        AgentLoopBase._cap_text_prompt_length = refuse_longer
        self.hf_model_type = builder_model_type(self.hf_model_type, self.tokenizer.get_vocab())
        self._stops = list(stop_token_ids(self.config.actor_rollout_ref.model.path, self.tokenizer))

    async def _run_agent_loop(self, sampling_params: dict[str, Any], *args, **kwargs):
        return await super()._run_agent_loop({**sampling_params, "stop_token_ids": self._stops}, *args, **kwargs)


class AgentLoopManager(AgentLoopManagerTQ):
    """verl's manager, with the workers above."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(_Worker)
