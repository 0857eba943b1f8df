"""vLLM's CPU worker for verl, with weights that can be replaced.

vLLM's CPU backend packs the weight of each linear layer for oneDNN and drops the original, so that verl cannot send it
a new one. The class below, which the resolved configuration sets as the worker's extension, keeps the original.
"""

from justrl.training.verl.weight_sockets import Receiver

# Marks the function that was already replaced.
KEPT = "justrl_keeps_weights"


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
