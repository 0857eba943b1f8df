"""Faults for verl's processes, which load this module: `VERL_USE_EXTERNAL_MODULES=verl_faults`.

JUSTRL_TEST_FAULTS names them, separated by commas.
    Syncs of weights to the sampler, from the second on: `stale` (none arrives), `half` (every other tensor does),
    `behind` (those of the sync before do).
    Sampling: `stops` (the sampler gets no stop token, so that it knows what vLLM finds by itself), `temperature` (it
    draws at another one than the trainer reckons with).
"""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "slurm"))

from when_imported import WhenImported

FAULTS = os.environ.get("JUSTRL_TEST_FAULTS", "").split(",")
SYNC = next((fault for fault in FAULTS if fault in ("stale", "half", "behind")), None)


def _sync(module) -> None:
    """Break each sync but the first, which brings the weights that a sampler starts with."""
    extension, syncs, before = module.vLLMColocateWorkerExtension, [], {}
    receive, load = extension.update_weights_from_ipc, extension._update_weights

    def update_weights_from_ipc(self, *args, **kwargs):
        syncs.append(1)
        return receive(self, *args, **kwargs)

    def _update_weights(self, weights, *args, **kwargs):
        late = [(name, before.get(name, tensor)) for name, tensor in weights]
        # The sender uses the memory of these tensors again.
        before.update((name, tensor.clone()) for name, tensor in weights)
        if len(syncs) > 1:
            weights = {"stale": [], "half": weights[::2], "behind": late}[SYNC]
        return load(self, weights, *args, **kwargs) if weights else None

    extension.update_weights_from_ipc, extension._update_weights = update_weights_from_ipc, _update_weights


def _sampling(module) -> None:
    run = module.AgentLoopWorker._run_agent_loop

    async def _run_agent_loop(self, sampling_params, *args, **kwargs):
        if "stops" in FAULTS:
            sampling_params = {key: value for key, value in sampling_params.items() if key != "stop_token_ids"}
        if "temperature" in FAULTS:
            sampling_params = {**sampling_params, "temperature": 1.5}
        return await run(self, sampling_params, *args, **kwargs)

    module.AgentLoopWorker._run_agent_loop = _run_agent_loop


if SYNC:
    sys.meta_path.insert(0, WhenImported("verl.workers.rollout.vllm_rollout.utils", _sync))
sys.meta_path.insert(0, WhenImported("verl.experimental.agent_loop.agent_loop", _sampling))
