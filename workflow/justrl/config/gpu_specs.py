"""GPU specifications: memory, memory bandwidth and peak performance, for memory plans and cost estimates."""

import re
from dataclasses import dataclass
from functools import cache

from justrl.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """One GPU: dense bfloat16 TFLOP/s, memory bandwidth in GB/s, and memory in GiB as CUDA reports it."""

    name: str
    tflops: float
    bandwidth: float
    memory: float


# From the makers' data sheets: dense bfloat16 with float32 accumulation, without sparsity. CUDA reports 1-2% less
# memory than the name says, or 7% less if error correction uses a part of it.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A800-80GB", 312, 2039, 79.2),
        Gpu("A100-80GB", 312, 2039, 79.2),
        Gpu("A100-40GB", 312, 1555, 39.4),
        Gpu("H100", 989, 3352, 79.1),
        Gpu("H800", 989, 3352, 79.1),
        Gpu("H200", 989, 4800, 139.7),
        Gpu("H20", 148, 4000, 95.1),
        Gpu("B200", 2250, 8000, 178.4),
        Gpu("L40S", 362, 864, 44.4),
        Gpu("A40", 150, 696, 44.4),
        Gpu("RTX-A6000", 155, 768, 47.4),
        Gpu("RTX-4090", 165, 1008, 23.6),
    )
}
# Words in a driver's or a shop's name that do not distinguish rows of the table.
_FILLING = {"nvidia", "geforce", "sxm", "sxm4", "sxm5", "hbm3", "hbm3e"}


@cache
def find_gpu(name: str) -> Gpu:
    """Return the GPU with that name, written as people and drivers do (`a800`, `NVIDIA H100 80GB HBM3`).

    A similar GPU is never returned: another model or memory size has other specifications.

    Raises:
        UserError: no GPU in the table has that name, or more than one.
    """
    family, size = _identify(name)
    found = [gpu for gpu in GPUS.values() if _identify(gpu.name)[0] == family]
    if size:
        # The gigabytes in the name are up to 7% more than the usable memory.
        found = [gpu for gpu in found if abs(gpu.memory / size - 1) < 0.08]
    if len(found) == 1:
        return found[0]
    which = f"it is {' or '.join(gpu.name for gpu in found)}" if found else f"known: {', '.join(GPUS)}"
    raise UserError(
        f"no figures for the GPU {name}: {which}. For another kind set hardware.gpu_figures: "
        "{memory: GiB, bandwidth: GB/s, tflops: dense bfloat16}"
    )


def same_kind(one: str, other: str) -> bool:
    """Return whether two names mean the same kind of GPU, and memory size if both give it; PCIe is ignored."""
    (family, size), (its, gb) = _identify(one), _identify(other)
    return family.removesuffix("-pcie") == its.removesuffix("-pcie") and (None in (size, gb) or size == gb)


@cache
def _identify(name: str) -> tuple[str, int | None]:
    """Split a name into family and memory size in GB; None if it has no size."""
    words = [word for word in re.split(r"[\s_-]+", name.strip().lower()) if word not in _FILLING]
    sizes = [word for word in words if re.fullmatch(r"\d+gb", word)]
    return "-".join(word for word in words if word not in sizes), int(sizes[0][:-2]) if sizes else None
