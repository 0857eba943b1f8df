"""What a step's time depends on, for the accelerators people have."""

import difflib
from dataclasses import dataclass

from justrl.errors import UserError


@dataclass(frozen=True)
class Gpu:
    """Published figures of one accelerator: dense bfloat16 TFLOP/s, memory bandwidth in GB/s, memory in GB."""

    name: str
    tflops: float
    bandwidth: float
    memory: float


# The makers' data sheets: dense bfloat16 with float32 accumulation, not the figures with sparsity.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A800-80GB", 312, 2039, 80),
        Gpu("A100-80GB", 312, 2039, 80),
        Gpu("A100-40GB", 312, 1555, 40),
        Gpu("H100", 989, 3352, 80),
        Gpu("H800", 989, 3352, 80),
        Gpu("H200", 989, 4800, 141),
        Gpu("H20", 148, 4000, 96),
        Gpu("B200", 2250, 8000, 180),
        Gpu("L40S", 362, 864, 48),
        Gpu("RTX-4090", 165, 1008, 24),
    )
}
# The paper's own (section 3): every estimate starts from what it cost there.
PAPER_GPU = GPUS["A800-80GB"]


def find_gpu(name: str) -> Gpu:
    """Return the accelerator of that name; case, spaces and the memory size may be left out (`a800`, `h100-80gb`).

    Raises:
        UserError: no such accelerator in the table.
    """
    wanted = _simplify(name)
    for gpu in GPUS.values():
        if wanted == _simplify(gpu.name):
            return gpu
    for gpu in GPUS.values():
        if wanted.split("-")[0] == _simplify(gpu.name).split("-")[0]:
            return gpu
    close = difflib.get_close_matches(wanted, [_simplify(known) for known in GPUS], n=1)
    guess = f"did you mean {close[0].upper()}?" if close else f"known: {', '.join(GPUS)}"
    raise UserError(f"no figures for the GPU {name}: {guess} Or give your own timings with --measured metrics.jsonl")


def _simplify(name: str) -> str:
    return name.strip().lower().replace(" ", "-").replace("_", "-").removeprefix("nvidia-")
