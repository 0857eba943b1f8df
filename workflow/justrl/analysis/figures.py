"""Command line of the figures: training curves, accuracy against checkpoints, pass@k, ours beside the published."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from justrl import cli
from justrl.analysis.results import add_label_argument
from justrl.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, draw one figure, save it."""
    arguments = _parser().parse_args(argv)
    if not (arguments.output_png or arguments.output_svg):
        raise UserError("nothing to write: give --output-png, --output-svg or both")
    from justrl.analysis import style

    with style.house_style():
        style.save_figure(arguments.draw(arguments), arguments.output_png, arguments.output_svg)
    return 0


def draw_training(arguments: argparse.Namespace):
    """The figure of `figures training`."""
    from justrl.analysis.metrics import read_metrics
    from justrl.analysis.training_figures import plot_training

    labels = arguments.labels or [path.stem for path in arguments.metrics]
    if len(labels) != len(arguments.metrics):
        raise UserError(f"--labels gives {len(labels)} names for {len(arguments.metrics)} metrics files")
    if len(set(labels)) != len(labels):
        raise UserError(f"--labels must differ, got {' '.join(labels)}")
    runs = {label: read_metrics(path) for label, path in zip(labels, arguments.metrics, strict=True)}
    return plot_training(runs, arguments.experiment, arguments.panels, arguments.title)


def draw_checkpoints(arguments: argparse.Namespace):
    """The figure of `figures checkpoints`."""
    from justrl.analysis.accuracy_figures import plot_checkpoints
    from justrl.analysis.results import load_results

    results = load_results(arguments.results, arguments.benchmark_labels)
    return plot_checkpoints(results, arguments.experiment, arguments.family, arguments.grader, arguments.title)


def draw_pass_at_k(arguments: argparse.Namespace):
    """The figure of `figures pass-at-k`."""
    from justrl.analysis.pass_at_k_figure import plot_pass_at_k
    from justrl.analysis.results import load_results

    results = load_results(arguments.results, arguments.benchmark_labels)
    return plot_pass_at_k(results, arguments.experiment, arguments.grader, arguments.title)


def draw_comparison(arguments: argparse.Namespace):
    """The figure of `figures comparison`."""
    from justrl.analysis.accuracy_figures import plot_comparison
    from justrl.analysis.comparison import compare
    from justrl.analysis.results import load_results

    results = load_results(arguments.results, arguments.benchmark_labels)
    cells = compare(results, arguments.family, arguments.experiment)
    return plot_comparison(cells, arguments.family, arguments.experiment, arguments.title)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m justrl.analysis.figures", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--experiment", required=True, help='its name in the config; all but "paper" are stamped')
    common.add_argument("--title", default="")
    common.add_argument("--output-png", type=Path)
    common.add_argument("--output-svg", type=Path)

    training = commands.add_parser("training", parents=[common], help="reward, entropy, length against step")
    training.add_argument("--metrics", nargs="+", required=True, type=Path, metavar="METRICS.jsonl")
    training.add_argument("--labels", nargs="+", help="one name for each metrics file (default: the files' names)")
    training.add_argument(
        "--panels",
        nargs="+",
        default=["reward", "entropy", "length"],
        metavar="PANEL",
        help="reward entropy length accuracy truncation clip_fraction grad_norm learning_rate throughput step_time",
    )
    training.set_defaults(draw=draw_training)

    checkpoints = commands.add_parser("checkpoints", parents=[common], help="accuracy against checkpoint step")
    checkpoints.add_argument("--results", nargs="+", required=True, type=Path, metavar="RESULT.json")
    checkpoints.add_argument("--family", help="whose published figures to draw: deepseek or nemotron")
    checkpoints.add_argument("--grader", help="default: each result's headline grader")
    add_label_argument(checkpoints)
    checkpoints.set_defaults(draw=draw_checkpoints)

    passes = commands.add_parser("pass-at-k", parents=[common], help="pass@k against k, base and trained")
    passes.add_argument("--results", nargs="+", required=True, type=Path, metavar="RESULT.json")
    passes.add_argument("--grader", help="default: each result's headline grader")
    add_label_argument(passes)
    passes.set_defaults(draw=draw_pass_at_k)

    comparison = commands.add_parser("comparison", parents=[common], help="ours beside the published figures")
    comparison.add_argument("--results", nargs="+", required=True, type=Path, metavar="RESULT.json")
    comparison.add_argument("--family", required=True)
    add_label_argument(comparison)
    comparison.set_defaults(draw=draw_comparison)
    return parser


if __name__ == "__main__":
    cli.run(main)
