"""What one step, one full state and one evaluation cost, each with the way it was derived.

Everything starts from the one figure the paper gives: a run took about 15 days on 4 nodes of 8 A800 (section 3),
that is 11,520 GPU hours. A step's share of it is split in two, and each is scaled to another GPU by what bounds it:

    training     FLOPs of the update and of the old log-probabilities at 35% of the peak: scales with TFLOP/s
    generation   the rest, one weight pass for each token of the longest answer: scales with memory bandwidth

GPU seconds divide by the number of GPUs. That is exact for training and pessimistic for generation on fewer GPUs, whose
larger batches waste less; timings of your own (`--measured`) replace all of it.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from justrl.errors import UserError
from justrl.io import read_jsonl
from justrl.operations.hardware import PAPER_GPU, Gpu

PAPER_GPU_HOURS = 11_520
PAPER_STEPS = {"deepseek": 4_380, "nemotron": 3_440}
PAPER_ROLLOUTS = 256 * 8
PAPER_MAX_RESPONSE = 15_360
# Responses fall from 7,000-8,000 tokens to 4,000-5,000 (the paper's figure on response length), prompts are about 150.
MEAN_RESPONSE = 5_000
MEAN_PROMPT = 150
MODEL_FLOPS_UTILISATION = 0.35
# Answers under the 31,744-token protocol; longer than in training, where the limit is half of that.
MEAN_EVALUATION_ANSWER = 8_000
# Verdicts of a 3B model: about half of the answers reach it, with a few hundred tokens each to read and write.
MODEL_GRADER_GPU_HOURS_PER_1000 = 0.05
WRITE_GB_PER_SECOND = 0.5
KEPT_STATES = 2

# Parameters and bytes of the bfloat16 export, by hub id; (layers, width) for the attention's share of the FLOPs.
PARAMETERS = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1_777_088_000,
    "nvidia/OpenMath-Nemotron-1.5B": 1_543_714_304,
    "opencompass/CompassVerifier-3B": 3_085_938_688,
}
LAYERS, WIDTH = 28, 1_536


@dataclass(frozen=True)
class Estimate:
    """A figure, its unit, and how it came about."""

    value: float
    unit: str
    how: str

    def as_dict(self) -> dict:
        return asdict(self)


def parameters_of(model: Mapping) -> int:
    """Return the number of parameters of a `models` entry.

    A taught model is counted from its shape with a vocabulary of 512; an unknown hub model is taken as 1.5B.
    """
    if model.get("source") == "taught":
        width, layers = model["hidden_size"], model["layers"]
        return layers * 12 * width * width + 2 * 512 * width
    return PARAMETERS.get(model.get("hub_id", ""), 1_543_714_304)


def training_gpu_seconds(gpu: Gpu, rollouts: int = PAPER_ROLLOUTS, response: float = MEAN_RESPONSE) -> float:
    """GPU seconds of the forward and backward passes of one step.

    10 FLOPs per parameter and token: 2 for the old log-probabilities, 6 for the update, 2 for what gradient
    checkpointing computes again; the attention adds 2 x layers x width x length to each of five forward-sized passes.
    """
    tokens = rollouts * (MEAN_PROMPT + response)
    parameters = PARAMETERS["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"]
    flops = tokens * (10 * parameters + 5 * 2 * LAYERS * WIDTH * response)
    return flops / (gpu.tflops * 1e12 * MODEL_FLOPS_UTILISATION)


def paper_gpu_seconds(family: str) -> float:
    """GPU seconds of one step of the paper's run of a family; a family of one's own is taken as deepseek's."""
    return PAPER_GPU_HOURS * 3600 / PAPER_STEPS.get(family, PAPER_STEPS["deepseek"])


def generation_gpu_seconds(gpu: Gpu, family: str) -> float:
    """GPU seconds that one step of the paper's size spends on generation and what is not training."""
    on_paper_gpu = paper_gpu_seconds(family) - training_gpu_seconds(PAPER_GPU)
    return on_paper_gpu * PAPER_GPU.bandwidth / gpu.bandwidth


def step_seconds(gpu: Gpu, gpus: int, family: str, recipe: Mapping) -> Estimate:
    """Seconds of one training step under a recipe on `gpus` of one kind, with the derivation."""
    rollouts = recipe["prompts_per_step"] * recipe["rollouts_per_prompt"]
    length = min(1.0, recipe["max_response_length"] / PAPER_MAX_RESPONSE)
    training = training_gpu_seconds(gpu, rollouts, MEAN_RESPONSE * length)
    generation = generation_gpu_seconds(gpu, family) * rollouts / PAPER_ROLLOUTS * length
    steps = PAPER_STEPS.get(family, PAPER_STEPS["deepseek"])
    how = f"{PAPER_GPU_HOURS:,} GPU hours / {steps:,} steps on A800 = {paper_gpu_seconds(family):,.0f} GPU s"
    if gpu != PAPER_GPU:
        how += (
            f"; generation x {PAPER_GPU.bandwidth / gpu.bandwidth:.2f} (bandwidth), training x "
            f"{PAPER_GPU.tflops / gpu.tflops:.2f} (TFLOP/s)"
        )
    if rollouts != PAPER_ROLLOUTS or length < 1:
        how += f"; {rollouts:,} rollouts of at most {recipe['max_response_length']:,} tokens"
    return Estimate((training + generation) / gpus, "s", f"{how}; over {gpus} GPUs")


def measured_step_seconds(metrics_file: str | Path, last: int = 50) -> Estimate:
    """Seconds per step as measured: the median of the last `last` steps, the first step (start-up) left out.

    Raises:
        UserError: the file is absent or holds no timing.
    """
    path = Path(metrics_file)
    if not path.is_file():
        raise UserError(f"--measured {path}: no such file; give the metrics.jsonl of a run or of the canary")
    rows = [row for row in read_jsonl(path) if isinstance(row.get("step_seconds"), int | float)]
    if not rows:
        raise UserError(f"{path}: no line has step_seconds, so no time can be taken from it")
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


def evaluation_samples(benchmarks: Mapping, names: Sequence[str], protocol: Mapping) -> int:
    """Completions of one checkpoint on the named benchmarks."""
    samples = protocol["samples"]
    return sum(
        benchmarks[name]["rows"] * (benchmarks[name]["samples"] if samples == "per_benchmark" else samples)
        for name in names
    )


def evaluation_gpu_hours(gpu: Gpu, samples: int, max_tokens: int, model_grader: bool) -> Estimate:
    """GPU hours to answer `samples` questions, at the speed that the paper's training steps generate at."""
    tokens_per_second = PAPER_ROLLOUTS * MEAN_RESPONSE / generation_gpu_seconds(gpu, "deepseek")
    mean = min(MEAN_EVALUATION_ANSWER, max_tokens / 2)
    hours = samples * mean / tokens_per_second / 3600
    how = f"{samples:,} answers x {mean:,.0f} tokens / {tokens_per_second:,.0f} tokens/s of one GPU as in training"
    if model_grader:
        verdicts = samples / 1000 * MODEL_GRADER_GPU_HOURS_PER_1000
        hours += verdicts
        how += f" + {verdicts:.1f} h of model verdicts"
    return Estimate(hours, "GPU h", how)
