"""Sockets through which a rank of the trainer sends its weights to its vLLM, in a folder of this attempt only.

verl 0.9.1 puts them in /tmp and names them by the job's number in its Ray cluster. Each of our trainings has its own
cluster, in which it is the first job, so two trainings on one node would use the same names. One would then load the
other's weights, or both would wait forever.
"""

import tempfile

from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

VERLS_PLACE = "ipc:///tmp/"


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
