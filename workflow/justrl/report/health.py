"""Health of a training run from its metrics: runs that learn nothing, and the four known failures of this recipe.

Each finding has a name, the numbers behind it and one sentence that a reader can act on. Conditions that stop a run
from learning are reported if they hold for five consecutive steps. The other thresholds compare the end of the run with
its start (the first and last tenth of the steps). The paper's own entropy bound applies only to its experiment, since a
small vocabulary has another scale of entropy, and only to the entropy as the authors' code logs it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from math import isfinite, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, TypeGuard

from justrl.config import Alarms
from justrl.io import write_json
from justrl.report.metrics import METRICS, Rows, read_metrics, run_of, series
from justrl.training import alarms

# A policy becomes more certain as it learns: healthy small runs fall to a quarter of their initial entropy.
COLLAPSE_FACTOR = 0.1
EXPLOSION_FACTOR = 3.0
# The paper's runs stay above 1.0; both of its ablations, which stop learning, settle at 0.5 to 0.6.
PAPER_COLLAPSE = 0.6
TRUNCATION_LIMIT = 0.25
# With fewer steps, half of them warm-up in the paper's recipe, a reward that does not rise is not evidence.
LEAST_STEPS = 20
# This many consecutive steps without a learning signal cannot be chance.
STUCK_STEPS = 5
LEAST_REWARD = -1.0
Finding = dict[str, Any]
FINITE = ("reward_mean", "accuracy", "entropy", "policy_loss", "grad_norm", "approx_kl", "response_length_mean")


def summarize_run(rows: Rows, experiment: str) -> dict[str, Any]:
    """Start, end and extremes of each metric, the list of findings, and the run's health in one line."""
    window = max(1, len(rows) // 10)
    metrics = {}
    for name in METRICS:
        steps, values = series(rows, name)
        if values:
            low, high = min(values), max(values)
            metrics[name] = {
                "start": fmean(values[:window]),
                "end": fmean(values[-window:]),
                "lowest": low,
                "lowest_step": steps[values.index(low)],
                "highest": high,
                "highest_step": steps[values.index(high)],
            }
    findings = [
        *(finding for stuck in STUCK for finding in _stuck(rows, *stuck)),
        *_non_finite(rows),
        *_entropy(metrics, experiment),
        *_reward(rows, window),
        *_truncation(metrics),
        *_accepted(rows),
        *_missing(rows),
    ]
    return {
        "experiment": experiment,
        "health": verdict(rows, problems(findings)),
        "first_step": rows[0]["step"],
        "last_step": rows[-1]["step"],
        "window": window,
        "hours": sum(series(rows, "step_seconds")[1]) / 3600,
        "metrics": metrics,
        "findings": findings,
    }


def problems(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The sentences of the findings about the training itself; a metric that was not logged is not among them."""
    return [finding["sentence"] for finding in findings if finding["name"] != "missing"]


def verdict(rows: Rows, sentences: Sequence[str]) -> str:
    """The problems of a run, or else whether it has enough steps to be called good."""
    early = f"too early to judge: {len(rows)} of {LEAST_STEPS} steps needed"
    return "; ".join(sentences) or (early if len(rows) < LEAST_STEPS else "good")


def _no_group_differs(row: Mapping[str, Any]) -> bool:
    """True if all rewards within each group are equal.

    Logs of verl are judged by their advantages, older logs by an accuracy of 0 or 1.
    """
    if row.get("overlong_penalty_mean"):
        return False
    none, every = row.get("solve_none"), row.get("solve_all")
    if _number(none) and _number(every):
        return none + every > 1 - 1e-9
    if "advantage_highest" in row:
        return row["advantage_highest"] == 0 == row.get("advantage_lowest")
    return row.get("accuracy") in (0, 1)


def _sampler_differs(row: Mapping[str, Any]) -> bool:
    """True if the difference exceeds the default limit of the alarm; the limit in a recipe is not considered."""
    limit = Alarms().probs_difference
    return limit is not None and alarms.differs(row, limit)


def _reward_is_least(row: Mapping[str, Any]) -> bool:
    reward = row.get("reward_mean")
    return row.get("accuracy") == 0 or (_number(reward) and reward <= LEAST_REWARD)


Condition = Callable[[Mapping[str, Any]], bool]
STUCK: tuple[tuple[str, Condition, str], ...] = (
    (
        "no_difference",
        _no_group_differs,
        "all answers of each group have the same reward, so the model cannot learn; check whether the "
        "questions are too hard or too easy for this model, and whether the verifier finds the answers",
    ),
    ("zero_gradient", lambda row: row.get("grad_norm") == 0, "the gradient is zero, so the weights do not change"),
    (
        "probs_difference",
        _sampler_differs,
        "sampler and trainer use different policies; check the sampler's weights, temperature and number format",
    ),
    (
        "least_reward",
        _reward_is_least,
        "all rewards are the lowest possible and no answer is correct; check answer format, prompt "
        "suffix, truncation and reference answers in the saved rollouts",
    ),
)


def _stuck(rows: Rows, name: str, holds: Condition, what: str) -> Iterator[Finding]:
    """Find a condition that held in at least STUCK_STEPS consecutive steps: from which step on, and for how long."""
    spells = [list(spell) for held, spell in groupby(rows, holds) if held]
    spells = [spell for spell in spells if len(spell) >= STUCK_STEPS]
    if not spells:
        return
    first, last, until = spells[0][0]["step"], spells[0][-1]["step"], spells[-1][-1]["step"]
    later, now = sum(map(len, spells[1:])), until == rows[-1]["step"]
    sentence = (
        f"from step {first} to {last} ({len(spells[0])} steps)"
        + (f" and in {later} later steps" if later else "")
        + f" {what}"
        + ("" if now else f" (no longer after step {until})")
    )
    steps = len(spells[0]) + later
    yield {"name": name, "first_step": first, "last_step": last, "steps": steps, "now": now, "sentence": sentence}


def _non_finite(rows: Rows) -> Iterator[Finding]:
    """The first step with a value that is NaN, infinite or null (as JSON writes both)."""
    bad = [(row["step"], [name for name in FINITE if name in row and not _number(row[name])]) for row in rows]
    found = [(step, names) for step, names in bad if names]
    if found:
        (step, names), count = found[0], len(found)
        sentence = f"{', '.join(names)} not finite since step {step}, in {count} step{'s' if count > 1 else ''} in all"
        yield {"name": "non_finite", "first_step": step, "metrics": names, "steps": count, "sentence": sentence}


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and isfinite(value)


def _entropy(metrics: Mapping[str, Mapping[str, float]], experiment: str) -> Iterator[Finding]:
    if "entropy" not in metrics:
        return
    start, end = metrics["entropy"]["start"], metrics["entropy"]["end"]
    as_published = metrics.get("entropy_as_published", {}).get("end")
    as_theirs = experiment == "paper" and as_published is not None and as_published <= PAPER_COLLAPSE
    if end < COLLAPSE_FACTOR * start or as_theirs:
        sentence = (
            f"entropy fell from {start:.3g} to {end:.3g}"
            + (f" ({as_published:.3g} as the authors' code logs it)" if as_theirs else "")
            + ": the policy generates nearly the same answer every time; check the length penalty, the "
            "verifier and the learning rate"
        )
        yield {"name": "entropy_collapse", "start": start, "end": end, "sentence": sentence}
    elif end > EXPLOSION_FACTOR * start:
        sentence = (
            f"entropy rose from {start:.3g} to {end:.3g}: the policy drifts towards noise; check the gradient "
            "norm, the clip range and whether rollouts use the current weights"
        )
        yield {"name": "entropy_explosion", "start": start, "end": end, "sentence": sentence}


def _reward(rows: Rows, window: int) -> Iterator[Finding]:
    _, values = series(rows, "reward_mean")
    if len(values) < LEAST_STEPS:
        return
    window = max(2, window)
    first, last = values[:window], values[-window:]
    gain = fmean(last) - fmean(first)
    error = sqrt((stdev(first) ** 2 + stdev(last) ** 2) / window)
    if gain > 2 * error and gain > 0:
        return
    sentence = (
        f"reward went from {fmean(first):.3g} to {fmean(last):.3g}, no rise beyond its noise ({2 * error:.2g}); "
        "check that the verifier can see the answers (truncation, prompt suffix) and that groups differ in reward"
    )
    yield {"name": "reward_flat", "start": fmean(first), "end": fmean(last), "sentence": sentence}


def _truncation(metrics: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    if "response_clip_ratio" not in metrics or metrics["response_clip_ratio"]["end"] <= TRUNCATION_LIMIT:
        return
    start, end = metrics["response_clip_ratio"]["start"], metrics["response_clip_ratio"]["end"]
    sentence = f"{end:.0%} of the responses at the end run into the length limit and cannot be rewarded"
    yield {"name": "truncation", "start": start, "end": end, "sentence": sentence}


def _accepted(rows: Rows) -> Iterator[Finding]:
    """The alarms that ended the training and were accepted by hand."""
    for name, step in alarms.accepted_in(rows).items():
        sentence = f"alarm {name} ended the training before step {step}, which went on after somebody accepted it"
        yield {"name": "accepted_alarm", "alarm": name, "first_step": step, "sentence": sentence}


def _missing(rows: Rows) -> Iterator[Finding]:
    for name in METRICS:
        if count := sum(row.get(name) is None for row in rows):
            yield {"name": "missing", "metric": name, "steps": count, "sentence": f"{name} is missing at {count} steps"}


def write_health(outputs: Mapping[str, Path], metrics: Path, experiment: str | None = None) -> list[str]:
    """Summarize the health of a run: first and last metrics, and findings; return a sentence for each finding."""
    report = summarize_run(read_metrics(metrics), str(experiment or run_of(metrics)["experiment"]))
    write_json(outputs[".json"], report)
    return [f"{finding['name']}: {finding['sentence']}" for finding in report["findings"]]
