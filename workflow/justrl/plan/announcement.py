"""The cost of a start, printed before it: training, evaluations and their sum, in a few short lines."""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from justrl.config import Experiment
from justrl.config.layout import Layout
from justrl.plan import costs
from justrl.plan.planning import (
    around_hours,
    duration,
    evaluation_samples,
    expected_step_seconds,
    longest_step,
    shape_of_target,
)

# At most this many runs have a line of their own.
MOST_RUNS = 10


@dataclass(frozen=True)
class Total:
    """GPU hours with their likely range; `known` is false if a part is unknown."""

    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    known: bool = True

    def plus(self, hours: costs.Estimate | None) -> "Total":
        """Add these hours; None, for hours that are not known yet, sets `known` to false."""
        if hours is None:
            return replace(self, known=False)
        low, high = (hours.value if end is None else end for end in (hours.low, hours.high))
        return Total(self.value + hours.value, self.low + low, self.high + high, self.known)


def announce(
    experiment: Experiment, segments: Iterable[tuple[str, int]], jobs: Iterable[Sequence[str]], layout: Layout
) -> str:
    """Describe the planned jobs in lines of at most 100 columns; empty if nothing is trained or evaluated.

    Args:
        segments: run and last step of each segment that will be trained. The timings of a run's previous segment are
            used, if there is one.
        jobs: the outputs of each planned job; those that sample answers are picked out.
    """
    trained, total = _training(experiment, segments, layout, Total())
    evaluated, total = _evaluation(experiment, jobs, layout, total)
    lines = ["To be trained:", *trained] if trained else []
    lines += [f"To be evaluated: {evaluated}"] if evaluated else []
    if lines and experiment.hardware.gpus:
        lines.append(_in_all(total))
    return "\n".join(lines)


def _in_all(total: Total) -> str:
    hours = f"About {_digits(total.value)} GPU hours in all"
    if total.low < total.high:
        hours += f" (an estimate: {_digits(total.low)} to {_digits(total.high)})"
    unknown = "" if total.known else "; parts that are not known yet are left out"
    return f"{hours}{unknown}; `justrl plan` shows the derivation."


def _digits(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _training(
    experiment: Experiment, segments: Iterable[tuple[str, int]], layout: Layout, total: Total
) -> tuple[list[str], Total]:
    """One line for each run that will be trained, and `total` plus their GPU hours."""
    planned: dict[str, list[int]] = {}
    for run, end in segments:
        planned.setdefault(run, []).append(end)
    lines = []
    for run, ends in sorted(planned.items()):
        starts = [layout.start_step(run, end) for end in ends]
        jobs = f"  {run}: {len(ends)} job{'s' if len(ends) > 1 else ''}"
        measured = layout.segment_metrics(run, min(starts))
        if _slow_on_a_cpu(experiment, run) and not Path(measured or "").is_file():
            lines.append(f"{jobs}, time unknown until the first one has ended")
            total = total.plus(None)
            continue
        if longest_step(experiment, run, measured, 1) is None:
            lines.append(f"{jobs}, time unknown until `snakemake data` has downloaded the model")
            total = total.plus(None)
            continue
        step = expected_step_seconds(experiment, run, measured, steps=(min(starts), max(ends)))
        around = around_hours(experiment, run, zip(starts, ends, strict=True))
        time = step.times((sum(ends) - sum(starts)) / 3600, "h", "").plus(around)
        hours = time.times(experiment.hardware.gpus, "GPU h", "")
        total = total.plus(hours)
        gpus = f", {_digits(hours.value)} GPU hours" if experiment.hardware.gpus else ""
        lines.append(f"{jobs}, about {duration(3600 * time.value)}{gpus}")
    if len(lines) > MOST_RUNS:
        lines[MOST_RUNS:] = [f"  and {len(lines) - MOST_RUNS} more runs"]
    return lines, total


def _slow_on_a_cpu(experiment: Experiment, run: str) -> bool:
    """True if a model of unknown speed is trained on a CPU: any model but those that the workflow makes itself."""
    return not experiment.hardware.gpus and experiment.models[experiment.runs[run].model].source != "tiny"


def _evaluation(
    experiment: Experiment, jobs: Iterable[Sequence[str]], layout: Layout, total: Total
) -> tuple[str, Total]:
    """Models, jobs and answers of the evaluations in one line, and `total` plus their GPU hours."""
    targets, count, answers, own = set(), 0, 0, Total()
    judged = experiment.evaluation.model_grader.enabled
    for outputs in jobs:
        asked = list(_asked(outputs, layout))
        if not asked:
            continue
        (target, protocol), count = asked[0][:2], count + 1
        samples = sum(
            math.ceil(evaluation_samples(experiment, [benchmark], protocol) / shards) for *_, benchmark, shards in asked
        )
        targets.add(target)
        answers += samples
        if experiment.hardware.gpus:
            shape, longest = (
                shape_of_target(experiment, layout.run_of(target)),
                experiment.protocols[protocol].max_tokens,
            )
            kind = experiment.hardware.kind
            own = own.plus(costs.evaluation_gpu_hours(shape, kind, samples, 1, longest, judged) if shape else None)
    if not count:
        return "", total
    plural = ["" if number == 1 else "s" for number in (len(targets), count)]
    gpus = f", about {_digits(own.value)} GPU hours" if own.value else ""
    total = Total(total.value + own.value, total.low + own.low, total.high + own.high, total.known and own.known)
    return f"{len(targets)} model{plural[0]} in {count:,} job{plural[1]}, {answers:,} answers{gpus}", total


def _asked(outputs: Sequence[str], layout: Layout) -> Iterator[tuple[str, str, str, int]]:
    """Target, protocol, benchmark and number of shards of each file of completions."""
    for path in outputs:
        found = re.fullmatch(
            rf"{re.escape(layout.root)}/evaluations/([^/]+)/([^/]+)/([^/]+)/completions/\d+-of-(\d+)\.parquet", path
        )
        if found:
            yield found[1], found[3], found[2], int(found[4])
