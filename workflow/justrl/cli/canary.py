"""Make, check, pack and read the verdicts of a canary, the short trial of a run.

    justrl canary pack results/runs/canary_deepseek
    justrl canary read canary_deepseek.json

The workflow calls `judge` and `check`. A packed canary names no user, host or path.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from justrl.cli.options import add_subcommands


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the four sub-commands."""
    add_subcommands(parser, {judge: _judge, check: _check, pack: _pack, read: _read})


def _judge(parser: argparse.ArgumentParser) -> None:
    metrics = "metrics of the canary, of all its steps"
    parser.add_argument("--metrics", required=True, type=Path, metavar="METRICS.jsonl", help=metrics)
    parser.add_argument("--run-file", required=True, type=Path, help="the canary's run.json")
    parser.add_argument("--result", type=Path, help="result JSON of its evaluation")
    asked = "JSON: settings of the canary (report/canary_verdict.py, Asked)"
    parser.add_argument("--asked", required=True, help=asked)
    parser.add_argument("--output", required=True, type=Path, nargs="+", help="verdict.json, verdict.html")


def _check(parser: argparse.ArgumentParser) -> None:
    verdicts = "verdicts to print: results/runs/canary_NAME/verdict.json"
    parser.add_argument("verdicts", nargs="*", type=Path, metavar="VERDICT.json", help=verdicts)


def _pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="folder of a canary: results/runs/canary_NAME")
    parser.add_argument("--to", type=Path, help="file to write (default: canary_NAME.json)")


def _read(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="file that `justrl canary pack` wrote")


def judge(arguments: argparse.Namespace) -> None:
    """Answer each question from a canary's metrics; write JSON and a page."""
    from justrl.io import json_argument, read_object, write_json
    from justrl.report import canary_verdict
    from justrl.report.html_tables import write_html
    from justrl.report.metrics import read_metrics

    asked = canary_verdict.Asked(**json_argument(arguments.asked, "--asked"))
    result = read_object(arguments.result) if arguments.result else None
    answers = canary_verdict.judge(read_metrics(arguments.metrics), result, asked)
    run = str(read_object(arguments.run_file)["run"])
    record = canary_verdict.as_json(run, answers, asked)
    for output in arguments.output:
        if output.suffix == ".html":
            write_html(output, f"Verdicts of {run}", canary_verdict.sections(record), "canary")
        else:
            write_json(output, record)


def check(arguments: argparse.Namespace) -> int:
    """Print the verdicts of canaries; exit status 1 if an answer is no."""
    from justrl.io import read_object
    from justrl.report.canary_verdict import sentence

    wrong: list[str] = []
    for path in arguments.verdicts:
        record = read_object(path)
        _show(record)
        wrong += filter(None, [sentence(record)])
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _show(record: dict[str, Any]) -> None:
    print(record["run"])
    _table([(answer["question"], answer["verdict"], answer["evidence"]) for answer in record["answers"]])
    changed = [f"{key} {here} (the run: {there})" for key, (there, here) in record["asked"]["changed"].items()]
    _table([("Changed for the trial:", "", ", ".join(changed))])


def _table(rows: Sequence[tuple[str, str, str]]) -> None:
    import textwrap

    for question, verdict, evidence in rows:
        print(f"  {question:<52} {verdict}".rstrip())
        print(textwrap.fill(evidence, 96, initial_indent="      ", subsequent_indent="      "))


def pack(arguments: argparse.Namespace) -> None:
    """Write a canary's verdicts, metrics, versions and settings to one file, without names of users, hosts or paths."""
    from justrl.io import write_json
    from justrl.plan import canary_pack

    output = arguments.to or Path(f"{arguments.run.name}.json")
    write_json(output, canary_pack.packed(arguments.run))
    print(f"{output}: {output.stat().st_size / 1e3:,.0f} kB; look at it, then attach it to an issue (README)")


def read(arguments: argparse.Namespace) -> None:
    """Show a packed canary: verdicts, machine, measured and planned times."""
    from justrl.plan import canary_pack

    found = canary_pack.unpacked(arguments.file)
    _show(found["verdict"])
    _table([(what, "", text) for what, text in canary_pack.facts(found)])
