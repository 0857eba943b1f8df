"""Reward of a response: the verifier's score and, in the ablations, an overlong penalty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from justrl.config import Recipe
from justrl.errors import UserError


def overlong_penalty(length: int, max_response_length: int, buffer: int, factor: float) -> float:
    """Return DAPO's soft overlong penalty.

    It is 0 up to `max_response_length - buffer` tokens and then decreases linearly to `-factor`. Same as verl's `dapo`
    reward manager (`overlong_buffer_cfg`); the paper's ablations use it on the last 4,096 of 15,360 tokens.

    Args:
        length: response tokens, including the end token.

    Raises UserError: if the buffer is not between 1 and the longest response.
    """
    if not 0 < buffer <= max_response_length:
        raise UserError(
            f"overlong_penalty.buffer must lie between 1 and max_response_length ({max_response_length}), got {buffer}"
        )
    return min(0.0, -(length - (max_response_length - buffer)) / buffer * factor)


@dataclass(frozen=True)
class Rewards:
    """Rewards of a batch of responses: one entry per response."""

    scores: list[float]
    penalties: list[float]
    undecided: list[bool]

    @property
    def totals(self) -> list[float]:
        """The verifier's score plus the overlong penalty, from which advantages are computed."""
        return [score + penalty for score, penalty in zip(self.scores, self.penalties, strict=True)]

    @property
    def correct(self) -> list[bool]:
        """Whether each response is correct: its score is above 0, since verifiers give only correct answers that."""
        return [score > 0 for score in self.scores]


def question_row(data_source: Any, extra_info: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the row for a custom reward function, the same in both engines: question, index, data_source."""
    extra = extra_info or {}
    return {"question": extra.get("question"), "index": extra.get("index"), "data_source": data_source}


class RewardFunction:
    """The reward of a recipe: its verifier or custom function, plus its overlong penalty if enabled.

    `robust` takes at most about two minutes per step; undecided responses count as wrong (verifiers/rewards.py).
    """

    def __init__(self, recipe: Recipe):
        from justrl.verifiers import get_reward

        self._reward = get_reward(recipe.reward)
        self._max_response_length = recipe.max_response_length
        self._penalty = recipe.overlong_penalty

    def __call__(
        self,
        completions: Sequence[str],
        golds: Sequence[str],
        lengths: Sequence[int],
        rows: Sequence[Mapping[str, Any]] | None = None,
    ) -> Rewards:
        """Score each completion (text without special tokens) against its reference answer.

        Lengths are in tokens; `rows` are the data rows of the questions, which custom reward functions may read.
        """
        rows = [{}] * len(completions) if rows is None else rows
        marks = self._reward.mark(zip(completions, golds, rows, strict=True))
        penalties = [0.0] * len(marks)
        if self._penalty.enabled:
            buffer, factor = self._penalty.buffer, self._penalty.factor
            penalties = [overlong_penalty(n, self._max_response_length, buffer, factor) for n in lengths]
        return Rewards([mark.score for mark in marks], penalties, [mark.undecided for mark in marks])
