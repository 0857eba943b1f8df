"""The parts of an experiment as types: benchmarks, evaluation and the canary."""

from typing import Annotated, Literal

from pydantic import Field

from justrl.config.schema import (
    COLUMN,
    REVISION,
    HubId,
    HubSource,
    LocalSource,
    Name,
    Number,
    OwnFunction,
    Part,
    Positive,
    SumsSource,
    Switch,
    TaskSource,
    TopK,
    text,
)
from justrl.errors import UserError

LABEL = "Name in tables and figures (default: the name of the entry)."
SAMPLES = "Answers sampled per question."


class TextBenchmark(Part):
    """Keys shared by benchmarks from the hub and from disk."""

    label: str = text(LABEL)
    question_column: str | None = text(COLUMN.format("question"), default=None)
    answer_column: str | None = text(COLUMN.format("gold answer"), default=None)
    id_column: str | None = text("Column with a unique id; null: number the rows.", default=None)
    samples: Positive = text(SAMPLES, default=4)
    newer: Switch = text("Released after the models and the training data (marked in figures).", default=False)


class HubBenchmark(TextBenchmark, HubSource):
    """A benchmark on the hub."""

    hub_config: str | None = text("Configuration (subset) of the dataset.", default=None)
    split: str = text("Split to evaluate.", default="train")
    rows: Positive = text("Number of questions; data with another number is rejected.")


class LocalBenchmark(TextBenchmark, LocalSource):
    """A benchmark on disk: JSON lines, JSON, CSV or Parquet."""

    rows: Positive | None = text(
        "Number of questions; data with another number is rejected. null: any number.", default=None
    )


class ArithmeticBenchmark(SumsSource):
    """Generated held-out sums."""

    label: str = text(LABEL)
    samples: Positive = text(SAMPLES)


class TaskBenchmark(TaskSource):
    """Generated held-out questions of a reasoning-gym task."""

    label: str = text(LABEL)
    samples: Positive = text(SAMPLES)


Benchmark = Annotated[
    HubBenchmark | LocalBenchmark | ArithmeticBenchmark | TaskBenchmark, Field(discriminator="source")
]
PER_BENCHMARK: Literal["per_benchmark"] = "per_benchmark"


class EvalProtocol(Part):
    """A sampling protocol: how a question is put to the model and how its answers are sampled.

    A model's own generation_config is ignored; `justrl.models` finds the stop tokens.
    """

    temperature: Number = text("Sampling temperature; 0: greedy.", ge=0, le=100)
    top_p: Number = text("Top-p (nucleus).", gt=0, le=1)
    top_k: TopK = text("Top-k; -1: off.", default=-1)
    max_tokens: Positive = text("Maximum new tokens of an answer.")
    samples: Positive | Literal["per_benchmark"] = text(
        "Answers per question; per_benchmark: the number set for each benchmark.", default=PER_BENCHMARK
    )
    prompt_separator: str = text("Text between question and suffix.")
    prompt_suffix: str = text("Instruction after each question.")

    def user_message(self, question: str) -> str:
        """Return the text of the user's turn for one question."""
        return question + self.prompt_separator + self.prompt_suffix

    def samples_per_question(self, override: int | None = None) -> int:
        """Return the answers per question: the override (a benchmark's own number) or the protocol's.

        Raises UserError: neither gives a number of at least 1, or a greedy protocol is to give several samples.
        """
        samples = self.samples if override is None else override
        if not isinstance(samples, int):
            raise UserError("the protocol sets no number of samples (samples: per_benchmark): give it with --samples")
        if samples < 1:
            raise UserError(f"--samples must be at least 1, got {samples}")
        if samples > 1 and self.temperature == 0:
            raise UserError(f"temperature 0 is greedy, so all {samples} samples would be equal: use --samples 1")
        return samples


class ModelGrader(Part):
    """The judge model, which grades the answers that `paper_rules` rejects."""

    enabled: Switch = text("Use the judge model.")
    model: HubId = text("Hub id: owner/name.")
    revision: str | None = text(REVISION, default=None)
    fill_question: Switch = text("Show the question to the judge.")
    exact_verdict: Switch = text("Count only the bare letter A as correct, as the authors' script does.")
    max_tokens: Positive = text("Maximum new tokens of a verdict.")


class Evaluation(Part):
    """Benchmarks, sampling and graders of the evaluation."""

    protocol: str = text("Protocol of the results/{benchmark}_{run}.json files.")
    benchmarks: list[str] = text("Benchmarks for the base model and the last checkpoint.", min_length=1)
    validation_benchmarks: list[str] = text("Benchmarks for the checkpoints in between.")
    backend: Literal["vllm", "transformers"] = text("Library that generates answers.")
    dtype: Literal["bfloat16", "float16", "float32"] = text("Number format of generation.")
    shards: Positive = text("Number of jobs among which the samples of a benchmark are divided.")
    together: Switch = text(
        "Generate all benchmarks of a checkpoint in one job; useful if loading the model takes most of the time."
    )
    graders: list[Literal["strict", "paper", "paper_rules", "symbolic"]] = text(
        "Rule-based graders; each of them grades every completion.", min_length=1
    )
    custom_graders: dict[Name, OwnFunction] = text(
        "Your own graders by name, in addition: Python functions that return whether a completion is correct.",
        default={},
    )
    model_grader: ModelGrader
    headline_grader: str = text("Primary grader: tables and figures show its avg@k first.")


class Canary(Part):
    """The short trial of each enabled run, which runs every rule on the real hardware."""

    steps: Positive = text("Training steps of a canary.")
    segment_steps: Positive = text("Steps per job; must divide steps.")
    learning_rate: Number = text(
        "Learning rate, without warm-up; high enough to reveal within two steps a sampler that uses old weights.",
        gt=0,
        default=1e-4,
    )
    max_response_length: Positive | None = text(
        "Maximum tokens of a response in training and evaluation; null: full length, needed to measure memory and time."
    )
    benchmark: str = text("Benchmark to evaluate.")
    samples: Positive = text("Answers sampled per question.")
