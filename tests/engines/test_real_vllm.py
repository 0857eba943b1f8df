"""Real tokenizers and weights in a real vLLM: greedy answers are those of transformers, token for token."""

import importlib.util
import os

import pytest

import real_models
from justrl.models import load_backend
from justrl.models.sampling import Sampling, SamplingRequest, chat_prompt, load_tokenizer, stop_token_ids

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.verl,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make verl-env)"),
]
QUESTIONS = (
    "What is 7 + 5?",
    "Name the capital of France.",
    "设实数 $x$ 满足 $x+1=2$,求 $x$ 的值。",
    "Compute $\\frac{1}{2}$.",
)


@pytest.mark.parametrize("name", list(real_models.MAKERS))
def test_both_samplers_give_the_same_tokens_and_text(name, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    folder = real_models.folder(name)
    tokenizer = load_tokenizer(folder)
    sampling = Sampling(0.0, 1.0, -1, 24, stop_token_ids(folder, tokenizer))
    prompts = [tokenizer.encode(chat_prompt(tokenizer, text), add_special_tokens=False) for text in QUESTIONS]
    requests = [SamplingRequest(str(i), prompt, i, sampling) for i, prompt in enumerate(prompts)]
    answers = {}
    for backend in ("transformers", "vllm"):
        sampler = load_backend(backend, folder, dtype="float32", max_model_len=512)
        answers[backend] = {answer.id: answer for answer in sampler.generate(requests)}
    assert answers["vllm"] == answers["transformers"]
    assert len({answer.token_ids for answer in answers["vllm"].values()}) == len(QUESTIONS)
    if name == "smollm2-135m-q4":
        assert "Paris" in answers["vllm"]["1"].text and answers["vllm"]["1"].finish_reason == "stop"
