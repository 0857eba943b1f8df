"""Protocols and the seeds of samples."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from justrl import config as experiment
from justrl.config import PER_BENCHMARK, EvalProtocol, read_part
from justrl.errors import UserError
from justrl.evaluation.completions import load_protocol, sample_seed

FIELDS = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "prompt_separator": " ", "prompt_suffix": "Box it."}


def test_the_configured_protocols_are_the_papers_and_the_greedy_one():
    protocols = experiment.load().protocols
    paper, greedy = protocols["paper"], protocols["greedy"]
    assert (paper.temperature, paper.top_p, paper.top_k, paper.max_tokens) == (0.7, 0.9, -1, 31744)
    assert paper.samples == PER_BENCHMARK
    # `evals/gen_vllm.py` puts one space between the question and the instruction.
    suffix = "Please reason step by step, and put your final answer within \\boxed{}."
    assert paper.user_message("What is 1 + 1?") == f"What is 1 + 1? {suffix}"
    assert (greedy.temperature, greedy.max_tokens, greedy.samples_per_question()) == (0.0, 15360, 1)


def test_a_protocol_is_read_from_a_file_and_from_text(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(FIELDS))
    assert load_protocol(str(path)) == ("mine", EvalProtocol(**FIELDS))
    name, protocol = load_protocol(json.dumps({**FIELDS, "name": "other", "samples": 4}))
    assert (name, protocol.samples_per_question()) == ("other", 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temprature": 1.0}, "unknown key temprature"),
        ({"temperature": -0.1}, "temperature: input should be greater than or equal to 0, got -0.1"),
        ({"temperature": True}, "temperature: must be a number, got True"),
        ({"top_p": 0.0}, "top_p: input should be greater than 0"),
        ({"top_p": 1.5}, "top_p: input should be less than or equal to 1"),
        ({"top_k": 0}, "top_k: must be -1 .off. or at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1, got 0"),
        ({"samples": 2.5}, "samples: input should be a valid integer"),
    ],
)
def test_a_wrong_protocol_is_named(change, said):
    with pytest.raises(UserError, match=said):
        read_part(EvalProtocol, {**FIELDS, **change}, "protocol mine")


def test_a_missing_field_is_named():
    with pytest.raises(UserError, match="top_p is missing"):
        load_protocol(json.dumps({name: value for name, value in FIELDS.items() if name != "top_p"}))


@pytest.mark.parametrize("text", ["{not json", "no/such/file.json"])
def test_what_is_no_protocol_is_refused(text):
    with pytest.raises(UserError, match="--protocol"):
        load_protocol(text)


def test_the_number_of_samples_must_come_from_somewhere():
    with pytest.raises(UserError, match="give it with --samples"):
        EvalProtocol(**FIELDS).samples_per_question()
    assert EvalProtocol(**FIELDS).samples_per_question(32) == 32


def test_greedy_samples_would_all_be_the_same():
    with pytest.raises(UserError, match="greedy"):
        EvalProtocol(**{**FIELDS, "temperature": 0.0}).samples_per_question(4)


def test_a_seed_stays_what_it_was():
    # Written down, so that a change of the derivation, which would change every result, is seen.
    assert sample_seed(42, "deepseek@4380", "aime", "aime-0", 0) == 3090878939454615917


NAMES = st.text(max_size=5)
SAMPLE = st.tuples(st.integers(0, 5), NAMES, NAMES, NAMES, st.integers(0, 5))


@given(SAMPLE, SAMPLE)
def test_two_samples_share_a_seed_only_if_they_are_the_same(one, other):
    assert 0 <= sample_seed(*one) < 2**63
    assert (sample_seed(*one) == sample_seed(*other)) == (one == other)
