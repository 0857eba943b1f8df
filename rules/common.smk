"""Input functions and the names that wildcards may take. Nothing here makes a file."""

import json
import re
from pathlib import Path

from snakemake.pathvars import Pathvars

from justrl import config as experiment
from justrl.errors import UserError
from justrl.operations import plan

if "extends" in config:
    # An overlay that extends another: the other goes between config.yaml and what the command line gave.
    beneath = experiment.read_overlay(config.pop("extends"))
    given = {key: value for key, value in workflow.config_settings.overwrite_config.items() if key != "extends"}
    defaults = experiment.read_yaml(experiment.DEFAULT_CONFIG)
    config.update(experiment.merge(experiment.merge(defaults, beneath), given))
    workflow.pathvars.update(Pathvars.from_config(config))

try:
    experiment.validate(config)
except UserError as error:
    raise WorkflowError(str(error)) from None
config.update(experiment.with_canaries(config))

RUNS = config["runs"]
ENABLED = [name for name, run in RUNS.items() if run["enabled"]]
EVALUATION = config["evaluation"]
HARDWARE = config["hardware"]
MODEL_SOURCES = (
    config["models"]
    | {
        name: {"source": "hub", "hub_id": e["model"], "revision": e.get("revision")}
        for name, e in config["external"].items()
    }
    | {
        "model_grader": {
            "source": "hub",
            "hub_id": EVALUATION["model_grader"]["model"],
            "revision": EVALUATION["model_grader"]["revision"],
        }
    }
)
RESULTS = Path(workflow.pathvars.get("results"))
if config["experiment"] != "paper" and RESULTS == Path("results"):
    raise WorkflowError(
        f"config: experiment {config['experiment']} would write to results/, where the paper's experiment lives; give it "
        f"a folder of its own, such as `pathvars: {{results: results/{config['experiment']}}}`"
    )
SHARDS = EVALUATION["shards"]
FIGURES = ("training", "diagnostics", "checkpoints", "pass_at_k")


def names_of(entries, source):
    """A wildcard constraint that matches the entries from one source, and nothing where there are none."""
    return "|".join(re.escape(name) for name, entry in entries.items() if entry["source"] == source) or "(?!)"


def any_of(names):
    """A wildcard constraint that matches exactly these names, and nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


wildcard_constraints:
    run=any_of(RUNS),
    model=any_of(MODEL_SOURCES),
    dataset=any_of(config["datasets"]),
    benchmark=any_of(config["benchmarks"]),
    protocol=any_of(config["protocols"]),
    overlay=any_of(config["overlays"]),
    family=any_of(sorted({run["family"] for run in RUNS.values()})),
    step=r"\d+",
    shard=r"\d+",
    name=rf"(?:{any_of(RUNS)})(?:@(?:\d+|base))?|{any_of(config['external'])}",
    target=rf"(?:{any_of(RUNS)})@(?:\d+|base)|{any_of(config['external'])}",


def run_setting(key):
    """A function that looks up one setting of the run in the wildcards."""
    return lambda wildcards: RUNS[wildcards.run][key]


def run_file(wildcards):
    """What determines a run's training, as JSON: the file that training jobs read and results quote.

    The number of steps is not part of it, so a run can be made longer without touching what is trained.
    """
    run = RUNS[wildcards.run]
    return json.dumps(
        {
            "run": wildcards.run,
            "experiment": experiment_of(wildcards.run),
            "engine": run["engine"],
            "seed": config["seed"],
            "model": config["models"][run["model"]],
            "dataset": config["datasets"][run["dataset"]],
            "recipe": experiment.recipe_of(config, wildcards.run),
        },
        sort_keys=True,
    )


def refuse_changed_recipes():
    """Stop before a run that has trained steps would go on, or start again, with another recipe."""
    for name in RUNS:
        written = RESULTS / "runs" / name / "run.json"
        if not written.is_file() or not any((written.parent / "segments").glob("*/metrics.jsonl")):
            continue
        before, now = json.loads(written.read_text()), json.loads(run_file(type("Wildcards", (), {"run": name})))
        changed = [key for key in now if before.get(key) != now[key]]
        if "recipe" in changed:
            changed.remove("recipe")
            changed += [f"recipe.{key}" for key in now["recipe"] if before["recipe"].get(key) != now["recipe"][key]]
        if changed:
            raise WorkflowError(
                f"config: run {name} has trained steps in {written.parent} with another {', '.join(changed)}. Undo the "
                f"change, give the changed experiment a run name of its own, or remove {written.parent} to train again."
            )


def refuse_empty_report():
    """Stop where there is nothing to report, which Snakemake would say of the first missing file alone."""
    if not any((RESULTS / part).exists() for part in ("data", "benchmarks", "figures")):
        raise WorkflowError(
            f"nothing of the experiment {config['experiment']} is in {RESULTS} yet: run it first, or add the profile of one "
            "that was run (`--profile mini`). Of an unfinished one, name the finished files after the report's own name."
        )


def base_model(wildcards):
    """The folder of the run's base model."""
    return f"<results>/models/{RUNS[wildcards.run]['model']}"


def training_data(wildcards):
    """The run's training questions, formatted and filtered for its base model."""
    run = RUNS[wildcards.run]
    return f"<results>/data/{run['dataset']}/{run['model']}/train.parquet"


def start_step(wildcards):
    """The step at which the segment that ends at {step} begins."""
    return int(wildcards.step) - RUNS[wildcards.run]["segment_steps"]


def previous_segment(wildcards):
    """The metrics of the segment before this one; nothing for the first."""
    start = start_step(wildcards)
    return [f"<results>/runs/{wildcards.run}/segments/{start}/metrics.jsonl"] if start > 0 else []


def timings_before(wildcards):
    """The metrics of the segment before, whose seconds per step tell how long the next one takes; it may not exist yet."""
    return RESULTS / "runs" / wildcards.run / "segments" / str(start_step(wildcards)) / "metrics.jsonl"


def segment_runtime(wildcards):
    """Minutes asked for one segment, from the timings of the segment before where there are any."""
    return plan.segment_runtime_minutes(config, wildcards.run, timings_before(wildcards))


def segment_warning(wildcards):
    """Slurm's warning to the trainer before the time limit, early enough for a step and a save."""
    return f"--signal=URG@{plan.segment_warning_seconds(config, wildcards.run, timings_before(wildcards))}"


def engine_config(wildcards):
    """The resolved configuration of the run's engine, for engines that have one of their own."""
    return [f"<results>/runs/{wildcards.run}/verl.yaml"] if RUNS[wildcards.run]["engine"] == "verl" else []


def segment_metrics(wildcards):
    """The metrics of all segments of a run, in order."""
    ends = experiment.segment_ends(RUNS[wildcards.run])
    return [f"<results>/runs/{wildcards.run}/segments/{step}/metrics.jsonl" for step in ends]


def target_of(name):
    """The checkpoint that a result's name means: a run without a step is its last one."""
    return f"{name}@{RUNS[name]['steps']}" if name in RUNS else name


def target_model(wildcards):
    """The model folder of a target: a checkpoint, a base model, or a published model."""
    run, _, step = wildcards.target.partition("@")
    if not step:
        return f"<results>/models/{run}"
    if step == "base":
        return f"<results>/models/{RUNS[run]['model']}"
    return f"<results>/runs/{run}/segments/{step}/model"


def samples_of(wildcards):
    """Samples of each question under a protocol."""
    samples = config["protocols"][wildcards.protocol]["samples"]
    return config["benchmarks"][wildcards.benchmark]["samples"] if samples == "per_benchmark" else samples


def protocol_json(wildcards):
    """The protocol in the wildcards, as JSON."""
    return json.dumps({"name": wildcards.protocol} | config["protocols"][wildcards.protocol], sort_keys=True)


def completions_of(wildcards):
    """All shards of the completions of one target on one benchmark."""
    folder = f"<results>/evaluations/{wildcards.target}/{wildcards.benchmark}/{wildcards.protocol}/completions"
    return [f"{folder}/{shard}-of-{SHARDS}.parquet" for shard in range(SHARDS)]


def evaluation_folder(name, benchmark, protocol):
    """The folder of everything kept of one evaluation."""
    return f"<results>/evaluations/{target_of(name)}/{benchmark}/{protocol}"


def scored_completions(protocol):
    """A function that lists the completions behind a result JSON."""

    def completions(wildcards):
        folder = evaluation_folder(wildcards.name, wildcards.benchmark, protocol)
        return [f"{folder}/completions/{shard}-of-{SHARDS}.parquet" for shard in range(SHARDS)]

    return completions


def scored_grades(protocol):
    """A function that lists the verdicts behind a result JSON: the rules' and, where it runs, the model's."""

    def grades(wildcards):
        folder = evaluation_folder(wildcards.name, wildcards.benchmark, protocol)
        graders = ["rules", "model"] if EVALUATION["model_grader"]["enabled"] else ["rules"]
        return [f"{folder}/grades_{grader}.parquet" for grader in graders]

    return grades


def is_canary(name):
    """Whether a run, a checkpoint or a family belongs to the canary."""
    return name.startswith("canary")


def experiment_of(name):
    """The experiment that results and figures of this run are stamped with."""
    return "canary" if is_canary(name) else config["experiment"]


def results_of(name, benchmarks):
    """The result files of one model on some benchmarks; a canary has its own protocol and one benchmark."""
    if is_canary(name):
        return [f"<results>/canary/{config['canary']['benchmark']}_{name}.json"]
    return [f"<results>/{benchmark}_{name}.json" for benchmark in benchmarks]


def checkpoint_names(run):
    """The names of a run's evaluated checkpoints before its last."""
    return [f"{run}@{step}" for step in experiment.evaluated_steps(RUNS[run])[:-1]]


def run_results(run):
    """All result files of a run: base and last checkpoint on every benchmark, the ones between on a few."""
    files = [*results_of(run, EVALUATION["benchmarks"]), *results_of(f"{run}@base", EVALUATION["benchmarks"])]
    for name in checkpoint_names(run):
        files += results_of(name, EVALUATION["validation_benchmarks"])
    return files


def evaluation_results():
    """Result files of every enabled run and every published model."""
    return [file for run in ENABLED for file in run_results(run)] + [
        file for name in config["external"] for file in results_of(name, EVALUATION["benchmarks"])
    ]


def checkpoint_results(wildcards):
    """The results that show a run's progress: base, checkpoints and last step on the validation benchmarks."""
    names = [f"{wildcards.run}@base", *checkpoint_names(wildcards.run), wildcards.run]
    return [file for name in names for file in results_of(name, EVALUATION["validation_benchmarks"])]


def base_and_last_results(wildcards):
    """The results of a run's base and last checkpoint on every benchmark."""
    return [
        file for name in (f"{wildcards.run}@base", wildcards.run) for file in results_of(name, EVALUATION["benchmarks"])
    ]


def overlay_metrics(wildcards):
    """The metrics of the runs that one figure draws together."""
    return [f"<results>/runs/{run}/metrics.jsonl" for run in config["overlays"][wildcards.overlay]]


def family_results(wildcards):
    """Base, last checkpoint and published models of one family, on every benchmark."""
    family = wildcards.family
    runs = [run for run in RUNS if RUNS[run]["family"] == family and (run in ENABLED or is_canary(family))]
    names = [name for run in runs for name in (f"{run}@base", run)]
    names += [name for name, entry in config["external"].items() if entry.get("family") == wildcards.family]
    return [file for name in names for file in results_of(name, EVALUATION["benchmarks"])]


def families():
    """The families that have something to compare."""
    published = [entry["family"] for entry in config["external"].values() if entry.get("family")]
    return sorted({RUNS[run]["family"] for run in ENABLED} | set(published))


def figures_of(runs, protocol):
    """The figures of runs that are evaluated under a protocol; of single samples no pass@k can be drawn."""
    figures = [name for name in FIGURES if name != "pass_at_k" or config["protocols"][protocol]["samples"] != 1]
    return [f"<results>/figures/{run}/{figure}.svg" for run in runs for figure in figures]


def analysis_results():
    """Figures, tables and provenance of the enabled runs."""
    files = figures_of(ENABLED, EVALUATION["protocol"])
    files += [f"<results>/runs/{run}/health.json" for run in ENABLED]
    files += [f"<results>/figures/overlays/{name}.svg" for name, runs in config["overlays"].items() if runs]
    files += [f"<results>/comparison/{family}.html" for family in families()]
    return [*files, "<results>/provenance.html"]


def canary_results():
    """What `snakemake canary` asks for: every rule of the DAG, on two short steps of each enabled run."""
    runs = [name for name in RUNS if is_canary(name)]
    files = figures_of(runs, "canary")
    files += [f"<results>/runs/{run}/health.json" for run in runs]
    return [file for run in runs for file in results_of(run, [])] + files + ["<results>/comparison/canary.html"]


def downloads():
    """Models, training data and benchmarks of the enabled runs."""
    files = [file for run in ENABLED for file in (base_model(run_wildcards(run)), training_data(run_wildcards(run)))]
    return files + [f"<results>/benchmarks/{name}/questions.parquet" for name in EVALUATION["benchmarks"]]


def benchmark_labels():
    """The names that benchmarks carry in figures and tables, as options."""
    labels = [f"{name}={entry['label']}" for name, entry in config["benchmarks"].items()]
    return ["--benchmark-labels", *labels]


def hub_folders():
    """The folders of everything that came from the hub for the enabled runs, each with its source.json."""
    runs = [RUNS[run] for run in ENABLED]
    models = {run["model"] for run in runs} | set(config["external"])
    if EVALUATION["model_grader"]["enabled"]:
        models.add("model_grader")
    folders = [f"<results>/models/{name}" for name in models if MODEL_SOURCES[name]["source"] == "hub"]
    datasets = {run["dataset"] for run in runs}
    folders += [f"<results>/data/{name}/raw" for name in datasets if config["datasets"][name]["source"] == "hub"]
    benchmarks = [name for name in EVALUATION["benchmarks"] if config["benchmarks"][name]["source"] == "hub"]
    return sorted(folders) + [f"<results>/benchmarks/{name}/raw" for name in benchmarks]


def run_wildcards(run):
    """Wildcards that name only a run."""
    return type("Wildcards", (), {"run": run})


def hub_options(hub_config=None):
    """Options of every command that may download: configuration of the dataset, mirror, offline mode."""
    options = ["--hub-config", hub_config] if hub_config else []
    options += ["--mirror", config["hub"]["mirror"]] if config["hub"]["mirror"] else []
    return options + (["--offline"] if config["hub"]["offline"] else [])


def cleaning_options(wildcards):
    """Options of data cleaning that the dataset switches off."""
    dataset = config["datasets"][wildcards.dataset]
    return [f"--keep_{what}" for what in ("duplicates", "contradictions") if not dataset.get(f"remove_{what}", True)]


def contamination_options(wildcards):
    """The option that removes contaminated questions, where the dataset asks for it."""
    return ["--remove"] if config["datasets"][wildcards.dataset]["remove_contaminated"] else []


def benchmark_options(wildcards):
    """The columns, configuration and split of a hub benchmark."""
    entry = config["benchmarks"][wildcards.benchmark]
    keys = ("hub_config", "split", "question_column", "answer_column", "id_column")
    return [word for key in keys if entry.get(key) for word in (f"--{key.replace('_', '-')}", entry[key])]


def score_options(wildcards):
    """What the comparison table needs to know of a result: family, kind and step."""
    run, _, step = wildcards.name.partition("@")
    if run not in RUNS:
        family = config["external"][run].get("family")
        return ["--kind", "external", *(["--family", family] if family else [])]
    kind, step = ("base", "0") if step == "base" else ("run", step or str(RUNS[run]["steps"]))
    return ["--kind", kind, "--step", step, "--family", RUNS[run]["family"]]
