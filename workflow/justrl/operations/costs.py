"""Cost of one step, one full state and one evaluation, each with its derivation.

A step on verl is three terms, of which only the last two shrink with the number of GPUs:

    tail      longest response x seconds per decoded token at small batch
    cache     sum over responses of length^2 / 2 x bytes of keys and values per token / bandwidth
    update    FLOPs of old log-probabilities and update / peak

Left out: rewards, the transfer of the weights to vLLM, waves of rollouts where not all fit the cache at once. Timings
of the canary or of a run correct the terms (`calibrate`).
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from justrl.config import Hardware, Recipe
from justrl.errors import UserError
from justrl.gpu_specs import Gpu
from justrl.io import read_jsonl
from justrl.model_shape import DEEPSEEK, ModelShape

# Responses fall from 7,000-8,000 tokens to 4,000-5,000 within 1,000 steps (the paper's figure on response length), of
# at most 15,360; prompts are about 150. Lengths within a step are log-normal with sigma 0.7, so their mean square is
# 1.63 times the square of their mean.
MEAN_RESPONSE, OF_AT_MOST, MEAN_PROMPT = 5_500, 15_360, 150
MEAN_SQUARE = 1.63
# Answers under the 31,744-token protocol; longer than in training, where the limit is half of that.
MEAN_EVALUATION_ANSWER = 8_000
# Shares of the data sheet's peak and bandwidth that training and decoding reach.
MODEL_FLOPS_UTILISATION, BANDWIDTH_UTILISATION = 0.35, 0.75
# One decoded token at small batch: without CUDA graphs the processor's launches decide, whatever the GPU.
EAGER_SECONDS, GRAPH_SECONDS = 0.014, 0.0002
EVALUATION_START_SECONDS = 120
# Verdicts of a 3B model: about half of the answers reach it, with a few hundred tokens each to read and write.
MODEL_GRADER_GPU_HOURS_PER_1000 = 0.05
WRITE_GB_PER_SECOND = 0.5
KEPT_STATES = 2


@dataclass(frozen=True)
class Estimate:
    """A figure, its unit, and how it came about."""

    value: float
    unit: str
    how: str

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class StepTime:
    """Seconds of the terms of one step; `rest` is what only a measurement knows."""

    tail: float
    cache: float
    update: float
    rest: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.tail + self.cache + self.update + self.rest


def tail_seconds(shape: ModelShape, gpu: Gpu, longest: float, graphs: bool) -> float:
    """Seconds to decode the longest response: a pass over the weights for each token, or the launches of one."""
    weights = 2 * shape.parameters / (gpu.bandwidth * 1e9 * BANDWIDTH_UTILISATION) + GRAPH_SECONDS
    return longest * (weights if graphs else max(weights, EAGER_SECONDS))


def cache_seconds(shape: ModelShape, gpu: Gpu, responses: float, mean: float) -> float:
    """GPU seconds to read the keys and values of all tokens before, for each token of `responses` of a mean length."""
    read = responses * MEAN_SQUARE * mean**2 / 2 * shape.cache_bytes
    return read / (gpu.bandwidth * 1e9 * BANDWIDTH_UTILISATION)


def update_seconds(shape: ModelShape, gpu: Gpu, responses: float, mean: float) -> float:
    """GPU seconds of the trainer's forward and backward passes over `responses` of a mean length.

    10 FLOPs per parameter and token: 2 for the old log-probabilities, 6 for the update, 2 for what gradient
    checkpointing computes again; the attention adds 2 x layers x heads x head size x length to each of five
    forward-sized passes.
    """
    attention = 2 * shape.layers * shape.heads * shape.head_size * MEAN_SQUARE * mean
    flops = responses * (MEAN_PROMPT + mean) * (10 * shape.parameters + 5 * attention)
    return flops / (gpu.tflops * 1e12 * MODEL_FLOPS_UTILISATION)


def step_time(
    hardware: Hardware, engine: str, recipe: Recipe, shape: ModelShape | None, longest: float, mean: float
) -> StepTime:
    """Seconds of the terms of one step with responses of a mean length, the longest of `longest` tokens."""
    # The reference engine is one process on one GPU, whatever the node has, and generates without graphs.
    gpus, graphs = (hardware.gpus, hardware.engine.cuda_graphs is not False) if engine == "verl" else (1, False)
    shape, gpu, responses = shape or DEEPSEEK, hardware.kind, recipe.rollouts_per_step
    cache, update = cache_seconds(shape, gpu, responses, mean), update_seconds(shape, gpu, responses, mean)
    return StepTime(tail_seconds(shape, gpu, longest, graphs), cache / gpus, update / gpus)


@dataclass(frozen=True)
class Calibration:
    """Measured over estimated seconds of generation and of the update, the seconds of the rest, and their source."""

    generation: float
    update: float
    rest: float
    source: str

    def correct(self, time: StepTime) -> StepTime:
        """The estimated step with its terms corrected."""
        tail, cache = self.generation * time.tail, self.generation * time.cache
        return replace(time, tail=tail, cache=cache, update=self.update * time.update, rest=self.rest)


def calibrate(path: str | Path, estimate: Callable[[float, float], StepTime]) -> Calibration | None:
    """Compare the phases in a metrics file with `estimate(longest, mean)`; None where no line has them.

    Medians over the steps, the first (start-up) left out where there are more.

    Raises:
        UserError: the file is absent or holds no timing.
    """
    keys = ("step_seconds", "rollout_seconds", "update_seconds", "response_length_mean", "response_length_max")
    rows = [row for row in measured_rows(path) if all(isinstance(row.get(key), int | float) for key in keys)]
    if not rows:
        return None
    generation, update, rest = [], [], []
    for row in rows[1:] or rows:
        time = estimate(row["response_length_max"], row["response_length_mean"])
        trained = row["update_seconds"] + (row.get("old_log_prob_seconds") or 0)
        generation.append(row["rollout_seconds"] / (time.tail + time.cache))
        update.append(trained / time.update)
        saved = row.get("save_seconds") or 0
        rest.append(max(0.0, row["step_seconds"] - row["rollout_seconds"] - trained - saved))
    source, median = f"{len(update)} measured steps in {path}", statistics.median
    return Calibration(median(generation), median(update), median(rest), source)


def measured_rows(path: str | Path) -> list[dict]:
    """The lines of a metrics file that have a time.

    Raises:
        UserError: the file is absent or holds no timing.
    """
    if not Path(path).is_file():
        raise UserError(f"--measured {path}: no such file; give the metrics.jsonl of a run or of the canary")
    rows = [row for row in read_jsonl(Path(path)) if isinstance(row.get("step_seconds"), int | float)]
    if not rows:
        raise UserError(f"{path}: no line has step_seconds, so no time can be taken from it")
    return rows


def measured_step_seconds(path: str | Path, last: int = 50) -> Estimate:
    """Seconds per step as measured: the median of the last `last` steps, the first step (start-up) left out."""
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


def save_seconds(parameters: int) -> float:
    """Seconds to write one full state at half a gigabyte a second."""
    return state_gb(parameters).value / WRITE_GB_PER_SECOND


def evaluation_seconds(shape: ModelShape, gpu: Gpu, samples: int, max_tokens: int) -> float:
    """Seconds in which one job of one GPU answers `samples` questions, by the terms of a training step."""
    mean = min(MEAN_EVALUATION_ANSWER, max_tokens / 2)
    waiting = EVALUATION_START_SECONDS + tail_seconds(shape, gpu, max_tokens, True)
    return waiting + cache_seconds(shape, gpu, samples, mean)


def judge_seconds(samples: int) -> float:
    """Seconds in which one job of one GPU judges `samples` answers."""
    return EVALUATION_START_SECONDS + samples / 1000 * MODEL_GRADER_GPU_HOURS_PER_1000 * 3600


def evaluation_gpu_hours(
    shape: ModelShape, gpu: Gpu, samples: int, jobs: int, max_tokens: int, model_grader: bool
) -> Estimate:
    """GPU hours to answer `samples` questions in `jobs` jobs of one GPU each, by the terms of a training step."""
    mean = min(MEAN_EVALUATION_ANSWER, max_tokens / 2)
    tail, cache = tail_seconds(shape, gpu, max_tokens, True), cache_seconds(shape, gpu, samples, mean)
    hours = (jobs * (EVALUATION_START_SECONDS + tail) + cache) / 3600
    how = (
        f"{samples:,} answers of {mean:,.0f} tokens, cache {cache / 3600:,.1f} h + {jobs} jobs x "
        f"({EVALUATION_START_SECONDS} s start + {tail:,.0f} s for {max_tokens:,} tokens)"
    )
    if model_grader:
        verdicts = samples / 1000 * MODEL_GRADER_GPU_HOURS_PER_1000
        hours += verdicts
        how += f" + {verdicts:.1f} h of model verdicts"
    return Estimate(hours, "GPU h", how)
