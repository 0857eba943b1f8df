"""Verdicts of a canary, the short trial of a run: one verdict for each question that the full run depends on.

The numbers next to a verdict of `yes` or `no` support it. `not shown` means that this canary could not decide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from justrl.config import Alarms
from justrl.report.html_tables import Section, Text, text_table
from justrl.report.metrics import Rows

YES, NO, NOT_SHOWN = "yes", "no", "not shown"

# The CSS classes of the pages for each verdict.
STYLES = {YES: "holds", NO: "does not hold", NOT_SHOWN: "undecided"}

# Largest mean difference between the sampler's and the trainer's probability of a token. verl's two engines differ by
# about 0.01 in bfloat16; the policy of another step differs by more than this limit.
MOST_DIFFERENCE = Alarms().probs_difference or 0.0
# Steps whose weights were sent to the sampler during the run may differ by this many times the difference of the steps
# that began with weights from a folder. Below LEAST_DIFFERENCE, either difference is rounding. On verl's CPU stack the
# ratio is 1.2 for a correct sync, 3.6 for one that sends every other tensor, and 3.7 for one that sends the weights of
# the step before (tests/engines/test_verl_canary.py).
TIMES_THE_FIRST = 2.0
LEAST_DIFFERENCE = 1e-4
# Nearly all answers are truncated: the sampler ignores the stop token.
MOST_TRUNCATED = Alarms().truncated or 1.0
# Share of the GPU memory: fragmentation and NCCL's buffers need the rest.
MOST_MEMORY = 0.97
# Multiple of the estimated time. The estimate's own range is narrower, but the first steps compile and warm caches.
MOST_TIME = 2.0


@dataclass(frozen=True)
class Answer:
    """The verdict on one question, the numbers behind it, and what to do if it is not `yes`."""

    name: str
    question: str
    verdict: str
    evidence: str
    action: str = ""


@dataclass(frozen=True)
class Asked:
    """The settings of a canary that its verdicts depend on.

    Attributes:
        steps: its last step.
        segment_steps: steps of one job.
        expected_seconds: the plan's estimate of a step, None if there is none.
        gpu_memory: memory of a GPU in GiB, None without a GPU.
        changed: settings that differ from the run's, by key: [the run's value, the canary's value].
    """

    steps: int
    segment_steps: int
    expected_seconds: float | None = None
    gpu_memory: float | None = None
    changed: Mapping[str, Sequence[Any]] = field(default_factory=dict)


Found = tuple[str, str, str]  # verdict, evidence, action


def judge(rows: Rows, result: Mapping[str, Any] | None, asked: Asked) -> list[Answer]:
    """Answer each question from a canary's metrics and, if it was evaluated, its result file."""
    found = {
        ("sync", "Do answers come from the weights that were just trained?"): _sync(rows, asked),
        ("stop_tokens", "Do answers end before the length limit?"): _stop_tokens(rows, result),
        ("memory", "Does a step fit into a GPU's memory?"): _memory(rows, asked),
        ("time", "Do steps take as long as planned?"): _time(rows, asked),
        ("reward", "Are some answers correct?"): _reward(rows),
        ("resume", "Does a job continue where the one before it ended?"): _resume(rows, asked),
    }
    return [Answer(*question, *verdict) for question, verdict in found.items()]


def _values(rows: Rows, name: str) -> list[float]:
    return [row[name] for row in rows if isinstance(row.get(name), int | float)]


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def _sync(rows: Rows, asked: Asked) -> Found:
    """Check that the sampler uses the trained weights.

    Steps that begin a segment sample with weights loaded from a folder, other steps with weights sent during the run.
    """
    action = "do not train: sampler and trainer use different weights; docs/verl.md names the vLLM runner to use"
    differences = [row.get("rollout_probs_diff_mean") for row in rows]
    missing = [row["step"] for row, value in zip(rows, differences, strict=True) if value is None]
    if not rows or missing:
        return NO, f"rollout_probs_diff_mean is missing or not finite in steps {missing}", action
    known = [float(value) for value in differences if value is not None]
    if not all(isfinite(value) for value in known):
        return NO, f"rollout_probs_diff_mean is not finite: {_list(known)}", action
    begins = [row["step"] % asked.segment_steps == 1 or asked.segment_steps == 1 for row in rows]
    first = [value for value, begin in zip(known, begins, strict=True) if begin]
    later = [value for value, begin in zip(known, begins, strict=True) if not begin]
    said = f"rollout_probs_diff_mean is {_list(first)} with weights from a folder"
    said += f", {_list(later)} with weights sent to the sampler during the run" if later else ""
    if max(known) > MOST_DIFFERENCE:
        return NO, f"{said}; at most {MOST_DIFFERENCE:g}", action
    if not later:
        why = f"{said}: no step sampled from weights that were sent to the sampler"
        return NOT_SHOWN, why, "canary.segment_steps: 2"
    most = max(TIMES_THE_FIRST * max(first, default=0.0), LEAST_DIFFERENCE)
    if max(later) > most:
        return NO, f"{said}; at most {most:.2g}", action
    moved = [row for row in rows if row["step"] % asked.segment_steps and (row.get("grad_norm") or 0) > 0]
    if not moved:
        why = f"{said}, and no step before them changed the weights (grad_norm is 0)"
        return NOT_SHOWN, why, "raise canary.steps until the answers of some group differ in reward"
    return YES, said, ""


def _stop_tokens(rows: Rows, result: Mapping[str, Any] | None) -> Found:
    cut = _values(rows, "response_clip_ratio")
    if not cut:
        return NOT_SHOWN, "response_clip_ratio is not in the metrics", ""
    said = f"{min(cut):.0%} to {max(cut):.0%} of the answers of a step were truncated"
    evaluated = (result or {}).get("truncated_fraction")
    said += f", {evaluated:.0%} of the answers in the evaluation" if evaluated is not None else ""
    if min(cut) > MOST_TRUNCATED:
        action = "check the stop tokens that `justrl preflight` lists, or raise the length limit for this model"
        return NO, said, action
    return YES, said, ""


def _memory(rows: Rows, asked: Asked) -> Found:
    used = _values(rows, "memory_gb")
    if not asked.gpu_memory or not used:
        return NOT_SHOWN, "no GPU's memory was measured", ""
    said = f"the trainer used at most {max(used):.1f} of {asked.gpu_memory:.1f} GiB"
    if max(used) > MOST_MEMORY * asked.gpu_memory:
        return NO, said, "lower hardware.engine.max_tokens_per_gpu"
    return YES, said, ""


def _time(rows: Rows, asked: Asked) -> Found:
    taken = _values(rows, "step_seconds")
    if not taken or not asked.expected_seconds:
        return NOT_SHOWN, f"steps took {_list(taken)} s; the plan has no estimate of them", ""
    # The very first step includes compilation.
    usual = sorted(taken[1:] or taken)[len(taken[1:] or taken) // 2]
    said = f"a step took {usual:,.0f} s, the plan expects {asked.expected_seconds:,.0f} s"
    if usual > MOST_TIME * asked.expected_seconds:
        action = "`justrl plan` now uses the canary's timings: check the cost of the run with it"
        return NO, f"{said}; allowed is {MOST_TIME:g} times as much", action
    return YES, said, ""


def _reward(rows: Rows) -> Found:
    right = _values(rows, "accuracy")
    undecided = max(_values(rows, "undecided"), default=0.0)
    if not right:
        return NO, "accuracy is not in the metrics", "read the log of the training"
    said = f"{min(right):.1%} to {max(right):.1%} of the answers of a step earned more than the lowest reward"
    said += f", {undecided:.1%} were undecided" if undecided else ""
    if max(right) == 0.0:
        return NO, said, "compare some answers with their reference answers (rollouts.html)"
    if min(right) == 1.0 or undecided > 0.01:
        return NO, said, "change the questions or the reward: the model cannot learn from a reward that does not differ"
    return YES, said, ""


def _resume(rows: Rows, asked: Asked) -> Found:
    steps = [row["step"] for row in rows]
    if steps != list(range(1, asked.steps + 1)):
        return NO, f"the metrics have steps {steps} of {asked.steps}", "read the logs of the segments"
    ends = list(range(asked.segment_steps, asked.steps, asked.segment_steps))
    if not ends:
        return NOT_SHOWN, "there was one segment", "canary.segment_steps: half of canary.steps"
    begun = [row.get("rollout_probs_diff_mean") for row in rows if row["step"] - 1 in ends]
    said = f"{len(ends) + 1} jobs trained steps 1 to {asked.steps} without a gap"
    if any(value is None or value > MOST_DIFFERENCE for value in begun):
        return NO, f"{said}, but the first step of a resumed job sampled from other weights", ""
    return YES, said, ""


def as_json(run: str, answers: Sequence[Answer], asked: Asked) -> dict[str, Any]:
    """The verdicts as a JSON object."""
    return {"experiment": "canary", "run": run, "asked": asdict(asked), "answers": [asdict(one) for one in answers]}


def sections(record: Mapping[str, Any]) -> list[Section]:
    """The page of saved verdicts: one row per question, and the settings that were changed for the canary."""
    rows = [
        [
            Text(answer["question"], answer["name"]),
            Text("", "", ((answer["verdict"], STYLES.get(answer["verdict"], "")),)),
            Text(answer["evidence"], answer["action"]),
        ]
        for answer in record["answers"]
    ]
    lead = f"What the short trial of {record['run'].removeprefix('canary_')} showed before the full training."
    changed = [(key, *values) for key, values in record["asked"]["changed"].items()]
    kept = "All other settings are those of the run. No run resumes from a canary."
    columns = ["Setting", "The run", "Its canary"]
    return [
        text_table("Verdicts", ["Question", "Verdict", "Evidence"], rows, lead),
        text_table("Changed for the trial", columns, changed, kept),
    ]


def sentence(record: Mapping[str, Any]) -> str | None:
    """The problems in one sentence; None if no verdict is `no`."""
    wrong = [answer for answer in record["answers"] if answer["verdict"] == NO]
    if not wrong:
        return None
    said = "; ".join(f"{answer['question']} No: {answer['evidence']}" for answer in wrong)
    todo = next((answer["action"] for answer in wrong if answer["action"]), "")
    return f"{record['run']}: {said}. {todo}".rstrip(". ")
