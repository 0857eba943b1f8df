"""verl without a GPU: a platform for verl's plugin interface, and patches for the two places that it does not cover.

Importing this module registers the platform "cpu", which is selected by VERL_PLATFORM=cpu and never detected
automatically. It lets the paper's complete engine run on any machine and in every test.
"""

import os
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


class _Stream:
    """A stream, or an event on one, for a device that has none."""

    def synchronize(self) -> None: ...

    def record(self, stream: Any = None) -> None: ...

    def wait_stream(self, other: Any) -> None: ...


def _device_module() -> ModuleType:
    """Return `torch.cpu` with no-op versions of the memory and stream functions that verl calls on an accelerator."""
    module = ModuleType("justrl_cpu_device")
    module.__dict__.update({name: getattr(torch.cpu, name) for name in dir(torch.cpu) if not name.startswith("__")})
    nothing = {
        "empty_cache", "reset_peak_memory_stats", "set_device", "manual_seed", "manual_seed_all", "ipc_collect",
        "set_rng_state", "set_per_process_memory_fraction",
    }  # fmt: skip
    for name in nothing:
        setattr(module, name, lambda *args, **kwargs: None)
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"):
        setattr(module, name, lambda *args, **kwargs: 0)
    vars(module).update(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_name=lambda *args: "CPU",
        mem_get_info=lambda *args: (0, 0),
        get_rng_state=lambda *args: torch.get_rng_state(),
        Stream=_Stream,
        Event=_Stream,
        current_stream=lambda *args: _Stream(),
        stream=lambda *args: nullcontext(),
    )
    return module


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    """One logical accelerator per rank; all of them are this machine's CPU."""

    device_name = vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Return False: the platform must be requested explicitly."""
        return False

    def current_device(self) -> torch.device:
        """Return the CPU as a device without index: an index would mean an accelerator."""
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def _nothing(self, *_: Any, **__: Any) -> None: ...

    set_device = synchronize = set_allocator_settings = empty_cache = profiler_start = profiler_stop = cudart = _nothing

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str):
        yield

    def ray_resource_name(self) -> str:
        """Return "GPU": Ray counts ranks by it, and `ray.init(num_gpus=...)` declares it without a real GPU."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """Return False: weights then go through shared memory."""
        return False


def _use_plain_gloo() -> None:
    """Use plain gloo: verl's "cpu:gloo,<device>:<backend>" is rejected by torch when the device is the CPU itself."""
    from verl.utils import distributed

    original = distributed.initialize_global_process_group_ray

    def initialize(timeout_second=None, backend=None):
        return original(timeout_second, backend or "gloo")

    distributed.initialize_global_process_group_ray = initialize


if os.environ.get("VERL_PLATFORM") == "cpu":
    _use_plain_gloo()
