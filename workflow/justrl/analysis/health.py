"""Health of a training run from its metrics: the four known failures of this recipe.

Each finding has a name, the numbers behind it and one sentence that a reader can act on. Thresholds compare the end of
the run with its start (the first and last tenth of the steps); the paper's own entropy bound applies to its experiment
only, as a small vocabulary has another scale of entropy, and to the entropy as the authors' code logs it.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from justrl.analysis.metrics import METRICS, series

# A policy that learns grows surer: falling to a quarter is seen in healthy small runs.
COLLAPSE_FACTOR = 0.1
EXPLOSION_FACTOR = 3.0
# The paper's runs stay above 1.0; both of its ablations, which stop learning, settle at 0.5 to 0.6.
PAPER_COLLAPSE = 0.6
TRUNCATION_LIMIT = 0.25
# In fewer steps, half of them warm-up in the paper's recipe, a reward that does not rise says nothing.
LEAST_STEPS_OF_REWARD = 20


def summarize_run(rows: Sequence[Mapping[str, Any]], experiment: str) -> dict[str, Any]:
    """Start, end, extremes of each metric and the list of findings; an empty list is a healthy run."""
    window = max(1, len(rows) // 10)
    metrics = {}
    for name in METRICS:
        steps, values = series(rows, name)
        if values:
            metrics[name] = {
                "start": fmean(values[:window]),
                "end": fmean(values[-window:]),
                "lowest": min(values),
                "lowest_step": steps[values.index(min(values))],
                "highest": max(values),
                "highest_step": steps[values.index(max(values))],
            }
    findings = [*_entropy(metrics, experiment), *_reward(rows, window), *_truncation(metrics), *_missing(rows)]
    return {
        "experiment": experiment,
        "first_step": rows[0]["step"],
        "last_step": rows[-1]["step"],
        "window": window,
        "hours": sum(series(rows, "step_seconds")[1]) / 3600,
        "metrics": metrics,
        "findings": findings,
    }


def _entropy(metrics: Mapping[str, Mapping[str, float]], experiment: str) -> list[dict[str, Any]]:
    if "entropy" not in metrics:
        return []
    start, end = metrics["entropy"]["start"], metrics["entropy"]["end"]
    as_published = metrics.get("entropy_as_published", {}).get("end")
    as_theirs = experiment == "paper" and as_published is not None and as_published <= PAPER_COLLAPSE
    if end < COLLAPSE_FACTOR * start or as_theirs:
        sentence = (
            f"entropy fell from {start:.3g} to {end:.3g}"
            + (f" ({as_published:.3g} as the authors' code logs it)" if as_theirs else "")
            + ": the policy samples nearly the same answer every time; "
            "look for a length penalty, a lenient verifier, or a learning rate that is too high"
        )
        return [{"name": "entropy_collapse", "start": start, "end": end, "sentence": sentence}]
    if end > EXPLOSION_FACTOR * start:
        sentence = (
            f"entropy rose from {start:.3g} to {end:.3g}: the policy drifts towards noise; look at the gradient norm, "
            "the clip range and whether rollouts come from the current weights"
        )
        return [{"name": "entropy_explosion", "start": start, "end": end, "sentence": sentence}]
    return []


def _reward(rows: Sequence[Mapping[str, Any]], window: int) -> list[dict[str, Any]]:
    _, values = series(rows, "reward_mean")
    if len(values) < LEAST_STEPS_OF_REWARD:
        return []
    window = max(2, window)
    first, last = values[:window], values[-window:]
    gain = fmean(last) - fmean(first)
    error = sqrt((stdev(first) ** 2 + stdev(last) ** 2) / window)
    if gain > 2 * error and gain > 0:
        return []
    sentence = (
        f"reward went from {fmean(first):.3g} to {fmean(last):.3g}, no rise beyond its noise ({2 * error:.2g}); "
        "check that the verifier can see the answers (truncation, prompt suffix) and that groups differ in reward"
    )
    return [{"name": "reward_flat", "start": fmean(first), "end": fmean(last), "sentence": sentence}]


def _truncation(metrics: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    if "response_clip_ratio" not in metrics or metrics["response_clip_ratio"]["end"] <= TRUNCATION_LIMIT:
        return []
    start, end = metrics["response_clip_ratio"]["start"], metrics["response_clip_ratio"]["end"]
    sentence = f"{end:.0%} of the responses at the end run into the length limit and cannot be rewarded"
    return [{"name": "truncation", "start": start, "end": end, "sentence": sentence}]


def _missing(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    missing = {name: sum(row.get(name) is None for row in rows) for name in METRICS}
    return [
        {"name": "missing", "metric": name, "steps": count, "sentence": f"{name} is missing at {count} steps"}
        for name, count in missing.items()
        if count
    ]
