"""Back-test of the time model on published figures: fit it without one source at a time, and predict that source.

The constants minimise squared differences between the logarithms of predicted and published seconds. Large misses are
damped (soft L1 loss), all sources have the same weight, and each constant is weakly pulled towards an initial guess.
"""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from justrl.config import Hardware, Recipe, read_part
from justrl.config.files import ROOT
from justrl.config.hardware import find_gpu
from justrl.errors import UserError
from justrl.models.shape import KNOWN
from justrl.plan.costs import CONSTANTS, REST_SECONDS, Constants, Work, lengths_of, step_time, work_of

FIGURES = ROOT / "bench" / "published_steps.csv"
GUESS = Constants(0.8, 0.5, 0.4, 12.0, 1e-4, 5e-4, 8e-4)
# Upper bounds: all of the bandwidth, and the highest share of the peak that matrix products have reached.
BOUNDS = Constants(1.0, 0.9, 0.8, 100.0, 1e-2, 1e-2, 1e-2)
# Misses larger than this are damped; the weight of the initial guess, where each source has weight 1.
DAMPED, HELD = 0.15, 0.15


@dataclass(frozen=True)
class Figure:
    """A published number of seconds, with the work that it was measured on."""

    source: str
    where: str
    measured: str
    name: str
    work: Work
    seconds: float

    @property
    def whole(self) -> bool:
        """True if it is a whole RL step."""
        return bool(self.work.generating and self.work.training)

    def ratio(self, constants: Constants = CONSTANTS) -> float:
        """Predicted divided by published seconds."""
        return step_time(self.work, constants).total / self.seconds


def read_figures(path: Path = FIGURES) -> list[Figure]:
    """Read the published figures."""
    with path.open(encoding="utf-8", newline="") as table:
        return [_figure(row) for row in csv.DictReader(table)]


def _figure(row: dict[str, str]) -> Figure:
    generating, training = int(row["generating"]), int(row["training"])
    gpus = generating + training if row["source"] == "AReaL" else max(generating, training)
    work = Work(
        KNOWN[row["model"]],
        find_gpu(row["gpu"]),
        float(row["responses"]),
        float(row["prompt"]),
        lengths_of(float(row["mean"]), float(row["longest"])),
        row["sampler"],  # type: ignore[arg-type]
        generating,
        training,
        int(row["tensor_parallel"]),
        float(row["at_once"]),
        float(row["passes"]),
        rest=REST_SECONDS if generating and training else 0.0,
    )
    name = f"{row['model'].split('/')[1]} on {gpus} {row['gpu']}"
    name += {"eager": ", no graphs", "transformers": ", transformers"}.get(row["sampler"], "")
    return Figure(row["source"], row["where"], row["measured"], name, work, float(row["seconds"]))


def canary_figure(found: Mapping[str, Any]) -> Figure | None:
    """The measurement of a packed canary (`canary_pack`) as a figure; None if model size, GPU or lengths are unknown.

    The first step, which includes start-up, and the time of saves are left out.
    """
    keys = ("step_seconds", "response_length_mean", "response_length_max")
    rows = [row for row in found["steps"] if all(isinstance(row.get(key), int | float) for key in keys)]
    try:
        known = {key: value for key, value in found["hardware"].items() if key in Hardware.model_fields}
        hardware = read_part(Hardware, known, "hardware")
        recipe = read_part(Recipe, found["recipe"], "recipe")
        gpu = hardware.kind if hardware.gpus else None
    except UserError:
        return None
    shape = KNOWN.get(str(found["model"].get("hub_id")))
    if not rows or shape is None or gpu is None:
        return None
    rows = rows[1:] or rows
    mean, longest = (statistics.mean(row[key] for row in rows) for key in keys[1:])
    seconds = statistics.median(row["step_seconds"] - (row.get("save_seconds") or 0) for row in rows)
    work = work_of(hardware, str(found["engine"]), recipe, shape, lengths_of(mean, longest))
    name = f"{found['model']['hub_id'].split('/')[1]} on {hardware.gpus} {gpu.name}"
    return Figure("canary", "a packed canary", "whole step", name, work, seconds)


def fit(figures: Sequence[Figure]) -> Constants:
    """The constants that best fit these figures."""
    from scipy.optimize import least_squares

    sources = [figure.source for figure in figures]
    weights = [1 / math.sqrt(sources.count(source)) for source in sources]
    guess = [math.log(value) for value in astuple(GUESS)]

    def misses(logarithms: Sequence[float]) -> list[float]:
        constants = Constants(*map(math.exp, logarithms))
        missed = [w * math.log(f.ratio(constants)) for w, f in zip(weights, figures, strict=True)]
        return missed + [HELD * (now - then) for now, then in zip(logarithms, guess, strict=True)]

    bounds = ([value - math.log(10) for value in guess], [math.log(value) for value in astuple(BOUNDS)])
    found = least_squares(misses, guess, bounds=bounds, loss="soft_l1", f_scale=DAMPED)
    return Constants(*map(math.exp, found.x))


def ratios(figures: Sequence[Figure]) -> list[float]:
    """Predicted over published seconds of each figure, with constants fitted to the other sources."""
    sources = {figure.source for figure in figures}
    constants = {source: fit([figure for figure in figures if figure.source != source]) for source in sorted(sources)}
    return [figure.ratio(constants[figure.source]) for figure in figures]


def spread(figures: Sequence[Figure], found: Sequence[float]) -> tuple[float, float]:
    """Middle two thirds of published over predicted seconds of whole steps: the range of an estimate."""
    whole = [1 / ratio for figure, ratio in zip(figures, found, strict=True) if figure.whole]
    sixths = statistics.quantiles(whole, n=6, method="inclusive")
    return sixths[0], sixths[-1]


def as_dict() -> dict[str, Any]:
    """The back-test as `justrl plan --backtest --json` prints it."""
    figures = read_figures()
    found = ratios(figures)
    keys = ("source", "where", "measured", "name", "seconds")
    rows = [
        {key: getattr(figure, key) for key in keys} | {"ratio": ratio}
        for figure, ratio in zip(figures, found, strict=True)
    ]
    return {"figures": rows, "range": list(spread(figures, found)), "constants": asdict(fit(figures))}


def render() -> str:
    """The table of the back-test as `justrl plan --backtest` prints it."""
    figures = read_figures()
    found = ratios(figures)
    lines = [f"{'source':<13}{'what':<64}{'published':>11}{'predicted':>11}{'ratio':>7}"]
    for figure, ratio in zip(figures, found, strict=True):
        what = ("step " if figure.whole else "decode " if figure.work.generating else "update ") + figure.name
        predicted = f"{ratio * figure.seconds:,.1f} s"
        lines.append(f"{figure.source:<13}{what:<64}{figure.seconds:>9,.1f} s{predicted:>11}{ratio:>7.2f}")
    lines += ["", _summary("all", found)]
    lines.append(_summary("whole steps", [r for f, r in zip(figures, found, strict=True) if f.whole]))
    low, high = spread(figures, found)
    lines.append(f"range of an estimate: {low:.2f} to {high:.2f} times it, a factor of {high / low:.2f}")
    return "\n".join([*lines, f"fitted to all: {_shown(fit(figures))}"])


def _summary(name: str, found: Sequence[float]) -> str:
    near = sum(0.75 <= ratio <= 1.25 for ratio in found)
    median = statistics.median(abs(ratio - 1) for ratio in found)
    return f"{name}: {near} of {len(found)} within a quarter, median miss {median:.0%}"


def _shown(constants: Constants) -> str:
    shares = (
        f"bandwidth {constants.bandwidth:.0%}, decoding {constants.decoding:.0%}, training {constants.training:.0%}"
    )
    layers = [1000 * value for value in (constants.graphs, constants.eager, constants.transformers)]
    text = " / ".join(f"{value:.3f}" for value in layers)
    return f"{shares}, traffic {constants.traffic:.0f}, ms a layer {text} (graphs / eager / transformers)"
