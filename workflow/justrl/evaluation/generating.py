"""Generate one shard of one benchmark: plan the samples, generate the missing ones, save them as they finish.

All requests are in the backend at once, so no pass over the questions waits for its longest answer. Finished answers
are on disk within `FLUSH_SECONDS`; after a kill, the next attempt generates only the missing ones.
"""

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from justrl.config import EvalProtocol
from justrl.errors import UserError
from justrl.evaluation import completions
from justrl.io import write_parquet
from justrl.models import load_backend
from justrl.models import sampling as backends
from justrl.models.folder import revision_of

FLUSH_REQUESTS = 256
FLUSH_SECONDS = 30.0


@dataclass(frozen=True)
class Question:
    """One question of a benchmark; the id is unique within it."""

    id: str
    question: str
    answer: str


@dataclass(frozen=True)
class GenerationJob:
    """The parameters of a generation. `run` names the experiment of the samples and is part of every sample's seed."""

    model: str
    benchmark: str
    questions: Sequence[Question]
    protocol: EvalProtocol
    output: Path
    run: str
    seed: int
    samples: int | None = None
    protocol_name: str = "custom"
    shard: int = 0
    shards: int = 1
    backend: str = "vllm"
    model_name: str | None = None
    model_revision: str | None = None
    dtype: str = "auto"
    tensor_parallel_size: int = 1
    batch_size: int | None = None
    engine_options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sample:
    """One row to generate: its question, its index among the question's samples, its prompt and its seed."""

    question: Question
    index: int
    prompt: str
    prompt_token_ids: list[int]
    seed: int


def read_benchmark(path: str | Path) -> tuple[str, list[Question]]:
    """Read a benchmark file (columns benchmark, id, question, answer). Returns its name and its questions in order.

    Raises UserError: no such file, a missing column, an empty file, several benchmarks in one file, or a duplicate id.
    """
    rows = completions.read_table(path, ("benchmark", "id", "question", "answer"), "benchmark").to_pylist()
    names = sorted({row["benchmark"] for row in rows})
    if len(names) != 1:
        raise UserError(f"{path} must hold one benchmark, it holds {', '.join(names) or 'no rows'}")
    questions = [Question(str(row["id"]), row["question"], row["answer"]) for row in rows]
    check_ids(questions, str(path))
    return names[0], questions


def check_ids(questions: Sequence[Question], source: str) -> None:
    """Raise UserError if two questions have the same id."""
    for name, count in Counter(question.id for question in questions).items():
        if count > 1:
            raise UserError(f"{source}: the question id {name} occurs twice")


def benchmark_fingerprint(questions: Sequence[Question]) -> str:
    """Hash a benchmark's ids and questions. Reference answers are excluded, because they may be corrected later."""
    return completions.fingerprint([[question.id, question.question] for question in questions])


def plan_shard(questions: int, samples: int, shard: int, shards: int) -> list[tuple[int, int]]:
    """The (question, sample) pairs of one shard, question by question.

    Pairs are distributed in turn, so shards differ by at most one pair and each gets a part of every question. Long
    answers are spread evenly, and samples that share a prompt's cache stay adjacent.
    """
    if shards < 1 or not 0 <= shard < shards:
        raise UserError(f"--shard must be between 0 and --shards - 1, got shard {shard} of {shards}")
    return [divmod(flat, samples) for flat in range(shard, questions * samples, shards)]


def generate(job: GenerationJob, backend: backends.Backend | None = None) -> Path:
    """Generate one shard's completions and write them to `job.output`.

    Parts from an earlier attempt with the same settings are used. An existing output with the same settings is left
    unchanged. `backend` is for callers that already have one loaded.

    Raises UserError: prompts and answers that don't fit the model, a backend that is not installed, or invalid
    arguments.
    """
    if backend is None:
        backends.require_backend(job.backend)
    samples = job.protocol.samples_per_question(job.samples)
    pairs = plan_shard(len(job.questions), samples, job.shard, job.shards)
    if Path(job.model).is_dir():
        job = replace(job, model_revision=job.model_revision or revision_of(job.model))
    revision = None if Path(job.model).is_dir() else job.model_revision
    tokenizer = backends.load_tokenizer(job.model, revision)
    prompts = [backends.chat_prompt(tokenizer, job.protocol.user_message(each.question)) for each in job.questions]
    plan = _plan_samples(job, pairs, prompts, tokenizer)
    longest = max((len(sample.prompt_token_ids) for sample in plan), default=1)
    max_model_len = longest + job.protocol.max_tokens
    backends.check_model_length(job.model, max_model_len, revision)
    stops = backends.stop_token_ids(job.model, tokenizer, revision)
    settings = _settings(job, samples, stops, prompts)
    if job.output.is_file():
        there = completions.read_unless_damaged(completions.table_settings, job.output)
        if there and not completions.differing(there, settings):
            _say(f"{job.output} already exists, made with the same settings")
            return job.output
    store = completions.PartStore(job.output, settings)
    for folder in store.others():
        _say(f"{folder} contains parts made with other settings: they are kept and not used")
    done, environments = store.read()
    missing = [sample for sample in plan if (sample.question.id, sample.index) not in done]
    if missing:
        if done:
            _say(f"{len(done)} of {len(plan)} samples are there from an earlier try")
        loaded = backend or load_backend(
            job.backend,
            job.model,
            revision=revision,
            dtype=job.dtype,
            max_model_len=max_model_len,
            tensor_parallel_size=job.tensor_parallel_size,
            seed=job.seed,
            batch_size=job.batch_size,
            engine_options=job.engine_options,
        )
        _generate_missing(job, loaded, missing, len(plan), stops, store)
        if backend is None:
            loaded.close()
        done, environments = store.read()
    rows = [done[item.question.id, item.index] for item in plan]
    table = completions.make_table(rows, {**settings, "environments": environments})
    write_parquet(table, job.output, compression="zstd")
    store.remove()
    return job.output


def _plan_samples(
    job: GenerationJob, pairs: Sequence[tuple[int, int]], prompts: Sequence[str], tokenizer
) -> list[_Sample]:
    # The chat template has already written every special token.
    tokens = {place: tokenizer.encode(prompts[place], add_special_tokens=False) for place in {p for p, _ in pairs}}
    plan = []
    for place, index in pairs:
        question = job.questions[place]
        seed = completions.sample_seed(job.seed, job.run, job.benchmark, question.id, index)
        plan.append(_Sample(question, index, prompts[place], tokens[place], seed))
    return plan


def _settings(job: GenerationJob, samples: int, stops: tuple[int, ...], prompts: Sequence[str]) -> dict[str, Any]:
    """All settings that determine the completions: not the shard, nor settings that only affect speed.

    `prompts` are those of all questions as sent to the model, including those of other shards.
    """
    digest = hashlib.sha256()
    for text in prompts:
        digest.update(b"%d\n%b" % (len(text.encode()), text.encode()))
    return {
        "benchmark": job.benchmark,
        "questions": len(job.questions),
        "benchmark_fingerprint": benchmark_fingerprint(job.questions),
        "protocol": {"name": job.protocol_name, **job.protocol.as_dict(), "samples": samples},
        "stop_token_ids": list(stops),
        "run": job.run,
        "seed": job.seed,
        "model": job.model_name or job.model,
        "model_revision": job.model_revision,
        "model_fingerprint": completions.model_fingerprint(job.model),
        "backend": job.backend,
        "dtype": job.dtype,
        "prompts": digest.hexdigest(),
    }


def _generate_missing(
    job: GenerationJob,
    backend: backends.Backend,
    missing: Sequence[_Sample],
    total: int,
    stops: tuple[int, ...],
    store: completions.PartStore,
) -> None:
    """Generate samples and save them as they finish."""
    protocol = job.protocol
    sampling = backends.Sampling(protocol.temperature, protocol.top_p, protocol.top_k, protocol.max_tokens, stops)
    requests = [
        backends.SamplingRequest(str(number), sample.prompt_token_ids, sample.seed, sampling)
        for number, sample in enumerate(missing)
    ]
    rows: list[dict] = []
    flushed = time.monotonic()
    try:
        for completed in _with_progress(backend.generate(requests), job, len(missing), total):
            sample = missing[int(completed.id)]
            rows.append(
                {
                    "benchmark": job.benchmark,
                    "question_id": sample.question.id,
                    "sample_index": sample.index,
                    "seed": sample.seed,
                    "question": sample.question.question,
                    "prompt": sample.prompt,
                    "completion": completed.text,
                    "token_count": completed.token_count,
                    "finish_reason": completed.finish_reason,
                    "model": job.model_name or job.model,
                    "model_revision": job.model_revision,
                }
            )
            if len(rows) >= FLUSH_REQUESTS or time.monotonic() - flushed >= FLUSH_SECONDS:
                store.add(rows, backend.environment)
                rows, flushed = [], time.monotonic()
    finally:
        # Also after an error or an interrupt: finished rows are saved.
        store.add(rows, backend.environment)


def _with_progress(
    answers: Iterator[backends.Completed], job: GenerationJob, missing: int, total: int
) -> Iterator[backends.Completed]:
    """Pass answers through, with a progress bar on standard error: count, tokens per second and time left."""
    from tqdm import tqdm

    # In a log file, each refresh is a new line.
    every = 0.5 if sys.stderr.isatty() else 10.0
    label = f"{job.benchmark} {job.shard + 1}/{job.shards}"
    start, tokens = time.monotonic(), 0
    with tqdm(total=total, initial=total - missing, desc=label, unit="answer", mininterval=every) as bar:
        for completed in answers:
            tokens += completed.token_count
            seconds = max(time.monotonic() - start, 1e-9)
            bar.set_postfix_str(f"{tokens / seconds:,.0f} tokens/s", refresh=False)
            bar.update()
            yield completed


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
