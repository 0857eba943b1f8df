"""Changes to classes of verl 0.9.1, each with its reason; the resolved configuration names the classes.

1. `AgentLoopManager`: agent-loop workers with a prompt builder that fits the tokenizer. verl 0.9.1 uses its Qwen prompt
   builder for every model of type qwen2, and that builder needs `<|im_end|>`. DeepSeek's R1 distillations are of type
   qwen2 but have no such token: every rollout would fail at its start (verl#7637, fixed after 0.9.1).
2. The same workers stop at all stop tokens of the model. verl leaves it to vLLM to stop an answer, and vLLM knows only
   the tokenizer's end token and generation_config.json. An answer that ends its turn with another token
   (`models.sampling.stop_tokens_by_source`) would run to the length limit.
3. `Sender`, `Receiver`: a rank of the trainer sends its weights to its vLLM through a socket in a folder of this
   attempt only. verl 0.9.1 puts the sockets in /tmp and names them by the job's number in its Ray cluster. Each of our
   trainings has its own cluster, in which it is the first job, so two trainings on one node would use the same names.
   One would then load the other's weights, or both would wait forever.
4. `WeightKeepingExtension`, on a CPU: vLLM's CPU backend packs the weight of each linear layer for oneDNN and drops the
   original, so that verl cannot send it a new one. This worker keeps the original.

`plugin` changes functions of verl in each of its processes, `cpu_platform` what a machine without a GPU lacks,
`segment_trainer` the trainers.
"""

import tempfile
from typing import Any

import ray
from verl.experimental.agent_loop.agent_loop import AgentLoopBase
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from justrl.models.sampling import END_OF_TURN, stop_token_ids

DEEPSEEK_END = "<｜end▁of▁sentence｜>"
VERLS_PLACE = "ipc:///tmp/"
# Marks the function of vLLM that was already replaced.
KEPT = "justrl_keeps_weights"


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


def in_scratch(handle: str) -> str:
    """Return the path of verl's socket `handle` in the temporary folder that the attempt's guard made on this node.

    Raises ValueError: verl's handle has another form.
    """
    if not handle.startswith(VERLS_PLACE):
        raise ValueError(f"verl names the socket of its weights {handle}, no longer {VERLS_PLACE}...")
    return f"ipc://{tempfile.gettempdir()}/{handle.removeprefix(VERLS_PLACE)}"


class Sender(ServerAdapter):
    """verl's sender in the trainer; `plugin` adds it to verl's registry."""

    zmq_handle: str

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.zmq_handle = in_scratch(self.zmq_handle)


class Receiver(vLLMColocateWorkerExtension):
    """verl's extension of vLLM's worker; the resolved configuration names it."""

    def _get_zmq_handle(self) -> str:
        return in_scratch(super()._get_zmq_handle())


def keep_linear_weights() -> None:
    """Make vLLM keep each linear layer's weight in addition to its packed copy, which each update packs again."""
    from vllm.model_executor.layers import linear
    from vllm.model_executor.layers import utils as layer_utils

    original = layer_utils.dispatch_cpu_unquantized_gemm
    if getattr(original, KEPT, False):
        return

    def dispatch(layer, remove_weight: bool):
        return original(layer, remove_weight=False)

    setattr(dispatch, KEPT, True)
    layer_utils.dispatch_cpu_unquantized_gemm = dispatch
    # The module may have imported the function by name already.
    if hasattr(linear, "dispatch_cpu_unquantized_gemm"):
        linear.dispatch_cpu_unquantized_gemm = dispatch


class WeightKeepingExtension(Receiver):
    """The worker's extension, which makes vLLM keep linear weights before any model is loaded."""

    def __new__(cls, **kwargs):
        keep_linear_weights()
        return super().__new__(cls, **kwargs)
