"""Alarms that stop a training whose steps cannot be correct; both engines check them before each update.

A broken training can look healthy, because its steps still complete. An alarm stops it before the update, keeps the
state of the previous step and marks the run. Every later start, including a retry by the queue, then stops with the
same message until `justrl train resume RUN --accept ALARM`. An accepted alarm is not raised again in this run, and
the metrics of its later steps list it (`accepted_alarms`).

work_dir/alarms.json   [{alarm, step, sentence, raised, accepted}]; times are UTC, accepted is null until accepted
"""

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from justrl.config import Alarms
from justrl.errors import UserError
from justrl.io import read_json, write_json

FILE = "alarms.json"
PROBS_DIFFERENCE, LEAST_REWARD, TRUNCATED = NAMES = ("probs_difference", "least_reward", "truncated")
# Metrics of a step that the alarms read.
METRICS = (
    "step", "rollouts", "rollout_probs_diff_mean", "score_highest", "score_lowest", "response_clip_ratio"
)  # fmt: skip
ACCEPTED = "accepted_alarms"
# Characters shown from the end of an answer, where its box should be.
CHARACTERS = 120

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Alarm:
    """A raised alarm: its name in the configuration, the step that raised it, and the problem as a sentence."""

    name: str
    step: int
    sentence: str


@dataclass(frozen=True)
class Answer:
    """One answer of a step, with the reference answer to its question."""

    text: str
    gold: str

    def __str__(self) -> str:
        end = self.text[-CHARACTERS:]
        return f"one of them {'ends in' if len(end) < len(self.text) else 'is'} {end!r}, its gold is {self.gold!r}"


class AlarmRaised(UserError):
    """An alarm stopped the training before the update of its step; the run is marked."""


def raised(rows: Sequence[Row], limits: Alarms, answer: Answer | None = None) -> list[Alarm]:
    """Return the alarms that the latest step raises, before its update.

    Args:
        rows: metrics of the steps so far, in order, with the keys in METRICS; missing keys raise no alarm.
        answer: one answer of the latest step, shown in the message.
    """
    shown, step = f": {answer}" if answer else "", rows[-1]["step"]
    said = {
        PROBS_DIFFERENCE: _probs_difference(rows, limits),
        LEAST_REWARD: _least_reward(rows, limits, shown),
        TRUNCATED: _truncated(rows, limits, shown),
    }
    return [Alarm(name, step, sentence) for name, sentence in said.items() if sentence]


def _probs_difference(rows: Sequence[Row], limits: Alarms) -> str:
    limit, count = limits.probs_difference, limits.probs_difference_steps
    if limit is None or _spell(rows, lambda row: differs(row, limit)) < count:
        return ""
    values = ", ".join(_figure(row["rollout_probs_diff_mean"]) for row in rows[-count:])
    return (
        f"the mean difference of token probabilities between sampler and trainer is {values} in "
        f"{_steps(rows, count)} (recipe.alarms.probs_difference: {limit:g}), so the trainer does not "
        "train what was sampled; check the sampler's weights, temperature and number format"
    )


def _least_reward(rows: Sequence[Row], limits: Alarms, shown: str) -> str:
    score, count = _number(rows[-1], "score_highest"), limits.least_reward_steps
    # A score above 0 belongs to a correct answer.
    if count is None or score is None or score > 0:
        return ""
    spell = _spell(rows, lambda row: row.get("score_highest") == row.get("score_lowest") == score)
    if spell < count or (answers := _answers(rows, spell)) < limits.answers:
        return ""
    return (
        f"none of the {answers:,} answers of {_steps(rows, spell)} earns more than the lowest reward, {score:g} "
        f"(recipe.alarms.least_reward_steps: {count}){shown}; check the prompt, the answer format, the "
        "stop tokens, the length limit and the reference answers"
    )


def _truncated(rows: Sequence[Row], limits: Alarms, shown: str) -> str:
    most, count = limits.truncated, limits.truncated_steps
    if most is None:
        return ""
    spell = _spell(rows, lambda row: (_number(row, "response_clip_ratio") or 0.0) > most)
    if spell < count or (answers := _answers(rows, spell)) < limits.answers:
        return ""
    shares = [row["response_clip_ratio"] for row in rows[-spell:]]
    return (
        f"{min(shares):.1%} to {max(shares):.1%} of the {answers:,} answers of {_steps(rows, spell)} are cut off at "
        f"the length limit (recipe.alarms.truncated: {most:g}), which leaves hardly one to learn from{shown}; look at "
        "the stop tokens and at max_response_length"
    )


def _spell(rows: Sequence[Row], holds: Callable[[Row], bool]) -> int:
    """Return the number of consecutive steps, up to the latest, for which a condition holds."""
    count, later = 0, None
    for row in reversed(rows):
        if not holds(row) or (later is not None and row["step"] != later - 1):
            break
        count, later = count + 1, row["step"]
    return count


def differs(row: Row, limit: float) -> bool:
    """Return whether sampler and trainer differ on a step's tokens by more than the limit, or by a non-finite value."""
    value = _number(row, "rollout_probs_diff_mean")
    return "rollout_probs_diff_mean" in row and (value is None or value > limit)


def _number(row: Row, name: str) -> float | None:
    value = row.get(name)
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _answers(rows: Sequence[Row], steps: int) -> int:
    return sum(row.get("rollouts") or 0 for row in rows[len(rows) - steps :])


def _figure(value: float | None) -> str:
    return "no number" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _steps(rows: Sequence[Row], count: int) -> str:
    first, last = rows[-count]["step"], rows[-1]["step"]
    return f"step {last}" if count == 1 else f"steps {first} to {last}"


class Watch:
    """Checks each step of one training for alarms and marks the run.

    Args:
        work: the run's working folder.
        limits: the recipe's limits.
        rows: metrics of the steps that the training continues from.
        writes: whether this process marks the run.
    """

    def __init__(self, work: Path, limits: Alarms, rows: Sequence[Row], writes: bool = True):
        self._work, self._limits, self._writes = work, limits, writes
        self._rows = [read_by_alarms(row) for row in rows[-limits.answers :]]
        self._accepted = {entry["alarm"] for entry in read(work) if entry["accepted"]}

    def look(self, row: Row, answer: Callable[[], Answer | None]) -> None:
        """Check the metrics of the next step, which are known before its update; `answer` returns one of its answers.

        Raises AlarmRaised: an alarm stops the training; the run is marked.
        """
        self._rows = [*self._rows[-self._limits.answers :], read_by_alarms(row)]
        if not any(alarm.name not in self._accepted for alarm in raised(self._rows, self._limits)):
            return
        found = [alarm for alarm in raised(self._rows, self._limits, answer()) if alarm.name not in self._accepted]
        entries = [
            {"alarm": alarm.name, "step": alarm.step, "sentence": alarm.sentence, "raised": _now(), "accepted": None}
            for alarm in found
        ]
        if self._writes:
            write_json(self._work / FILE, [*read(self._work), *entries])
        raise AlarmRaised(_in_words(self._work, entries))


def read_by_alarms(row: Row) -> dict[str, Any]:
    """Return the metrics in a row that the alarms read."""
    return {name: row[name] for name in METRICS if name in row}


def read(work: Path) -> list[dict[str, Any]]:
    """Return the alarms raised in a working folder, in order.

    Raises UserError: the file cannot be read.
    """
    path = work / FILE
    if not path.is_file():
        return []
    entries = read_json(path)
    keys = {"alarm", "step", "sentence", "raised", "accepted"}
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and keys <= entry.keys() for entry in entries):
        raise UserError(f"{path} is not a list of alarms: check its content and move it away")
    return entries


def standing(work: Path) -> str:
    """Return why the training stopped and how to continue, for alarms not yet accepted; empty if there are none."""
    entries = [entry for entry in read(work) if not entry["accepted"]]
    return _in_words(work, entries) if entries else ""


def refuse_marked(work: Path) -> None:
    """Raise UserError, with the alarm's message, if an alarm stopped the run and has not been accepted."""
    if said := standing(work):
        raise UserError(said)


def accept(work: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Accept alarms that stopped a training; return those that are still not accepted.

    Raises UserError: no open alarm has this name.
    """
    entries = read(work)
    standing = [entry["alarm"] for entry in entries if not entry["accepted"]]
    for name in names:
        if name not in standing:
            others = f"{', '.join(standing)} did" if standing else "none did"
            raise UserError(f"no alarm {name} has ended the training in {work} and waits to be accepted: {others}")
    for entry in entries:
        if entry["alarm"] in names and not entry["accepted"]:
            entry["accepted"] = _now()
    write_json(work / FILE, entries)
    return [entry for entry in entries if not entry["accepted"]]


def with_accepted(rows: Sequence[Row], work: Path) -> list[dict[str, Any]]:
    """Return the metrics rows; rows from the step of an accepted alarm onwards list the accepted alarms."""
    accepted = [entry for entry in read(work) if entry["accepted"]]
    marked = []
    for row in rows:
        names = dict.fromkeys(entry["alarm"] for entry in accepted if entry["step"] <= row["step"])
        marked.append({**row, **({ACCEPTED: ", ".join(names)} if names else {})})
    return marked


def accepted_in(rows: Sequence[Row]) -> dict[str, int]:
    """Return the accepted alarms listed in metrics rows, each with the first step trained after it was accepted."""
    found: dict[str, int] = {}
    for row in rows:
        for name in filter(None, str(row.get(ACCEPTED) or "").split(", ")):
            found.setdefault(name, row["step"])
    return found


def accepted_in_words(rows: Sequence[Row]) -> str:
    """Return `accepted_in` as text; empty if no alarm was accepted."""
    return ", ".join(f"{name} (from step {step})" for name, step in accepted_in(rows).items())


def _in_words(work: Path, entries: Sequence[Mapping[str, Any]]) -> str:
    """Describe the alarms that stopped a run, and the two ways out: fix the cause, or accept the alarm."""
    said = "; ".join(f"alarm {entry['alarm']}: {entry['sentence']}" for entry in entries)
    accepts = " ".join(f"--accept {entry['alarm']}" for entry in entries)
    first = min(entry["step"] for entry in entries)
    run = shlex.quote(str(work.resolve().parent))
    return (
        f"{said}. Training stopped before the update of step {first}, and every start stops here: fix the "
        f"cause and retrain, or continue from the state before this step with `justrl train resume {run} {accepts}`"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
