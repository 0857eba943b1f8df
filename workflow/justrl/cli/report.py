"""Write figures, tables, provenance and metrics of trainings and evaluations.

Run and experiment are read from the files: from metrics.jsonl and the run.json next to it, and from each result. The
ending of each --output sets the format. @FILE instead of file names reads them from FILE, one per line.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from justrl.cli import terminal
from justrl.cli.options import add_subcommand, add_subcommands, chosen, whole
from justrl.errors import UserError
from justrl.report.pages import COMMANDS, NARROW, PAGES, Page

PANELS = "reward entropy length accuracy truncation clip_fraction grad_norm learning_rate throughput step_time"
# The options of pages: name in the usage and help, by the parameters of the functions that write them.
OPTIONS = {
    "answers": ("N", "maximum number of answers on the page, which reports how many are left out"),
    "benchmark": ("FILE", "benchmark Parquet of the questions"),
    "benchmark_labels": ("NAME=TEXT", "names of benchmarks (default: the paper's): aime='AIME 2024' my_set='My set'"),
    "card": ("data_card.json", "card of the training set, shown below the table"),
    "characters": ("N", "maximum characters of all answers together; long answers lose their middle"),
    "completions": ("FILE", "completions Parquet of all shards"),
    "experiment": ("NAME", 'name of the experiment; all but "paper" are labelled "not a paper result"'),
    "family": ("NAME", "family of published scores: deepseek, nemotron, or one without published scores"),
    "first": ("NAME=RUN,RUN", "first setting: NAME=RUN, or NAME=RUN,RUN for several seeds"),
    "grader": ("NAME", "grader (default: the primary grader of each result)"),
    "grades": ("FILE", "grades Parquet of these completions"),
    "headline": ("NAME", "primary grader, listed first"),
    "health": ("health.json", "health of runs"),
    "labels": ("NAME", "one name per metrics file (default: the names of the runs)"),
    "metric": (None, "metric of the rollouts"),
    "metrics": ("METRICS.jsonl", "metrics of trainings, or of a run's finished segments"),
    "newer": ("NAME", "benchmarks that were released after the base models and the training data"),
    "paired": (None, "the n-th runs of both settings share their seed"),
    "panels": ("PANEL", f"of: {PANELS}"),
    "released": ("FAMILY=NAME", "name of the released weights of a family: deepseek=justrl_deepseek"),
    "results": ("RESULT.json", "results of evaluations"),
    "rollouts": ("rollouts.parquet", "saved rollouts of each segment of a run"),
    "run": ("run.json", "run.json of the run; metrics.jsonl is read from the same folder"),
    "second": ("NAME=RUN,RUN", "second setting; the difference is second minus first"),
    "seeds": ("RUN=NAME,NAME", "trainings of a run with several seeds: deepseek=deepseek_s1,deepseek_s2"),
    "sources": ("FOLDER", "folders of the base model and the data set, whose README.md files name the licences"),
    "steps": ("N", "step to forecast"),
    "summary": ("contamination.json", "overlap of the training set with the benchmarks"),
    "title": ("TEXT", "title of the figure or page"),
    "until": ("N", "last step of the fit (default: the last, or half of --steps if the run reached it)"),
}
LIMITS: dict[str, dict[str, Any]] = {"metric": {"choices": ("reward", "accuracy")}, "sources": {"nargs": 2}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands: one for each function that writes pages, and three for other files."""
    group = add_subcommands(parser, {provenance: _provenance, checksums: _checksums, metrics: _metrics})
    for name, page in COMMANDS.items():
        add_subcommand(group, name, page.about, partial(_write, page), partial(_describe, page))


def _describe(page: Page, parser: argparse.ArgumentParser) -> None:
    """Add the options of a page: the parameters of its function, with the types of their annotations."""
    parser.fromfile_prefix_chars = "@"
    for parameter in _parameters(page):
        option, (metavar, text) = f"--{parameter.name.replace('_', '-')}", OPTIONS[parameter.name]
        if parameter.annotation is bool:
            parser.add_argument(option, action="store_true", help=text)
            continue
        given: dict[str, Any] = {"metavar": metavar, "required": parameter.default is Parameter.empty}
        if not given["required"]:
            given["default"] = parameter.default
            shown = parameter.default if isinstance(parameter.default, tuple) else (parameter.default,)
            text += f" (default: {' '.join(map(str, shown))})" if parameter.default else ""
        if get_origin(parameter.annotation) is Sequence:
            given["nargs"] = "+" if given["required"] else "*"
        kind = next(kind for kind in get_args(parameter.annotation) or (parameter.annotation,) if kind is not NoneType)
        given |= {"type": whole(1) if kind is int else kind, "help": text, **LIMITS.get(parameter.name, {})}
        parser.add_argument(option, **given)
    endings = [ending for each in PAGES if each.command == page.command for ending in each.endings]
    _output_argument(parser, *dict.fromkeys(Path(f"page{ending}").suffix for ending in endings))


def _parameters(page: Page) -> list[Parameter]:
    return [each for name, each in signature(page.function()).parameters.items() if name != "outputs"]


def _output_argument(parser: argparse.ArgumentParser, *endings: str) -> None:
    text = f"files to write; allowed endings: {', '.join(endings)}"
    text += f"; {NARROW}: layout for a phone" if ".svg" in endings else ""
    parser.add_argument("--output", nargs="+", type=Path, required=True, metavar="FILE", help=text)
    parser.set_defaults(endings=endings)


def _outputs(arguments: argparse.Namespace) -> dict[str, Path]:
    """The output files by ending; UserError for an unsupported ending."""
    for path in arguments.output:
        if path.suffix not in arguments.endings:
            raise UserError(f"--output {path}: the name must end in {', '.join(arguments.endings)}")
    return {NARROW if path.name.endswith(NARROW) else path.suffix: path for path in arguments.output}


def _write(page: Page, arguments: argparse.Namespace) -> None:
    """Write a page, and print what its function returns."""
    given = chosen(arguments, *(parameter.name for parameter in _parameters(page)))
    for line in page.function()(_outputs(arguments), **given) or ():
        terminal.say(line)


def _provenance(parser: argparse.ArgumentParser) -> None:
    text = "resolved configuration: a JSON file, JSON text, or a file that a start saved in experiments/"
    parser.add_argument("--config", metavar="JSON", help=text)
    parser.fromfile_prefix_chars = "@"
    for option, metavar, text in (
        ("--sources", "source.json", "records of downloads"),
        ("--results", *OPTIONS["results"]),
    ):
        parser.add_argument(option, nargs="*", default=[], type=Path, metavar=metavar, help=text)
    text = "results folder, whose trainings and evaluations have a cost that is to be recorded; needs --config"
    parser.add_argument("--cost-of", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--experiment", metavar="NAME", help=OPTIONS["experiment"][1])
    _output_argument(parser, ".json", ".html")


def provenance(arguments: argparse.Namespace) -> None:
    """Record how results were made: code, configuration, data, versions, hardware."""
    from justrl.config import Experiment
    from justrl.report.provenance import collect_provenance, experiment_cost, write_provenance
    from justrl.workflow.run_state import layout_of

    outputs = _outputs(arguments)
    config, frozen = (None, False) if arguments.config is None else _configuration(arguments.config)
    if arguments.cost_of and not config:
        raise UserError("--cost-of needs --config: which runs and evaluations the experiment has")
    folder, cost = arguments.cost_of, {}
    if config and folder:
        cost = experiment_cost(layout_of(Experiment.from_mapping(config), folder), folder / "timings")
    if config and frozen:
        config = Experiment.from_mapping(config).with_canaries().model_dump(mode="json")
    experiment = arguments.experiment or (config or {}).get("experiment")
    if not experiment:
        raise UserError("the experiment has no name: give --experiment, or a --config with a name")
    seeds = {"experiment": config["seed"]} if config and "seed" in config else {}
    # The record already has the hash of the configuration and the items of a list.
    command = ["..." if part == arguments.config or part.startswith("@") else part for part in sys.argv]
    record = collect_provenance(config, seeds, arguments.sources, arguments.results, command)
    write_provenance(record | ({"cost": cost} if cost else {}), experiment, outputs)


def _configuration(text: str) -> tuple[dict, bool]:
    """The configuration given by `--config`, and whether it is the snapshot of a start."""
    from justrl.io import json_argument

    value = json_argument(text, "--config")
    return (value["config"], True) if value.keys() == {"config", "segment_ends"} else (value, False)


def _checksums(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, metavar="JSON", help="resolved configuration: a JSON file or JSON text"
    )
    parser.add_argument("--results", type=Path, required=True, help="results folder, in which the list is written")


def checksums(arguments: argparse.Namespace) -> None:
    """Record size and SHA-256 of every file of a finished experiment, for `justrl verify`."""
    from justrl.config import Experiment
    from justrl.workflow.records import write_checksums
    from justrl.workflow.run_state import layout_of

    experiment = Experiment.from_mapping(_configuration(arguments.config)[0])
    write_checksums(layout_of(experiment, arguments.results))


def _metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("segments", nargs="+", type=Path, metavar="SEGMENT.jsonl")
    parser.add_argument("--output", required=True, type=Path, help="JSONL to write")
    parser.add_argument("--first-step", type=int, default=1, help="first step of the run (default: 1)")


def metrics(arguments: argparse.Namespace) -> None:
    """Concatenate the metrics of a run's segments, whose steps must be contiguous."""
    from justrl.io import write_jsonl
    from justrl.report.metrics import merge_metrics

    write_jsonl(arguments.output, merge_metrics(arguments.segments, arguments.first_step))
