"""The sockets through which a rank of the trainer hands its weights to its vLLM, in the folder of this attempt alone.

verl 0.9.1 names them by the job's number in its Ray cluster, in /tmp. Each of our trainings has a cluster to itself, in
which it is the first job, so that two on one node would have the same names: one would load the other's weights, or
both would wait without end.
"""

import tempfile

from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

VERLS_PLACE = "ipc:///tmp/"


def in_scratch(handle: str) -> str:
    """Where verl's socket `handle` lies in the temporary folder that the attempt's guard has made on this node.

    Raises ValueError: verl has named it in another way.
    """
    if not handle.startswith(VERLS_PLACE):
        raise ValueError(f"verl names the socket of its weights {handle}, no longer {VERLS_PLACE}...")
    return f"ipc://{tempfile.gettempdir()}/{handle.removeprefix(VERLS_PLACE)}"


class Sender(ServerAdapter):
    """verl's side of the trainer; `plugin` puts it into verl's registry."""

    zmq_handle: str

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.zmq_handle = in_scratch(self.zmq_handle)


class Receiver(vLLMColocateWorkerExtension):
    """verl's extension of vLLM's worker, which the resolved configuration names."""

    def _get_zmq_handle(self) -> str:
        return in_scratch(super()._get_zmq_handle())
