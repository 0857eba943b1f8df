"""GPU memory of a training job on the reference engine: one process, the whole model in float32, no offloading.

These are calculated, not measured. If vLLM samples, it keeps its share of the GPU during the update, so less memory is
left than with verl, where vLLM sleeps during the update.
"""

import math
from dataclasses import dataclass

from justrl.config import Hardware, Recipe
from justrl.models.shape import ModelShape

GIB = 2**30
# GPU share of `rollout.VllmRollouts`; GiB of working memory of vLLM within that share; GiB of a CUDA context.
SHARE, VLLM_WORK, CONTEXT = 0.4, 2.0, 1.0
# Rows of float32 logits in `logprobs.chunked_log_probs`; as many rows hold their gradient.
ROWS = 768


@dataclass(frozen=True)
class ReferenceSettings:
    """The sampler, and the number of answers sampled at once."""

    rollouts: str
    at_once: int


@dataclass(frozen=True)
class ReferenceJob:
    """A training job on the reference engine, on one GPU of `card` GiB; `rollouts` is transformers or vllm."""

    shape: ModelShape
    recipe: Recipe
    card: float
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
        return max(0.0, self.card - 3.5 * self._weights - CONTEXT)

    def phases(self, _settings: ReferenceSettings | None = None) -> dict[str, dict[str, float]]:
        """Return the GiB on the GPU, by phase and by type of data."""
        shape, weights = self.shape, self._weights
        tokens = self.recipe.longest * self.recipe.micro_batch_per_gpu
        layer = tokens * (8 * shape.width + 4 * shape.intermediate) * 4 / GIB
        kept = tokens * shape.layers * shape.width * 4 / GIB + layer
        if not self.recipe.gradient_checkpointing:
            kept = shape.layers * layer
        logits = 2 * ROWS * shape.vocabulary * 4 / GIB
        held = {"weights": weights, "moments": 2 * weights, "other": CONTEXT}
        if self.rollouts == "vllm":
            held["vLLM's share"] = SHARE * self.card
        update = {"gradients": weights, "autocast": weights / 2, "activations": kept, "logits": logits}
        return {
            "update": held | update,
            # torch's AdamW temporarily makes one more copy of the parameters.
            "optimizer step": held | {"gradients": weights, "temporaries": weights},
        }

    def fullest(self, settings: ReferenceSettings) -> tuple[str, float]:
        """Return the phase that needs most GPU memory, and its GiB."""
        sums = {phase: sum(parts.values()) for phase, parts in self.phases(settings).items()}
        phase = max(sums, key=lambda name: sums[name])
        return phase, sums[phase]

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


def reference_job(hardware: Hardware, recipe: Recipe, shape: ModelShape) -> ReferenceJob | None:
    """Return the memory of a job on the reference engine, which uses one GPU whatever the node has; None on a CPU.

    Raises UserError: a kind of GPU without specifications.
    """
    if hardware.on_cpu:
        return None
    return ReferenceJob(shape, recipe, hardware.kind.memory, hardware.rollouts)
