"""The time model: seconds of a training step on verl or on the reference engine, and of an evaluation's answers.

    launches   sequential tokens x layers x seconds of a layer's kernels and the scheduler, on any GPU
    weights    sequential tokens x bytes of the matrices / bandwidth, or the products' FLOPs / peak if that is longer
    cache      sum over answers of length^2 / 2 x bytes of keys and values per token / bandwidth
    update     FLOPs of log-probabilities and update / peak + bytes moved by element-wise operations / bandwidth
    rest       sleep and wake of vLLM, weight transfer, rewards, the driver

Only cache, update, and weights limited by FLOPs shrink with the number of GPUs. The constants are fitted to figures
that others published (bench/published_steps.csv); `justrl plan --backtest` fits them without one source at a time.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

from justrl.config.gpu_specs import Gpu
from justrl.models.shape import ModelShape

# Standard deviation of the logarithm of the lengths within a step.
SIGMA = 0.7
# Sleep and wake of vLLM, weight transfer, rewards, the driver: no source reports this time separately.
REST_SECONDS = 15.0
Sampler = Literal["graphs", "eager", "transformers"]


@dataclass(frozen=True)
class Constants:
    """The fitted constants: shares of the data sheet's peaks, seconds per layer and token, memory traffic."""

    bandwidth: float  # share of the bandwidth that decoding reaches
    decoding: float  # share of the peak that matrix products reach in decoding and prefill
    training: float  # share of the peak that the trainer's matrix products reach
    traffic: float  # times that a forward pass's element-wise operations read or write an activation
    graphs: float  # seconds per layer and token in vLLM or SGLang with CUDA graphs
    eager: float  # the same without CUDA graphs
    transformers: float  # the same in transformers

    def layer(self, sampler: Sampler) -> float:
        """Seconds of one layer's kernel launches for one token."""
        return getattr(self, sampler)


# `justrl plan --backtest` prints them as fitted to all figures.
CONSTANTS = Constants(0.73, 0.34, 0.265, 26.0, 1.03e-4, 4.06e-4, 7.4e-4)
# Middle two thirds of published over predicted seconds of whole steps in the back-test: the range of an estimate.
LEAST, MOST = 0.77, 1.19


@dataclass(frozen=True)
class Lengths:
    """Tokens of a step's answers: their mean, the mean of their squares, and the longest."""

    mean: float
    square: float
    longest: float


def cut_lengths(uncut: float, limit: float) -> Lengths:
    """Log-normal lengths of mean `uncut`, truncated at a limit: longer answers end there, others are unchanged."""
    middle = math.log(uncut) - SIGMA**2 / 2
    place, normal = (math.log(limit) - middle) / SIGMA, NormalDist()
    beyond = 1 - normal.cdf(place)
    mean = uncut * normal.cdf(place - SIGMA) + limit * beyond
    square = math.exp(2 * middle + 2 * SIGMA**2) * normal.cdf(place - 2 * SIGMA) + limit**2 * beyond
    return Lengths(mean, square, limit)


@lru_cache(maxsize=4096)
def lengths_of(mean: float, longest: float) -> Lengths:
    """Log-normal lengths with this mean after truncation at the longest; all equal if the mean reaches the longest."""
    mean = max(1.0, mean)
    if mean >= 0.995 * longest:
        return Lengths(mean, mean**2, longest)
    low, high = mean / 2, 1000 * longest
    while high / low > 1.0001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if cut_lengths(middle, longest).mean < mean else (low, middle)
    return replace(cut_lengths(low, longest), mean=mean)


@dataclass(frozen=True)
class Work:
    """One step, or only its sampling or update: a part is absent if `generating` or `training` is 0.

    Args:
        responses: answers, each after a prompt of `prompt` tokens.
        generating: GPUs that sample, in groups of `tensor_parallel` with one copy of the model each.
        training: GPUs that compute log-probabilities and update.
        at_once: answers that one copy decodes in parallel.
        passes: forward passes' worth of the trainer: old log-probabilities 1, update 3, checkpointing 1, reference 1.
        micro_batches: micro-batches, each of which casts the weights and adds the gradients (the reference engine).
        rest: seconds that are neither generation nor update.
    """

    shape: ModelShape
    gpu: Gpu
    responses: float
    prompt: float
    lengths: Lengths
    sampler: Sampler = "graphs"
    generating: int = 1
    training: int = 1
    tensor_parallel: int = 1
    at_once: float = 256
    passes: float = 5
    micro_batches: float = 0
    rest: float = REST_SECONDS


@dataclass(frozen=True)
class StepTime:
    """Seconds of each term of one step; measurements correct them (`costs.calibrate`)."""

    launches: float
    weights: float
    cache: float
    update: float
    rest: float = 0.0

    @property
    def generation(self) -> float:
        """Seconds until the last answer has ended."""
        return self.launches + self.weights + self.cache

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.generation + self.update + self.rest


def step_time(work: Work, constants: Constants = CONSTANTS) -> StepTime:
    """Estimate the seconds of each term of a step."""
    launches = weights = cache = update = 0.0
    if work.generating:
        launches, weights, cache = _generation(work, constants)
    if work.training:
        update = _update(work, constants)
    return StepTime(launches, weights, cache, update, work.rest)


def _generation(work: Work, constants: Constants) -> tuple[float, float, float]:
    """Seconds of launches, of weights or matrix products, and of the cache."""
    shape, lengths = work.shape, work.lengths
    bandwidth = work.gpu.bandwidth * 1e9 * constants.bandwidth
    each = work.responses * work.tensor_parallel / work.generating
    # Answers beyond the parallel slots start when others have ended; each further round takes the mean length.
    tokens = lengths.longest + max(0, math.ceil(each / max(1.0, work.at_once)) - 1) * lengths.mean
    read = tokens * 2 * shape.multiplied / work.tensor_parallel / bandwidth
    flops = work.responses * (work.prompt + lengths.mean) * 2 * shape.multiplied
    weights = max(read, flops / (work.gpu.tflops * 1e12 * constants.decoding) / work.generating)
    held = work.responses * (lengths.square / 2 + work.prompt * lengths.mean)
    cache = held * shape.cache_bytes / bandwidth / work.generating
    launches = tokens * shape.layers * constants.graphs
    if work.sampler != "graphs":
        # The CPU launches one kernel after the other, so GPU work that overlaps with the launches costs no extra time.
        alone = tokens * shape.layers * constants.layer(work.sampler)
        launches = max(launches, alone - weights - cache)
    return launches, weights, cache


def _update(work: Work, constants: Constants) -> float:
    """Seconds of log-probabilities and update."""
    shape, lengths, prompt = work.shape, work.lengths, work.prompt
    tokens = work.responses * (prompt + lengths.mean)
    squares = work.responses * (lengths.square + 2 * prompt * lengths.mean + prompt**2)
    # A token attends to half of its sequence on average, by one product with the keys and one with the values.
    flops = 2 * shape.multiplied * tokens + 2 * shape.layers * shape.heads * shape.head_size * squares
    moved = 2 * (shape.layers * (2 * shape.width + shape.intermediate) + 2 * shape.vocabulary) * tokens
    bandwidth = work.gpu.bandwidth * 1e9 * constants.bandwidth
    seconds = work.passes * (
        flops / (work.gpu.tflops * 1e12 * constants.training) + constants.traffic * moved / bandwidth
    )
    # For each micro-batch, three passes cast the float32 weights (6 bytes each), and gradients are added (10 bytes).
    seconds += work.micro_batches * 28 * shape.parameters / bandwidth
    return seconds / work.training
