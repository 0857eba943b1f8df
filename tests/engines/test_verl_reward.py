"""verl's own reward manager, as the resolved configuration makes it, pays what our reference reward pays."""

import asyncio
import random

import pytest
import torch

pytest.importorskip("verl")
from transformers import AutoTokenizer
from verl import DataProto
from verl.trainer.ppo.reward import load_reward_manager

from justrl import config as experiment
from justrl.training.reward import RewardFunction
from justrl.training.verl import translate
from justrl.training.verl.settings import VerlRequest
from tiny_model import make_tiny_model

pytestmark = pytest.mark.verl

ENDINGS = [
    r"so the answer is \boxed{42}.",
    r"so the answer is \boxed{ 42 }.",
    r"so the answer is \boxed{\frac{84}{2}}.",
    r"so the answer is \boxed{41}, or rather \boxed{42}",
    r"so the answer is \boxed{42}, or rather \boxed{41}",
    r"so the answer is \boxed{42" + " and so on" * 12,
    r"so the answer is \boxed{42} " + "because of this " * 10,
    "so the answer is 42",
]
LIMIT, BUFFER = 160, 40


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward") / "model"
    make_tiny_model(folder)
    return AutoTokenizer.from_pretrained(folder)


def recipe_of(run: str) -> experiment.Recipe:
    """The recipe of a run, with lengths that fit the tiny texts of this test."""
    lengths = ["recipe.max_response_length=" + str(LIMIT), "recipe.overlong_penalty.buffer=" + str(BUFFER)]
    return experiment.load(overrides=lengths).runs[run].recipe


def rollout(ids: list[int], gold: str) -> DataProto:
    """One rollout as verl's agent loop hands it to the reward manager: padded to the right."""
    responses = torch.zeros(1, LIMIT, dtype=torch.long)
    responses[0, : len(ids)] = torch.tensor(ids)
    attention = torch.zeros(1, LIMIT + 3, dtype=torch.long)
    attention[0, : 3 + len(ids)] = 1
    return DataProto.from_dict(
        {"prompts": torch.ones(1, 3, dtype=torch.long), "responses": responses, "attention_mask": attention},
        non_tensors={"data_source": ["math_dapo"], "reward_model": [{"ground_truth": gold}], "extra_info": [{}]},
    )


def responses(tokenizer) -> list[list[int]]:
    """Responses of all lengths up to the limit, with every ending; the last token ends the turn where it fits."""
    draw = random.Random(0)
    found = []
    for ending in ENDINGS:
        tail = [*tokenizer.encode(ending), tokenizer.eos_token_id]
        for length in {len(tail), LIMIT - BUFFER, LIMIT - BUFFER + 1, LIMIT - 1, LIMIT}:
            filler = [draw.choice(tokenizer.encode(" the number of ways")) for _ in range(length)]
            found.append((filler + tail)[-length:])
    return found


@pytest.mark.parametrize("run", ["deepseek", "deepseek_overlong", "deepseek_overlong_robust"])
def test_every_rollout_earns_the_same_in_both_engines(tokenizer, run):
    recipe = recipe_of(run)
    configuration = translate.resolve(VerlRequest(recipe=recipe, seed=42, hardware=experiment.load().hardware, run=run))
    manager = load_reward_manager(configuration, tokenizer)
    reference = RewardFunction(recipe)
    scores = set()
    for ids in responses(tokenizer):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        expected = reference([text], ["42"], [len(ids)])
        paid = asyncio.get_event_loop_policy().get_event_loop().run_until_complete(
            manager.run_single(rollout(ids, "42"))
        )  # fmt: skip
        assert float(paid["reward_score"]) == pytest.approx(expected.totals[0], abs=1e-6), (text, len(ids))
        assert paid["reward_extra_info"]["acc"] == float(expected.correct[0])
        scores.add(round(float(paid["reward_score"]), 6))
    # Right and wrong both occur, and under the ablations penalties between none and all.
    assert {1.0, -1.0} <= scores
    assert (len(scores) > 2) == recipe.overlong_penalty.enabled
    assert (min(scores) == -2.0) == recipe.overlong_penalty.enabled


def test_the_lenient_rule_accepts_more(tokenizer):
    strict, lenient = (
        sum(
            RewardFunction(recipe_of(run))([tokenizer.decode(ids, skip_special_tokens=True)], ["42"], [1]).correct[0]
            for ids in responses(tokenizer)
        )
        for run in ("deepseek", "deepseek_overlong_robust")
    )
    assert lenient > strict > 0
