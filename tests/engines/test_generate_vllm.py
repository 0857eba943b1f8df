"""Generation by a real vLLM, on a CPU where there is no GPU: the same requests and files as with transformers."""

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pandas
import pytest

from justrl.config import EvalProtocol
from justrl.data.benchmarks import format_benchmark
from justrl.evaluation.completions import read_completions
from justrl.evaluation.generating import GenerationJob, generate, read_benchmark
from justrl.io import write_json, write_parquet
from justrl.models import load_backend, vllm_backend
from justrl.models.sampling import Sampling, SamplingRequest, load_tokenizer
from tiny_model import make_tiny_model

pytestmark = [
    # Starting vLLM takes most of a minute, and each test that starts it on its own starts it twice.
    pytest.mark.timeout(1800),
    pytest.mark.verl,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (make verl-env)"),
]

NINE = {
    "aime": ("AIME24", 30),
    "aime25": ("AIME25", 30),
    "amc23": ("AMC23", 40),
    "math500": ("MATH-500", 500),
    "minerva": ("Minerva", 272),
    "olympiad": ("Olympiad-Bench", 674),
    "hmmt25": ("HMMT25", 30),
    "brumo25": ("BRUMO25", 30),
    "cmimc25": ("CMIMC25", 40),
}
PROTOCOL = EvalProtocol(
    temperature=0.7,
    top_p=0.9,
    max_tokens=4,
    prompt_separator=" ",
    prompt_suffix="Put it in \\boxed{}.",
)


@pytest.mark.parametrize("variables", [{}, vllm_backend.VARIABLES])
def test_on_a_gpu_vllm_takes_the_model_runner_that_is_tested_here(model_dir, monkeypatch, variables):
    """It goes by whether Triton works; without our variable another one runs there, which no test here does."""
    import vllm.config.vllm as configuration
    from vllm.engine.arg_utils import EngineArgs

    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = EngineArgs(model=str(model_dir), max_model_len=128, dtype="float32", enforce_eager=True)
    config = config.create_engine_config()
    assert config.model_config.architectures == ["Qwen2ForCausalLM"] and not config.use_v2_model_runner
    monkeypatch.setattr(configuration, "HAS_TRITON", True)
    assert config.use_v2_model_runner is not bool(variables)


def test_training_and_generation_tell_vllm_the_same(monkeypatch, tmp_path):
    """A canary with the other runner sets the variable, for both."""
    from justrl import config
    from justrl.training.verl import environment
    from justrl.training.verl.settings import VerlRequest

    experiment = config.load()
    request = VerlRequest(recipe=experiment.runs["deepseek"].recipe, seed=42, hardware=experiment.hardware)
    for name in vllm_backend.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for runner in ("0", "1"):
        if runner == "1":
            monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", runner)
        trained = environment.variables(request, tmp_path, tmp_path / "log")
        with monkeypatch.context() as context:
            context.setattr(os, "environ", dict(os.environ))
            vllm_backend.set_environment(has_gpu=True)
            generated = dict(os.environ)
        expected = vllm_backend.VARIABLES | {"VLLM_USE_V2_MODEL_RUNNER": runner}
        assert {name: trained[name] for name in expected} == {name: generated[name] for name in expected} == expected


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    from transformers import GenerationConfig

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", family="deepseek")
    # A generation config that would change everything, were it heeded.
    GenerationConfig(
        eos_token_id=2, temperature=0.01, top_k=1, top_p=0.1, do_sample=True, repetition_penalty=5.0, max_new_tokens=2
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(model_dir):
    return load_tokenizer(model_dir)


@pytest.fixture(scope="module")
def backend(model_dir):
    return load_backend("vllm", model_dir, dtype="float32", max_model_len=4096)


def some_requests(tokenizer, count, sampling):
    return [
        SamplingRequest(f"r{i}", tokenizer.encode(f"What is {i} + {i}?" * (1 + i % 6)), 2**62 + i, sampling)
        for i in range(count)
    ]


def run(backend, requests):
    answers = list(backend.generate(requests))
    assert sorted(answer.id for answer in answers) == sorted(request.id for request in requests)
    return {answer.id: answer for answer in answers}


def test_greedy_is_the_same_as_with_transformers(backend, model_dir, tokenizer):
    other = load_backend("transformers", model_dir, dtype="float32")
    endless = run(backend, some_requests(tokenizer, 24, Sampling(0.0, 1.0, -1, 24, ())))
    assert endless == run(other, some_requests(tokenizer, 24, Sampling(0.0, 1.0, -1, 24, ())))
    # Stop at tokens that some of these answers come to, so that answers end in both ways.
    stops = tuple({endless[f"r{i}"].token_ids[8] for i in range(3)})
    stopped = run(backend, some_requests(tokenizer, 24, Sampling(0.0, 1.0, -1, 24, stops)))
    assert stopped == run(other, some_requests(tokenizer, 24, Sampling(0.0, 1.0, -1, 24, stops)))
    assert "stop" in {answer.finish_reason for answer in stopped.values()}
    assert all((answer.token_ids[-1] in stops) == (answer.finish_reason == "stop") for answer in stopped.values())


def test_a_seed_decides_whatever_the_order_and_the_company(backend, tokenizer):
    requests = some_requests(tokenizer, 30, Sampling(1.0, 0.95, -1, 12, (2, *range(60, 70))))
    reference = run(backend, requests)
    assert run(backend, requests[::-1]) == reference
    assert run(backend, requests[4::5]) == {request.id: reference[request.id] for request in requests[4::5]}
    assert len({answer.token_ids for answer in reference.values()}) > 20


def test_answers_come_as_they_end(backend, tokenizer):
    prompt = tokenizer.encode("What is it?")
    long = SamplingRequest("long", prompt, 1, Sampling(1.0, 1.0, -1, 400, (0,)))
    short = [SamplingRequest(f"s{i}", prompt, 2 + i, Sampling(1.0, 1.0, -1, 2, (0,))) for i in range(20)]
    assert [answer.id for answer in backend.generate([long, *short])][-1] == "long"


def test_an_abandoned_generation_leaves_the_engine_free(backend, tokenizer):
    answers = backend.generate(some_requests(tokenizer, 10, Sampling(1.0, 1.0, -1, 300, (0,))))
    next(answers)
    answers.close()
    assert len(run(backend, some_requests(tokenizer, 3, Sampling(0.0, 1.0, -1, 4, (2,))))) == 3


def test_tokens_are_drawn_with_the_models_probabilities(backend, model_dir, tokenizer):
    import torch
    from scipy.stats import chisquare

    from justrl.models.transformers_backend import filter_probabilities

    prompt, draws = tokenizer.encode("What is the sum of it?"), 2000
    requests = [SamplingRequest(str(i), prompt, 7_000_000 + i, Sampling(0.7, 0.9, -1, 1, (2,))) for i in range(draws)]
    counts = Counter(answer.token_ids[0] for answer in backend.generate(requests))
    other = load_backend("transformers", model_dir, dtype="float32")
    with torch.no_grad():
        logits = other.model(torch.tensor([prompt])).logits[:, -1]
    probabilities = filter_probabilities((logits / 0.7).softmax(-1), [0.9], [-1])[0].double().numpy()
    probabilities /= probabilities.sum()
    assert all(probabilities[token] > 0 for token in counts)
    frequent = [token for token, p in enumerate(probabilities) if p * draws >= 5]
    expected = [probabilities[token] * draws for token in frequent]
    observed = [counts[token] for token in frequent]
    rest = draws - sum(expected)
    if rest > 1e-6:
        expected, observed = [*expected, rest], [*observed, draws - sum(observed)]
    assert len(expected) > 5
    assert chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("name", NINE)
def test_a_real_benchmark_flows_through(name, backend, model_dir, real_benchmarks, tmp_path):
    file, rows = NINE[name]
    write_parquet(format_benchmark(name, real_benchmarks / f"{file}.parquet", rows=rows), tmp_path / "b.parquet")
    benchmark, questions = read_benchmark(tmp_path / "b.parquet")
    job = GenerationJob(
        model=str(model_dir),
        benchmark=benchmark,
        questions=questions,
        protocol=PROTOCOL,
        samples=2,
        output=tmp_path / "0.parquet",
        run="tiny",
        seed=0,
        shards=2,
    )
    generate(job, backend)
    generate(dataclasses.replace(job, shard=1, output=tmp_path / "1.parquet"), backend)
    samples, settings = read_completions([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    assert len(samples) == 2 * rows and samples["question_id"].nunique() == rows
    assert samples["token_count"].between(1, 4).all()
    assert settings["environments"][0]["vllm"] and settings["backend"] == "vllm"


def children(pid):
    """Processes that descend from `pid`."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, queue = [], [pid]
    while queue:
        queue += parents.get(queue[0], [])
        found += parents.get(queue.pop(0), [])
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_generation_goes_on_where_it_was(model_dir, tmp_path):
    rows = [("toy", f"q{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(40)]
    pandas.DataFrame(rows, columns=["benchmark", "id", "question", "answer"]).to_parquet(tmp_path / "b.parquet")
    protocol = {**PROTOCOL.as_dict(), "max_tokens": 64, "samples": 32, "temperature": 1.0}
    write_json(tmp_path / "protocol.json", protocol)
    arguments = ["--model", model_dir, "--benchmark", tmp_path / "b.parquet", "--protocol", tmp_path / "protocol.json"]
    arguments += ["--run", "toy", "--seed", 3, "--dtype", "float32", "--output", tmp_path / "out.parquet"]
    command = [sys.executable, "-m", "justrl", "generate", "--batch-size", "64", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    parts = tmp_path / "out.parquet.parts"
    while not list(parts.glob("*/part-*.parquet")):
        assert process.poll() is None, "the generation ended before it could be killed"
        time.sleep(0.02)
    left = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [pid for pid in left if alive(pid)], "the killed job left its engine running"
    kept = sum(len(pandas.read_parquet(path)) for path in parts.glob("*/part-*.parquet"))
    assert 0 < kept < 1280
    done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    assert f"{kept} of 1280 samples are there from an earlier try" in done.stderr
    samples, _ = read_completions([tmp_path / "out.parquet"])
    assert len(samples) == 1280 and not parts.exists()
