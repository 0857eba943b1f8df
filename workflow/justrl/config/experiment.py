"""The experiment as a type: `config.yaml` and its overlays become one `Experiment`.

`config.yaml` holds every number; an overlay changes some of them. Rules that involve several keys are in
`Experiment.contradictions`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
)

from justrl.config.evaluation import PER_BENCHMARK, Benchmark, Canary, EvalProtocol, Evaluation
from justrl.config.files import DEFAULT_CONFIG, merge, read
from justrl.config.hardware import Hardware, Plan, find_gpu
from justrl.config.names import EXPERIMENT_NAME, explain
from justrl.config.schema import (
    PREPARED,
    Alarms,
    CanaryRun,
    Count,
    Dataset,
    External,
    Hub,
    Model,
    Name,
    Part,
    Recipe,
    Run,
    RunDescription,
    SeedRun,
    Tracker,
    engine_problems,
    text,
)
from justrl.errors import UserError, did_you_mean


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
    figures: dict[Name, list[str]] = text("Figures that show the training curves of several runs, by name.")
    compare: dict[Name, list[str]] = text(
        "Pairs of runs to compare, by name: second minus first, with intervals over seeds and questions."
    )
    canary: Canary
    keep_checkpoints: Literal["all", "evaluated"] = text(
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

        Figures of several runs with such a run show all of its trainings.
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
        figures = {
            figure: [run for member in members for run in settings(runs).get(member, [member])]
            for figure, members in self.figures.items()
        }
        return self.model_copy(update={"runs": runs, "figures": figures})

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
        for figure, members in self.figures.items():
            for member in members:
                yield from _unknown(f"figures.{figure}: no run", member, self.runs)
            yield from _twice(f"figures.{figure}", members)
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
        graders: list[str] = [*evaluation.graders, *evaluation.custom_graders]
        for name in sorted(evaluation.custom_graders.keys() & {"strict", "paper", "paper_rules", "symbolic", "model"}):
            yield f"evaluation.custom_graders.{name}: a grader of the package has this name; choose another name"
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
        yield from self._contradictions_of_published_models()

    def _contradictions_of_published_models(self) -> Iterator[str]:
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
        for problem in engine_problems(run.engine, recipe):
            yield f"{where}: {problem}"
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
