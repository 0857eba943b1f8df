"""Real benchmarks through generation in two shards, grading and scoring: accuracy near 0, every count exact.

Those of up to 40 questions; all nine go through the workflow's rules (tests/workflow) and through vLLM.
"""

import pytest

from justrl.config import EvalProtocol
from justrl.data.benchmarks import format_benchmark
from justrl.evaluation import grading
from justrl.evaluation.completions import read_completions
from justrl.evaluation.generating import GenerationJob, generate, read_benchmark
from justrl.evaluation.scoring import score
from justrl.io import write_parquet
from justrl.models import load_backend
from tiny_model import make_tiny_model

torch = pytest.importorskip("torch")

SMALL = {
    "aime": ("AIME24", 30),
    "aime25": ("AIME25", 30),
    "amc23": ("AMC23", 40),
    "hmmt25": ("HMMT25", 30),
    "brumo25": ("BRUMO25", 30),
    "cmimc25": ("CMIMC25", 40),
}
SUFFIX = "Please reason step by step, and put your final answer within \\boxed{}."
PROTOCOL = EvalProtocol(temperature=0.7, top_p=0.9, max_tokens=4, prompt_separator=" ", prompt_suffix=SUFFIX)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    torch.set_num_threads(1)
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def backend(model_dir):
    return load_backend("transformers", model_dir, batch_size=32)


@pytest.mark.parametrize("name", SMALL)
def test_a_real_benchmark_flows_through(name, model_dir, backend, real_benchmarks, tmp_path):
    file, rows = SMALL[name]
    write_parquet(format_benchmark(name, real_benchmarks / f"{file}.parquet", rows=rows), tmp_path / "b.parquet")
    benchmark, questions = read_benchmark(tmp_path / "b.parquet")
    assert (benchmark, len(questions)) == (name, rows)
    samples_each = 2
    paths = []
    for shard in range(2):
        paths.append(tmp_path / f"{shard}.parquet")
        job = GenerationJob(
            model=str(model_dir),
            benchmark=benchmark,
            questions=questions,
            protocol=PROTOCOL,
            samples=samples_each,
            output=paths[-1],
            run="tiny",
            seed=0,
            shard=shard,
            shards=2,
            backend="transformers",
        )
        generate(job, backend)
    samples, settings = read_completions(paths)
    assert len(samples) == rows * samples_each
    assert samples["prompt"].str.endswith(f" {SUFFIX}<|im_end|>\n<|im_start|>assistant\n").all()
    samples = grading.with_golds(samples, settings, benchmark, questions)
    grades = grading.grade_samples(samples, ["strict"])
    result = score(samples, settings, grades, benchmark, questions, name="tiny", experiment="test", headline="strict")
    assert result["n_questions"] == rows and result["samples_per_question"] == samples_each
    assert sum(result["graders"]["strict"]["outcomes"].values()) == rows * samples_each
    assert result["graders"]["strict"]["avg_at_k"]["value"] == 0
    assert len(result["per_question"]) == rows
