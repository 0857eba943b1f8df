"""What verl's workers updated on, as `mini_batch_spy` wrote it down."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Trajectory:
    """One row of a mini-batch: where it belongs in its step, its tokens, and which of the response's are trained."""

    prompt: int
    sample: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]
    advantage: float

    @property
    def place(self) -> tuple[int, int]:
        return self.prompt, self.sample

    @property
    def tokens(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)


Step = dict[tuple[int, int], list[Trajectory]]


def read_steps(attempts: Path) -> dict[int, Step]:
    """step -> (mini-batch, rank) -> rows; of a step that two attempts made, the later one, which counts."""
    steps: dict[int, Step] = {}
    for attempt in sorted(attempts.glob("attempt_*/")):
        made: dict[int, Step] = {}
        for file in attempt.glob("mini_batches.*.jsonl"):
            rank = int(file.suffixes[-2].removeprefix("."))
            for line in file.read_text().splitlines():
                step, mini_batch, rows = _read(json.loads(line))
                made.setdefault(step, {})[mini_batch, rank] = rows
        steps |= made
    return steps


def _read(line: dict) -> tuple[int, int, list[Trajectory]]:
    rows = []
    columns = (line[key] for key in ("uid", "session_id", "prompts", "responses", "loss_mask", "advantages"))
    for uid, sample, prompt, response, mask, advantages in zip(*columns, strict=True):
        step, place = map(int, uid.split("-"))
        rows.append(Trajectory(place, int(sample), tuple(prompt), tuple(response), tuple(mask), advantages[0]))
    return step, line["mini_batch"], rows
