"""Estimate memory, hours, GPU hours, disk and jobs of the experiment, with the derivation of each number."""

import argparse
import json

from justrl import config
from justrl.cli import terminal
from justrl.cli.options import number, whole
from justrl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_config_arguments(parser)
    parser.add_argument(
        "--gpu", metavar="NAME", help="plan for this GPU (default: hardware.gpu); an unknown name lists the known ones"
    )
    parser.add_argument(
        "--nodes", type=whole(1), metavar="N", help="plan for this number of nodes (default: hardware.nodes)"
    )
    text = "metrics.jsonl measured on the configured hardware, to correct the estimate (default: the canary's)"
    parser.add_argument("--measured", metavar="FILE", help=text)
    parser.add_argument("--kinds", action="store_true", help="compare all known GPUs: memory and seconds per step")
    parser.add_argument("--scales", action="store_true", help="compare the scales, from a laptop to the paper")
    parser.add_argument("--rungs", action="store_true", dest="scales", help=argparse.SUPPRESS)
    parser.add_argument("--backtest", action="store_true", help="compare estimated with published step times")
    text = "number of samples and seeds needed to detect a difference of this many points"
    parser.add_argument("--detect", type=number(0), metavar="POINTS", help=text)
    text = "with --detect: result files of similar trainings, to estimate the variance (default: binomial bound)"
    parser.add_argument("--results", nargs="+", default=[], metavar="RESULT.json", help=text)
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="with --detect: seeds per setting (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(call=plan)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that change the configuration."""
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="overlay over config.yaml; repeatable"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, such as hardware.nodes=4; repeatable",
    )


def started(arguments: argparse.Namespace) -> config.Experiment:
    """The experiment that these options describe.

    Raises UserError if it is named `paper` but differs from the paper, or if two of its results have the same path.
    """
    from justrl.config import outputs
    from justrl.config.layout import Layout
    from justrl.workflow.paper_check import check_paper

    loaded = config.load(arguments.config, arguments.set)
    check_paper(loaded)
    outputs.check_paths(Layout(loaded.with_canaries(), str(loaded.results)))
    return loaded


def plan(arguments: argparse.Namespace) -> None:
    """Print the plan of every enabled run as a table or as JSON."""
    from justrl.plan import backtest, detection, plan_tables, planning

    if arguments.backtest:
        print(json.dumps(backtest.as_dict(), indent=2) if arguments.json else backtest.render())
        return
    loaded = started(arguments)
    if not loaded.enabled and not arguments.scales and arguments.detect is None:
        raise UserError("no run is enabled, so there is nothing to plan: set runs.NAME.enabled to true")
    if arguments.kinds:
        terminal.say(plan_tables.render_kinds(loaded))
        return
    if arguments.detect is not None:
        if arguments.detect <= 0 or arguments.seeds < 1:
            raise UserError(
                f"--detect must be above 0 and --seeds at least 1, got {arguments.detect:g} and {arguments.seeds}"
            )
        terminal.say(detection.render_detection(loaded, arguments.detect, arguments.results, arguments.seeds))
        return
    if arguments.scales:
        terminal.say(plan_tables.render_scales(loaded))
        return
    made = planning.make_plan(loaded, arguments.gpu, arguments.nodes, arguments.measured)
    if arguments.json:
        print(json.dumps(made, indent=2))
    else:
        terminal.say(plan_tables.render(made))
