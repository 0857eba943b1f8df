"""The run's reward inside verl: `reward.custom_reward_function` of the resolved configuration names this module.

verl's reward workers call `compute_score` for each rollout, in threads. The overlong penalty, if enabled, is then added
by verl's own `dapo` reward manager.
"""

from functools import cache
from typing import Any

from justrl.config import OwnFunction, read_part
from justrl.training.reward import question_row
from justrl.verifiers import get_reward
from justrl.verifiers.rewards import ExactReward


@cache
def _reward(name: str):
    return get_reward(read_part(OwnFunction, name, "reward") if name.startswith("{") else name)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    reward: str = "paper",
    **_: Any,
) -> dict[str, float]:
    """Score one rollout.

    Args:
        data_source: source of the question; all sources are scored in the same way.
        solution_str: the decoded response, without special tokens.
        ground_truth: the reference answer.
        extra_info: the question and its index, which a custom reward function may read.
        reward: name of the verifier, or a custom function as JSON, from the recipe
            (`reward.custom_reward_function.reward_kwargs`).

    Returns:
        `score`, the reward before any overlong penalty; `acc`, 1.0 if the answer is correct; `undecided`, 1.0 if the
        verifier gave up, which counts as wrong. All calls share the limits of verifiers/rewards.py.
    """
    rule = _reward(reward)
    if isinstance(rule, ExactReward):
        score, undecided = rule(solution_str, ground_truth), False
    else:
        ((score, undecided),) = rule.mark([(solution_str, ground_truth, question_row(data_source, extra_info))])
    return {"score": score, "acc": float(score > 0), "undecided": float(undecided)}
