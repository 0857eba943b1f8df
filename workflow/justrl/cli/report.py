"""Write figures, tables, provenance and metrics of trainings and evaluations.

Run and experiment are read from the files: from metrics.jsonl and the run.json next to it, and from each result. The
ending of each --output sets the format.
"""

import argparse
import sys
from pathlib import Path

from justrl.cli import terminal
from justrl.cli.options import add_subcommands, chosen, whole
from justrl.config import paper
from justrl.errors import UserError

# The file ending of a figure for a phone.
NARROW = ".narrow.svg"
PANELS = "reward entropy length accuracy truncation clip_fraction grad_norm learning_rate throughput step_time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    calls = {
        training: _training,
        forecast: _forecast,
        checkpoints: _checkpoints,
        pass_at_k: _pass_at_k,
        comparison: _comparison,
        pair: _pair,
        contamination: _contamination,
        claims: _claims,
        provenance: _provenance,
        checksums: _checksums,
        model_card: _model_card,
        metrics: _metrics,
        health: _health,
        summary: _summary,
        samples: _samples,
        rollouts: _rollouts,
    }
    add_subcommands(parser, calls)


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


def _experiment_arguments(parser: argparse.ArgumentParser) -> None:
    text = 'name of the experiment (default: read from the files); all but "paper" are labelled "not a paper result"'
    parser.add_argument("--experiment", metavar="NAME", help=text)
    parser.add_argument("--title", default="", help="title of the figure")


# What each option's files are.
FILES = {
    "--results": "results of evaluations",
    "--metrics": "metrics of trainings",
    "--health": "health of runs",
    "--sources": "records of downloads",
}


def _files_argument(parser: argparse.ArgumentParser, option: str, metavar: str, nargs: str = "+") -> None:
    parser.fromfile_prefix_chars = "@"
    text = f"{FILES[option]}; @FILE reads their names from FILE, one per line"
    parser.add_argument(option, nargs=nargs, required=nargs == "+", default=[], type=Path, metavar=metavar, help=text)


def _result_arguments(parser: argparse.ArgumentParser) -> None:
    _files_argument(parser, "--results", "RESULT.json")
    text = "displayed names of benchmarks (default: the paper's): aime='AIME 2024' my_set='My set'"
    parser.add_argument("--benchmark-labels", nargs="+", default=[], metavar="NAME=TEXT", help=text)
    _experiment_arguments(parser)


def _results(arguments: argparse.Namespace):
    """The results, and their experiment."""
    from justrl.report.results import experiment_of, load_results

    results = load_results(arguments.results, arguments.benchmark_labels)
    return results, arguments.experiment or experiment_of(results)


def _seeds_argument(parser: argparse.ArgumentParser) -> None:
    text = "trainings of a run with several seeds: deepseek=deepseek_s1,deepseek_s2"
    parser.add_argument("--seeds", nargs="*", default=[], metavar="RUN=NAME,NAME", help=text)


def _seeds(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The trainings of each run with several seeds."""
    found = {}
    for word in arguments.seeds:
        run, equals, names = word.partition("=")
        if not (run and equals and names):
            raise UserError(f"--seeds takes RUN=NAME,NAME, got {word!r}")
        found[run] = names.split(",")
    return found


def _save(arguments: argparse.Namespace, draw) -> None:
    from justrl.report import figure_style as style

    outputs = _outputs(arguments)
    with style.house_style():
        style.save_figure(draw(), outputs.get(".png"), outputs.get(".svg"))
        if NARROW in outputs:
            with style.narrow():
                style.save_figure(draw(), None, outputs[NARROW])


def _training(parser: argparse.ArgumentParser) -> None:
    _files_argument(parser, "--metrics", "METRICS.jsonl")
    parser.add_argument("--labels", nargs="+", help="one name per metrics file (default: the names of the runs)")
    parser.add_argument(
        "--panels",
        nargs="+",
        default=["reward", "entropy", "length"],
        metavar="PANEL",
        help=f"panels (default: reward entropy length), of: {PANELS}",
    )
    _experiment_arguments(parser)
    _output_argument(parser, ".svg", ".png")


def training(arguments: argparse.Namespace) -> None:
    """Plot reward, entropy, length and more against the training step."""
    from justrl.report.metrics import read_metrics, run_of
    from justrl.report.training_figures import plot_training

    described = [run_of(path) for path in arguments.metrics]
    labels = arguments.labels or [run["run"] for run in described]
    if len(labels) != len(arguments.metrics):
        raise UserError(f"--labels gives {len(labels)} names for {len(arguments.metrics)} metrics files")
    if len(set(labels)) != len(labels):
        raise UserError(f"--labels must differ, got {' '.join(labels)}")
    stamps = [str(run["experiment"]) for run in described]
    experiment = arguments.experiment or paper.together(stamps) or stamps[0]
    runs = {label: read_metrics(path) for label, path in zip(labels, arguments.metrics, strict=True)}
    _save(arguments, lambda: plot_training(runs, experiment, arguments.panels, arguments.title))


def _forecast(parser: argparse.ArgumentParser) -> None:
    text = "metrics of the run, or of its finished segments"
    parser.add_argument("--metrics", nargs="+", required=True, type=Path, metavar="METRICS.jsonl", help=text)
    parser.add_argument(
        "--results", nargs="*", default=[], type=Path, metavar="RESULT.json", help="results of its checkpoints"
    )
    parser.add_argument(
        "--benchmark-labels", nargs="+", default=[], metavar="NAME=TEXT", help="displayed names of benchmarks"
    )
    parser.add_argument("--steps", required=True, type=int, help="step to forecast")
    text = "last step of the fit; later ones are held out (default: the last, or half of --steps if the run reached it)"
    parser.add_argument("--until", type=int, help=text)
    parser.add_argument(
        "--metric", choices=("reward", "accuracy"), default="reward", help="metric of the rollouts (default: reward)"
    )
    _experiment_arguments(parser)
    _output_argument(parser, ".svg", ".png", ".json")


def forecast(arguments: argparse.Namespace) -> None:
    """Forecast the metrics of later steps, with an interval."""
    from justrl.io import write_json
    from justrl.report.forecast import compute_of, forecast_series, forecasted, plot_forecast
    from justrl.report.metrics import merge_metrics, run_of
    from justrl.report.results import load_results

    outputs, rows, horizon = _outputs(arguments), merge_metrics(arguments.metrics), arguments.steps
    path = arguments.metrics[0].absolute()
    described = run_of(path.parents[2] / "metrics.jsonl" if path.parents[1].name == "segments" else path)
    run, experiment = str(described["run"]), str(arguments.experiment or described["experiment"])
    last = rows[-1]["step"]
    until = min(last, arguments.until or (last if last < horizon else horizon // 2))
    if not 1 <= until < horizon:
        raise UserError(f"--steps {horizon} must lie beyond the last step to fit, which is {until} (--until)")
    spent, unit = compute_of([row for row in rows if row["step"] <= until])
    series = forecasted(rows, arguments.metric, load_results(arguments.results, arguments.benchmark_labels), run)
    found = [(each, forecast_series(each, until, horizon, spent)) for each in series]
    if ".json" in outputs:
        head = {"run": run, "experiment": experiment, "steps": horizon, "until": until, "compute": unit}
        write_json(outputs[".json"], {**head, "forecasts": {each.name: one for each, one in found}})
    if {".svg", ".png"} & outputs.keys():
        # Leave out panels with too few points, which show nothing else.
        drawn = [pair for pair in found if pair[1]["verdict"] != "too_few"] or found[:1]
        _save(arguments, lambda: plot_forecast(run, drawn, until, horizon, experiment, arguments.title))
    for _, one in found:
        terminal.say(one["sentence"])


def _checkpoints(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", help="family whose published scores are drawn: deepseek or nemotron")
    parser.add_argument("--grader", help="grader (default: the primary grader of each result)")
    _result_arguments(parser)
    _output_argument(parser, ".svg", ".png")


def checkpoints(arguments: argparse.Namespace) -> None:
    """Plot accuracy against the step of the checkpoint."""
    from justrl.report.accuracy_figures import plot_checkpoints

    results, experiment = _results(arguments)
    options = (arguments.family, arguments.grader, arguments.title)
    _save(arguments, lambda: plot_checkpoints(results, experiment, *options))


def _pass_at_k(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grader", help="grader (default: the primary grader of each result)")
    _result_arguments(parser)
    _output_argument(parser, ".svg", ".png")


def pass_at_k(arguments: argparse.Namespace) -> None:
    """Plot pass@k against k, for base and trained models."""
    from justrl.report.accuracy_figures import plot_pass_at_k

    results, experiment = _results(arguments)
    _save(arguments, lambda: plot_pass_at_k(results, experiment, arguments.grader, arguments.title))


def _comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", required=True, help="deepseek, nemotron, or a family without published scores")
    _seeds_argument(parser)
    _result_arguments(parser)
    _output_argument(parser, ".html", ".md", ".csv", ".svg", ".png")


def comparison(arguments: argparse.Namespace) -> None:
    """Compare our scores with the published ones of a family."""
    from justrl.report.comparison import compare, page_subject, write_csv

    outputs, family = _outputs(arguments), arguments.family
    results, experiment = _results(arguments)
    cells = compare(results, family, experiment, _seeds(arguments).get(family))
    if ".csv" in outputs:
        write_csv(cells, outputs[".csv"])
    if {".md", ".html"} & outputs.keys():
        from justrl.report import html_tables as tables
        from justrl.report.comparison import comparison_sections

        sections, title = comparison_sections(cells, results, family, experiment), f"{family}: {page_subject(cells)}"
        for ending, write in ((".md", tables.write_markdown), (".html", tables.write_html)):
            if ending in outputs:
                write(outputs[ending], title, sections, experiment)
    if {".svg", ".png"} & outputs.keys():
        from justrl.report.accuracy_figures import plot_comparison

        _save(arguments, lambda: plot_comparison(cells, family, experiment, arguments.title))


def _pair(parser: argparse.ArgumentParser) -> None:
    text = "first setting: NAME=RUN, or NAME=RUN,RUN for several seeds"
    parser.add_argument("--first", required=True, metavar="NAME=RUN,RUN", help=text)
    parser.add_argument(
        "--second", required=True, metavar="NAME=RUN,RUN", help="second setting; the difference is second minus first"
    )
    parser.add_argument("--paired", action="store_true", help="the n-th runs of both settings share their seed")
    _files_argument(parser, "--metrics", "METRICS.jsonl", nargs="*")
    _result_arguments(parser)
    _output_argument(parser, ".html", ".md", ".json", ".svg", ".png")


def pair(arguments: argparse.Namespace) -> None:
    """Compare two settings over seeds and questions."""
    from justrl.report import setting_pairs
    from justrl.report.metrics import read_metrics, run_of

    outputs = _outputs(arguments)
    results, experiment = _results(arguments)
    sides: list[setting_pairs.Setting] = []
    for word in (arguments.first, arguments.second):
        name, equals, runs = word.partition("=")
        if not (name and equals and runs):
            raise UserError(f"--first and --second take NAME=RUN or NAME=RUN,RUN, got {word!r}")
        sides.append(setting_pairs.Setting(name, tuple(runs.split(","))))
    first, second = sides
    paired = arguments.paired and len(first.runs) == len(second.runs)
    compared = setting_pairs.compare_settings(results, first, second, paired)
    setting_pairs.write_pair(compared, first, second, paired, experiment, outputs)
    if {".svg", ".png"} & outputs.keys():
        runs = {str(run_of(path)["run"]): read_metrics(path) for path in arguments.metrics}
        if missing := [run for side in sides for run in side.runs if run not in runs]:
            raise UserError(f"--metrics lacks those of {missing[0]}, which the figure needs: add its metrics.jsonl")
        _save(arguments, lambda: setting_pairs.plot_pair(compared, runs, first, second, experiment))
    for each in compared:
        difference = each.difference
        terminal.say(
            f"{each.benchmark}: {100 * difference.value:+.1f} points [{100 * difference.ci_low:+.1f}, "
            f"{100 * difference.ci_high:+.1f}], {each.verdict}"
        )


def _contamination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--summary", required=True, type=Path, metavar="contamination.json")
    text = "card of the training set, shown below the table"
    parser.add_argument("--card", type=Path, metavar="data_card.json", help=text)
    parser.add_argument(
        "--benchmark-labels", nargs="+", default=[], metavar="NAME=TEXT", help="displayed names of benchmarks"
    )
    text = "benchmarks that were released after the base models and the training data"
    parser.add_argument("--newer", nargs="*", default=[], metavar="NAME", help=text)
    parser.add_argument("--experiment", default="paper", metavar="NAME", help="name of the experiment")
    parser.add_argument("--title", default="", help="title of the figure")
    _output_argument(parser, ".svg", ".png", ".html", ".md")


def contamination(arguments: argparse.Namespace) -> None:
    """Show how many questions of each benchmark the training set contains."""
    from justrl.io import read_json_object
    from justrl.report import contamination_figure as figure
    from justrl.report.results import read_labels

    outputs, summary = _outputs(arguments), read_json_object(arguments.summary)
    if missing := {"ngram", "train_rows", "benchmarks"} - summary.keys():
        raise UserError(
            f"{arguments.summary} is not a contamination.json: {min(missing)} is missing; make it with "
            "`justrl data contamination`"
        )
    labels, newer, experiment = read_labels(arguments.benchmark_labels), arguments.newer, arguments.experiment
    sections = [figure.contamination_section(summary, labels, newer)]
    if arguments.card:
        sections.append(figure.card_section(read_json_object(arguments.card)))
    figure.write_contamination(sections, experiment, outputs)
    if {".svg", ".png"} & outputs.keys():
        _save(arguments, lambda: figure.plot_contamination(summary, labels, newer, experiment, arguments.title))


def _claims(parser: argparse.ArgumentParser) -> None:
    _files_argument(parser, "--results", "RESULT.json", nargs="*")
    _files_argument(parser, "--metrics", "METRICS.jsonl", nargs="*")
    text = "name of the released weights of a family: deepseek=justrl_deepseek"
    parser.add_argument("--released", nargs="*", default=[], metavar="FAMILY=NAME", help=text)
    _seeds_argument(parser)
    parser.add_argument("--experiment", metavar="NAME", help="name of the experiment (default: read from the files)")
    _output_argument(parser, ".json", ".md", ".html")


def claims(arguments: argparse.Namespace) -> None:
    """Check the claims of the paper against the given results and trainings."""
    from justrl.io import read_json_object
    from justrl.report.claims import Training, judge_claims, write_claims
    from justrl.report.metrics import read_metrics, run_of
    from justrl.report.results import experiment_of, load_results

    outputs, results = _outputs(arguments), load_results(arguments.results)
    if not results and not arguments.metrics:
        raise UserError("no results and no metrics given to check the claims: give --results or --metrics")
    trainings = {
        str(run_of(path)["run"]): Training(read_metrics(path), read_json_object(path.with_name("run.json")))
        for path in arguments.metrics
    }
    found = experiment_of(results) if results else run_of(arguments.metrics[0])["experiment"]
    experiment = str(arguments.experiment or found)
    released = dict(entry.split("=", 1) for entry in arguments.released)
    judged = judge_claims(results, trainings, experiment, released, _seeds(arguments))
    write_claims(judged, experiment, outputs)
    for claim in judged:
        terminal.say(f"{claim.verdict:>13}  {claim.claim}{f' ({claim.evidence})' if claim.evidence else ''}")


def _provenance(parser: argparse.ArgumentParser) -> None:
    text = "resolved configuration: a JSON file, JSON text, or a file that a start saved in experiments/"
    parser.add_argument("--config", metavar="JSON", help=text)
    _files_argument(parser, "--sources", "source.json", nargs="*")
    _files_argument(parser, "--results", "RESULT.json", nargs="*")
    text = "results folder, whose trainings and evaluations have a cost that is to be recorded; needs --config"
    parser.add_argument("--cost-of", type=Path, metavar="FOLDER", help=text)
    _experiment_arguments(parser)
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


def _model_card(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        metavar="run.json",
        help="run.json of the run; metrics.jsonl is read from the same folder",
    )
    parser.add_argument("--family", required=True, help="deepseek, nemotron, or a family without published scores")
    text = "folders of the base model and the data set, whose README.md files name the licences"
    parser.add_argument("--sources", nargs=2, default=[], type=Path, metavar="FOLDER", help=text)
    _result_arguments(parser)
    _output_argument(parser, ".md")


def model_card(arguments: argparse.Namespace) -> None:
    """Write the Hugging Face model card of a run's last checkpoint."""
    from justrl.io import json_argument
    from justrl.report.metrics import read_metrics
    from justrl.report.model_card import write_model_card

    outputs, (results, _) = _outputs(arguments), _results(arguments)
    described = json_argument(str(arguments.run), "--run")
    rows = read_metrics(arguments.run.with_name("metrics.jsonl"))
    write_model_card(outputs[".md"], described, rows, results, arguments.family, arguments.sources)


def _metrics(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("segments", nargs="+", type=Path, metavar="SEGMENT.jsonl")
    parser.add_argument("--output", required=True, type=Path, help="JSONL to write")
    parser.add_argument("--first-step", type=int, default=1, help="first step of the run (default: 1)")


def metrics(arguments: argparse.Namespace) -> None:
    """Concatenate the metrics of a run's segments, whose steps must be contiguous."""
    from justrl.io import write_jsonl
    from justrl.report.metrics import merge_metrics

    write_jsonl(arguments.output, merge_metrics(arguments.segments, arguments.first_step))


def _health(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metrics", required=True, type=Path, metavar="METRICS.jsonl")
    parser.add_argument("--experiment", help="name of the experiment (default: from the run.json next to the metrics)")
    parser.add_argument("--output", required=True, type=Path, help="JSON to write")


def health(arguments: argparse.Namespace) -> None:
    """Summarize the health of a run: first and last metrics, and findings."""
    from justrl.io import write_json
    from justrl.report.health import summarize_run
    from justrl.report.metrics import read_metrics, run_of

    experiment = str(arguments.experiment or run_of(arguments.metrics)["experiment"])
    report = summarize_run(read_metrics(arguments.metrics), experiment)
    write_json(arguments.output, report)
    for finding in report["findings"]:
        terminal.say(f"{finding['name']}: {finding['sentence']}")


def _summary(parser: argparse.ArgumentParser) -> None:
    _files_argument(parser, "--results", "RESULT.json", nargs="*")
    _files_argument(parser, "--health", "health.json", nargs="*")
    parser.add_argument(
        "--benchmark-labels", nargs="+", default=[], metavar="NAME=TEXT", help="displayed names of benchmarks"
    )
    parser.add_argument("--experiment", metavar="NAME", required=True, help="name of the experiment")
    _output_argument(parser, ".html", ".txt")


def summary(arguments: argparse.Namespace) -> None:
    """Summarize each run in one sentence: accuracy before and after training, and health."""
    from justrl.io import read_json_object
    from justrl.report.results import load_results
    from justrl.report.summary import find, write_summary

    results = load_results(arguments.results, arguments.benchmark_labels)
    health = {path.absolute().parent.name: read_json_object(path) for path in arguments.health}
    found = find(results, health, arguments.experiment)
    write_summary(found, arguments.experiment, _outputs(arguments))
    for each in found:
        terminal.say(each.sentence)


def _page_arguments(parser: argparse.ArgumentParser) -> None:
    from justrl.report.samples import ANSWERS, CHARACTERS

    text = f"maximum number of answers on the page (default: {ANSWERS:,}); the page reports how many are left out"
    parser.add_argument("--answers", type=whole(1), default=ANSWERS, help=text)
    text = f"maximum characters of all answers together (default: {CHARACTERS:,}); long answers lose their middle"
    parser.add_argument("--characters", type=whole(1), default=CHARACTERS, help=text)
    parser.add_argument(
        "--experiment",
        required=True,
        metavar="NAME",
        help='name of the experiment; all but "paper" are labelled "not a paper result"',
    )
    parser.add_argument("--title", required=True, help="title of the page")
    _output_argument(parser, ".html")


def _write_samples(arguments: argparse.Namespace, found) -> None:
    from justrl.report.samples import alarms, write_page

    limits = chosen(arguments, "answers", "characters")
    write_page(_outputs(arguments)[".html"], found, arguments.title, arguments.experiment, **limits)
    for _, sentence in alarms(found):
        terminal.say(sentence)


def _samples(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--completions", required=True, nargs="+", type=Path, help="completions Parquet of all shards")
    parser.add_argument("--grades", required=True, nargs="+", type=Path, help="grades Parquet of these completions")
    parser.add_argument("--benchmark", required=True, type=Path, help="benchmark Parquet of the questions")
    parser.add_argument("--headline", required=True, help="primary grader, listed first")
    _page_arguments(parser)


def samples(arguments: argparse.Namespace) -> None:
    """Write a page with the answers of an evaluation."""
    from justrl.report.samples import read_evaluation

    inputs = chosen(arguments, "completions", "grades", "benchmark", "headline")
    _write_samples(arguments, read_evaluation(**inputs))


def _rollouts(parser: argparse.ArgumentParser) -> None:
    text = "saved rollouts of each segment of a run"
    parser.add_argument("--rollouts", required=True, nargs="+", type=Path, metavar="rollouts.parquet", help=text)
    _page_arguments(parser)


def rollouts(arguments: argparse.Namespace) -> None:
    """Write a page with the saved rollouts of a training."""
    from justrl.report.samples import read_rollouts

    _write_samples(arguments, read_rollouts(arguments.rollouts))
