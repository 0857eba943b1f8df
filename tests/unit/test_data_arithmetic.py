"""The mini experiment's tasks, tokenizer and worked solutions."""

import json
import random
import re
import unicodedata

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl.cli.main import main as justrl
from justrl.data import arithmetic, tiny_model
from justrl.data.messages import DEFAULT_SUFFIX, build_messages
from justrl.errors import UserError
from justrl.verifiers import get_reward


@given(st.integers(0, 999), st.integers(0, 999))
def test_the_split_does_not_depend_on_the_order_of_the_terms(a, b):
    assert arithmetic.is_held_out(a, b) == arithmetic.is_held_out(b, a)


@pytest.mark.parametrize("digits", [2, 3])
def test_training_and_benchmark_share_no_sum(digits):
    train = arithmetic.draw_sums(2000, digits, seed=1, held_out=False)
    benchmark = arithmetic.draw_sums(200, digits, seed=2, held_out=True)
    assert len(set(train)) == 2000 and len(set(benchmark)) == 200
    assert not {tuple(sorted(pair)) for pair in train} & {tuple(sorted(pair)) for pair in benchmark}
    assert all(10 ** (digits - 1) <= x < 10**digits for pair in train + benchmark for x in pair)


def test_drawn_sums_depend_on_the_seed_alone():
    assert arithmetic.draw_sums(50, 3, 7, False) == arithmetic.draw_sums(50, 3, 7, False)
    assert arithmetic.draw_sums(50, 3, 7, False) != arithmetic.draw_sums(50, 3, 8, False)


def test_says_how_many_sums_there_are():
    with pytest.raises(UserError, match=r"9000 training sums of 2 digits were asked for, but there are \d+"):
        arithmetic.draw_sums(9000, 2, 1, False)


def test_files(tmp_path):
    common = ["--rows", "20", "--digits", "2", "--seed", "3", "--output"]
    justrl(["data", "arithmetic", "benchmark", *common, str(tmp_path / "raw")])
    rows = pq.read_table(tmp_path / "raw" / "train.parquet").to_pylist()
    assert len(rows) == 20 and set(rows[0]) == {"id", "question", "answer"}
    justrl(["data", "arithmetic", "train", "--formatted", *common, str(tmp_path / "train.parquet")])
    for row in pq.read_table(tmp_path / "train.parquet").to_pylist():
        a, b = map(int, re.findall(r"\d+", row["extra_info"]["question"]))
        assert int(row["reward_model"]["ground_truth"]) == a + b
        assert row["prompt"] == build_messages(row["extra_info"]["question"])


@given(st.integers(10, 99999), st.integers(10, 99999), st.integers(0, 9))
def test_column_solutions_are_right_unless_they_slip_and_glances_are_wrong(a, b, seed):
    rng, reward = random.Random(seed), get_reward("paper")
    assert reward(tiny_model.worked_solution(a, b, rng, slip_share=0.0), str(a + b)) == 1.0
    assert reward(tiny_model.worked_solution(a, b, rng, slip_share=1.0), str(a + b)) == -1.0
    assert reward(tiny_model.glance_solution(a, b, rng), str(a + b)) == -1.0


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_model.sums_tokenizer("nemotron", DEFAULT_SUFFIX)


@given(text=st.text())
def test_any_text_survives_the_tokenizer(tokenizer, text):
    text = unicodedata.normalize("NFC", text)  # as Qwen2's own tokenizer does
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokens_that_engines_rely_on(tokenizer, tmp_path):
    assert len(tokenizer.encode("\n")) == 1
    assert tokenizer.encode("<|im_end|>") == [tokenizer.eos_token_id]
    assert len(tokenizer.encode("<|im_start|>")) == 1
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1
    messages = build_messages("What is 47 + 85?")
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert len(ids) <= 26
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is 47 + 85?\n\n"
        f"{DEFAULT_SUFFIX}<|im_end|>\n<|im_start|>assistant\n"
    )
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path)
    assert len(again) == len(tokenizer) and again.eos_token == "<|im_end|>"
    assert again.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == ids


SETTINGS = {
    "source": "tiny",
    "family": "deepseek",
    "context_length": 64,
    "hidden_size": 16,
    "intermediate_size": 16,
    "layers": 1,
    "heads": 2,
    "key_value_heads": 1,
    "steps": 12,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "digits": 1,
    "harder_share": 0.5,
    "wrong_share": 0.5,
    "slip_share": 0.1,
}


def test_a_batch_in_parts_is_the_same_batch_with_less_padding(tokenizer):
    import random

    chance = random.Random(3)
    settings = SETTINGS | {"digits": 2}
    examples = [tiny_model.draw_example(settings, chance, DEFAULT_SUFFIX) for _ in range(30)]

    def rows(encoded):
        """Tokens and labels of each example without its padding."""
        found = []
        for input_ids, labels in encoded:
            for ids, wanted in zip(input_ids.tolist(), labels.tolist(), strict=True):
                end = max(place for place, label in enumerate(wanted) if label != -100) + 1
                assert all(token == tokenizer.pad_token_id for token in ids[end:])
                found.append((ids[:end], wanted[:end]))
        return sorted(found)

    whole = tiny_model.encode_batch(tokenizer, examples, parts=1)
    parts = tiny_model.encode_batch(tokenizer, examples)
    assert len(whole) == 1 and len(parts) == tiny_model.PARTS
    assert rows(whole) == rows(parts)
    assert sum(ids.numel() for ids, _ in parts) < 0.9 * whole[0][0].numel()


def test_the_warm_start_lowers_the_loss_and_saves_a_model_that_loads(tmp_path, capsys):

    from transformers import AutoModelForCausalLM

    made = ["--settings", json.dumps(SETTINGS), "--seed", "1", "--output", str(tmp_path / "m"), "--threads", "1"]
    justrl(["data", "warm-start", *made])
    losses = [float(x) for x in re.findall(r"loss (\d+\.\d+),", capsys.readouterr().out)]
    assert losses[-1] < losses[0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.config.model_type == "qwen2" and not model.config.tie_word_embeddings
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0]
    assert model.generation_config.eos_token_id == [model.config.eos_token_id]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wrong_share": 1.5}, "wrong_share: .* got 1.5"),
        ({"heads": 3}, r"heads: must divide hidden_size \(16\), got 3"),
        ({"key_value_heads": 4}, r"key_value_heads: must divide heads \(2\), got 4"),
        ({"steps": None}, "steps is missing"),
    ],
)
def test_settings_are_checked(change, message):
    settings = {k: v for k, v in (SETTINGS | change).items() if v is not None}
    with pytest.raises(UserError, match=message):
        justrl(["data", "warm-start", "--settings", json.dumps(settings), "--seed", "1", "--output", "never"])
