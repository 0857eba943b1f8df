"""The parts of an experiment as types: hardware with the figures of known GPUs, and the assumptions of the plan."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

from pydantic import Field

from justrl.config.schema import LEAST_HANG_MINUTES, Count, Name, Number, Part, Positive, Switch, text
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


class ShapeFigures(Part):
    """Sizes of a model that is neither downloaded nor known, named as in its config.json."""

    num_hidden_layers: Positive = text("Number of layers.")
    hidden_size: Positive = text("Hidden size.")
    intermediate_size: Positive = text("Hidden size of the feed-forward layers.")
    num_attention_heads: Positive = text("Number of attention heads.")
    num_key_value_heads: Positive = text("Number of key-value heads.")
    vocab_size: Positive = text("Vocabulary size (rows of the embedding).")
    head_dim: Positive | None = text("Size of a head; null: hidden size divided by the number of heads.", default=None)
    tie_word_embeddings: Switch = text("Input and output embeddings share their weights.", default=False)


class Plan(Part):
    """Assumptions of the plan where nothing was measured; they change requested resources, never results."""

    shapes: dict[Name, ShapeFigures] = text(
        "Sizes of models that the plan does not know, by model.", default_factory=dict
    )
    answer_tokens: dict[Name, Positive] = text(
        "Mean tokens of an answer before truncation, by model (default, as in the paper: 7,500 at the "
        "start, falling to "
        "5,000 by step 1,000).",
        default_factory=dict,
    )


class GpuFigures(Part):
    """Specifications of a GPU that the plan does not know."""

    memory: Number = text("Memory in GiB.", gt=0)
    bandwidth: Number = text("Memory bandwidth in GB/s.", gt=0)
    tflops: Number = text("Peak performance in dense bfloat16, TFLOP/s.", gt=0)


class EngineSettings(Part):
    """Memory and speed settings of the verl engine; null: derived from GPU memory, number of GPUs and model."""

    gpu_memory_utilization: Annotated[Number, Field(gt=0, le=1)] | None = text(
        "Share of each GPU's memory that vLLM uses.", default=None
    )
    max_tokens_per_gpu: Positive | None = text(
        "Tokens per micro-batch, in the update and in the log-probabilities.", default=None
    )
    offload_parameters: Switch | None = text(
        "Offload the trainer's weights to CPU memory while they are not used.", default=None
    )
    offload_optimizer: Switch | None = text(
        "Offload Adam's moments to CPU memory while they are not used.", default=None
    )
    fused_kernels: Switch | None = text(
        "Use fused kernels, which never store the logits (default: false, see verl#2656).", default=None
    )
    cuda_graphs: Switch | None = text("Use CUDA graphs in vLLM (default: true).", default=None)
    max_num_seqs: Positive | None = text("Maximum number of concurrent sequences per vLLM instance.", default=None)
    rollout_dtype: Literal["bfloat16", "float16", "float32"] | None = text(
        "Number format of rollouts (default: the recipe's; another one causes a mismatch between rollout "
        "and training).",
        default=None,
    )


class Hardware(Part):
    """Hardware of one training job and one evaluation job; it changes time, never results."""

    gpu: str = text("GPU model, from which memory and time are planned; none: no GPU.")
    gpu_figures: GpuFigures | None = text("Specifications of a GPU that the plan does not know.", default=None)
    nodes: Positive = text("Number of nodes of one training job.")
    gpus_per_node: Count = text("GPUs per node; 0: train on the CPU.")
    cpus_per_node: Positive = text("CPU cores per node of a training job.")
    memory_per_node_gb: Positive = text("Memory per node of a training job, in GB.")
    gpus_per_evaluation: Count = text("GPUs per evaluation job; 0: generate on the CPU.")
    cpus_per_evaluation: Positive = text("CPU cores per evaluation job.")
    memory_per_evaluation_gb: Positive = text("Memory per evaluation job, in GB.")
    save_every: Positive = text("Steps between saves of the full state inside a segment.")
    hang_timeout_minutes: Annotated[Number, Field(gt=0)] | None = text(
        "A training job without progress for this many minutes is stopped; null: twice the longest phase, at least 30.",
        default=None,
    )
    attention: Literal["flash_attention_2", "sdpa"] = text(
        "Attention of verl's update on GPUs; sdpa does not need flash-attn and is slower."
    )
    network_interface: Annotated[str, Field(pattern=r"^[=^]?[\w.:,-]+$")] | None = text(
        "Network interface of verl's trainer, such as ib0 or ^lo,docker0 (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME); "
        "null: NCCL and Gloo choose one.",
        default=None,
    )
    cpu_bind: Annotated[str, Field(pattern=r"^[\w:,-]+$")] | None = text(
        "How srun binds processes to cores (--cpu-bind); set none if srun cannot satisfy the bind request; null: the "
        "cluster's default.",
        default=None,
    )
    rollouts: Literal["transformers", "vllm"] = text(
        "Sampler of the reference engine: transformers (bit-reproducible) or vllm (fast).",
        default="transformers",
    )
    rollouts_kept: Count = text(
        "Number of rollouts per step that are saved for inspection; 0: none. This does not change the training.",
        default=8,
    )
    engine: EngineSettings = Field(default_factory=EngineSettings)

    @property
    def gpus(self) -> int:
        """GPUs of one training job."""
        return self.nodes * self.gpus_per_node

    @property
    def on_cpu(self) -> bool:
        """Whether there is no GPU: the same engines then run on the CPU."""
        return not self.gpus or self.gpu == "none"

    @property
    def hang_seconds(self) -> float:
        """Seconds without progress after which a job is ended; `justrl train` derives the minutes if not configured."""
        return 60 * (self.hang_timeout_minutes or LEAST_HANG_MINUTES)

    @property
    def kind(self) -> Gpu:
        """The GPU's specifications; raises UserError, which names the known kinds, for an unknown one."""
        own = self.gpu_figures
        return Gpu(self.gpu, own.tflops, own.bandwidth, own.memory) if own else find_gpu(self.gpu)
