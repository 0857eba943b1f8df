"""A discrete-event model of a training step on verl: what each lever gives, with the assumptions printed beside it.

Each GPU decodes a queue of responses; an event is the end of the next one. Between events a token of the batch costs a
pass over the weights and a read of the cache so far, or the processor's launches if those take longer.
"""

from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np

from justrl.config import Experiment, Hardware, Recipe
from justrl.errors import UserError
from justrl.gpu_specs import Gpu
from justrl.model_shape import DEEPSEEK, ModelShape
from justrl.operations import costs, planning
from justrl.operations.costs import Calibration, StepTime

# vLLM's largest batch in verl's default, and the seconds that no source gives.
AT_ONCE = 1024
ASSUMED_REST = 10.0
# Spread of the lengths' logarithm, and the share of its variance that a prompt's samples have in common.
SIGMA, COMMON = 0.7, 0.5
SEED = 0
# Steps simulated one after the other where one leaves work to the next: their mean counts, since a step that is asked
# together with the one before it has hardly anything left to wait for.
STEPS_AHEAD = 8
ASSUMPTIONS = (
    f"Assumed: lengths log-normal (sigma {SIGMA}, half of its variance the prompt's), cut at the limit; launches hide "
    f"behind reading the cache; at most {AT_ONCE:,} responses at once on a GPU; sleep, wake, weights and rewards "
    f"{ASSUMED_REST:.0f} s together unless measured. What sampling a step ahead does to learning is not modelled."
)


@dataclass(frozen=True)
class Levers:
    """Which levers are pulled.

    `graphs`: CUDA graphs. `prefix_cache`: a prompt's samples on one GPU, its prompt read once. `longest_first`: the
    longest responses begin first, as if known. `ahead`: the next step's responses are sampled while the last ones of a
    step are awaited, and go on under the new weights (`recipe.staleness: 1`).
    """

    graphs: bool = False
    prefix_cache: bool = False
    longest_first: bool = False
    ahead: bool = False


TABLE = {
    "none": Levers(),
    "CUDA graphs": Levers(graphs=True),
    "prefix cache": Levers(prefix_cache=True),
    "longest first": Levers(longest_first=True),
    "a step ahead": Levers(ahead=True),
    "graphs, a step ahead": Levers(graphs=True, ahead=True),
}


@dataclass
class Decoder:
    """One GPU and the responses that are given to it; step numbers say which of them are awaited first."""

    token_seconds: float
    read_seconds: float
    launch_seconds: float
    at_once: int = AT_ONCE
    queue: list[tuple[int, int]] = field(default_factory=list)
    left: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    done: np.ndarray = field(default_factory=lambda: np.zeros(0, int))
    step: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def add(self, step: int, lengths: np.ndarray) -> None:
        """Append the responses of a step to the queue."""
        self.queue += [(step, int(length)) for length in lengths]

    def waits_for(self, step: int) -> bool:
        """Whether a response of the step is not yet done."""
        return bool((self.step == step).any()) or any(number == step for number, _ in self.queue)

    def run(self, step: int | None, limit: float = np.inf) -> float:
        """Decode until those of `step` are done (None: until nothing is left), or for at most `limit` seconds."""
        seconds = 0.0
        while seconds < limit and (self.waits_for(step) if step is not None else self.queue or self.left.size):
            self._fill()
            if not self.left.size:
                break
            tokens = int(self.left.min())
            context = (self.done + costs.MEAN_PROMPT).sum() + self.left.size * np.arange(tokens)
            spent = np.maximum(self.launch_seconds, self.token_seconds + self.read_seconds * context).cumsum()
            tokens = min(tokens, max(1, int(np.searchsorted(spent, limit - seconds, side="right"))))
            seconds += float(spent[tokens - 1])
            self.left, self.done = self.left - tokens, self.done + tokens
            going = self.left > 0
            self.left, self.done, self.step = self.left[going], self.done[going], self.step[going]
        return seconds

    def _fill(self) -> None:
        started = self.queue[: self.at_once - self.left.size]
        del self.queue[: len(started)]
        self.left = np.append(self.left, [length for _, length in started]).astype(int)
        self.done = np.append(self.done, np.zeros(len(started), int))
        self.step = np.append(self.step, [number for number, _ in started]).astype(int)


def make_decoder(shape: ModelShape, gpu: Gpu, graphs: bool, at_once: int = AT_ONCE) -> Decoder:
    """A GPU without work."""
    read = shape.cache_bytes / (gpu.bandwidth * 1e9 * costs.BANDWIDTH_UTILISATION)
    launches = 0.0 if graphs else costs.EAGER_SECONDS
    return Decoder(costs.tail_seconds(shape, gpu, 1, True), read, launches, at_once)


def draw_lengths(prompts: int, samples: int, mean: float, longest: int, seed: int = SEED) -> np.ndarray:
    """Lengths of a step's responses in tokens, (prompts, samples): log-normal of a mean, cut at the limit, seeded."""
    draw = np.random.default_rng(seed)
    spread = np.sqrt(COMMON) * draw.standard_normal((prompts, 1))
    spread = spread + np.sqrt(1 - COMMON) * draw.standard_normal((prompts, samples))
    return np.clip(np.exp(np.log(mean) - SIGMA**2 / 2 + SIGMA * spread), 1, longest).astype(int)


def deal(lengths: np.ndarray, gpus: int, levers: Levers) -> list[np.ndarray]:
    """The responses of each GPU, in the order in which they begin."""
    if levers.prefix_cache:
        shares = [lengths[number::gpus].ravel() for number in range(gpus)]
        return [np.sort(share)[::-1] if levers.longest_first else share for share in shares]
    flat = lengths.T.ravel()
    flat = np.sort(flat)[::-1] if levers.longest_first else flat
    return [flat[number::gpus] for number in range(gpus)]


def generation_seconds(
    recipe: Recipe, hardware: Hardware, shape: ModelShape, levers: Levers, longest: int, mean: float
) -> float:
    """Seconds until the last GPU has read and decoded its share of a step; the mean of several where one runs ahead."""
    gpus, prompts, samples = hardware.gpus, recipe.prompts_per_step, recipe.rollouts_per_prompt
    decoders = [make_decoder(shape, hardware.kind, levers.graphs) for _ in range(gpus)]
    steps = STEPS_AHEAD if levers.ahead else 1
    seconds = 0.0
    for step in range(steps + levers.ahead):
        lengths = draw_lengths(prompts, samples, mean, longest, SEED + step)
        for decoder, share in zip(decoders, deal(lengths, gpus, levers), strict=True):
            decoder.add(step, share)
        awaited = step - levers.ahead
        if awaited >= 0:
            apart = [decoder.run(awaited) for decoder in decoders]
            seconds += max(apart) / steps
            for decoder, spent in zip(decoders, apart, strict=True):
                decoder.run(None, max(apart) - spent)
    read = prompts * (1 if levers.prefix_cache else samples) * costs.MEAN_PROMPT * 2 * shape.parameters
    return seconds + read / gpus / (hardware.kind.tflops * 1e12 * costs.MODEL_FLOPS_UTILISATION)


def simulate(
    recipe: Recipe, hardware: Hardware, shape: ModelShape, levers: Levers, longest: int, mean: float
) -> StepTime:
    """Seconds of a simulated step: generation, of which no part is told apart, update and the assumed rest."""
    generation = generation_seconds(recipe, hardware, shape, levers, longest, mean)
    update = costs.update_seconds(shape, hardware.kind, recipe.rollouts_per_step, mean) / hardware.gpus
    return StepTime(generation, 0.0, update, ASSUMED_REST)


def measured_factors(experiment: Experiment, name: str, metrics: str | Path, hardware: Hardware) -> Calibration | None:
    """Measured over simulated seconds, with the levers of the hardware on which the metrics were measured."""
    run, shape = experiment.runs[name], planning.shape_of_run(experiment, name) or DEEPSEEK
    step = partial(simulate, run.recipe, hardware, shape, configured(run.recipe, hardware))

    @cache
    def rounded(longest: int, mean: int) -> StepTime:
        return step(longest, mean)

    # Steps of about the same lengths are simulated once.
    return costs.calibrate(metrics, lambda longest, mean: rounded(round(longest, -2) or 1, round(mean, -2) or 1))


def configured(recipe: Recipe, hardware: Hardware) -> Levers:
    """The levers that a configuration pulls: a prompt's samples go to any GPU."""
    return Levers(graphs=hardware.engine.cuda_graphs is not False, ahead=recipe.staleness > 0)


def simulate_levers(experiment: Experiment, hardware: Hardware, measured: str | None = None) -> dict[str, dict]:
    """Seconds of a step of each enabled run on verl under each lever, and what corrected them.

    `measured` is a metrics file of the configured hardware; without one the canary's counts where it ran.

    Raises:
        UserError: no GPU, no run on verl, or a measured file without timings.
    """
    if not hardware.gpus:
        raise UserError("--levers simulates GPUs and hardware.gpu is none; name a kind with --gpu, such as H100")
    names = [name for name in experiment.enabled if experiment.runs[name].engine == "verl"]
    if not names:
        raise UserError(f"--levers simulates verl, and of {', '.join(experiment.enabled)} none trains on it")
    found = {}
    for name in names:
        recipe, shape = experiment.runs[name].recipe, planning.shape_of_run(experiment, name) or DEEPSEEK
        longest = recipe.max_response_length
        mean = costs.MEAN_RESPONSE * min(1.0, longest / costs.OF_AT_MOST)
        log, ran_on = (measured, experiment.hardware) if measured else planning.canary_record(experiment, name)
        factors = measured_factors(experiment, name, log, ran_on) if log and ran_on and ran_on.gpus else None
        if measured and not factors:
            raise UserError(
                f"--measured {measured} corrects no step: its lines lack the times of rollouts and update, or "
                "hardware.gpu, on which it was measured, is none; leave it out for the plain simulation"
            )
        seconds = {}
        for lever, pulled in TABLE.items():
            time = simulate(recipe, hardware, shape, pulled, longest, mean)
            seconds[lever] = (factors.correct(time) if factors else time).total
        source = factors.source if factors else "nothing measured"
        found[name] = {"seconds": seconds, "steps": experiment.runs[name].steps, "corrected_by": source}
    return found


def render(found: dict[str, dict], hardware: Hardware) -> str:
    """The tables of `simulate_levers` for a terminal, and what is assumed."""
    lines = []
    for name, run in found.items():
        lines += [
            f"{name} on {hardware.gpus} {hardware.kind.name}, a simulated step; corrected by: {run['corrected_by']}"
        ]
        lines += [f"{'lever':<22}{'s/step':>7}{'saved':>8}{'days':>7}"]
        for lever, value in run["seconds"].items():
            saved = max(0.0, 1 - value / run["seconds"]["none"])
            lines.append(f"{lever:<22}{value:>7.0f}{saved:>8.1%}{value * run['steps'] / 86400:>7.1f}")
        lines.append("")
    return "\n".join([*lines, ASSUMPTIONS])
