"""Show verl's settings for a run."""

import argparse
import json
from pathlib import Path

from justrl.cli.options import add_subcommands


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    add_subcommands(parser, {config: _config, table: _table})


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="run.json of the run")
    parser.add_argument("--hardware", type=Path, required=True, help="hardware.json: the configuration's `hardware`")
    parser.add_argument("--output", type=Path, required=True, help="YAML file to write")


def _table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", default="deepseek", help="a run of config.yaml (default: deepseek)")
    parser.add_argument("--part", choices=["recipe", "run", "speed"], required=True, help="group of settings")


def config(arguments: argparse.Namespace) -> None:
    """Write verl's complete configuration for a run, validated by verl."""
    import os

    from justrl.config import Hardware, RunDescription, read_part
    from justrl.io import read_object
    from justrl.training.verl.translate import request_from_run, resolve, write_configuration

    # The configuration is created on machines without a GPU, and nothing here needs one.
    os.environ.setdefault("VERL_PLATFORM", "nvidia")
    run = read_part(RunDescription, read_object(arguments.run), arguments.run)
    hardware = read_part(Hardware, read_object(arguments.hardware), arguments.hardware)
    write_configuration(resolve(request_from_run(run, hardware)), arguments.output)


def table(arguments: argparse.Namespace) -> None:
    """Print the settings of a run as Markdown: name, verl's key, value, source, reason."""
    print(markdown(arguments.part, arguments.run))


def markdown(part: str, run: str) -> str:
    """Return a part of the table of settings (recipe, run or speed) with the values of a run of config.yaml."""
    from justrl.config import load
    from justrl.training.verl import settings
    from justrl.training.verl.translate import request_from_run

    experiment = load()
    request = request_from_run(experiment.described(run), experiment.hardware)
    lines = ["| what | verl key | value | source | note |", "|---|---|---|---|---|"]
    for row in getattr(settings, part.upper()):
        value = json.dumps(row.value_for(request))
        lines.append(f"| {row.name} | `{row.key}` | `{value}` | {row.source} | {row.note} |")
    return "\n".join(lines)
