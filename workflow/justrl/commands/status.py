"""Show the runs' progress from their files: step, reward, entropy, length, speed, time left and health."""

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from justrl import config
from justrl.commands.options import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="overlay with the runs' lengths")
    parser.add_argument("--run", metavar="NAME", help="only this run")
    parser.add_argument(
        "--watch", type=number(0.1), nargs="?", const=10, metavar="SECONDS", help="repeat (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: every metric row and finding")
    parser.set_defaults(call=show)


def show(arguments: argparse.Namespace) -> None:
    """Print the runs once, or again and again."""
    totals = {name: run.steps for name, run in config.load(arguments.config).runs.items()}
    while True:
        text = _render(arguments, totals)
        if arguments.watch is None:
            print(text)
            return
        # Clear the screen and go home, as `watch` does.
        print(
            f"\033[2J\033[H{text}\n\n{time.strftime('%H:%M:%S')}, every {arguments.watch:g} s; Ctrl-C ends", flush=True
        )
        time.sleep(arguments.watch)


def _render(arguments: argparse.Namespace, totals: dict[str, int]) -> str:
    from justrl.operations import run_status as progress

    folders = progress.find_runs(arguments.results)
    runs = [progress.read_run(folder, totals.get(folder.name)) for folder in folders]
    runs = [run for run in runs if arguments.run in (None, run.name)]
    if arguments.json:
        return json.dumps([{**asdict(run), "findings": progress.findings(run)} for run in runs], indent=2)
    return progress.render(runs, width=max(20, min(80, shutil.get_terminal_size().columns - 40)))
