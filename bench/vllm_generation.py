"""Both sides of the benchmark row "generation": an evaluation's answers from one loaded vLLM, by us or by one call.

    .venv-verl/bin/python bench/vllm_generation.py     (then a line for each measurement: "ours", "theirs" or "share")

Thirty questions of typical length for a competition, eight samples each, at most 256 tokens, a tiny model. Theirs is
one call of `LLM.generate` with all 240 requests, the fastest way to use vLLM. Ours is
`justrl.evaluation.generating.generate` from the questions to the Parquet file, which saves answers as they finish. Both
use the same seed for a sample, and so generate the same tokens. For each line of input, a line of JSON gives seconds
(elapsed, and of the processor) and tokens; for "share", the share of our time within vLLM's steps.
"""

import cProfile
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from work import engine_replies, share_within

QUESTIONS, SAMPLES, MAX_TOKENS = 30, 8, 256
# Token ids of an answer, by question and sample.
Tokens = dict[tuple[int, int], tuple[int, ...]]


class Recorder:
    """A backend that records the token ids of each answer, which the Parquet file does not have."""

    name = "vllm"

    def __init__(self, backend: Any) -> None:
        self.backend, self.environment, self.tokens = backend, backend.environment, {}

    def generate(self, requests: Iterable[Any]) -> Iterator[Any]:
        """Yield the backend's answers."""
        for completed in self.backend.generate(requests):
            self.tokens[divmod(int(completed.id), SAMPLES)] = completed.token_ids
            yield completed


def load(folder: Path) -> tuple[Any, Any]:
    """Make a job (its model in `folder`) and load the backend that it needs."""
    from justrl.config import EvalProtocol
    from justrl.evaluation.generating import GenerationJob, Question
    from justrl.models import load_backend
    from tiny_model import make_tiny_model

    sentence = "Find the number of ways in which all of the {} points are on the circle and the triangle has {} sides. "
    questions = [Question(str(i), sentence.format(i, i + 1) * 4, str(i)) for i in range(QUESTIONS)]
    job = GenerationJob(
        model=str(make_tiny_model(folder / "model", family="deepseek")),
        benchmark="drawn",
        questions=questions,
        protocol=EvalProtocol(
            temperature=0.7,
            top_p=0.9,
            max_tokens=MAX_TOKENS,
            prompt_separator=" ",
            prompt_suffix="Please reason step by step, and put your final answer within \\boxed{}.",
        ),
        samples=SAMPLES,
        output=folder / "out.parquet",
        run="bench",
        seed=0,
    )
    return job, load_backend("vllm", job.model, dtype="float32", max_model_len=4096)


def ours(job: Any, backend: Any) -> Tokens:
    """Send all requests at once, and save answers as they finish."""
    from justrl.evaluation.generating import generate

    job.output.unlink(missing_ok=True)
    recorder = Recorder(backend)
    generate(job, recorder)
    return recorder.tokens


def theirs(job: Any, backend: Any) -> Tokens:
    """One call with all requests, and one file at the end."""
    from vllm import SamplingParams

    from justrl.evaluation.completions import sample_seed
    from justrl.models.sampling import chat_prompt, load_tokenizer

    tokenizer = load_tokenizer(job.model)
    asked = [(question, index) for question in job.questions for index in range(SAMPLES)]
    prompts = {
        question.id: chat_prompt(tokenizer, job.protocol.user_message(question.question)) for question, _ in asked
    }
    # Pass token ids: for text, vLLM would add the beginning-of-sequence token a second time.
    ids = {name: tokenizer.encode(prompt, add_special_tokens=False) for name, prompt in prompts.items()}
    parameters = [
        SamplingParams(
            temperature=job.protocol.temperature,
            top_p=job.protocol.top_p,
            max_tokens=MAX_TOKENS,
            seed=sample_seed(job.seed, job.run, job.benchmark, question.id, index),
        )
        for question, index in asked
    ]
    made = backend.llm.generate([{"prompt_token_ids": ids[question.id]} for question, _ in asked], parameters)
    answers, tokens = [], {}
    for number, ((question, index), one) in enumerate(zip(asked, made, strict=True)):
        tokens[divmod(number, SAMPLES)] = tuple(one.outputs[0].token_ids)
        answers.append({"id": question.id, "sample": index, "response": one.outputs[0].text})
    with job.output.with_suffix(".jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(answer) + "\n" for answer in answers)
    return tokens


def measure(side: Callable[[Any, Any], Tokens], job: Any, backend: Any) -> dict[str, Any]:
    """Seconds and tokens of one side, with an empty prefix cache."""
    backend.llm.reset_prefix_cache()
    elapsed, processor = time.perf_counter(), time.process_time()
    tokens = side(job, backend)
    elapsed, processor = time.perf_counter() - elapsed, time.process_time() - processor
    made = json.dumps(sorted((*key, *ids) for key, ids in tokens.items()))
    return {
        "elapsed": elapsed,
        "seconds": processor,
        "tokens": sum(map(len, tokens.values())),
        "digest": hashlib.sha256(made.encode()).hexdigest(),
    }


def share_of_steps(job: Any, backend: Any) -> float:
    """The share of our time within vLLM's steps, which both sides need."""
    backend.llm.reset_prefix_cache()
    profile = cProfile.Profile()
    profile.runcall(ours, job, backend)
    with tempfile.NamedTemporaryFile() as file:
        profile.dump_stats(file.name)
        return share_within(
            Path(file.name), lambda path, name: path.endswith("v1/engine/llm_engine.py") and name == "step"
        )


def main() -> None:
    """Load once, then answer each line of input."""
    replies = engine_replies()
    with tempfile.TemporaryDirectory() as folder:
        job, backend = load(Path(folder))
        for line in sys.stdin:
            asked = line.strip()
            if asked == "share":
                told = {"share": share_of_steps(job, backend)}
            else:
                told = measure({"ours": ours, "theirs": theirs}[asked], job, backend)
            print(json.dumps(told), file=replies, flush=True)
        backend.close()


if __name__ == "__main__":
    main()
