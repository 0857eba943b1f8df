"""The run's reward inside verl: `reward.custom_reward_function` of the resolved configuration points here.

verl's reward workers call `compute_score` for each rollout, in threads; the overlong penalty, where it is on, is then
added by verl's own `dapo` reward manager.
"""

from functools import cache
from typing import Any

from justrl.config import OwnFunction, read_part
from justrl.train.reward import question_row
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
        data_source: where the question comes from; every source is scored alike.
        solution_str: the decoded response, special tokens removed.
        ground_truth: the gold answer.
        extra_info: the question and its index, which a reward of one's own may read.
        reward: name of the rule, or the function of one's own as JSON, from the recipe
            (`reward.custom_reward_function.reward_kwargs`).

    Returns:
        `score`, what GRPO sees before any overlong penalty; `acc`, 1.0 where the answer is right; `undecided`, 1.0
        where the verifier gave up, which counts as wrong. All calls share the limits of verifiers/rewards.py.
    """
    rule = _reward(reward)
    if isinstance(rule, ExactReward):
        score, undecided = rule(solution_str, ground_truth), False
    else:
        ((score, undecided),) = rule.mark([(solution_str, ground_truth, question_row(data_source, extra_info))])
    return {"score": score, "acc": float(score > 0), "undecided": float(undecided)}
