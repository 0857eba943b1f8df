"""Wildcard constraints and input functions, which call the layout. No rule is defined here."""

RUNS = EXPERIMENT.runs
EVALUATION = EXPERIMENT.evaluation
HARDWARE = EXPERIMENT.hardware
MODEL_SOURCES = LAYOUT.model_sources

if HARDWARE.cpu_bind:
    slurm_executor.bind(HARDWARE.cpu_bind)


def pool_cores():
    """Number of cores for a job that distributes work to processes or threads.

    4 in a queue. On a single machine half of its cores, at most 4, so that two such jobs can run at the same time: 2
    cores then grade two benchmarks in parallel, each in one process, and one job does not leave a large machine idle.
    """
    cores = None if workflow.remote_exec else workflow.resource_settings.cores
    return 4 if cores is None else max(1, min(4, cores // 2))


def names_of(entries, source):
    """A wildcard constraint that matches the entries from one source."""
    return any_of(name for name, entry in entries.items() if entry.source == source)


wildcard_constraints:
    **outputs.wildcards(LAYOUT),


def of(function, *names):
    """An input function that calls `function` with the values of these wildcards, in this order."""

    def asked(wildcards):
        try:
            return function(*(wildcards[name] for name in names))
        except UserError as error:
            raise WorkflowError(str(error)) from None

    return asked


def literal(value):
    """A param with a constant value; Snakemake would read braces in a plain string as wildcards."""
    return lambda wildcards: value


def asked(source):
    """A model or questions as input: after a change, answers are sampled again only if the user accepts that."""
    return source if str(ON_COMMAND_LINE.get("accept_changes")).lower() == "true" else ancient(source)


base_model = of(LAYOUT.base_model, "run")
training_data = of(LAYOUT.training_data, "run")
engine_config = of(LAYOUT.engine_config, "run")
start_step = of(LAYOUT.start_step, "run", "step")
previous_segment = of(LAYOUT.previous_segment, "run", "step")
segment_metrics = of(LAYOUT.all_segments, "run")
target_model = of(lambda target: run_state.check_kept(target, ON_DISK) or LAYOUT.target_model(target), "target")
export_of = of(lambda run, step: "kept" if LAYOUT.keeps_export(run, step) else "dropped", "run", "step")
completions_of = of(LAYOUT.completions, "target", "benchmark", "protocol")
samples_of = of(EXPERIMENT.samples, "benchmark", "protocol")


def run_file(wildcards):
    """The settings that determine a run's training, as JSON; refuses a contradictory run when it is requested."""
    if problems := list(EXPERIMENT.run_contradictions(wildcards.run)):
        raise WorkflowError("config: " + "; ".join(problems))
    return json.dumps(EXPERIMENT.described(wildcards.run).as_dict(), sort_keys=True)


def failures():
    """Rule and logs of each failed job: the rule's own log and, on a queue, the queue's."""
    folder = getattr(workflow.executor_settings, "logdir", None)
    for job in workflow.scheduler.failed:
        yield job.rule.name, [*job.log, *failed_jobs.queue_logs(folder, job.rule.name, job.wildcards)]


def timings_before(wildcards):
    """The metrics of the previous segment, whose seconds per step predict the duration of the next; may not exist."""
    return ON_DISK.segment_metrics(wildcards.run, start_step(wildcards))


def segment_runtime(wildcards):
    """Minutes to request for one segment, from the timings of the previous segment if there are any."""
    steps = int(wildcards.step) - start_step(wildcards)
    return planning.segment_runtime_minutes(EXPERIMENT, wildcards.run, timings_before(wildcards), steps)


def segment_options(wildcards):
    """Options for Slurm: a warning early enough for a step and a save, and the same number of GPUs on each node."""
    seconds = planning.segment_warning_seconds(EXPERIMENT, wildcards.run, timings_before(wildcards))
    evenly = f" --gpus-per-node={HARDWARE.gpus_per_node}" if HARDWARE.nodes > 1 and HARDWARE.gpus_per_node else ""
    return f"--signal=URG@{seconds}{evenly}"


def canary_asked(wildcards):
    """The settings of a canary, with the planned seconds per step and the memory of a GPU, as JSON."""
    asked = LAYOUT.canary_asked(wildcards.run)
    if HARDWARE.gpus:
        seconds = planning.longest_step(EXPERIMENT, wildcards.run, None, RUNS[wildcards.run].steps)
        asked |= {"expected_seconds": seconds and round(seconds.value), "gpu_memory": HARDWARE.kind.memory}
    return json.dumps(asked)


def generation_runtime(wildcards):
    """Minutes to request for one job of answers: to one benchmark or a shard of it, or to all benchmarks together."""
    benchmarks = [wildcards.benchmark] if "benchmark" in wildcards.keys() else EVALUATION.benchmarks
    run, shards = LAYOUT.run_of(wildcards.target), int(wildcards.get("shards", 1))
    return planning.generation_minutes(EXPERIMENT, run, benchmarks, wildcards.protocol, shards)


def judge_runtime(wildcards):
    """Minutes to request for the judge's verdicts on one benchmark."""
    return planning.judge_minutes(EXPERIMENT, [wildcards.benchmark], wildcards.protocol)


# `mpi`: the job starts its own steps. The executor would request one process on all nodes, which Slurm refuses.
SEVERAL_NODES = {"mpi": "srun", "tasks": HARDWARE.nodes, "tasks_per_gpu": 0} if HARDWARE.nodes > 1 else {}


def protocol_json(wildcards):
    """The protocol in the wildcards, as JSON."""
    protocol = EXPERIMENT.protocols[wildcards.protocol].as_dict()
    return json.dumps({"name": wildcards.protocol} | protocol, sort_keys=True)


def generation_json(wildcards):
    """The required generation settings of an evaluation's completions, as JSON."""
    made = LAYOUT.generation(wildcards.target, wildcards.benchmark, wildcards.protocol)
    return json.dumps({"generation": made}, sort_keys=True)


def result_json(wildcards):
    """The part of the configuration that determines a result, as JSON."""
    protocol = wildcards.get("protocol", EVALUATION.protocol)
    return json.dumps(LAYOUT.configuration(wildcards.name, wildcards.benchmark, protocol), sort_keys=True)


def scored_completions(wildcards):
    """The completions of a result JSON, for the protocol in its path or else the experiment's."""
    return LAYOUT.completions(wildcards.name, wildcards.benchmark, wildcards.get("protocol", EVALUATION.protocol))


def scored_grades(wildcards):
    """The verdicts of a result JSON."""
    return LAYOUT.grades(wildcards.name, wildcards.benchmark, wildcards.get("protocol", EVALUATION.protocol))


def hub_options(subset=None):
    """Options of every command that may download: subset of the dataset, mirror, offline mode."""
    hub = EXPERIMENT.hub
    options = ["--subset", subset] if subset else []
    return options + (["--mirror", hub.mirror] if hub.mirror else []) + (["--offline"] if hub.offline else [])


def cleaning_options(wildcards):
    """Options for data cleaning: steps that the dataset switches off, and a split or columns other than the default."""
    dataset = EXPERIMENT.datasets[wildcards.dataset]
    kept = [
        what for what in ("wrapper", "duplicates", "contradictions") if not getattr(dataset, f"remove_{what}", True)
    ]
    given = {key: getattr(dataset, key, None) for key in ("split", "question_column", "answer_column")}
    named = [(f"--{key}", value) for key, value in given.items() if value and (key, value) != ("split", "train")]
    return [f"--keep-{what}" for what in kept] + [word for pair in named for word in pair]


def contamination_options(wildcards):
    """The option that removes contaminated questions, if the dataset requests it."""
    return ["--remove"] if EXPERIMENT.datasets[wildcards.dataset].remove_contaminated else []


def benchmark_options(wildcards):
    """The columns, subset and split of a hub benchmark."""
    entry = EXPERIMENT.benchmarks[wildcards.benchmark]
    keys = ("hub_config", "split", "question_column", "answer_column", "id_column")
    given = {key.replace("hub_config", "subset"): getattr(entry, key, None) for key in keys}
    return [word for key, value in given.items() if value for word in (f"--{key}", value)]


def grader_options(wildcards):
    """The rule-based graders and the user's own, with their files' hashes so that an edited grader runs again."""
    own = {name: function.as_dict() for name, function in EVALUATION.own_graders.items()}
    named = ",".join(EVALUATION.graders)
    return [named, "--own-graders", json.dumps(own, sort_keys=True)] if own else named


def judge_options():
    """Options that give the judge the same prompt and verdict parsing as the authors' script."""
    judge = EVALUATION.model_grader
    wanted = {"--empty-question": not judge.fill_question, "--exact-verdict": judge.exact_verdict}
    return [option for option, chosen in wanted.items() if chosen]


def family_option(wildcards):
    """The option with the family of published figures to show next to a result, if there is one."""
    family = LAYOUT.family(wildcards.name)
    return ["--family", family] if family else []


def for_page(page, function, layout=LAYOUT):
    """An input function or param that calls a function of the table of pages."""
    return of(lambda *values: function(layout, **dict(zip(page.wildcards, values))), *page.wildcards)


def page_inputs(page):
    """The inputs of a page's rule, by name."""
    found = {name: for_page(page, function) for name, function in {**page.inputs, **page.after}.items()}
    return {name: ancient(function) if name in page.ancient else function for name, function in found.items()}


def page_outputs(page):
    """The files of a page, marked for the report."""
    for ending in page.endings:
        path, mark = f"<results>/{page.path}{ending}", page.marks.get(ending) if page.reported(LAYOUT) else None
        caption = mark and f"../workflow/captions/{mark.caption}.rst"
        yield report(path, caption=caption, category=mark.category, labels=mark.labels) if mark else path


def page_options(page):
    """The options of a page's command, as params: after a change, the page is written again."""
    return {name: for_page(page, function, ON_DISK) for name, function in {**page.options, **page.undeclared}.items()}


def page_command(page):
    """A param: the command that writes a page."""

    def command(wildcards, input, output):
        files = {name: getattr(input, name) for name in page.inputs}
        listed = {name: shlex.join([file] if isinstance(file, str) else file) for name, file in files.items()}
        given = [f"--{name} @<(listed {names})" for name, names in listed.items()]
        options = {name: function(wildcards) for name, function in page_options(page).items()}
        words = shlex.join([*pages.words(options), "--output", *output])
        return " ".join(["python -m justrl report", page.command, *given, words])

    return command
