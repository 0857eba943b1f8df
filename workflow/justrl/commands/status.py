"""Show the experiment that runs here, or ran last: steps, reward, entropy, length, time left, health, evaluations."""

import argparse
import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

from justrl import config
from justrl.commands import terminal
from justrl.commands.options import number
from justrl.errors import UserError, did_you_mean

# Seconds after which the page is loaded again where nothing rewrites it.
REFRESH = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument(
        "--results",
        type=Path,
        help="where to look: the folder of one experiment, or of several (default: results, here or in a folder above)",
    )
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="overlay, in place of what the last start froze"
    )
    parser.add_argument("--run", metavar="NAME", help="only this run")
    parser.add_argument(
        "--watch", type=number(0.1), nargs="?", const=10, metavar="SECONDS", help="repeat (default: 10)"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--html", type=Path, metavar="FILE", help="write a page that loads itself again")
    output.add_argument("--json", action="store_true", help="print JSON: every metric row and finding")
    parser.set_defaults(call=show)


def show(arguments: argparse.Namespace) -> None:
    """Show the experiment once, or again and again."""
    told = False
    while True:
        shown = _show(arguments)
        if arguments.watch is None:
            print(shown)
            return
        if arguments.html is None:
            ends = f"{time.strftime('%H:%M:%S')}, every {arguments.watch:g} s; Ctrl-C ends"
            terminal.clear_screen()
            print(f"{shown}\n\n{ends}", flush=True)
        elif not told:
            told = True
            print(f"{shown}, and again every {arguments.watch:g} s; Ctrl-C ends", flush=True)
        time.sleep(arguments.watch)


def _show(arguments: argparse.Namespace) -> str:
    from justrl.operations import run_status, started, status_page

    results = started.results_folder(arguments.results)
    given = config.load(arguments.config) if arguments.config else None
    found = started.find(results, given)
    if not found:
        return f"nothing has been started in {results} yet: `snakemake --profile mini` starts the smallest experiment"
    first, *others = found
    if arguments.run:
        names = [run.name for run in first.runs]
        if arguments.run not in names:
            near = did_you_mean(arguments.run, names)
            raise UserError(f"no run {arguments.run} has been started in {first.results}{near}")
        first = replace(first, runs=[run for run in first.runs if run.name == arguments.run])
    if arguments.json:
        return json.dumps([{**asdict(run), "findings": run_status.findings(run)} for run in first.runs], indent=2)
    if arguments.html:
        status_page.write(arguments.html, first, arguments.watch or REFRESH)
        return f"{arguments.html}: experiment {first.name} in {first.results}"
    return status_page.text(first, others, width=max(44, min(terminal.WIDTH, shutil.get_terminal_size().columns)))
