r"""The public names of the package, each as docs/api.md states it; the tests of the rooms go further."""

import copy
import json
import re
import subprocess
import sys
from importlib import import_module

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import justrl
from justrl import config
from justrl.config import names
from justrl.data.messages import DEFAULT_SUFFIX, build_messages
from justrl.errors import UserError
from justrl.training.reference.step import GRPOTrainer, RolloutBatch

PROMPT = "What is 1+1?\n\nPlease reason step by step, and put your final answer within \\boxed{}."


@pytest.mark.parametrize("name", justrl.__all__)
def test_each_name_is_importable_and_stated(name, root):
    assert callable(getattr(justrl, name))
    assert re.search(rf"^\| `{name}", (root / "docs/api.md").read_text(), re.M)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = justrl.no_such_name


def test_text_in_text_out_needs_no_torch():
    code = (
        "import sys, justrl\n"
        "from justrl.verifiers import MathRuleVerifier\n"
        "justrl.apply_chat_template('Why?'), justrl.log_training_metrics({'entropy': 1.0}, 1)\n"
        "assert justrl.JustRLGRPOTrainer and 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == ""


def test_the_verifier():
    from justrl.verifiers import MathRuleVerifier

    assert MathRuleVerifier is justrl.MathRuleVerifier
    verifier = MathRuleVerifier()
    assert verifier.extract_answer(r"so \boxed{ \frac{1}{2} }.") == r"\frac{1}{2}"
    assert verifier.extract_answer("no box") is None
    assert verifier.normalize(" 1 / 2 ") == "1/2"
    assert verifier.verify(r"\boxed{1/2}", "1 / 2") == 1.0
    assert verifier.verify(r"\boxed{2}", "1/2") == verifier.verify("none", "1/2") == 0.0


def test_the_prompt_is_the_papers():
    assert justrl.apply_chat_template("What is 1+1?") == PROMPT
    assert build_messages("What is 1+1?") == [{"role": "user", "content": PROMPT}]
    with pytest.raises(UserError, match="must be text, got int"):
        justrl.apply_chat_template(7)


@pytest.mark.parametrize("separator", ["\n", "\n\n", " "])
def test_the_instruction_comes_off_after(separator):
    assert justrl.extract_question(f"What is 1+1?{separator}{DEFAULT_SUFFIX}") == "What is 1+1?"


@given(st.builds(lambda text, end: text + end, st.text(), st.sampled_from(["", "\n", "\n\n", " ", PROMPT])))
def test_extracting_inverts_formatting(question):
    assert justrl.extract_question(justrl.apply_chat_template(question)) == question


def test_text_without_the_instruction_comes_back_as_it_is():
    for text in ("Why?", f"Why?{DEFAULT_SUFFIX}", DEFAULT_SUFFIX + " ", ""):
        assert justrl.extract_question(text) == text


def test_two_arguments_prepare_the_data_and_one_reads_it(tmp_path):
    rows = [{"problem": f"What is {n}+1?", "answer": str(n + 1)} for n in (1, 2, 1)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dapo.parquet")
    card = justrl.process_dapo_dataset(str(tmp_path / "dapo.parquet"), str(tmp_path / "out"))
    assert (card["rows"]["in"], card["rows"]["out"]) == (3, 2)
    items = justrl.ParquetDataset(str(tmp_path / "out" / "train.parquet"))
    loader = torch.utils.data.DataLoader(items, batch_size=2, collate_fn=justrl.collate_fn)
    assert list(loader) == [[items[0], items[1]]]
    assert justrl.extract_question(items[1]["prompt"][0]["content"]) == items[1]["question"] == "What is 2+1?"


def test_collating_is_the_identity():
    batch = [{"question": "Why?"}, {"other": 1}]
    assert justrl.collate_fn(batch) is batch


def test_questions_of_a_benchmark(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"question": PROMPT, "answer": r"\boxed{2}"}) + "\n")
    assert justrl.load_eval_dataset(str(path)) == [{"question": "What is 1+1?", "ground_truth": "2"}]
    with pytest.raises(UserError, match="no benchmark 'gsm8k': the configuration has aime"):
        justrl.load_eval_dataset("gsm8k")


def test_advantages_of_groups():
    advantages = justrl.compute_group_advantages(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), eps=0.0)
    assert advantages.tolist() == [pytest.approx([0.5**0.5, -(0.5**0.5)]), [0.0, 0.0]]


def test_metrics_are_logged_without_a_file(capsys, tmp_path):
    metrics = {"reward_mean": torch.tensor(0.25), "grad_norm": float("nan"), "note": "first"}
    row = {"step": 3, "reward_mean": 0.25, "grad_norm": None, "note": "first"}
    assert justrl.log_training_metrics(metrics, 3) == row
    assert capsys.readouterr().out == "step 3: reward_mean 0.25, grad_norm None, note first\n"
    assert justrl.log_training_metrics(metrics, 3, tmp_path / "metrics.jsonl") == row
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == row


def test_metrics_go_to_an_active_run_of_weights_and_biases(tmp_path):
    wandb = pytest.importorskip("wandb")
    with wandb.init(mode="offline", dir=tmp_path, project="test") as run:
        justrl.log_training_metrics({"reward_mean": 0.25}, 3)
        assert run.step == 3
        justrl.log_training_metrics({"entropy": 1.5}, 4)  # what comes after a step completes it
        assert (run.step, run.summary["reward_mean"]) == (4, 0.25)
    justrl.log_training_metrics({"reward_mean": 0.5}, 5)  # no run any more


# What a dictionary may say, in its words and in ours.
SMALL = {"mini_batch_size": 2, "micro_batch_size": 3, "dtype": "float32"}
TENSORS = {
    "input_ids": torch.tensor([[5, 6, 7, 8, 0], [5, 9, 3, 0, 0], [0, 4, 2, 1, 1], [0, 0, 4, 3, 2]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]),
    "loss_mask": torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]),
    "rewards": torch.tensor([[1.0, -1.0], [1.0, -1.0]]),
}
BATCH = RolloutBatch([[5, 6], [5], [4], [4]], [[7, 8], [9, 3], [2, 1, 1], [3, 2]], TENSORS["rewards"])


def trainer(model, settings, made=justrl.JustRLGRPOTrainer):
    model = copy.deepcopy(model)
    return model, made(model, torch.optim.SGD(model.parameters(), lr=0.5), settings)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_what_a_config_leaves_out_is_the_papers(tiny_qwen):
    settings = trainer(tiny_qwen, {})[1].config
    assert (settings.clip_ratio_low, settings.clip_ratio_high, settings.clip_ratio_c) == (0.2, 0.28, 10.0)
    assert (settings.mini_batch_prompts, settings.gradient_clip, settings.dtype) == (64, 1.0, "bfloat16")


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [
        ({"clip_range_low": 0.1, "clip_range_high": 0.3}, 0.1, 0.3),
        ({"clip_ratio_low": 0.1, "clip_ratio_high": 0.3}, 0.1, 0.3),
        ({"clip_range_high": 0.4, "kl_coef": 0.0, "entropy_coef": 0}, 0.2, 0.4),
    ],
    ids=["distances", "our names", "some"],
)
def test_a_config_may_use_either_names(tiny_qwen, given, low, high):
    settings = trainer(tiny_qwen, given)[1].config
    assert (settings.clip_ratio_low, settings.clip_ratio_high) == (low, high)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kl_coef": 0.001}, r"kl_coefficient.*2512\.16649"),
        ({"entropy_coef": 0.01}, r"entropy_coefficient.*2512\.16649"),
        ({"clip_rage_low": 0.2}, "unknown key.*clip_rage_low"),
        ({"clip_range_low": 0.8}, "give the distance from a ratio of 1 as clip_ratio_low"),
        ({"clip_range_high": 1.28}, "give the distance from a ratio of 1 as clip_ratio_high"),
        ({"n_rollouts": 8, "rollouts_per_prompt": 4}, "rollouts_per_prompt is given twice"),
    ],
)
def test_a_config_that_is_not_the_recipes_is_refused(tiny_qwen, given, message):
    with pytest.raises(UserError, match=message):
        justrl.JustRLGRPOTrainer(tiny_qwen, None, given)


def test_the_loss_of_tensors(tiny_qwen):
    _, ours = trainer(tiny_qwen, {"clip_range_high": 0.28})
    log_probs = torch.tensor([[0.0, 1.0, 9.0], [0.0, -1.0, 9.0]], requires_grad=True)
    old = torch.zeros(2, 3)
    mask = torch.tensor([[1, 1, 0], [1, 1, 0]])
    loss, metrics = ours.compute_loss(log_probs, old, torch.tensor([1.0, 1.0]), mask)
    assert loss.item() == pytest.approx(-(1 + 1.28 + 1 + torch.tensor(-1.0).exp().item()) / 4)
    assert metrics["tokens"] == 4
    again, _ = ours.compute_loss(log_probs, old, torch.ones(2, 3), mask)
    assert torch.equal(loss, again)
    with pytest.raises(UserError, match=r"advantages is \(3,\)"):
        ours.compute_loss(log_probs, old, torch.ones(3), mask)


def test_another_loss_by_its_name(tiny_qwen):
    _, ours = trainer(tiny_qwen, {"loss": "gspo"})
    log_probs, mask = torch.tensor([[0.0, 1.0, 9.0], [0.0, -1.0, 9.0]]), torch.tensor([[1, 1, 0], [1, 1, 0]])
    loss, _ = ours.compute_loss(log_probs, torch.zeros(2, 3), torch.tensor([1.0, 1.0]), mask)
    assert loss.item() == pytest.approx(-(1.28 + torch.tensor(-0.5).exp().item()) / 2)
    assert ours.config.loss_aggregation == "seq-mean-token-mean"


@pytest.mark.parametrize("rewards", [TENSORS["rewards"], TENSORS["rewards"].flatten()], ids=["groups", "flat"])
def test_a_step_on_tensors_is_the_step_on_our_batch(tiny_qwen, rewards):
    expected, ours = trainer(tiny_qwen, SMALL | {"n_rollouts": 2})
    metrics = ours.train_step(BATCH)
    model, theirs = trainer(tiny_qwen, SMALL | {"n_rollouts": 2})
    assert theirs.train_step({**TENSORS, "rewards": rewards}) == metrics
    assert torch.equal(weights(model), weights(expected))
    assert not torch.equal(weights(model), weights(tiny_qwen))
    recipe = config.load().recipe.model_copy(update=names.translate_recipe(SMALL))
    plain, room = trainer(tiny_qwen, recipe, GRPOTrainer)
    assert room.train_step(BATCH) == metrics
    assert torch.equal(weights(plain), weights(expected))


@pytest.mark.parametrize("width", [5, 4], ids=["as input_ids", "shifted"])
def test_a_step_takes_old_log_probs_and_advantages(tiny_qwen, width):
    expected, ours = trainer(tiny_qwen, SMALL)
    computed, _ = GRPOTrainer(tiny_qwen, None, ours.config).compute_old_log_probs(BATCH)
    metrics = ours.train_step(BATCH)
    old = torch.full((4, 5), torch.nan)
    old[TENSORS["loss_mask"].bool()] = torch.cat(computed)
    advantages = justrl.compute_group_advantages(TENSORS["rewards"], 1e-6).flatten()
    extra = {"old_log_probs": old[:, 5 - width :], "advantages": advantages}
    model, theirs = trainer(tiny_qwen, SMALL)
    got = theirs.train_step({**TENSORS, "rewards": torch.zeros(2, 2), **extra})
    assert got == {name: value for name, value in metrics.items() if "entropy" not in name}
    assert torch.equal(weights(model), weights(expected))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "lacks rewards"),
        ({"labels": torch.zeros(4, 5)}, "unknown keys: labels"),
        ({"rewards": torch.zeros(3, 2)}, r"rewards is \(3, 2\) for 4 sequences"),
        ({"rewards": torch.zeros(4)}, r"in groups of rollouts_per_prompt \(8\)"),
        ({"loss_mask": torch.zeros(4, 5)}, "marks no token"),
        ({"loss_mask": torch.ones(4, 5)}, "sequence 0: loss_mask .* follows a prompt"),
        ({"loss_mask": torch.tensor([[0, 1, 0, 1, 0]] * 4)}, "sequence 0: loss_mask must be 1 on one unbroken"),
        ({"loss_mask": torch.ones(4, 4)}, r"loss_mask is \(4, 4\), but input_ids is \(4, 5\)"),
        ({"attention_mask": torch.tensor([[1, 0, 1, 1, 1]] * 4)}, "sequence 0: attention_mask must be 1 on one"),
        ({"old_log_probs": torch.zeros(4, 3)}, r"old_log_probs is \(4, 3\)"),
        ({"advantages": torch.zeros(4, 5)}, r"advantages is \(4, 5\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(tiny_qwen, change, message):
    batch = {name: value for name, value in (TENSORS | change).items() if value is not None}
    with pytest.raises(UserError, match=message):
        trainer(tiny_qwen, SMALL)[1].train_step(batch)


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("n_rollouts=4", "recipe.rollouts_per_prompt=4"),
        ("recipe.n_rollouts=4", "recipe.rollouts_per_prompt=4"),
        ("kl_coef=0.0", "recipe.kl_coefficient=0.0"),
        ("lr=1e-5", "recipe.learning_rate=1e-5"),
        ("clip_range_high=0.28", "recipe.clip_ratio_high=0.28"),
        ("clip_range_low=0.2", "recipe.clip_ratio_low=0.2"),
        ("clip_range_low=low", "recipe.clip_ratio_low=low"),
        ("max_tokens=100", "recipe.max_response_length=100"),
        ("total_steps=40", "total_steps=40"),
        ("learning_rate=1e-5", "learning_rate=1e-5"),
        ("runs.mini.steps=40", "runs.mini.steps=40"),
    ],
)
def test_overrides_by_other_names_are_understood(given, ours):
    assert names.translate_override(given) == ours


def test_an_override_that_is_a_bound_of_the_ratio_is_refused():
    with pytest.raises(UserError, match=r"clip_range_high 1\.28: give the distance from a ratio of 1"):
        names.translate_override("clip_range_high=1.28")


def test_every_other_name_stands_for_a_key_of_the_configuration():
    recipe = config.load().as_dict()["recipe"]
    assert set(names.RECIPE.values()) <= set(recipe) and not set(names.RECIPE) & set(recipe)


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ("justrl.train", "justrl.training"),
        ("justrl.train.published_entropy", "justrl.training.published_entropy"),
        ("justrl.train.reference.loss", "justrl.training.reference.loss"),
        ("justrl.generation", "justrl.models"),
        ("justrl.generation.base", "justrl.models.sampling"),
    ],
)
def test_a_path_of_an_earlier_version_is_the_same_module(earlier, now):
    module = import_module(now)
    assert import_module(earlier) is module
    assert (module.__name__, module.__spec__.name) == (now, now)


def test_an_unknown_path_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        import_module("justrl.train.nothing")
    with pytest.raises(ModuleNotFoundError):
        import_module("justrl.trains")
