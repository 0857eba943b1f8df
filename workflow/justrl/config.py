"""The experiment as types: `config.yaml` and its overlays become one `Experiment`.

`config.yaml` holds every number; an overlay changes some of them. The valid values of each key are declared only here:
the JSON schema and the table of keys in the documentation are generated from these classes. Rules that involve several
keys are in `Experiment.contradictions`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from justrl.config_files import DEFAULT_CONFIG, find, merge, read
from justrl.config_problems import EXPERIMENT_NAME, HUB_ID, NAME, explain
from justrl.errors import UserError, did_you_mean
from justrl.gpu_specs import Gpu, find_gpu
from justrl.own_code import code_sha256


def _not_a_switch(value: Any) -> Any:
    """Reject true and false, which Python would silently accept as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _switch(value: Any) -> Any:
    """Accept true and false, also as text from the command line; reject everything else."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _top_k(value: int) -> int:
    """Reject 0, which keeps no token."""
    if value == 0:
        raise ValueError("must be -1 (off) or at least 1")
    return value


# Text is converted ("80", "1e-6"), because overrides on Snakemake's command line are text.
Whole = Annotated[int, BeforeValidator(_not_a_switch)]
Number = Annotated[float, BeforeValidator(_not_a_switch)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Name = Annotated[str, Field(pattern=NAME)]
HubId = Annotated[str, Field(pattern=HUB_ID)]
Positive = Annotated[Whole, Field(ge=1)]
Count = Annotated[Whole, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
TopK = Annotated[Whole, AfterValidator(_top_k), Field(ge=-1)]


Tracker = Literal["wandb", "trackio"]


class Part(BaseModel):
    """A part of the experiment: unknown keys are rejected, numbers are finite, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    def as_dict(self) -> dict[str, Any]:
        """Return the values as JSON types."""
        return self.model_dump(mode="json")


AnyPart = TypeVar("AnyPart", bound=Part)


def text(description: str, **limits: Any) -> Any:
    """Return a field with a description and, unless given in `limits`, no default."""
    return Field(description=description, **limits)


# Allows for compilation in the first step.
LEAST_HANG_MINUTES = 30
REVISION = "Commit of the hub repository; null: the latest commit of main, resolved at the first download."
COLUMN = "Column with the {}; null: the first known name that exists (docs/change.md)."
FROM_DISK = "File or folder, relative to the working directory or the repository."


class Hub(Part):
    """Access to models and datasets on the hub."""

    mirror: str | None = text("Folder with local copies (<hub id>/...), used instead of the hub; null: use the hub.")
    offline: Switch = text("Never use the network.")


class HubModel(Part):
    """A model on the hub."""

    source: Literal["hub"] = text("The Hugging Face model hub.")
    hub_id: HubId = text("Repository: owner/name.")
    revision: str | None = text(REVISION, default=None)
    context_length: Positive = text("Maximum sequence length in tokens (max_position_embeddings of its config.json).")


class LocalModel(Part):
    """A model folder on disk, in Hugging Face's layout."""

    source: Literal["local"] = text("A local folder.")
    path: str = text("Folder, relative to the working directory or the repository; it is copied.")
    context_length: Positive = text("Maximum sequence length in tokens (max_position_embeddings of its config.json).")


class TaughtModel(Part):
    """A tiny model that the workflow creates and warm-starts (supervised training), for machines without a GPU."""

    source: Literal["taught"] = text("Created by the workflow.")
    family: Literal["deepseek", "nemotron"] = text(
        "Model family to imitate: tokenizer, chat template, tied or untied embeddings."
    )
    context_length: Positive = text("Maximum sequence length in tokens.")
    hidden_size: Whole = text("Hidden size of the model.", ge=8)
    intermediate_size: Whole = text("Hidden size of the feed-forward layers.", ge=8)
    layers: Positive = text("Number of layers.")
    heads: Positive = text("Number of attention heads.")
    key_value_heads: Positive = text("Number of key-value heads.")
    steps: Positive = text("Steps of the warm start.")
    batch_size: Positive = text("Examples per step of the warm start.")
    learning_rate: Number = text("Peak learning rate of the warm start.", gt=0)
    digits: Positive = text("Digits per operand in the warm start.")
    harder_share: Share = text("Share of examples with one more digit.")
    wrong_share: Share = text("Share of examples with a wrong answer and no working.")
    slip_share: Share = text("Share of worked solutions that contain an error.")

    @field_validator("heads", "key_value_heads")
    @classmethod
    def _divides(cls, value: int, known: ValidationInfo) -> int:
        whole = {"heads": "hidden_size", "key_value_heads": "heads"}[str(known.field_name)]
        if known.data.get(whole, 0) % value:
            raise ValueError(f"must divide {whole} ({known.data[whole]})")
        return value


Model = Annotated[HubModel | LocalModel | TaughtModel, Field(discriminator="source")]


TaskSettings = dict[str, bool | int | float | str]


class TextDataset(Part):
    """Keys shared by training sets from the hub and from disk."""

    split: str = text("Split to train on.", default="train")
    question_column: str | None = text(COLUMN.format("question"), default=None)
    answer_column: str | None = text(COLUMN.format("answer"), default=None)
    remove_wrapper: Switch = text("Remove DAPO's own instruction around each question.", default=True)
    remove_duplicates: Switch = text("Remove duplicate questions.", default=True)
    remove_contradictions: Switch = text("Remove questions whose copies have different answers.", default=True)
    remove_contaminated: Switch = text("Remove questions that overlap with a benchmark.", default=False)


class HubDataset(TextDataset):
    """A training set on the hub."""

    source: Literal["hub"] = text("The Hugging Face dataset hub.")
    hub_id: HubId = text("Repository: owner/name.")
    revision: str | None = text(REVISION, default=None)


class LocalDataset(TextDataset):
    """A training set on disk: JSON lines, JSON, CSV or Parquet."""

    source: Literal["local"] = text("A local file or folder.")
    path: str = text(FROM_DISK)


class ArithmeticDataset(Part):
    """Generated sums with exact answers."""

    source: Literal["arithmetic"] = text("Generated.")
    digits: Positive = text("Digits per operand.")
    harder_share: Share = text("Share of sums with one more digit.")
    rows: Positive = text("Number of questions.")
    remove_contaminated: Switch = text("Remove questions that overlap with a benchmark.")


class TaskDataset(Part):
    """Generated questions of a reasoning-gym task (install with `make tasks`)."""

    source: Literal["reasoning_gym"] = text("Generated.")
    task: str = text("Name of the task, such as chain_sum.")
    settings: TaskSettings = text("Settings of the task, such as {max_terms: 3}.", default_factory=dict)
    rows: Positive = text("Number of questions.")
    remove_contaminated: Switch = text("Remove questions that overlap with a benchmark.")


Dataset = Annotated[HubDataset | LocalDataset | ArithmeticDataset | TaskDataset, Field(discriminator="source")]


class OverlongPenalty(Part):
    """DAPO's soft penalty on responses that come close to the length limit."""

    enabled: Switch = text("Add the penalty to the reward.")
    buffer: Positive = text("Number of tokens before the limit at which the penalty begins.")
    factor: Number = text("Penalty at the limit.", gt=0)


class OwnFunction(Part):
    """Your own Python function of the completion, the reference answer and the data row of the question."""

    file: str = text("Python file, relative to the working directory or the repository.")
    function: str = text("Name of the function in that file.", pattern=r"^[A-Za-z_]\w*$", default="score")
    sha256: str | None = text(
        "SHA-256 of the file and of the modules in the same folder that it imports; computed when the "
        "experiment is read.",
        default=None,
        validate_default=True,
    )

    @field_validator("file")
    @classmethod
    def _is_there(cls, value: str) -> str:
        if not find(value).is_file():
            raise ValueError("no such file, relative to the working directory or the repository")
        return value

    @field_validator("sha256")
    @classmethod
    def _of_the_file(cls, value: str | None, known: ValidationInfo) -> str | None:
        return code_sha256(find(known.data["file"])) if value is None and "file" in known.data else value

    def __str__(self) -> str:
        return f"{self.file}:{self.function}"


def _kind_of_reward(value: Any) -> str:
    return "OwnFunction" if isinstance(value, dict | OwnFunction) else "name"


Reward = Annotated[
    Annotated[Literal["paper", "strict", "robust"], Tag("name")] | Annotated[OwnFunction, Tag("OwnFunction")],
    Discriminator(_kind_of_reward),
]


class Alarms(Part):
    """Alarms that stop a broken training until you accept them; null disables an alarm."""

    probs_difference: Annotated[Number, Field(gt=0)] | None = text(
        "Limit on the mean difference between a token's probability in the sampler and in the trainer "
        "(rollout_probs_diff_mean). If it is higher or not a number, the trainer does not train what was sampled. "
        "Published bfloat16 runs have 0.004 to 0.007 (verl#7749, verl-omni#637).",
        default=0.05,
    )
    probs_difference_steps: Positive = text(
        "Consecutive steps above the limit that raise the alarm; a single step may be an outlier.", default=2
    )
    least_reward_steps: Positive | None = text(
        "Consecutive steps in which all answers get the lowest reward, so that nothing is learned.", default=3
    )
    truncated: Share | None = text(
        "Limit on the share of answers truncated at the length limit. Above 0.9, on average less than one answer in a "
        "group of 8 is complete, and the reward mainly favours ending at all.",
        default=0.9,
    )
    truncated_steps: Positive = text("Consecutive steps above the limit that raise the alarm.", default=3)
    answers: Positive = text(
        "Minimum number of answers in those steps for the last two alarms. A model with 1% accuracy gives this many "
        "wrong answers in a row once in 23,000 times.",
        default=1000,
    )


# Recipe keys used to prepare the training data, which is shared by all runs.
PREPARED = ("prompt_separator", "prompt_suffix", "max_prompt_length")

# How each loss aggregates the tokens of a mini-batch, by verl's names.
AGGREGATION = {"vanilla": "token-mean", "dr_grpo": "seq-mean-token-sum-norm", "gspo": "seq-mean-token-mean"}


class Recipe(Part):
    """The training recipe, shared by all runs; a run can override keys."""

    algorithm: Literal["grpo"] = text("Policy optimization algorithm.")
    advantage_epsilon: Number = text("Added to the standard deviation of the group.", gt=0)
    kl_coefficient: Number = text("Weight of a KL term; arXiv 2512.16649 uses none.", ge=0, le=0)
    entropy_coefficient: Number = text("Weight of an entropy bonus; arXiv 2512.16649 uses none.", ge=0, le=0)
    prompts_per_step: Positive = text("Questions per step.")
    rollouts_per_prompt: Whole = text("Answers sampled per question (the group size).", ge=2)
    mini_batch_prompts: Positive = text("Questions per optimizer update.")
    micro_batch_per_gpu: Positive = text("Sequences per forward pass on one GPU.")
    clip_ratio_low: Number = text("The probability ratio is clipped below at 1 minus this value.", gt=0, lt=1)
    clip_ratio_high: Number = text("The probability ratio is clipped above at 1 plus this value.", gt=0)
    clip_ratio_c: Number = text("Dual clip: upper bound of the ratio for negative advantages.", gt=1)
    loss: Literal["vanilla", "dr_grpo", "gspo"] = text(
        "vanilla (clipped ratio, mean over tokens; the paper's), dr_grpo (arXiv 2503.20783) or gspo (arXiv "
        "2507.18071); formulas in docs/recipe.md.",
        default="vanilla",
    )
    loss_aggregation: Literal["token-mean", "seq-mean-token-sum-norm", "seq-mean-token-mean"] | None = text(
        "null: the aggregation of the loss; other values are rejected.", default=None, validate_default=True
    )
    learning_rate: Number = text("Constant learning rate after warm-up.", gt=0)
    warmup_steps: Count = text("Steps of linear warm-up.")
    weight_decay: Number = text("AdamW weight decay.", ge=0)
    adam_betas: tuple[Annotated[Number, Field(ge=0, lt=1)], Annotated[Number, Field(ge=0, lt=1)]] = text("AdamW betas.")
    gradient_clip: Number = text("Maximum global gradient norm.", gt=0)
    max_prompt_length: Positive = text(
        "Maximum tokens of a prompt, including the chat template; longer prompts are removed."
    )
    max_response_length: Positive = text("Maximum tokens of a response.")
    temperature: Number = text("Sampling temperature of rollouts.", gt=0)
    top_p: Number = text("Top-p (nucleus) of rollouts.", gt=0, le=1)
    top_k: TopK = text("Top-k of rollouts; -1: off.")
    reward: Reward = text(
        "paper (the authors' verifier, which reads the last 100 characters), strict (reads the last box anywhere), "
        "robust (lenient, as in the ablation), or {file, function}: your own Python function."
    )
    overlong_penalty: OverlongPenalty
    prompt_separator: str = text("Text between question and suffix.")
    prompt_suffix: str = text("Instruction after each question.", min_length=1)
    staleness: Annotated[Whole, Field(ge=0, le=1)] = text(
        "Maximum age of rollouts in steps: 0 (on-policy, as in the paper) or 1 (verl generates the next step's answers "
        "during the update; docs/recipe.md).",
        default=0,
    )
    data_seed: Count | None = text("Seed of the order of the questions; null: the experiment's seed.", default=None)
    dtype: Literal["bfloat16", "float32"] = text("Number format of forward and backward passes.")
    gradient_checkpointing: Switch = text("Recompute activations in the backward pass to save memory.")
    alarms: Alarms = Field(default_factory=Alarms)

    @field_validator("loss_aggregation")
    @classmethod
    def _that_of_the_loss(cls, value: str | None, known: ValidationInfo) -> str | None:
        loss = known.data.get("loss")
        if loss and value not in (None, AGGREGATION[loss]):
            raise ValueError(f"loss {loss} requires {AGGREGATION[loss]}: set this to null, or choose another loss")
        return AGGREGATION[loss] if loss else value

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: prompt and response."""
        return self.max_prompt_length + self.max_response_length

    @property
    def rollouts_per_step(self) -> int:
        """Sequences per step."""
        return self.prompts_per_step * self.rollouts_per_prompt


class Run(Part):
    """A training run: base model, data, engine and changes to the recipe."""

    family: Name = text("Comparison table of the run (default: the name of its model).")
    model: str = text("Name of an entry in `models`.")
    dataset: str = text("Name of an entry in `datasets`.")
    engine: Literal["verl", "reference"] = text("verl (Ray, FSDP2, vLLM) or reference (one process).", default="verl")
    enabled: Switch = text("Train this run; no target trains a run that is not enabled.", default=True)
    evaluate: Switch = text(
        "Evaluate this run by default; training and its figures do not depend on this.", default=True
    )
    steps: Positive = text("Training steps.")
    segment_steps: Positive = text("Steps per segment, which one job trains; must divide steps.")
    evaluate_every: Positive = text("Steps between evaluated checkpoints; must be a multiple of segment_steps.")
    seeds: list[Count] = text(
        "Seeds: one training per seed, named <run>_s<seed>; empty: a single training.", default=[]
    )
    seed: Count | None = text("Seed of this run; null: the experiment's seed.", default=None)
    recipe: Recipe = text("Recipe keys that this run overrides.")

    @property
    def canary(self) -> bool:
        """Whether this is the canary (short trial) of another run."""
        return isinstance(self, CanaryRun)

    @property
    def segment_ends(self) -> list[int]:
        """The steps at which the segments end, in order; the last one is the run's last step."""
        return list(range(self.segment_steps, self.steps + 1, self.segment_steps))

    @property
    def evaluated_steps(self) -> list[int]:
        """The evaluated checkpoints: every `evaluate_every` steps and the last one."""
        return sorted({*range(self.evaluate_every, self.steps + 1, self.evaluate_every), self.steps})


class CanaryRun(Run):
    """The short trial of a run, which `snakemake canary` trains."""


class SeedRun(Run):
    """One of several trainings of the same setting, which differ in their seed."""

    setting: str


class External(Part):
    """A model from the hub or a folder that is evaluated without training."""

    model: HubId | None = text("Hub id: owner/name; use `path` for a folder.", default=None)
    path: str | None = text(
        "Model folder in Hugging Face's layout, relative to the working directory or the repository; it is copied.",
        default=None,
    )
    revision: str | None = text(REVISION, default=None)
    family: Name | None = text("Comparison table of the model.", default=None)
    enabled: Switch = text("Evaluate by default (`snakemake golden` always does).", default=True)


LABEL = "Name in tables and figures (default: the name of the entry)."
SAMPLES = "Answers sampled per question."
NEWER = "Released after the models and the training data (marked in figures)."


class HubBenchmark(Part):
    """A benchmark on the hub."""

    label: str = text(LABEL)
    source: Literal["hub"] = text("The Hugging Face dataset hub.")
    hub_id: HubId = text("Repository: owner/name.")
    hub_config: str | None = text("Configuration (subset) of the dataset.", default=None)
    revision: str | None = text(REVISION, default=None)
    split: str = text("Split to evaluate.", default="train")
    question_column: str | None = text(COLUMN.format("question"), default=None)
    answer_column: str | None = text(COLUMN.format("gold answer"), default=None)
    id_column: str | None = text("Column with a unique id; null: number the rows.", default=None)
    rows: Positive = text("Number of questions; data with another number is rejected.")
    samples: Positive = text(SAMPLES, default=4)
    newer: Switch = text(NEWER, default=False)


class LocalBenchmark(Part):
    """A benchmark on disk: JSON lines, JSON, CSV or Parquet."""

    label: str = text(LABEL)
    source: Literal["local"] = text("A local file or folder.")
    path: str = text(FROM_DISK)
    question_column: str | None = text(COLUMN.format("question"), default=None)
    answer_column: str | None = text(COLUMN.format("gold answer"), default=None)
    id_column: str | None = text("Column with a unique id; null: number the rows.", default=None)
    rows: Positive | None = text(
        "Number of questions; data with another number is rejected. null: any number.", default=None
    )
    samples: Positive = text(SAMPLES, default=4)
    newer: Switch = text(NEWER, default=False)


class ArithmeticBenchmark(Part):
    """Generated held-out sums."""

    label: str = text(LABEL)
    source: Literal["arithmetic"] = text("Generated.")
    digits: Positive = text("Digits per operand.")
    rows: Positive = text("Number of questions.")
    samples: Positive = text(SAMPLES)


class TaskBenchmark(Part):
    """Generated held-out questions of a reasoning-gym task."""

    label: str = text(LABEL)
    source: Literal["reasoning_gym"] = text("Generated.")
    task: str = text("Name of the task, such as chain_sum.")
    settings: TaskSettings = text("Settings of the task, such as {max_terms: 3}.", default_factory=dict)
    rows: Positive = text("Number of questions.")
    samples: Positive = text(SAMPLES)


Benchmark = Annotated[
    HubBenchmark | LocalBenchmark | ArithmeticBenchmark | TaskBenchmark, Field(discriminator="source")
]
PER_BENCHMARK: Literal["per_benchmark"] = "per_benchmark"


class EvalProtocol(Part):
    """A sampling protocol: how a question is put to the model and how its answers are sampled.

    A model's own generation_config is ignored; `justrl.generation` finds the stop tokens.
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
    own_graders: dict[Name, OwnFunction] = text(
        "Your own graders by name, in addition: Python functions that return whether a completion is correct.",
        default={},
    )
    model_grader: ModelGrader
    headline_grader: str = text("Primary grader, whose avg@k tables and figures show first.")


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


class ShapeFigures(Part):
    """Sizes of a model that is neither downloaded nor known, named as in its config.json."""

    num_hidden_layers: Positive = text("Number of layers.")
    hidden_size: Positive = text("Hidden size.")
    intermediate_size: Positive = text("Hidden size of the feed-forward layers.")
    num_attention_heads: Positive = text("Number of attention heads.")
    num_key_value_heads: Positive = text("Number of key-value heads.")
    vocab_size: Positive = text("Vocabulary size (rows of the embedding).")
    head_dim: Positive | None = text("Size of a head; null: hidden size divided by the number of heads.", default=None)
    tie_word_embeddings: Switch = text("Input and output embeddings share their weights.", default=False)


class Plan(Part):
    """Assumptions of the plan where nothing was measured; they change requested resources, never results."""

    shapes: dict[Name, ShapeFigures] = text(
        "Sizes of models that the plan does not know, by model.", default_factory=dict
    )
    answer_tokens: dict[Name, Positive] = text(
        "Mean tokens of an answer before truncation, by model (default, as in the paper: 7,500 at the "
        "start, falling to "
        "5,000 by step 1,000).",
        default_factory=dict,
    )


class GpuFigures(Part):
    """Specifications of a GPU that the plan does not know."""

    memory: Number = text("Memory in GiB.", gt=0)
    bandwidth: Number = text("Memory bandwidth in GB/s.", gt=0)
    tflops: Number = text("Peak performance in dense bfloat16, TFLOP/s.", gt=0)


class EngineSettings(Part):
    """Memory and speed settings of the verl engine; null: derived from GPU memory, number of GPUs and model."""

    gpu_memory_utilization: Annotated[Number, Field(gt=0, le=1)] | None = text(
        "Share of each GPU's memory that vLLM uses.", default=None
    )
    max_tokens_per_gpu: Positive | None = text(
        "Tokens per micro-batch, in the update and in the log-probabilities.", default=None
    )
    offload_parameters: Switch | None = text(
        "Offload the trainer's weights to CPU memory while they are not used.", default=None
    )
    offload_optimizer: Switch | None = text(
        "Offload Adam's moments to CPU memory while they are not used.", default=None
    )
    fused_kernels: Switch | None = text(
        "Use fused kernels, which never store the logits (default: false, see verl#2656).", default=None
    )
    cuda_graphs: Switch | None = text("Use CUDA graphs in vLLM (default: true).", default=None)
    max_num_seqs: Positive | None = text("Maximum number of concurrent sequences per vLLM instance.", default=None)
    rollout_dtype: Literal["bfloat16", "float16", "float32"] | None = text(
        "Number format of rollouts (default: the recipe's; another one causes a mismatch between rollout "
        "and training).",
        default=None,
    )


class Hardware(Part):
    """Hardware of one training job and one evaluation job; it changes time, never results."""

    gpu: str = text("GPU model, from which memory and time are planned; none: no GPU.")
    gpu_figures: GpuFigures | None = text("Specifications of a GPU that the plan does not know.", default=None)
    nodes: Positive = text("Number of nodes of one training job.")
    gpus_per_node: Count = text("GPUs per node; 0: train on the CPU.")
    cpus_per_node: Positive = text("CPU cores per node of a training job.")
    memory_per_node_gb: Positive = text("Memory per node of a training job, in GB.")
    gpus_per_evaluation: Count = text("GPUs per evaluation job; 0: generate on the CPU.")
    cpus_per_evaluation: Positive = text("CPU cores per evaluation job.")
    memory_per_evaluation_gb: Positive = text("Memory per evaluation job, in GB.")
    save_every: Positive = text("Steps between saves of the full state inside a segment.")
    hang_timeout_minutes: Annotated[Number, Field(gt=0)] | None = text(
        "A training job without progress for this many minutes is stopped; null: twice the longest phase, at least 30.",
        default=None,
    )
    attention: Literal["flash_attention_2", "sdpa"] = text(
        "Attention of verl's update on GPUs; sdpa does not need flash-attn and is slower."
    )
    network_interface: Annotated[str, Field(pattern=r"^[=^]?[\w.:,-]+$")] | None = text(
        "Network interface of verl's trainer, such as ib0 or ^lo,docker0 (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME); "
        "null: NCCL and Gloo choose one.",
        default=None,
    )
    cpu_bind: Annotated[str, Field(pattern=r"^[\w:,-]+$")] | None = text(
        "How srun binds processes to cores (--cpu-bind); set none if srun cannot satisfy the bind request; null: the "
        "cluster's default.",
        default=None,
    )
    rollouts: Literal["transformers", "vllm"] = text(
        "Sampler of the reference engine: transformers (bit-reproducible) or vllm (fast).",
        default="transformers",
    )
    rollouts_kept: Count = text(
        "Number of rollouts per step that are saved for inspection; 0: none. This does not change the training.",
        default=8,
    )
    engine: EngineSettings = Field(default_factory=EngineSettings)

    @property
    def gpus(self) -> int:
        """GPUs of one training job."""
        return self.nodes * self.gpus_per_node

    @property
    def on_cpu(self) -> bool:
        """Whether there is no GPU: the same engines then run on the CPU."""
        return not self.gpus or self.gpu == "none"

    @property
    def hang_seconds(self) -> float:
        """Seconds without progress after which a job is ended; `justrl train` derives the minutes if not configured."""
        return 60 * (self.hang_timeout_minutes or LEAST_HANG_MINUTES)

    @property
    def kind(self) -> Gpu:
        """The GPU's specifications; raises UserError, which names the known kinds, for an unknown one."""
        own = self.gpu_figures
        return Gpu(self.gpu, own.tflops, own.bandwidth, own.memory) if own else find_gpu(self.gpu)


class Experiment(Part):
    """The keys of config.yaml and its overlays. Unknown keys are rejected."""

    pathvars: dict[str, Annotated[str, Field(pattern=r"^[^{}]*$")]] = text(
        "Snakemake path variables; an overlay sets `results`, so that its files are separate from the paper's.",
        default_factory=dict,
    )
    experiment: str = text(
        'Name of the experiment, on every result and figure. Only "paper" is compared with the published '
        "scores, and it "
        "must have the paper's values (docs/recipe.md).",
        pattern=EXPERIMENT_NAME,
    )
    seed: Count = text("Seed of data order, rollouts, evaluation samples and bootstrap.")
    hub: Hub
    models: dict[Name, Model] = text("Base models by name.", min_length=1)
    datasets: dict[Name, Dataset] = text("Training datasets by name.", min_length=1)
    recipe: Recipe
    runs: dict[Name, Run] = text("Training runs by name.")
    external: dict[Name, External] = text("Models to evaluate without training, by name.")
    benchmarks: dict[Name, Benchmark] = text("Benchmarks by name.")
    protocols: dict[Name, EvalProtocol] = text("Sampling protocols of evaluation by name.")
    evaluation: Evaluation
    overlays: dict[Name, list[str]] = text("Figures that show the training curves of several runs, by name.")
    compare: dict[Name, list[str]] = text(
        "Pairs of runs to compare, by name: second minus first, with intervals over seeds and questions."
    )
    canary: Canary
    keep_exports: Literal["all", "evaluated"] = text(
        "Exported models to keep: all, or only those of evaluated checkpoints.", default="all"
    )
    hardware: Hardware
    plan: Plan = Field(default_factory=Plan)
    trackers: list[Tracker] = text(
        "Additional metric loggers (TensorBoard is always on); they do not change the training.", default=[]
    )

    @classmethod
    def from_mapping(cls, config: Mapping) -> "Experiment":
        """Check a configuration against its types and for contradictions.

        A run's recipe is completed: its own keys override the common recipe.

        Raises UserError: one line per problem, naming the key, its value and the valid values.
        """
        # A JSON round trip converts Snakemake's own mapping types to plain ones.
        plain = spelled_out(json.loads(json.dumps(config)))
        own = {}
        for name, run in _mappings(plain.get("runs")):
            own[name] = run.get("recipe")
            if isinstance(run.get("recipe"), dict) and isinstance(plain.get("recipe"), dict):
                run["recipe"] = merge(plain["recipe"], run["recipe"])
        try:
            experiment = cls.model_validate(plain)
        except ValidationError as error:
            raise UserError("config: " + "\n  ".join(explain(error, cls, own))) from None
        experiment = experiment.with_seeds()
        if problems := list(experiment.contradictions()):
            raise UserError("config: " + "\n  ".join(problems))
        return experiment

    @property
    def results(self) -> Path:
        """The folder of the experiment's results."""
        return Path(self.pathvars.get("results", "results"))

    @property
    def enabled(self) -> list[str]:
        """The enabled runs; no other run is trained."""
        return [name for name, run in self.runs.items() if run.enabled]

    @property
    def enabled_external(self) -> dict[str, External]:
        """The published models that `snakemake` without a target evaluates."""
        return {name: entry for name, entry in self.external.items() if entry.enabled}

    def run(self, name: str) -> Run:
        """Return the run of that name; raises UserError, which suggests the nearest name, if there is none."""
        if name not in self.runs:
            raise UserError(f"no run {name} in the configuration{did_you_mean(name, self.runs)}")
        return self.runs[name]

    def described(self, name: str) -> "RunDescription":
        """Return what identifies a run's training."""
        run = self.run(name)
        return RunDescription(
            run=name,
            experiment="canary" if run.canary else self.experiment,
            engine=run.engine,
            seed=self.seed if run.seed is None else run.seed,
            model=self.models[run.model],
            dataset=self.datasets[run.dataset],
            recipe=run.recipe,
        )

    def samples(self, benchmark: str, protocol: str) -> int:
        """Return the samples per question of a benchmark under a protocol."""
        samples = self.protocols[protocol].samples
        return self.benchmarks[benchmark].samples if samples == PER_BENCHMARK else int(samples)

    def with_seeds(self) -> "Experiment":
        """Return the experiment with each run of several seeds replaced by one run `{run}_s{seed}` per seed.

        Overlay figures with such a run show all of its trainings.
        """
        runs: dict[str, Run] = {}
        for name, run in self.runs.items():
            for problem in _twice(f"runs.{name}.seeds", [str(seed) for seed in run.seeds]):
                raise UserError(f"config: {problem}")
            own = {"seeds": [], "setting": name}
            each: dict[str, Run] = {
                f"{name}_s{seed}": SeedRun(**{**dict(run), **own, "seed": seed}) for seed in run.seeds
            }
            if taken := sorted(each.keys() & self.runs.keys()):
                raise UserError(
                    f"config: runs.{name}.seeds: {taken[0]} is already the name of another run; choose another seed"
                )
            runs |= each or {name: run}
        overlays = {
            overlay: [run for member in members for run in settings(runs).get(member, [member])]
            for overlay, members in self.overlays.items()
        }
        return self.model_copy(update={"runs": runs, "overlays": overlays})

    def with_canaries(self) -> "Experiment":
        """Return the experiment with a short run `canary_{run}` for each enabled run (for its first seed, if several).

        Canaries are evaluated under a protocol named `canary`: the experiment's own with few samples.
        """
        if "canary" in self.protocols:
            raise UserError(
                "config: protocols.canary: the name is reserved for the evaluation of canaries; choose another name"
            )
        canary, length = self.canary, self.canary.max_response_length
        protocol = self.protocols[self.evaluation.protocol].model_copy(update={"samples": canary.samples})
        if length:
            protocol = protocol.model_copy(update={"max_tokens": length})
        runs = dict(self.runs)
        for name, *_ in settings({name: self.runs[name] for name in self.enabled}).values():
            run = self.runs[name]
            if f"canary_{name}" in runs:
                raise UserError(
                    f"config: runs.canary_{name}: the name is reserved for the canary of {name}; choose another name"
                )
            # A penalty on the last tokens of a shorter response would need another buffer.
            penalty = run.recipe.overlong_penalty.model_copy(update={"enabled": False})
            # A canary's verdict covers what the alarms check, and its other questions as well.
            silent = Alarms(probs_difference=None, least_reward_steps=None, truncated=None)
            trial: dict[str, Any] = {"learning_rate": canary.learning_rate, "warmup_steps": 0, "alarms": silent}
            if length:
                trial |= {"max_response_length": length, "overlong_penalty": penalty}
            changed = {
                "family": "canary",
                "enabled": False,
                "steps": canary.steps,
                "segment_steps": canary.segment_steps,
                "evaluate_every": canary.steps,
                "recipe": run.recipe.model_copy(update=trial),
            }
            runs[f"canary_{name}"] = CanaryRun(**{**run.model_dump(exclude={"setting"}), **changed})
        return self.model_copy(update={"runs": runs, "protocols": {**self.protocols, "canary": protocol}})

    def contradictions(self) -> Iterator[str]:
        """Yield a sentence for each contradiction between valid keys; only enabled parts are checked."""
        evaluation = self.evaluation
        for name, run in self.runs.items():
            for key, group in (("model", self.models), ("dataset", self.datasets)):
                yield from _unknown(f"runs.{name}.{key}: no such entry in {key}s", getattr(run, key), group)
        if self.hardware.gpus and not self.hardware.gpu_figures:
            try:
                find_gpu(self.hardware.gpu)
            except UserError as error:
                yield f"hardware.gpu: {error}"
        for name in self.enabled:
            yield from self.run_contradictions(name)
        for key in ("benchmarks", "validation_benchmarks"):
            for benchmark in getattr(evaluation, key):
                yield from _unknown(f"evaluation.{key}: no benchmark", benchmark, self.benchmarks)
            yield from _twice(f"evaluation.{key}", getattr(evaluation, key))
        yield from _twice("evaluation.graders", evaluation.graders)
        for overlay, members in self.overlays.items():
            for member in members:
                yield from _unknown(f"overlays.{overlay}: no run", member, self.runs)
            yield from _twice(f"overlays.{overlay}", members)
        for pair, both in self.compare.items():
            if len(both) != 2:
                yield f"compare.{pair}: must name two runs, got {len(both)}: {', '.join(both)}"
            for setting in both:
                yield from _unknown(f"compare.{pair}: no run", setting, settings(self.runs))
                for member in settings(self.runs).get(setting, [])[:1]:
                    if not self.runs[member].evaluate:
                        yield f"compare.{pair}: {setting} is not evaluated: set runs.{setting}.evaluate to true"
            yield from _twice(f"compare.{pair}", both)
        for name in [*self.plan.shapes, *self.plan.answer_tokens]:
            yield from _unknown("plan: no such entry in models", name, self.models)
        yield from _unknown("canary.benchmark: no benchmark", self.canary.benchmark, self.benchmarks)
        if self.canary.steps % self.canary.segment_steps:
            yield (
                f"canary.steps ({self.canary.steps}) must be a multiple of canary.segment_steps "
                f"({self.canary.segment_steps})"
            )
        yield from _unknown("evaluation.protocol: no protocol", evaluation.protocol, self.protocols)
        graders: list[str] = [*evaluation.graders, *evaluation.own_graders]
        for name in sorted(evaluation.own_graders.keys() & {"strict", "paper", "paper_rules", "symbolic", "model"}):
            yield f"evaluation.own_graders.{name}: a grader of the package has this name; choose another name"
        if evaluation.model_grader.enabled:
            graders += ["model", "paper_rules+model"]
            if "paper_rules" not in graders:
                yield (
                    "evaluation.graders: model_grader judges the answers that paper_rules rejects, and "
                    "paper_rules is not "
                    "listed: add it, or set model_grader.enabled to false"
                )
        if evaluation.headline_grader not in graders:
            headline = evaluation.headline_grader
            yield f"evaluation.headline_grader: {headline} is not one of the enabled graders: {', '.join(graders)}"
        if self.experiment == "canary":
            yield "experiment: canary is the name reserved for results of `snakemake canary`; choose another name"
        for name in self.external:
            if name in self.runs or name in self.models:
                yield f"external.{name}: a run or model has this name; choose another name"
        for name, entry in self.external.items():
            if (entry.model is None) == (entry.path is None):
                given = "has both model and path" if entry.model else "has neither model nor path"
                yield f"external.{name} {given}: set model (owner/name on the hub) or path (a folder)"
            elif entry.path and entry.revision:
                yield (
                    f"external.{name}.revision: {entry.revision} is set, but a folder (path) has no revision; remove it"
                )

    def run_contradictions(self, name: str) -> Iterator[str]:
        """Yield a sentence for each contradiction within one run, or between it and its model or hardware."""
        run, where = self.runs[name], f"runs.{name}"
        for key in PREPARED:
            if getattr(run.recipe, key) != getattr(self.recipe, key):
                yield (
                    f"{where}.recipe.{key}: the training data is prepared with recipe.{key} for all runs: "
                    "set it there, or "
                    "use a separate experiment if other runs should keep their value"
                )
        if run.model not in self.models:
            return
        for key in ("steps", "evaluate_every"):
            if (value := getattr(run, key)) % run.segment_steps:
                yield f"{where}.{key} must be a multiple of segment_steps ({run.segment_steps}), got {value}"
        recipe = run.recipe
        if recipe.prompts_per_step % recipe.mini_batch_prompts:
            yield (
                f"{where}: mini_batch_prompts ({recipe.mini_batch_prompts}) must divide prompts_per_step "
                f"({recipe.prompts_per_step})"
            )
        penalty = recipe.overlong_penalty
        if penalty.enabled and penalty.buffer >= recipe.max_response_length:
            yield (
                f"{where}: overlong_penalty.buffer ({penalty.buffer}) must be below max_response_length "
                f"({recipe.max_response_length})"
            )
        context = self.models[run.model].context_length
        if recipe.longest > context:
            yield (
                f"{where}: max_prompt_length + max_response_length = {recipe.longest} tokens do not fit the "
                f"context_length of models.{run.model} ({context})"
            )
        protocol = self.protocols.get(self.evaluation.protocol)
        if protocol and recipe.max_prompt_length + protocol.max_tokens > context:
            yield (
                f"protocols.{self.evaluation.protocol}.max_tokens ({protocol.max_tokens}) plus a prompt of "
                f"{recipe.max_prompt_length} tokens do not fit the context_length of models.{run.model} ({context})"
            )
        if run.engine == "reference" and recipe.staleness:
            yield (
                f"{where}: recipe.staleness = {recipe.staleness} is supported by verl only: set it to 0, or set "
                "engine to verl"
            )
        if run.engine == "reference" and self.hardware.nodes > 1:
            yield (
                f"{where}: the reference engine uses one node, but hardware.nodes = "
                f"{self.hardware.nodes}: set it to 1, "
                "or set engine to verl"
            )
        sequences = recipe.mini_batch_prompts * recipe.rollouts_per_prompt
        if self.hardware.gpus and run.engine == "verl" and sequences % self.hardware.gpus:
            yield (
                f"{where}: mini_batch_prompts x rollouts_per_prompt = {sequences} sequences must be a multiple of the "
                f"{self.hardware.gpus} GPUs in hardware"
            )


def spelled_out(config: dict[str, Any]) -> dict[str, Any]:
    """Fill in what the entries of a plain configuration imply: keys inherited by `like`, labels and families.

    A run with `like` inherits all keys of the other run except `enabled`; its own keys override them.

    Raises UserError: `like` names an unknown run or is circular.
    """
    runs = dict(_mappings(config.get("runs")))
    whole = {**config, **{key: {**config[key]} for key in ("runs", "benchmarks") if isinstance(config.get(key), dict)}}
    for name in runs:
        run = _like(name, runs, ())
        if isinstance(run.get("model"), str):
            run.setdefault("family", run["model"])
        whole["runs"][name] = run
    for name, benchmark in _mappings(config.get("benchmarks")):
        whole["benchmarks"][name] = {"label": name, **benchmark}
    return whole


def _like(name: str, runs: Mapping[str, dict], above: tuple[str, ...]) -> dict[str, Any]:
    own = {key: value for key, value in runs[name].items() if key != "like"}
    other = runs[name].get("like")
    if other is None:
        return {"recipe": {}, **own}
    chain = (*above, name)
    if other not in runs:
        raise UserError(f"config: runs.{name}.like: no run {other}{did_you_mean(str(other), runs)}")
    if other in chain:
        raise UserError(f"config: runs.{name}.like is circular: {' -> '.join((*chain, other))}")
    inherited = _like(other, runs, chain)
    inherited.pop("enabled", None)
    return merge(inherited, own)


def settings(runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """Map each run to its trainings: one per seed for a run with several seeds, otherwise the run itself."""
    found: dict[str, list[str]] = {}
    for name, run in runs.items():
        found.setdefault(run.setting if isinstance(run, SeedRun) else name, []).append(name)
    return found


class RunDescription(Part):
    """What identifies a run's training (run.json); training jobs read it and results quote it.

    It does not include the number of steps, so a run can be extended without changing its training.
    """

    run: str
    experiment: str
    engine: Literal["verl", "reference"]
    seed: Count
    model: Model
    dataset: Dataset
    recipe: Recipe


def completed(described: Mapping[str, Any]) -> dict[str, Any]:
    """Add missing keys, with their defaults, to a run's description; return other documents unchanged."""
    try:
        return RunDescription.model_validate(described).as_dict()
    except ValidationError:
        return dict(described)


def read_part(part: type[AnyPart], content: str | Mapping, source: str | Path) -> AnyPart:
    """Read one part of the experiment from JSON text or a mapping, as jobs receive it.

    Raises UserError: it is not JSON or not a valid part; the message begins with `source`.
    """
    try:
        value = json.loads(content) if isinstance(content, str) else content
        return part.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{source}: " + "; ".join(explain(error, part, {}))) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not JSON: {error}") from None


def load(
    overlays: Sequence[str | Path] = (), overrides: Sequence[str] = (), base: str | Path = DEFAULT_CONFIG
) -> Experiment:
    """Load the experiment: `base`, then each overlay file, then `dotted.key=value` overrides.

    Raises UserError: an unknown key, a value of the wrong type, or contradicting keys.
    """
    return Experiment.from_mapping(read(overlays, overrides, base))


def _mappings(value: Any) -> Iterator[tuple[str, dict]]:
    """Yield the entries of a mapping that are mappings themselves."""
    for name, entry in value.items() if isinstance(value, dict) else ():
        if isinstance(entry, dict):
            yield name, entry


def _unknown(what: str, name: str, known: Mapping) -> Iterator[str]:
    separator = ": " if what.endswith("s") else " "
    if name not in known:
        yield f"{what}{separator}{name}{did_you_mean(name, known)}"


def _twice(where: str, names: Sequence[str]) -> Iterator[str]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{where}: {name} is listed twice; remove one"
