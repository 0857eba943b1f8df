"""The parts of an experiment as types: models, training data, recipe and runs.

The valid values of each key are declared only in the classes of this package: the JSON schema and the table of keys in
the documentation are generated from them.
"""

import json
from collections.abc import Iterator, Mapping
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
    model_validator,
)

from justrl.config.custom_code import code_sha256
from justrl.config.files import find
from justrl.config.names import HUB_ID, NAME, explain, with_todays_names
from justrl.errors import UserError


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
CONTEXT = "Maximum sequence length in tokens (max_position_embeddings of its config.json)."
CONTAMINATED = "Remove questions that overlap with a benchmark."


class Hub(Part):
    """Access to models and datasets on the hub."""

    mirror: str | None = text("Folder with local copies (<hub id>/...), used instead of the hub; null: use the hub.")
    offline: Switch = text("Never use the network.")


class HubSource(Part):
    """A model or data on the hub."""

    source: Literal["hub"] = text("The Hugging Face hub.")
    hub_id: HubId = text("Repository: owner/name.")
    revision: str | None = text(REVISION, default=None)


class LocalSource(Part):
    """A file or folder on disk."""

    source: Literal["local"] = text("A local file or folder.")
    path: str = text("File or folder, relative to the working directory or the repository; it is copied.")


class SumsSource(Part):
    """Generated sums with exact answers."""

    source: Literal["arithmetic"] = text("Generated.")
    digits: Positive = text("Digits per operand.")
    rows: Positive = text("Number of questions.")


class TaskSource(Part):
    """Generated questions of a reasoning-gym task (install with `make tasks`)."""

    source: Literal["reasoning_gym"] = text("Generated.")
    task: str = text("Name of the task, such as chain_sum.")
    settings: dict[str, bool | int | float | str] = text(
        "Settings of the task, such as {max_terms: 3}.", default_factory=dict
    )
    rows: Positive = text("Number of questions.")


class HubModel(HubSource):
    """A model on the hub."""

    context_length: Positive = text(CONTEXT)


class LocalModel(LocalSource):
    """A model folder on disk, in Hugging Face's layout."""

    context_length: Positive = text(CONTEXT)


class TinyModel(Part):
    """A tiny model that the workflow creates and warm-starts (supervised training), for machines without a GPU."""

    source: Literal["tiny"] = text("Created by the workflow.")
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


Model = Annotated[HubModel | LocalModel | TinyModel, Field(discriminator="source")]


class TextDataset(Part):
    """Keys shared by training sets from the hub and from disk."""

    split: str = text("Split to train on.", default="train")
    question_column: str | None = text(COLUMN.format("question"), default=None)
    answer_column: str | None = text(COLUMN.format("answer"), default=None)
    remove_wrapper: Switch = text("Remove DAPO's own instruction around each question.", default=True)
    remove_duplicates: Switch = text("Remove duplicate questions.", default=True)
    remove_contradictions: Switch = text("Remove questions whose copies have different answers.", default=True)
    remove_contaminated: Switch = text(CONTAMINATED, default=False)


class HubDataset(TextDataset, HubSource):
    """A training set on the hub."""


class LocalDataset(TextDataset, LocalSource):
    """A training set on disk: JSON lines, JSON, CSV or Parquet."""


class ArithmeticDataset(SumsSource):
    """Generated sums with exact answers."""

    harder_share: Share = text("Share of sums with one more digit.")
    remove_contaminated: Switch = text(CONTAMINATED)


class TaskDataset(TaskSource):
    """Generated questions of a reasoning-gym task (install with `make tasks`)."""

    remove_contaminated: Switch = text(CONTAMINATED)


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
        "(rollout_probs_diff_mean). If it is higher or not a number, sampler and trainer have different policies. "
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
        "group of 8 is complete, and the reward mainly rewards an end before the limit.",
        default=0.9,
    )
    truncated_steps: Positive = text("Consecutive steps above the limit that raise the alarm.", default=3)
    answers: Positive = text(
        "Minimum number of answers in the steps that raise `least_reward` or `truncated`. A model with 1% accuracy "
        "gives this many wrong answers in a row once in 23,000 times.",
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
        "null: the aggregation of the chosen loss; others are rejected.", default=None, validate_default=True
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


def engine_problems(engine: str, recipe: Recipe) -> Iterator[str]:
    """Yield a sentence for each reason why an engine cannot train a recipe as it is."""
    if recipe.prompts_per_step % recipe.mini_batch_prompts:
        yield (
            f"mini_batch_prompts ({recipe.mini_batch_prompts}) must divide prompts_per_step ({recipe.prompts_per_step})"
        )
    if engine == "reference" and recipe.staleness:
        yield (f"recipe.staleness = {recipe.staleness} is supported by verl only: set it to 0, or set engine to verl")


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

    @model_validator(mode="before")
    @classmethod
    def _of_an_earlier_version(cls, value: Any) -> Any:
        return with_todays_names(value) if isinstance(value, Mapping) else value


def with_defaults(document: Mapping[str, Any]) -> dict[str, Any]:
    """Add keys that a run.json, or the one in a result's configuration, does not have yet, with their defaults.

    Other documents only get today's names.
    """
    described = document.get("model")
    if isinstance(described, Mapping) and "recipe" in described:
        return with_todays_names(document) | {"model": with_defaults(described)}
    try:
        return RunDescription.model_validate(document).as_dict()
    except ValidationError:
        return with_todays_names(document)


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
