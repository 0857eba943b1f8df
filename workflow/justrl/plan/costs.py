"""The time model, and the cost of a step, a full state and an evaluation, each with its derivation.

Seconds of a training step on verl or on the reference engine, and of an evaluation's answers:

    launches   sequential tokens x layers x seconds of a layer's kernels and the scheduler, on any GPU
    weights    sequential tokens x bytes of the matrices / bandwidth, or the products' FLOPs / peak if that is longer
    cache      sum over answers of length^2 / 2 x bytes of keys and values per token / bandwidth
    update     FLOPs of log-probabilities and update / peak + bytes moved by element-wise operations / bandwidth
    rest       sleep and wake of vLLM, weight transfer, rewards, the driver

Only cache, update, and weights limited by FLOPs shrink with the number of GPUs. The constants are fitted to figures
that others published (bench/published_steps.csv); `justrl plan --backtest` fits them without one source at a time.
Timings of the canary or of a run correct the terms of the estimate (`calibrate`).
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Literal

from justrl.config import Hardware, Recipe
from justrl.config.hardware import Gpu
from justrl.errors import UserError
from justrl.hardware.memory import reference_job, settings_of
from justrl.io import read_jsonl
from justrl.models.shape import ModelShape

# Standard deviation of the logarithm of the lengths within a step.
SIGMA = 0.7
# Sleep and wake of vLLM, weight transfer, rewards, the driver: no source reports this time separately.
REST_SECONDS = 15.0
Sampler = Literal["graphs", "eager", "transformers"]
# Tokens of an answer before truncation: 7,000-8,000 at first, 4,000-5,000 by step 1,000 (the paper's figure on response
# length). Prompts have about 150.
FIRST_RESPONSE, LATER_RESPONSE, SETTLED, MEAN_PROMPT = 7_500, 5_000, 1_000, 150
# Tokens of an answer under the 31,744-token protocol, before truncation.
MEAN_EVALUATION_ANSWER = 8_000
EVALUATION_START_SECONDS = 120
# Answers that vLLM decodes in parallel by default, in an evaluation.
AT_ONCE = 256
# Seconds of a step on the reference engine that are neither generation nor update.
REFERENCE_REST = 5.0
# Verdicts of a 3B model: about half of the answers are sent to it, each with a few hundred tokens to read and write.
MODEL_GRADER_GPU_HOURS_PER_1000 = 0.05
WRITE_GB_PER_SECOND = 0.5
KEPT_STATES = 2


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


@dataclass(frozen=True)
class Estimate:
    """A figure, its unit and its derivation; an estimate also has its likely range."""

    value: float
    unit: str
    how: str
    low: float | None = None
    high: float | None = None

    @property
    def upper(self) -> float:
        """The upper end of an estimate's range; the value itself if it was measured or counted."""
        return self.value if self.high is None else self.high

    def times(self, factor: float, unit: str, how: str) -> "Estimate":
        """Scale value and range by `factor`, with another unit and derivation."""
        ends = [None if end is None else factor * end for end in (self.low, self.high)]
        return Estimate(factor * self.value, unit, how, *ends)

    def plus(self, more: float) -> "Estimate":
        """Add a quantity that has no range."""
        low, high = (None if end is None else end + more for end in (self.low, self.high))
        return replace(self, value=self.value + more, low=low, high=high)

    def as_dict(self) -> dict:
        return asdict(self)


def estimated(value: float, unit: str, how: str) -> Estimate:
    """A figure from the time model, with the range found by its back-test."""
    return Estimate(value, unit, how, LEAST * value, MOST * value)


def uncut_response(first: int, last: int, start: float | None = None) -> float:
    """Mean tokens of an answer before truncation, over the steps after `first` up to `last`.

    `start` is the constant length of a model that is not a reasoning model, whose answers do not get shorter.
    """
    if start is not None:
        return start

    def until(step: int) -> float:
        falling = min(step, SETTLED)
        lost = (FIRST_RESPONSE - LATER_RESPONSE) * falling * (1 - falling / (2 * SETTLED))
        return LATER_RESPONSE * step + lost

    return (until(last) - until(first)) / max(1, last - first)


def work_of(hardware: Hardware, engine: str, recipe: Recipe, shape: ModelShape, lengths: Lengths) -> Work:
    """One step of a run with answers of these lengths.

    The reference engine is one process on one GPU, whatever the node has. It uses CUDA graphs with vLLM, not with
    transformers.
    """
    responses = recipe.rollouts_per_step
    passes = 5 if recipe.gradient_checkpointing else 4
    if engine == "verl":
        at_once = settings_of(hardware, recipe, shape).max_num_seqs
        sampler: Sampler = "eager" if hardware.engine.cuda_graphs is False else "graphs"
        gpus = hardware.gpus
        return Work(
            shape, hardware.kind, responses, MEAN_PROMPT, lengths, sampler, gpus, gpus, at_once=at_once, passes=passes
        )
    job = reference_job(hardware, recipe, shape)
    vllm = hardware.rollouts == "vllm"
    # vLLM loads the new weights from a file before each step.
    rest = REFERENCE_REST + (export_gb(shape.parameters).value / WRITE_GB_PER_SECOND if vllm else 0)
    return Work(
        shape,
        hardware.kind,
        responses,
        MEAN_PROMPT,
        lengths,
        "graphs" if vllm else "transformers",
        at_once=job.settings.at_once if job else responses,
        passes=passes,
        micro_batches=responses / recipe.micro_batch_per_gpu,
        rest=rest,
    )


@dataclass(frozen=True)
class Calibration:
    """Measured over estimated seconds of generation and of the update, the measured rest in seconds, their source."""

    generation: float
    update: float
    rest: float
    source: str

    def correct(self, time: StepTime) -> StepTime:
        """The estimated step with its terms corrected."""
        sampled = {key: self.generation * getattr(time, key) for key in ("launches", "weights", "cache")}
        return replace(time, **sampled, update=self.update * time.update, rest=self.rest)


def calibrate(path: str | Path, estimate: Callable[[float, float], StepTime]) -> Calibration | None:
    """Compare the phases in a metrics file with `estimate(longest, mean)`; None if no line has the phases.

    Returns medians over the steps, without the first (start-up) if there are more.

    Raises:
        UserError: the file is missing or has no timing.
    """
    keys = ("step_seconds", "rollout_seconds", "update_seconds", "response_length_mean", "response_length_max")
    rows = [row for row in measured_rows(path) if all(isinstance(row.get(key), int | float) for key in keys)]
    if not rows:
        return None
    generation, update, rest = [], [], []
    for row in rows[1:] or rows:
        time = estimate(row["response_length_max"], row["response_length_mean"])
        trained = row["update_seconds"] + (row.get("old_log_prob_seconds") or 0)
        generation.append(row["rollout_seconds"] / time.generation)
        update.append(trained / time.update)
        saved = row.get("save_seconds") or 0
        rest.append(max(0.0, row["step_seconds"] - row["rollout_seconds"] - trained - saved))
    source, median = f"{len(update)} measured steps in {path}", statistics.median
    return Calibration(median(generation), median(update), median(rest), source)


def measured_rows(path: str | Path) -> list[dict]:
    """The lines of a metrics file that have a time.

    Raises:
        UserError: the file is missing or has no timing.
    """
    if not Path(path).is_file():
        raise UserError(f"--measured {path}: no such file; give the metrics.jsonl of a run or of the canary")
    rows = [row for row in read_jsonl(Path(path)) if isinstance(row.get("step_seconds"), int | float)]
    if not rows:
        raise UserError(f"{path}: no line has step_seconds, so no time can be taken from it")
    return rows


def measured_step_seconds(path: str | Path, last: int = 50) -> Estimate:
    """Measured seconds per step: the median of the last `last` steps, without the first step (start-up)."""
    rows = measured_rows(path)
    seconds = [float(row["step_seconds"]) for row in (rows[1:] or rows)][-last:]
    return Estimate(statistics.median(seconds), "s", f"median of {len(seconds)} measured steps in {path}")


def state_gb(parameters: int) -> Estimate:
    """Size of one full training state: float32 parameters and the two moments of Adam."""
    return Estimate(
        12 * parameters / 1e9,
        "GB",
        f"{parameters / 1e9:.2f}e9 parameters x 12 bytes (float32 weights, two Adam moments)",
    )


def export_gb(parameters: int) -> Estimate:
    """Size of one exported model in bfloat16."""
    return Estimate(2 * parameters / 1e9, "GB", f"{parameters / 1e9:.2f}e9 parameters x 2 bytes (bfloat16)")


def completions_gb(answers: float) -> float:
    """Size of the completions of evaluations: a token has about four characters, and Parquet compresses to a third."""
    return answers * MEAN_EVALUATION_ANSWER * 4 / 3 / 1e9


def save_seconds(parameters: int) -> float:
    """Seconds to write one full state at half a gigabyte per second."""
    return state_gb(parameters).value / WRITE_GB_PER_SECOND


def evaluation_seconds(shape: ModelShape, gpu: Gpu, samples: float, max_tokens: int) -> float:
    """Seconds for one job on one GPU to answer `samples` questions."""
    lengths = cut_lengths(MEAN_EVALUATION_ANSWER, max_tokens)
    work = Work(shape, gpu, samples, MEAN_PROMPT, lengths, training=0, at_once=AT_ONCE, rest=EVALUATION_START_SECONDS)
    return step_time(work).total


def judge_seconds(samples: int) -> float:
    """Seconds for one job on one GPU to judge `samples` answers."""
    return EVALUATION_START_SECONDS + samples / 1000 * MODEL_GRADER_GPU_HOURS_PER_1000 * 3600


def evaluation_gpu_hours(
    shape: ModelShape, gpu: Gpu, samples: int, jobs: int, max_tokens: int, model_grader: bool
) -> Estimate:
    """GPU hours to answer `samples` questions in `jobs` jobs of one GPU each."""
    each = evaluation_seconds(shape, gpu, samples / max(1, jobs), max_tokens)
    hours = jobs * each / 3600
    mean = cut_lengths(MEAN_EVALUATION_ANSWER, max_tokens).mean
    how = f"{samples:,} answers of {mean:,.0f} tokens in {jobs} jobs, {EVALUATION_START_SECONDS} s to start each"
    if model_grader:
        verdicts = samples / 1000 * MODEL_GRADER_GPU_HOURS_PER_1000
        hours += verdicts
        how += f" + {verdicts:.1f} h of model verdicts"
    return estimated(hours, "GPU h", how)
