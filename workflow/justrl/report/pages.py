"""The pages of the report: one row for each kind of page, with its files, inputs, options and place in the report.

rules/report.smk makes a rule of each row, `justrl report` a command of each function that writes pages, and `justrl
verify` writes existing pages again. The parameters of the function that a row names are the command's options. Every
job reads this module with the rules, so it does not import those functions.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from justrl.config import outputs, settings
from justrl.config.layout import Layout
from justrl.errors import UserError

NARROW = ".narrow.svg"  # the layout of a figure for a phone
FIGURE = (".svg", ".png", NARROW)
# Of these files, a page that is written again has the same text.
TEXT = (".json", ".html", ".md", ".csv")
ALWAYS = ("all", "canary")
FIRST_STEPS = "First 1,000 steps"
DIAGNOSTICS = ["accuracy", "truncation", "clip_fraction", "grad_norm", "learning_rate", "throughput", "step_time"]

# A value for a page, from the layout and the values of the wildcards in the page's path.
Value = Callable[..., Any]


class Mark(NamedTuple):
    """The place of a file in Snakemake's report: captions/CAPTION.rst, and labels that may have wildcards."""

    caption: str
    category: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Page:
    """One kind of page.

    Attributes:
        rule: name of its rule; also the folder of its logs.
        about: what its rule and its command do.
        writer: function of this package that writes it, of the outputs by ending and the options; rows may share one.
        path: its path below the results, with wildcards and without ending.
        endings: its files; the first is the one that targets ask for.
        wanted: the values of the wildcards for a target, in the order of the path; text if there is one wildcard.
        targets: the collecting rules that want it.
        marks: the files that the report shows, by ending.
        inputs: input files, by option.
        options: the other options.
        after: inputs of its rule that are not given to the command.
        undeclared: files given to the command that are not inputs of its rule.
        ancient: inputs whose age does not matter.
        reported: whether the marks count in this experiment.
    """

    rule: str
    about: str
    writer: str
    path: str
    endings: tuple[str, ...]
    wanted: Callable[[Layout, str], Iterable[str | tuple[str, ...]]]
    targets: tuple[str, ...] = ("all",)
    marks: Mapping[str, Mark] = field(default_factory=dict)
    inputs: Mapping[str, Value] = field(default_factory=dict)
    options: Mapping[str, Value] = field(default_factory=dict)
    after: Mapping[str, Value] = field(default_factory=dict)
    undeclared: Mapping[str, Value] = field(default_factory=dict)
    ancient: tuple[str, ...] = ()
    reported: Callable[[Layout], bool] = lambda layout: True

    @property
    def command(self) -> str:
        """The sub-command of `justrl report` that writes it."""
        return self.writer.partition(".write_")[2].replace("_", "-")

    @property
    def wildcards(self) -> list[str]:
        """The names of the wildcards in its path."""
        return re.findall(r"\{(\w+)\}", self.path)

    @property
    def log(self) -> str:
        """The path of its rule's log, below the logs and without ending."""
        return "/".join([self.rule, *(part for part in self.path.split("/") if "{" in part)])

    def files(self, layout: Layout, target: str) -> list[str]:
        """Return the files of a target."""
        found = self.wanted(layout, target) if target in self.targets else ()
        each = [(names,) if isinstance(names, str) else names for names in found]
        path = f"{layout.root}/{self.path}{self.endings[0]}"
        return [path.format(**dict(zip(self.wildcards, names, strict=True))) for names in each]

    def pattern(self, layout: Layout) -> str:
        """Return a regular expression for its path, with a group for each wildcard."""
        known = outputs.wildcards(layout)
        return re.sub(r"\\\{(\w+)\\\}", lambda found: f"(?P<{found[1]}>{known[found[1]]})", re.escape(self.path))

    def existing(self, layout: Layout) -> Iterator[tuple[dict[str, str], list[Path]]]:
        """Yield the wildcards of each existing page, and its files with text."""
        pattern, root = re.compile(self.pattern(layout)), Path(layout.root)
        pages: dict[str, list[Path]] = {}
        for ending in [ending for ending in self.endings if ending in TEXT]:
            for file in sorted(root.glob(re.sub(r"\{\w+\}", "*", self.path) + ending)):
                pages.setdefault(file.relative_to(root).as_posix().removesuffix(ending), []).append(file)
        for path, files in pages.items():
            if match := pattern.fullmatch(path):
                yield match.groupdict(), files

    def function(self) -> Callable[..., Iterable[str] | None]:
        """Return the function that writes it; it returns lines to print, if any."""
        module, _, name = self.writer.partition(".")
        return getattr(import_module(f"justrl.report.{module}"), name)


def words(given: Mapping[str, Any]) -> list[str]:
    """Options as words of a command line: a list as several words, True as the option alone."""
    found = []
    for name, value in given.items():
        if value is not False:
            found.append(f"--{name.replace('_', '-')}")
            found += [] if value is True else map(str, value) if isinstance(value, list) else [str(value)]
    return found


def files(layout: Layout, target: str, *commands: str) -> list[str]:
    """Return the pages of a target: those of some commands, or all, with what other rules write for readers."""
    found = [file for page in PAGES for file in page.files(layout, target) if not commands or page.command in commands]
    other = [f"{layout.root}/provenance.html"] if target == "all" else []
    other += layout.canary_verdicts(".html") if target == "canary" else []
    return found if commands else [*found, *other]


def wanted(layout: Layout, target: str) -> list[str]:
    """Return the files of a target: all, canary, golden or first_1000.

    Raises UserError: nothing that the target needs is enabled.
    """
    experiment, pages = layout.experiment, files(layout, target)
    if target == "golden" and not layout.golden_families():
        trained = ", ".join(dict.fromkeys(experiment.runs[run].model for run in experiment.enabled))
        raise UserError(
            f"golden: no model under `external` ({', '.join(experiment.external)}) belongs to a base "
            f"model of this experiment ({trained}): start it without this profile or overlay, or add "
            "a model without a family under `external`"
        )
    if target != "golden" and not experiment.enabled and not (target == "all" and experiment.enabled_external):
        first = next(iter(experiment.runs), "NAME")
        raise UserError(f"{target}: no run is enabled, so there is nothing to do: set runs.{first}.enabled to true")
    if target == "all":
        return [*layout.evaluation_results(), *pages, f"{layout.root}/checksums.json"]
    made = {
        "canary": layout.canary_evaluations,
        "golden": layout.golden_evaluations,
        "first_1000": layout.first_thousand_evaluations,
    }
    return [*made[target](), *pages]


def _always(value: Any) -> Value:
    return lambda layout, **names: value


def _once(layout: Layout, target: str) -> list[tuple[str, ...]]:
    return [()]


def _evaluated(layout: Layout, target: str) -> list[str]:
    return [run for run in layout.trainings(target) if layout.experiment.runs[run].evaluate]


def _evaluated_with_several_samples(layout: Layout, target: str) -> list[str]:
    """The evaluated runs, if pass@k has more than one k."""
    protocol = "canary" if target == "canary" else layout.experiment.evaluation.protocol
    return _evaluated(layout, target) if layout.experiment.protocols[protocol].samples != 1 else []


def _with_rollouts(layout: Layout, target: str) -> Iterable[str]:
    return layout.trainings(target) if layout.experiment.hardware.rollouts_kept else ()


def _families(layout: Layout, target: str) -> list[str]:
    if target == "canary":
        return ["canary"] if _evaluated(layout, target) else []
    return layout.families()


def _data(layout: Layout, target: str) -> Iterable[tuple[str, ...]]:
    runs = [layout.experiment.runs[run] for run in layout.trainings(target)]
    return dict.fromkeys((run.dataset, run.model) for run in runs)


def _answers(layout: Layout, target: str) -> Iterator[tuple[str, ...]]:
    """Bases, last checkpoints and published models on every benchmark."""
    names = [name for run in layout.evaluated for name in (f"{run}@base", run)]
    for name in [*names, *layout.experiment.enabled_external]:
        yield from ((benchmark, name) for benchmark in layout.experiment.evaluation.benchmarks)


def _canary_answers(layout: Layout, target: str) -> list[tuple[str, ...]]:
    return [("canary", layout.experiment.canary.benchmark, run) for run in _evaluated(layout, target)]


def _labels(layout: Layout, **names: str) -> list[str]:
    return [f"{name}={entry.label}" for name, entry in layout.experiment.benchmarks.items()]


def _seeds(layout: Layout, **names: str) -> list[str]:
    """The trainings of each run with several seeds."""
    found = settings(layout.experiment.runs).items()
    return [f"{setting}={','.join(runs)}" for setting, runs in found if runs != [setting]]


def _side(index: int) -> Value:
    """One setting of a comparison, with its trainings."""

    def side(layout: Layout, pair: str) -> str:
        name = layout.experiment.compare[pair][index]
        return f"{name}={','.join(settings(layout.experiment.runs)[name])}"

    return side


def _paired(layout: Layout, pair: str) -> bool:
    """Whether the trainings of both settings share their seeds."""
    found, experiment = settings(layout.experiment.runs), layout.experiment
    first, second = ([experiment.described(run).seed for run in found[name]] for name in experiment.compare[pair])
    return first == second


def _graded(function: Callable[..., list[str]]) -> Value:
    """Files of an evaluation; without a protocol in the page's path, those of the experiment's protocol."""

    def of_protocol(layout: Layout, benchmark: str, name: str, protocol: str | None = None) -> list[str]:
        return function(layout, name, benchmark, protocol or layout.experiment.evaluation.protocol)

    return of_protocol


def _title_of_answers(layout: Layout, benchmark: str, name: str, **names: str) -> str:
    return f"Answers of {name} to {layout.experiment.benchmarks[benchmark].label}"


def _released(layout: Layout) -> list[str]:
    return [f"{family}={name}" for family, name in layout.released().items()]


def _first_metrics(layout: Layout) -> list[str]:
    return [layout.first_thousand_metrics(run) for run in layout.trainings("first_1000")]


def _stamp(layout: Layout, run: str) -> str:
    return layout.stamp(run)


def _newer(layout: Layout, **names: str) -> list[str]:
    """The benchmarks that are newer than the weights."""
    return [name for name, entry in layout.experiment.benchmarks.items() if getattr(entry, "newer", False)]


def _data_file(name: str) -> Value:
    return lambda layout, dataset, model: f"{layout.root}/data/{dataset}/{model}/{name}"


def _of_run(figure: str) -> dict[str, str]:
    return {"run": "{run}", "figure": figure}


def _of_data(what: str) -> dict[str, str]:
    return {"data set": "{dataset}", "model": "{model}", "what": what}


RUN_METRICS = {"metrics": Layout.metrics}
RESULTS = {"results": Layout.evaluation_results}
LABELS = {"benchmark_labels": _labels}
STAMP = {"experiment": lambda layout: layout.common_stamp}

TRAINING = Page(
    rule="plot_training",
    about="Plot reward, entropy and response length of a run against the training step.",
    writer="training_figures.write_training",
    path="figures/{run}/training",
    endings=FIGURE,
    marks={".svg": Mark("training", "Training", _of_run("reward, entropy and length"))},
    inputs=RUN_METRICS,
    options={"panels": _always(["reward", "entropy", "length"])},
    wanted=Layout.trainings,
    targets=ALWAYS,
)
FORECAST = Page(
    rule="plot_forecast",
    about="Fit a saturating curve to the first half of a run and forecast the rest.",
    writer="forecast.write_forecast",
    path="figures/{run}/forecast",
    endings=(*FIGURE, ".json"),
    marks={".svg": Mark("forecast", "Diagnostics", _of_run("forecast"))},
    inputs=RUN_METRICS | {"results": Layout.progress_results},
    options=LABELS | {"steps": lambda layout, run: layout.experiment.runs[run].steps},
    wanted=_evaluated,
    targets=ALWAYS,
)
COMPARISON = Page(
    rule="compare_with_published",
    about="Compare our scores, per grader, with the published ones of a family.",
    writer="comparison.write_comparison",
    path="comparison/{family}",
    endings=(".html", ".csv", ".md", *FIGURE),
    marks={
        ".html": Mark("comparison", "Accuracy", {"run": "{family}", "figure": "tables by benchmark and grader"}),
        ".svg": Mark("comparison", "Accuracy", {"run": "{family}", "figure": "accuracy by benchmark"}),
    },
    inputs={"results": Layout.family_results},
    options=LABELS | {"family": lambda layout, family: family, "seeds": _seeds},
    wanted=_families,
    targets=ALWAYS,
)
SAMPLES = Page(
    rule="show_samples",
    about="Write the page of answers, with verdicts, filters and warnings.",
    writer="samples.write_samples",
    path="samples/{benchmark}_{name}",
    endings=(".html",),
    inputs={
        "completions": _graded(Layout.completions),
        "grades": _graded(Layout.grades),
        "benchmark": lambda layout, benchmark, **names: layout.questions(benchmark),
    },
    options={
        "headline": lambda layout, **names: layout.experiment.evaluation.headline_grader,
        "experiment": lambda layout, name, **names: layout.stamp(name),
        "title": _title_of_answers,
    },
    wanted=_answers,
)
CLAIMS = Page(
    rule="judge_claims",
    about="Check the claims of the paper against our results and trainings.",
    writer="claims.write_claims",
    path="claims",
    endings=(".html", ".json", ".md"),
    marks={".html": Mark("claims", "Claims", {"what": "claims of the paper"})},
    # If nothing in the experiment is the paper's, the report does not include its claims.
    reported=lambda layout: layout.has_claims,
    inputs=RESULTS | {"metrics": lambda layout: [layout.metrics(run) for run in layout.trainings("all")]},
    options=STAMP | {"released": _released, "seeds": _seeds},
    wanted=_once,
)

PAGES = [
    TRAINING,
    replace(
        TRAINING,
        rule="plot_overlay",
        about="Plot the metrics of several runs in one figure.",
        path="figures/overlays/{overlay}",
        marks={".svg": Mark("overlay", "Training", {"run": "{overlay}", "figure": "several runs together"})},
        inputs={"metrics": Layout.overlay_metrics},
        wanted=lambda layout, target: layout.drawn_overlays(),
        targets=("all",),
    ),
    FORECAST,
    replace(
        TRAINING,
        rule="plot_diagnostics",
        about="Plot truncation, clipping, gradient norm, learning rate and speed.",
        path="figures/{run}/diagnostics",
        marks={".svg": Mark("diagnostics", "Diagnostics", _of_run("diagnostics"))},
        options={"panels": _always(DIAGNOSTICS)},
    ),
    Page(
        rule="summarise_health",
        about="Summarise the health of a run: first and last metrics, and findings.",
        writer="health.write_health",
        path="runs/{run}/health",
        endings=(".json",),
        marks={".json": Mark("health", "Diagnostics", _of_run("health"))},
        inputs=RUN_METRICS,
        wanted=Layout.trainings,
        targets=ALWAYS,
    ),
    Page(
        rule="summarise_results",
        about="Summarise accuracy and health of each run in one sentence.",
        writer="summary.write_summary",
        path="summary",
        endings=(".html", ".txt"),
        marks={".html": Mark("summary", "Summary", {"what": "accuracy and health of every run"})},
        inputs=RESULTS | {"health": lambda layout: [f"{layout.run(run)}/health.json" for run in layout.trainings()]},
        options=LABELS | STAMP,
        wanted=_once,
    ),
    Page(
        rule="plot_checkpoints",
        about="Plot accuracy with its 95% confidence interval against the training step.",
        writer="accuracy_figures.write_checkpoints",
        path="figures/{run}/checkpoints",
        endings=FIGURE,
        marks={".svg": Mark("checkpoints", "Accuracy", _of_run("accuracy against step"))},
        inputs={"results": Layout.progress_results},
        options=LABELS,
        wanted=_evaluated,
        targets=ALWAYS,
    ),
    Page(
        rule="plot_pass_at_k",
        about="Plot pass@k against k for a run's base model and last checkpoint.",
        writer="accuracy_figures.write_pass_at_k",
        path="figures/{run}/pass_at_k",
        endings=FIGURE,
        marks={".svg": Mark("pass_at_k", "Accuracy", _of_run("pass@k"))},
        inputs={"results": Layout.base_and_last},
        options=LABELS,
        wanted=_evaluated_with_several_samples,
        targets=ALWAYS,
    ),
    COMPARISON,
    Page(
        rule="compare_settings",
        about="Compare two settings on the same questions, over seeds and questions.",
        writer="setting_pairs.write_pair",
        path="compared/{pair}",
        endings=(".html", ".json", ".md", *FIGURE),
        marks={
            ".html": Mark("compared", "Compared", {"run": "{pair}", "figure": "tables of the comparison"}),
            ".svg": Mark("compared", "Compared", {"run": "{pair}", "figure": "comparison"}),
        },
        inputs={"results": Layout.pair_results, "metrics": Layout.pair_metrics},
        options=LABELS | {"first": _side(0), "second": _side(1), "paired": _paired},
        wanted=lambda layout, target: layout.compared_pairs(),
    ),
    Page(
        rule="plot_contamination",
        about="Plot the overlap of each benchmark with a training set.",
        writer="contamination_figure.write_contamination",
        path="data/{dataset}/{model}/contamination",
        endings=(*FIGURE, ".html", ".md"),
        marks={
            ".svg": Mark("contamination", "Data", _of_data("overlap with benchmarks")),
            ".html": Mark("data_card", "Data", _of_data("data card and overlap with benchmarks")),
        },
        inputs={"summary": _data_file("contamination.json"), "card": _data_file("prepared/data_card.json")},
        options=LABELS | {"newer": _newer, "experiment": Layout.data_stamp},
        wanted=_data,
        targets=ALWAYS,
    ),
    SAMPLES,
    replace(
        SAMPLES,
        rule="show_samples_under",
        about="Write the page of answers under another protocol.",
        path="{protocol}/samples/{benchmark}_{name}",
        wanted=_canary_answers,
        targets=("canary",),
    ),
    Page(
        rule="show_rollouts",
        about="Write the page of a run's saved rollouts.",
        writer="samples.write_rollouts",
        path="runs/{run}/rollouts",
        endings=(".html",),
        # The rollouts are next to the metrics, and undeclared like the state of the training.
        after=RUN_METRICS,
        undeclared={"rollouts": Layout.rollouts},
        options={"experiment": _stamp, "title": lambda layout, run: f"Rollouts of {run}"},
        wanted=_with_rollouts,
        targets=ALWAYS,
    ),
    CLAIMS,
    Page(
        rule="write_model_card",
        about="Write the Hugging Face model card of a run's last checkpoint.",
        writer="model_card.write_model_card",
        path="runs/{run}/model_card",
        endings=(".md",),
        inputs={"run": Layout.run_file, "results": Layout.base_and_last, "sources": Layout.card_sources},
        ancient=("sources",),
        after=RUN_METRICS,
        options=LABELS | {"family": lambda layout, run: layout.experiment.runs[run].family},
        wanted=_evaluated,
    ),
    # The released weights alone.
    replace(
        COMPARISON,
        rule="compare_golden",
        about="Compare our scores of released weights with the published ones.",
        path="golden/{family}",
        marks={ending: mark._replace(category="Released weights") for ending, mark in COMPARISON.marks.items()},
        inputs={"results": Layout.golden_family},
        wanted=lambda layout, target: filter(None, layout.golden_families()),
        targets=("golden",),
    ),
    replace(
        CLAIMS,
        rule="judge_golden_claims",
        about="Check the paper's claims about released weights, without training.",
        path="golden/claims",
        marks={".html": Mark("claims", "Released weights", {"run": "both families", "figure": "claims of the paper"})},
        reported=_always(True),
        inputs={"results": Layout.golden_evaluations, "metrics": _always([])},
        targets=("golden",),
    ),
    # The first 1,000 steps.
    replace(
        TRAINING,
        rule="plot_first_thousand",
        about="Plot reward, entropy and response length over the first 1,000 steps.",
        path="first_1000/{run}/training",
        marks={".svg": Mark("training", FIRST_STEPS, {"run": "{run}", "what": "reward, entropy and length"})},
        inputs={"metrics": Layout.first_thousand_metrics},
        targets=("first_1000",),
    ),
    replace(
        FORECAST,
        rule="plot_early_forecast",
        about="Forecast the rest of a run from its first 1,000 steps.",
        path="first_1000/{run}/forecast",
        marks={".svg": Mark("forecast", FIRST_STEPS, {"run": "{run}", "what": "forecast"})},
        inputs={"metrics": Layout.first_thousand_metrics, "results": _always([])},
        wanted=Layout.trainings,
        targets=("first_1000",),
    ),
    replace(
        CLAIMS,
        rule="judge_first_thousand",
        about="Check the claims of the paper that need only the first 1,000 steps.",
        path="first_1000/claims",
        marks={".html": Mark("claims", FIRST_STEPS, {"run": "all", "what": "claims of the paper"})},
        reported=_always(True),
        inputs={"results": Layout.first_thousand_evaluations, "metrics": _first_metrics},
        targets=("first_1000",),
    ),
]
COMMANDS: dict[str, Page] = {}
for _page in PAGES:
    COMMANDS.setdefault(_page.command, _page)
