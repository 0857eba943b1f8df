"""verl's agent-loop workers with prompts built by what the tokenizer has, and answers that end at every stop token.

verl 0.9.1 takes its Qwen prompt builder for every model of type qwen2, and that one needs `<|im_end|>`. DeepSeek's R1
distillations are of type qwen2 and have no such token: each rollout would fail before it starts (verl#7637, mended
after 0.9.1).

It leaves it to vLLM where an answer ends, which knows the tokenizer's end and generation_config.json alone: an answer
that ends its turn in another way (`generation.base.stop_tokens_by_source`) would run on to the limit.

`actor_rollout_ref.rollout.agent.agent_loop_manager_class` names the manager below.
"""

from typing import Any

import ray
from verl.experimental.agent_loop.agent_loop import AgentLoopBase
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from justrl.generation.base import END_OF_TURN, stop_token_ids

DEEPSEEK_END = "<｜end▁of▁sentence｜>"


def builder_model_type(model_type: str | None, vocabulary: dict[str, int]) -> str | None:
    """The model type by which verl chooses a builder that the tokenizer can serve; None for its generic one."""
    if model_type != "qwen2" or END_OF_TURN in vocabulary:
        return model_type
    return "deepseek_v3" if DEEPSEEK_END in vocabulary else None


def refuse_longer(loop: AgentLoopBase, prompt: list[int]) -> list[int]:
    """The prompt, if it is no longer than the recipe says; verl would cut off its beginning and go on.

    Raises ValueError: it is longer; the step then lacks its rollouts, and ends the training.
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
    """verl's manager, which starts these workers."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(_Worker)
