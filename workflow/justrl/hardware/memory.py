"""GPU memory of a training job, phase by phase, and the engine settings that make each phase fit.

The numbers are calculated, not measured. For verl they are the bytes that verl 0.9.1 holds on each GPU, with FSDP2
sharding over all GPUs and vLLM asleep while the trainer computes. The phases of a step, in order: transfer of the
weights to vLLM, wake-up of its cache and rollout, old log-probabilities, updates (backward pass, optimizer step), and a
save. A save can also occur while vLLM is awake, when the job is asked to stop.

The reference engine is one process with the whole model in float32 and no offloading. If vLLM samples there, it keeps
its share of the GPU during the update, so less memory is left than with verl.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from justrl.config import EngineSettings, Hardware, Recipe
from justrl.errors import UserError
from justrl.hardware import machine
from justrl.models.shape import DEEPSEEK, ModelShape, read_shape

GIB = 2**30
# GiB: CUDA contexts of trainer and vLLM plus NCCL's buffers; memory of a sleeping vLLM; working memory of vLLM.
CONTEXT, ASLEEP, VLLM_WORK = 1.5, 0.5, 2.0
# verl's update_weights_bucket_megabytes, in GiB; and the rows of logits per entropy computation, which holds the
# logits, their softmax and the product of both, in float32.
BUCKET, ENTROPY_ROWS = 2.0, 2048
# The authors' settings, which derived settings never exceed.
MOST_UTILIZATION, TOKENS = 0.85, 32_768
# Above this share of the memory, fragmentation decides whether a job fits.
TIGHT = 0.97
MOST_GPUS = 64
BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
# Of the reference engine: GPU share of `rollout.VllmRollouts`, and GiB of a CUDA context.
SHARE, CONTEXT_ALONE = 0.4, 1.0
# Rows of float32 logits in `logprobs.chunked_log_probs`; as many rows hold their gradient.
ROWS = 768


@dataclass(frozen=True)
class Settings:
    """The engine's settings, all with values."""

    gpu_memory_utilization: float
    max_tokens_per_gpu: int
    offload_parameters: bool
    offload_optimizer: bool
    fused_kernels: bool
    rollout_dtype: str
    max_num_seqs: int = 1


@dataclass(frozen=True)
class MemoryJob:
    """The memory of a training job on either engine: model, recipe, and GiB of each GPU (`card`).

    Both engines have `settings` (derived if the configuration gives none), `phases`, `problem` and `remedy`.
    """

    shape: ModelShape
    recipe: Recipe
    card: float

    @property
    def settings(self) -> Any:
        """The engine's settings."""
        raise NotImplementedError

    def phases(self, settings: Any) -> dict[str, dict[str, float]]:
        """Return the GiB on each GPU, by phase and by type of data."""
        raise NotImplementedError

    def problem(self, settings: Any) -> str | None:
        """Return what does not fit, or None."""
        raise NotImplementedError

    def remedy(self) -> str:
        """Return what would fit."""
        raise NotImplementedError

    def fullest(self, settings: Any) -> tuple[str, float]:
        """Return the phase that needs most memory on a GPU, and its GiB."""
        sums = {phase: sum(parts.values()) for phase, parts in self.phases(settings).items()}
        phase = max(sums, key=lambda name: sums[name])
        return phase, sums[phase]


@dataclass(frozen=True)
class Job(MemoryJob):
    """A training job on verl: number of GPUs, and the configured engine settings."""

    gpus: int
    wishes: EngineSettings

    @property
    def settings(self) -> Settings:
        """The configured settings, completed with the fastest values that make every phase fit, or the last tried.

        A configured gpu_memory_utilization never causes offloading to CPU memory, because that slows every step.
        """
        few = self.recipe.longest
        chosen = self._completed(max(TOKENS, few), False)
        for tokens, offload in ((few, False), (max(TOKENS, few), True), (few, True)):
            if not self.problem(chosen):
                break
            chosen = self._completed(tokens, offload)
        share = self.wishes.gpu_memory_utilization or chosen.gpu_memory_utilization
        chosen = replace(chosen, gpu_memory_utilization=share)
        # Start all rollouts at once, with room for uneven replicas; those that the cache cannot hold would restart.
        wanted = max(256, 2 * math.ceil(self.recipe.rollouts_per_step / self.gpus))
        held = max(16, self.cache_tokens(chosen) / (few / 4))
        return replace(chosen, max_num_seqs=self.wishes.max_num_seqs or int(min(wanted, held)))

    def _completed(self, tokens: int, offload: bool) -> Settings:
        wishes = self.wishes
        offload = offload if wishes.offload_optimizer is None else wishes.offload_optimizer
        # The memory of the gradients stays free, too, because it is fragmented after they are released.
        kept = 4 * self.shape.parameters * (2 if offload else 4) / self.gpus / GIB
        share = math.floor(20 * (1 - (kept + CONTEXT + BUCKET) / self.card)) / 20
        return Settings(
            max(0.05, min(MOST_UTILIZATION, share)),
            wishes.max_tokens_per_gpu or tokens,
            bool(wishes.offload_parameters),
            offload,
            bool(wishes.fused_kernels),
            wishes.rollout_dtype or self.recipe.dtype,
        )

    def cache_gib(self, settings: Settings) -> float:
        """Return the GiB of vLLM's keys and values on one GPU."""
        weights = BYTES.get(settings.rollout_dtype, 4) * self.shape.parameters / GIB
        return settings.gpu_memory_utilization * self.card - weights - VLLM_WORK

    def cache_tokens(self, settings: Settings) -> float:
        """Return the number of tokens whose keys and values vLLM can hold on one GPU."""
        return max(0.0, self.cache_gib(settings)) * GIB / self.shape.cache_bytes

    def phases(self, settings: Settings) -> dict[str, dict[str, float]]:
        """Return the GiB on each GPU, by phase and by type of data."""
        shape, recipe, wide = self.shape, self.recipe, BYTES.get(self.recipe.dtype, 4)
        master = 4 * shape.parameters / self.gpus / GIB
        moments = 0.0 if settings.offload_optimizer else 2 * master
        held = {"weights": 0.0 if settings.offload_parameters else master, "moments": moments, "other": CONTEXT}
        copy = BYTES.get(settings.rollout_dtype, 4) * shape.parameters / GIB
        awake = {"vLLM weights": copy, "cache": self.cache_gib(settings), "vLLM's work": VLLM_WORK}
        asleep = {"weights": master, "moments": moments, "other": CONTEXT + ASLEEP}
        tokens = settings.max_tokens_per_gpu
        logits = 0.0 if settings.fused_kernels else tokens * shape.vocabulary * wide / GIB
        entropy = 0.0 if settings.fused_kernels else 3 * 4 * ENTROPY_ROWS * shape.vocabulary / GIB
        # Embeddings and two layers are unsharded at a time: weights, gradients, and the float32 sums of the gradients.
        whole = (shape.embedding + 2 * shape.layer) * wide / GIB
        layer = tokens * (8 * shape.width + 4 * shape.intermediate) * wide / GIB
        kept = tokens * shape.layers * shape.width * wide / GIB + layer
        if not recipe.gradient_checkpointing:
            kept = shape.layers * layer
        bucket = BUCKET + 4 * shape.vocabulary * shape.width / GIB
        return {
            "weight transfer": held | {"vLLM weights": copy, "other": CONTEXT + bucket},
            "rollout, vLLM awake": held | awake,
            "log-probabilities": asleep | {"logits": logits + entropy, "activations": layer + whole},
            "update": asleep | {"gradients": master, "logits": logits, "activations": kept + 4 * whole},
            "optimizer step": asleep | {"moments": 2 * master, "gradients": master, "activations": master},
            "save, vLLM awake": held | awake | {"weights": master},
        }

    def problem(self, settings: Settings) -> str | None:
        """Return what does not fit, or None."""
        longest = self.recipe.longest
        if settings.max_tokens_per_gpu < longest:
            return (
                f"max_tokens_per_gpu ({settings.max_tokens_per_gpu:,}) is less than one sequence ({longest:,} tokens)"
            )
        phase, needed = self.fullest(settings)
        if needed > self.card:
            gpus = "one GPU" if self.gpus == 1 else f"each of {self.gpus} GPUs"
            return f"{phase}: {needed:.1f} GiB on {gpus} of {self.card:.1f} GiB"
        room = self.cache_tokens(settings)
        if room < longest:
            return (
                f"vLLM's cache holds {room:,.0f} tokens at gpu_memory_utilization "
                f"{settings.gpu_memory_utilization:g}, one sequence has {longest:,}"
            )
        return None

    def remedy(self) -> str:
        """Return the setting, or else the number of GPUs, that would fit."""
        given = self.wishes.model_dump(exclude_none=True)
        for keys in [[key] for key in given] + [list(given)]:
            other = replace(self, wishes=self.wishes.model_copy(update=dict.fromkeys(keys)))
            if keys and not other.problem(found := other.settings):
                values = ", ".join(f"hardware.engine.{key}: {json.dumps(getattr(found, key, None))}" for key in keys)
                return f"{values} would fit"
        more = self.gpus * 2
        while more <= MOST_GPUS:
            if not (other := replace(self, gpus=more)).problem(other.settings):
                return f"{more} such GPUs would hold it"
            more *= 2
        return "use GPUs with more memory, a smaller model or a shorter recipe.max_response_length"


@dataclass(frozen=True)
class ReferenceSettings:
    """The sampler, and the number of answers sampled at once."""

    rollouts: str
    at_once: int


@dataclass(frozen=True)
class ReferenceJob(MemoryJob):
    """A training job on the reference engine, on one GPU; `rollouts` is transformers or vllm."""

    rollouts: str

    @property
    def settings(self) -> ReferenceSettings:
        """The sampler, and how many answers of half the maximum length fit in memory at once."""
        sequence = self.recipe.longest * self.shape.cache_bytes / GIB
        fitting = int(self._cache / (sequence / 2))
        return ReferenceSettings(self.rollouts, max(1, min(self.recipe.rollouts_per_step, fitting)))

    @property
    def _weights(self) -> float:
        return 4 * self.shape.parameters / GIB

    @property
    def _cache(self) -> float:
        """GiB of keys and values."""
        if self.rollouts == "vllm":
            return max(0.0, SHARE * self.card - self._weights / 2 - VLLM_WORK)
        # The float32 weights and moments, and the half-precision copy of the weights that autocast keeps.
        return max(0.0, self.card - 3.5 * self._weights - CONTEXT_ALONE)

    def phases(self, _settings: ReferenceSettings | None = None) -> dict[str, dict[str, float]]:
        """Return the GiB on the GPU, by phase and by type of data."""
        shape, weights = self.shape, self._weights
        tokens = self.recipe.longest * self.recipe.micro_batch_per_gpu
        layer = tokens * (8 * shape.width + 4 * shape.intermediate) * 4 / GIB
        kept = tokens * shape.layers * shape.width * 4 / GIB + layer
        if not self.recipe.gradient_checkpointing:
            kept = shape.layers * layer
        logits = 2 * ROWS * shape.vocabulary * 4 / GIB
        held = {"weights": weights, "moments": 2 * weights, "other": CONTEXT_ALONE}
        if self.rollouts == "vllm":
            held["vLLM's share"] = SHARE * self.card
        update = {"gradients": weights, "autocast": weights / 2, "activations": kept, "logits": logits}
        return {
            "update": held | update,
            # torch's AdamW temporarily makes one more copy of the parameters.
            "optimizer step": held | {"gradients": weights, "temporaries": weights},
        }

    def problem(self, settings: ReferenceSettings) -> str | None:
        """Return what does not fit, or None."""
        phase, needed = self.fullest(settings)
        if needed > self.card:
            return f"{phase}: {needed:.1f} GiB on one GPU of {self.card:.1f} GiB by the reference engine"
        sequence = self.recipe.longest * self.shape.cache_bytes / GIB
        if self._cache < sequence:
            return f"{self._cache:.1f} GiB are left for keys and values, one sequence takes {sequence:.1f}"
        return None

    def remedy(self) -> str:
        """Return what would fit."""
        alone = ReferenceJob(self.shape, self.recipe, self.card, "transformers")
        if self.rollouts == "vllm" and not alone.problem(alone.settings):
            return "hardware.rollouts: transformers would fit, and samples more slowly"
        needed = self.fullest(self.settings)[1]
        if self.rollouts == "vllm":
            needed = alone.fullest(alone.settings)[1] / (1 - SHARE)
        other = "engine: verl takes less, as it can move Adam's moments to main memory"
        return f"it takes a GPU of {math.ceil(needed)} GiB; {other}"


def job_of(hardware: Hardware, recipe: Recipe, shape: ModelShape | None, card: float | None = None) -> Job | None:
    """Return the memory of a job on GPUs with `card` GiB each (None: that of the configured kind); None on a CPU.

    A model of unknown size is assumed to be a 1.5B model.

    Raises UserError: a kind of GPU without specifications.
    """
    if hardware.on_cpu:
        return None
    return Job(shape or DEEPSEEK, recipe, card or hardware.kind.memory, hardware.gpus, hardware.engine)


def reference_job(hardware: Hardware, recipe: Recipe, shape: ModelShape) -> ReferenceJob | None:
    """Return the memory of a job on the reference engine, which uses one GPU whatever the node has; None on a CPU.

    Raises UserError: a kind of GPU without specifications.
    """
    if hardware.on_cpu:
        return None
    return ReferenceJob(shape, recipe, hardware.kind.memory, hardware.rollouts)


def memory_job(hardware: Hardware, engine: str, recipe: Recipe, shape: ModelShape) -> MemoryJob | None:
    """The memory of a training job on either engine; None on a CPU."""
    return job_of(hardware, recipe, shape) if engine == "verl" else reference_job(hardware, recipe, shape)


def settings_of(hardware: Hardware, recipe: Recipe, shape: ModelShape | None) -> Settings:
    """Return the engine's settings for a job; on a CPU, where GPU memory does not matter, default to the authors'."""
    job = job_of(hardware, recipe, shape) or Job(
        shape or DEEPSEEK, recipe, math.inf, max(1, hardware.gpus), hardware.engine
    )
    return job.settings


def transfer_mib(shape: ModelShape | None) -> int:
    """Return the MiB of shared memory for sending weights to vLLM on a CPU: the largest tensor in float32, at least 64.

    A model of unknown size is assumed to be a 1.5B model. verl sends float32 whatever precision vLLM uses.
    """
    return max(64, math.ceil(4 * (shape or DEEPSEEK).largest_tensor / 2**20))


def check_start(hardware: Hardware, recipe: Recipe, model: Path) -> None:
    """Refuse to start a training that does not fit this node's GPUs; pass without GPUs or a known model size.

    Raises UserError: names the phase, its GiB, and the setting that would fit.
    """
    shape = read_shape(model)
    if shape is None or hardware.on_cpu:
        return
    try:
        known = [device.memory / 1024 for device in machine.gpus() if device.memory]
    except machine.NoDriver:
        known = []
    job = job_of(hardware, recipe, shape, min(known, default=None))
    # verl's settings are derived from the configured kind of GPU, but they must fit the GPU that is present.
    if job and (found := job.problem(settings_of(hardware, recipe, shape))):
        fits = not job.problem(job.settings)
        remedy = f"hardware.gpu is {hardware.gpu}: set it to this GPU" if fits else job.remedy()
        raise UserError(f"GPU memory does not hold this training: {found}; {remedy}")
