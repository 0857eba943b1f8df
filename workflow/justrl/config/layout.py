"""Paths of all files of an experiment, for rules, plan, preflight and status.

<results>/models/{model}/                          base models, published models and the judge
<results>/data/{dataset}/{model}/train.parquet     training questions, for the base model's template
<results>/benchmarks/{benchmark}/questions.parquet
<results>/runs/{run}/segments/{step}/              model and metrics of a segment; metrics.jsonl joins them
<results>/evaluations/{target}/{benchmark}/{protocol}/    completions and grades
<results>/{benchmark}_{name}.json                  results; {name} is a run, run@step, run@base or a published model
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from justrl.config import Experiment, HubModel, LocalModel, SeedRun, TinyModel, paper, settings
from justrl.config.published import RELEASED
from justrl.errors import UserError

JUDGE = "model_grader"
# Sources of files that the workflow copies instead of creating them.
TAKEN = ("hub", "local")


@dataclass(frozen=True)
class Layout:
    """The files of one experiment, as text below `root`.

    `root` is a folder, or "<results>" in Snakemake's rules. `ends` has the steps at which a run's segments end, where
    they differ from the configuration, because trained segments keep their boundaries. `own_bases` are the runs of
    single seeds whose base model was evaluated for each seed, as in earlier versions. `operations.trained` reads both
    from disk.
    """

    experiment: Experiment
    root: str = "<results>"
    ends: Mapping[str, Sequence[int]] = field(default_factory=dict)
    own_bases: Collection[str] = ()

    @property
    def model_sources(self) -> dict[str, HubModel | LocalModel | TinyModel]:
        """Every model by name with its source: base models, published models and the judge."""
        experiment, judge = self.experiment, self.experiment.evaluation.model_grader
        published: dict[str, HubModel | LocalModel] = {
            name: LocalModel.model_construct(source="local", path=entry.path)
            if entry.path
            else HubModel.model_construct(source="hub", hub_id=entry.model, revision=entry.revision)
            for name, entry in experiment.external.items()
        }
        grader = HubModel.model_construct(source="hub", hub_id=judge.model, revision=judge.revision)
        return {**experiment.models, **published, JUDGE: grader}

    def model(self, name: str) -> str:
        """Return the folder of a base model, a published model or the judge."""
        return f"{self.root}/models/{name}"

    def base_model(self, run: str) -> str:
        """Return the folder of a run's base model."""
        return self.model(self.experiment.runs[run].model)

    def raw_data(self, dataset: str) -> str:
        """Return the folder of a training set as downloaded or generated."""
        return f"{self.root}/data/{dataset}/raw"

    def card_sources(self, run: str) -> list[str]:
        """Return the folders of a run's base model and dataset, whose own cards its model card quotes."""
        return [self.base_model(run), self.raw_data(self.experiment.runs[run].dataset)]

    def training_data(self, run: str) -> str:
        """Return a run's training questions, formatted and filtered for its base model."""
        entry = self.experiment.runs[run]
        return f"{self.root}/data/{entry.dataset}/{entry.model}/train.parquet"

    def raw_benchmark(self, benchmark: str) -> str:
        """Return the folder of a benchmark as downloaded or generated."""
        return f"{self.root}/benchmarks/{benchmark}/raw"

    def questions(self, benchmark: str) -> str:
        """Return a benchmark's questions and reference answers."""
        return f"{self.root}/benchmarks/{benchmark}/questions.parquet"

    @property
    def evaluated(self) -> list[str]:
        """The runs that are enabled and evaluated."""
        return [run for run in self.experiment.enabled if self.experiment.runs[run].evaluate]

    def may_train(self, run: str) -> bool:
        """Return whether a run is enabled, or the canary of an enabled run."""
        return self.experiment.runs[run].enabled or self.experiment.runs[run].canary

    def trainings(self, target: str = "all") -> dict[str, list[int]]:
        """Return the trainings that a target needs: by run, the steps at which segments end; only enabled runs.

        A target is a rule that collects files (all, data, canary, golden, first_1000), a figure of several runs
        (overlays/NAME), a pair (compared/NAME), a run or a checkpoint (RUN, RUN@STEP, RUN@base).
        """
        kind, _, name = target.rpartition("/")
        run, _, step = target.partition("@")
        if kind:
            runs = self.experiment.figures[name] if kind == "overlays" else self.pair_runs(name)
        elif target in ("all", "first_1000"):
            runs = self.experiment.enabled
        elif target == "canary":
            runs = [name for name, entry in self.experiment.runs.items() if entry.canary]
        else:
            runs = [] if target in ("data", "golden") or step == "base" else [run]
        if target == "first_1000":
            return {run: self.first_thousand_ends(run) for run in runs}
        last = {run: int(step)} if step.isdigit() else {}
        return {
            run: [end for end in self.segment_ends(run) if end <= last.get(run, self.experiment.runs[run].steps)]
            for run in runs
            if self.may_train(run)
        }

    def overlay_metrics(self, overlay: str) -> list[str]:
        """Return the metrics of the enabled runs in an overlay figure.

        Raises UserError: none of its runs is enabled.
        """
        runs = self.trainings(f"overlays/{overlay}")
        if not runs and (members := self.experiment.figures[overlay]):
            raise UserError(f"figures.{overlay}: none of its runs is on: set runs.{members[0]}.enabled to true")
        return [self.metrics(run) for run in runs]

    def drawn_overlays(self) -> list[str]:
        """Return the overlay figures to draw: at least two of their runs are enabled, or all that they name."""
        overlays = self.experiment.figures
        on = {name: len(self.trainings(f"overlays/{name}")) for name in overlays}
        return [name for name, members in overlays.items() if on[name] and (on[name] > 1 or on[name] == len(members))]

    def compared_pairs(self) -> list[str]:
        """Return the pairs with both sides enabled."""
        return [pair for pair in self.experiment.compare if all(map(self.may_train, self.pair_runs(pair)))]

    def left_out(self) -> Iterator[str]:
        """Yield a line for each figure and pair that names a disabled run, saying what is left out."""
        drawn, compared = self.drawn_overlays(), self.compared_pairs()
        for overlay, members in self.experiment.figures.items():
            on = self.trainings(f"overlays/{overlay}")
            if off := [run for run in members if run not in on]:
                what = f"shows only {', '.join(on)}" if overlay in drawn else "is left out"
                yield f"figures.{overlay} {what}: {_are_off(off)}"
        for pair in self.experiment.compare:
            if pair not in compared:
                off = [run for run in self.pair_runs(pair) if not self.may_train(run)]
                yield f"compare.{pair} is left out: {_are_off(off)}"

    def downloads(self) -> list[str]:
        """Return models, training data and benchmarks of the enabled runs."""
        runs = self.experiment.enabled
        files = [file for run in runs for file in (self.base_model(run), self.training_data(run))]
        return files + [self.questions(name) for name in self.experiment.evaluation.benchmarks]

    def hub_folders(self, runs: Iterable[str] | None = None) -> list[str]:
        """Return the folders that runs (default: the enabled ones) get from hub or disk, each with a source.json."""
        experiment = self.experiment
        chosen = [experiment.runs[run] for run in (experiment.enabled if runs is None else runs)]
        models = {run.model for run in chosen} | set(experiment.enabled_external)
        if experiment.evaluation.model_grader.enabled:
            models.add(JUDGE)
        sources = self.model_sources
        folders = [self.model(name) for name in models if sources[name].source in TAKEN]
        datasets = {run.dataset for run in chosen}
        folders += [self.raw_data(name) for name in datasets if experiment.datasets[name].source in TAKEN]
        benchmarks = experiment.evaluation.benchmarks
        return sorted(folders) + [
            self.raw_benchmark(name) for name in benchmarks if experiment.benchmarks[name].source in TAKEN
        ]

    def run(self, run: str) -> str:
        """Return the folder of a run."""
        return f"{self.root}/runs/{run}"

    def run_file(self, run: str) -> str:
        """Return the run's description (run.json), which identifies its training."""
        return f"{self.run(run)}/run.json"

    def metrics(self, run: str) -> str:
        """Return the metrics of all segments of a run."""
        return f"{self.run(run)}/metrics.jsonl"

    def segment_model(self, run: str, step: int | str) -> str:
        """Return the model at the end of a segment."""
        return f"{self.run(run)}/segments/{step}/model"

    def segment_metrics(self, run: str, step: int | str) -> str:
        """Return the metrics of one segment."""
        return f"{self.run(run)}/segments/{step}/metrics.jsonl"

    def rollouts(self, run: str) -> list[str]:
        """Return the saved rollouts of each segment of a run: next to its metrics, and undeclared like its state."""
        return [path.replace("metrics.jsonl", "rollouts.parquet") for path in self.all_segments(run)]

    def segment_ends(self, run: str) -> Sequence[int]:
        """Return the steps at which a run's segments end, in order."""
        return self.ends.get(run) or self.experiment.runs[run].segment_ends

    def evaluated_steps(self, run: str) -> list[int]:
        """Return the evaluated checkpoints: those of the configuration at which a segment ends, and the last one."""
        entry = self.experiment.runs[run]
        return sorted({step for step in entry.evaluated_steps if step in self.segment_ends(run)} | {entry.steps})

    def keeps_export(self, run: str, step: int | str) -> bool:
        """Return whether the model at the end of a segment is kept."""
        return self.experiment.keep_checkpoints == "all" or int(step) in self.evaluated_steps(run)

    def start_step(self, run: str, step: int | str) -> int:
        """Return the start of the segment that ends at `step`; UserError, naming the nearest ends, if there is none."""
        ends, wanted = [0, *self.segment_ends(run)], int(step)
        if wanted in ends[1:]:
            return ends[ends.index(wanted) - 1]
        below, above = [end for end in ends[1:] if end < wanted][-1:], [end for end in ends if end > wanted][:1]
        nearest = " and ".join(f"{run}@{end}" for end in below + above)
        raise UserError(f"{run}@{step}: no segment of the run ends at this step; the nearest to ask for: {nearest}")

    def previous_segment(self, run: str, step: int | str) -> list[str]:
        """Return the metrics of the segment before the one that ends at `step`; empty for the first."""
        start = self.start_step(run, step)
        return [self.segment_metrics(run, start)] if start > 0 else []

    def all_segments(self, run: str) -> list[str]:
        """Return the metrics of each segment of a run, in order."""
        last = self.experiment.runs[run].steps
        return [self.segment_metrics(run, step) for step in self.segment_ends(run) if step <= last]

    def engine_config(self, run: str) -> list[str]:
        """Return the resolved configuration of the run's engine, for engines that have their own."""
        return [f"{self.run(run)}/verl.yaml"] if self.experiment.runs[run].engine == "verl" else []

    def target(self, name: str) -> str:
        """Return the checkpoint that a result's name means: a run without a step is its last one.

        All seeds of a run have the same base model, `{run}@base`, which is evaluated once.
        """
        runs = self.experiment.runs
        run, _, step = name.partition("@")
        entry = runs.get(run)
        if step == "base" and isinstance(entry, SeedRun) and run not in self.own_bases:
            return f"{entry.setting}@base"
        return f"{name}@{runs[name].steps}" if name in runs else name

    def run_of(self, target: str) -> str:
        """Return the run of a checkpoint; for the base model of several seeds, the first of their runs."""
        run = target.partition("@")[0]
        return settings(self.experiment.runs).get(run, [run])[0]

    def target_model(self, target: str) -> str:
        """Return the model folder of a checkpoint, a base model, or a published model."""
        run, _, step = target.partition("@")
        if not step:
            return self.model(run)
        if step == "base":
            return self.base_model(self.run_of(target))
        self.start_step(run, step)
        return self.segment_model(run, step)

    def evaluation(self, name: str, benchmark: str, protocol: str) -> str:
        """Return the folder of all files of one evaluation."""
        return f"{self.root}/evaluations/{self.target(name)}/{benchmark}/{protocol}"

    def completions(self, name: str, benchmark: str, protocol: str) -> list[str]:
        """Return all shards of the completions of one evaluation."""
        folder, shards = self.evaluation(name, benchmark, protocol), self.experiment.evaluation.shards
        return [f"{folder}/completions/{shard}-of-{shards}.parquet" for shard in range(shards)]

    def grades(self, name: str, benchmark: str, protocol: str) -> list[str]:
        """Return the grades of one evaluation: those of the rules and, if enabled, of the judge."""
        graders = ["rules", "model"] if self.experiment.evaluation.model_grader.enabled else ["rules"]
        folder = self.evaluation(name, benchmark, protocol)
        return [f"{folder}/grades_{grader}.parquet" for grader in graders]

    def generation(self, name: str, benchmark: str, protocol: str) -> dict[str, Any]:
        """Return the generation configuration expected in the completions' metadata, by its own key names."""
        experiment, evaluation = self.experiment, self.experiment.evaluation
        samples = experiment.samples(benchmark, protocol)
        return {
            "benchmark": benchmark,
            "run": self.target(name),
            "seed": experiment.seed,
            "backend": evaluation.backend,
            "dtype": evaluation.dtype,
            "protocol": {"name": protocol, **experiment.protocols[protocol].as_dict(), "samples": samples},
        }

    def configuration(self, name: str, benchmark: str, protocol: str) -> dict[str, Any]:
        """Return the configuration that determines a result: model, questions, generation and graders."""
        experiment, evaluation = self.experiment, self.experiment.evaluation
        run, _, step = name.partition("@")
        if run in experiment.runs and step != "base":
            model = experiment.described(run).as_dict()
        else:
            model = self.model_sources[experiment.runs[run].model if step else run].as_dict()
        questions = experiment.benchmarks[benchmark].as_dict()
        own = {grader: function.as_dict() for grader, function in evaluation.custom_graders.items()}
        return {
            "experiment": self.stamp(name),
            "model": model,
            "questions": {key: value for key, value in questions.items() if key not in ("label", "samples", "newer")},
            "generation": self.generation(name, benchmark, protocol),
            "graders": [*evaluation.graders, *evaluation.custom_graders],
            **({"custom_graders": own} if own else {}),
            "model_grader": evaluation.model_grader.as_dict(),
            "headline_grader": evaluation.headline_grader,
        }

    def family(self, name: str) -> str | None:
        """Return the family of published figures to compare with a run, a checkpoint or a published model."""
        run = name.partition("@")[0]
        return (self.experiment.runs.get(run) or self.experiment.external[run]).family

    def stamp(self, name: str) -> str:
        """Return the label on results and figures of a run, a checkpoint or a family (`paper.stamp`)."""
        return "canary" if self.is_canary(name) else paper.stamp(self.experiment, name)

    @property
    def common_stamp(self) -> str:
        """The label on pages of the whole experiment."""
        names = [*self.experiment.enabled, *self.experiment.enabled_external]
        stamps = [self.experiment.experiment, *map(self.stamp, names)]
        return paper.together(stamps) or self.experiment.experiment

    @property
    def has_claims(self) -> bool:
        """Whether a run or a published model is the paper's, so that the paper's claims can be checked."""
        names = [*self.experiment.enabled, *self.experiment.enabled_external]
        return any(self.stamp(name) == paper.PAPER for name in names)

    def data_stamp(self, dataset: str, model: str) -> str:
        """Return the label on pages of training data: the paper's name only if one of its runs trains on the data."""
        runs = [name for name, run in self.experiment.runs.items() if (run.dataset, run.model) == (dataset, model)]
        stamps = [paper.stamp(self.experiment, name) for name in runs]
        return min(stamps, key=len, default=self.experiment.experiment)

    def is_canary(self, name: str) -> bool:
        """Return whether a run, a checkpoint or a family belongs to a canary."""
        run = self.experiment.runs.get(name.partition("@")[0])
        return run.canary if run is not None else name in {r.family for r in self.experiment.runs.values() if r.canary}

    def results(self, name: str, benchmarks: Iterable[str]) -> list[str]:
        """Return the result files of one model on some benchmarks; a canary has its own protocol and one benchmark."""
        if self.is_canary(name):
            return [f"{self.root}/canary/{self.experiment.canary.benchmark}_{name}.json"]
        return [f"{self.root}/{benchmark}_{name}.json" for benchmark in benchmarks]

    def checkpoints(self, run: str) -> list[str]:
        """Return the names of a run's evaluated checkpoints before its last."""
        return [f"{run}@{step}" for step in self.evaluated_steps(run)[:-1]]

    def base_and_last(self, run: str) -> list[str]:
        """Return the results of a run's base and last checkpoint on every benchmark."""
        every = self.experiment.evaluation.benchmarks
        return [file for name in (f"{run}@base", run) for file in self.results(name, every)]

    def run_results(self, run: str) -> list[str]:
        """Return all result files of a run: base and last checkpoint on all benchmarks, the others on a few."""
        few = self.experiment.evaluation.validation_benchmarks
        return self.base_and_last(run) + [file for name in self.checkpoints(run) for file in self.results(name, few)]

    def evaluation_results(self) -> list[str]:
        """Return the result files of every evaluated run and every published model."""
        experiment = self.experiment
        files = [file for run in self.evaluated for file in self.run_results(run)]
        every = experiment.evaluation.benchmarks
        return files + [file for name in experiment.enabled_external for file in self.results(name, every)]

    def progress_results(self, run: str) -> list[str]:
        """Return the results that show a run's progress: base and all checkpoints on the validation benchmarks."""
        few = self.experiment.evaluation.validation_benchmarks
        return [file for name in (f"{run}@base", *self.checkpoints(run), run) for file in self.results(name, few)]

    def family_results(self, family: str) -> list[str]:
        """Return the results of a family's bases, last checkpoints and published models on every benchmark."""
        experiment = self.experiment
        runs = [
            name
            for name, run in experiment.runs.items()
            if run.family == family and run.evaluate and self.may_train(name)
        ]
        names = [name for run in runs for name in (f"{run}@base", run)]
        names += [name for name, entry in experiment.enabled_external.items() if entry.family == family]
        return [file for name in names for file in self.results(name, experiment.evaluation.benchmarks)]

    def families(self) -> list[str]:
        """Return the families that have something to compare."""
        published = {entry.family for entry in self.experiment.enabled_external.values() if entry.family}
        return sorted({self.experiment.runs[run].family for run in self.evaluated} | published)

    def pair_runs(self, pair: str) -> list[str]:
        """Return the trainings of both sides of a comparison, those of the first side first."""
        found = settings(self.experiment.runs)
        return [run for setting in self.experiment.compare[pair] for run in found[setting]]

    def pair_results(self, pair: str) -> list[str]:
        """Return the results of both sides' last checkpoints on every benchmark."""
        return [f for run in self.pair_runs(pair) for f in self.results(run, self.experiment.evaluation.benchmarks)]

    def pair_metrics(self, pair: str) -> list[str]:
        """Return the metrics of both sides."""
        return [self.metrics(run) for run in self.pair_runs(pair)]

    def golden_families(self) -> dict[str | None, list[str]]:
        """Return the published models by family; those without a family are under None.

        A family is left out if all its runs train from base models that no enabled run has.
        """
        experiment, runs = self.experiment, self.experiment.runs.values()
        bases = {experiment.runs[run].model for run in experiment.enabled} or set(experiment.models)
        elsewhere = {run.family for run in runs} - {run.family for run in runs if run.model in bases}
        found: dict[str | None, list[str]] = {}
        for name, entry in experiment.external.items():
            if entry.family not in elsewhere:
                found.setdefault(entry.family, []).append(name)
        return found

    def golden_left_out(self) -> Iterator[str]:
        """Yield a line with the reason for each published model that `golden` leaves out."""
        made = {name for names in self.golden_families().values() for name in names}
        runs = self.experiment.runs
        for name, entry in self.experiment.external.items():
            if name not in made:
                own = next(run for run in runs if runs[run].family == entry.family)
                yield (
                    f"golden leaves out {name}: no enabled run has its base model {runs[own].model} "
                    f"(runs.{own}.enabled); request its results by name to evaluate it anyway"
                )

    def golden_family(self, family: str | None) -> list[str]:
        """Return the results of a family's base and published models, none of which is trained here."""
        runs, names = self.experiment.runs, self.golden_families().get(family, [])
        on_first = sorted(runs, key=lambda run: not runs[run].enabled)
        bases = [f"{run}@base" for run in on_first if runs[run].family == family and not runs[run].canary][:1]
        every = self.experiment.evaluation.benchmarks
        return [file for name in (*bases, *names) for file in self.results(name, every)]

    def golden_evaluations(self) -> list[str]:
        """Return the results of every published model, and of the base models of their families."""
        return [file for family in self.golden_families() for file in self.golden_family(family)]

    def first_thousand_ends(self, run: str) -> list[int]:
        """Return the ends of the segments that contain a run's first 1,000 steps, or all of a shorter run."""
        ends = [end for end in self.segment_ends(run) if end <= self.experiment.runs[run].steps]
        return [end for end in ends if self.start_step(run, end) < 1000]

    def first_thousand_segments(self, run: str) -> list[str]:
        """Return the metrics of the segments that contain a run's first 1,000 steps, or all of a shorter run."""
        return [self.segment_metrics(run, end) for end in self.first_thousand_ends(run)]

    def first_thousand_metrics(self, run: str) -> str:
        """Return the metrics of a run's first 1,000 steps; the whole run continues from them."""
        return f"{self.root}/first_1000/{run}/metrics.jsonl"

    def first_thousand_evaluations(self) -> list[str]:
        """Return the results of the enabled runs' bases and of their checkpoints within the first 1,000 steps."""
        few = self.experiment.evaluation.validation_benchmarks
        names = [f"{run}@{step}" for run in self.evaluated for step in ("base", *self.evaluated_steps(run))]
        early = [name for name in names if not name.partition("@")[2].isdigit() or int(name.partition("@")[2]) <= 1000]
        return [file for name in early for file in self.results(name, few)]

    def released(self) -> dict[str, str]:
        """Map each family of the paper to our name for the weights that its authors released."""
        return {
            RELEASED[entry.model]: name
            for name, entry in self.experiment.external.items()
            if entry.model and entry.model in RELEASED
        }

    def canary_evaluations(self) -> list[str]:
        """Return the result files of the canaries."""
        return [file for run in self.trainings("canary") for file in self.canary_result(run)]

    def canary_verdicts(self, ending: str = ".json") -> list[str]:
        """Return the verdicts of the canaries."""
        return [f"{self.run(run)}/verdict{ending}" for run in self.trainings("canary")]

    def canary_result(self, run: str) -> list[str]:
        """Return the result file of a canary, if it is evaluated."""
        return self.results(run, []) if self.experiment.runs[run].evaluate else []

    def canary_asked(self, run: str) -> dict[str, Any]:
        """Return the canary's settings, without the plan's part: fields of Asked in report/canary_verdict.py."""
        runs = self.experiment.runs
        own, of = runs[run], runs[run.removeprefix("canary_")]
        keys = ("steps", "segment_steps")
        found = {key: [getattr(of, key), getattr(own, key)] for key in keys}
        there, here = of.recipe.as_dict(), own.recipe.as_dict()
        found |= {f"recipe.{key}": [there[key], here[key]] for key in here}
        changed = {key: pair for key, pair in found.items() if pair[0] != pair[1]}
        return {"steps": own.steps, "segment_steps": own.segment_steps, "changed": changed}


def _are_off(runs: Sequence[str]) -> str:
    return f"{' and '.join(runs)} {'are' if len(runs) > 1 else 'is'} not enabled (runs.{runs[0]}.enabled)"
