"""Rewards and graders, by name.

The training rewards are `paper`, the authors' own (a box in the last 100 characters, compared character for character),
`strict` (the last box anywhere, compared without spaces) and `robust` (the lenient rules of `paper_rules`, with time
limits). The evaluation graders are `paper_rules` (decides as the authors' released evaluation does), `symbolic` (SymPy)
and `model` (a judge model). `paper` and `strict` can also grade. The user's own functions are in own.py.
"""

from importlib import import_module

from justrl.config import OwnFunction
from justrl.errors import UserError
from justrl.verifiers.outcome import Grade, Grader, Outcome
from justrl.verifiers.own import OwnReward
from justrl.verifiers.rewards import (
    COMPARISON_SECONDS,
    ExactReward,
    MathRuleVerifier,
    PaperVerifier,
    Reward,
    RobustReward,
)

__all__ = [
    "GRADERS",
    "REWARDS",
    "Grade",
    "Grader",
    "MathRuleVerifier",
    "Outcome",
    "PaperVerifier",
    "Reward",
    "get_grader",
    "get_reward",
]

GRADERS = {
    "strict": ("justrl.verifiers.rewards", "MathRuleVerifier"),
    "paper": ("justrl.verifiers.rewards", "PaperVerifier"),
    "paper_rules": ("justrl.verifiers.authors_rules", "PaperRulesGrader"),
    "symbolic": ("justrl.verifiers.symbolic", "SymbolicGrader"),
    "model": ("justrl.verifiers.judge", "ModelGrader"),
}
REWARDS = ("paper", "strict", "robust")


def get_grader(name: str, **options) -> Grader:
    """Make the grader called `name`; `options` go to its constructor. Raises UserError for an unknown name or option.

    Graders that need processes or models start them on first use and release them in `close()`. Each grader is a
    context manager.
    """
    if name not in GRADERS:
        raise UserError(f"unknown grader {name!r}: choose one of {', '.join(GRADERS)}")
    module, attribute = GRADERS[name]
    try:
        return getattr(import_module(module), attribute)(**options)
    except TypeError as error:
        raise UserError(f"grader {name!r} does not take these options: {error}") from error


def get_reward(name: str | OwnFunction) -> Reward | OwnReward:
    """Make the training reward called `name`, or one from a user's function: a function of (completion, gold).

    `paper` gives +1/-1 (the authors' training reward) and `strict` 1/0. `robust` gives +1/-1 by the lenient rules of
    `paper_rules`, within time limits (rewards.py); it is the kind of verifier that the paper's second ablation trains
    with.
    """
    if isinstance(name, OwnFunction):
        return OwnReward(name)
    if name not in REWARDS:
        raise UserError(f"unknown reward {name!r}: choose one of {', '.join(REWARDS)}")
    if name == "robust":
        from justrl.verifiers.authors_rules import PaperRulesGrader

        return RobustReward(PaperRulesGrader(timeout=COMPARISON_SECONDS))
    return ExactReward(PaperVerifier() if name == "paper" else MathRuleVerifier())
