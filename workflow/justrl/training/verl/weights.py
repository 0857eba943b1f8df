"""The way of the weights from a rank of the trainer to its vLLM; the resolved configuration names the classes.

1. `Sender`, `Receiver`: the weights go through a socket in a folder of this attempt only. verl 0.9.1 puts the sockets
   in /tmp and names them by the job's number in its Ray cluster. Each of our trainings has its own cluster, in which it
   is the first job, so two trainings on one node would use the same names. One would then load the other's weights, or
   both would wait forever.
2. `WeightKeepingExtension`, on a CPU: vLLM's CPU backend packs the weight of each linear layer for oneDNN and drops the
   original, so that verl cannot send it a new one. This worker keeps the original.
"""

import tempfile

from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

VERLS_PLACE = "ipc:///tmp/"
# Marks the function of vLLM that was already replaced.
KEPT = "justrl_keeps_weights"


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
