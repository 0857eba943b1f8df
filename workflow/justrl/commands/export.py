"""Write an evaluation for other programs: as a log of Inspect, whole, with one score for each grader.

    justrl export --inspect log.json --completions FILE --grades FILE \\
        --benchmark questions.parquet --experiment NAME

`inspect view --log-dir FOLDER` shows it, `inspect_ai.log.read_eval_log` reads it.
"""

import argparse
from pathlib import Path

from justrl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--inspect", required=True, type=Path, metavar="LOG.json", help="the log to write")
    parser.add_argument("--completions", required=True, nargs="+", type=Path, help="completions: every shard's Parquet")
    parser.add_argument("--grades", required=True, nargs="+", type=Path, help="grades Parquet of these completions")
    parser.add_argument("--benchmark", required=True, type=Path, help="benchmark Parquet of the questions")
    parser.add_argument("--experiment", required=True, metavar="NAME", help='all but "paper" are tagged as none')
    parser.set_defaults(call=export)


def export(arguments: argparse.Namespace) -> None:
    """Write the log."""
    from justrl.analysis.inspect_log import inspect_log, made_at
    from justrl.analysis.samples import graded_answers
    from justrl.io import write_json

    if arguments.inspect.suffix != ".json":
        raise UserError(f"--inspect {arguments.inspect}: Inspect knows a log of this form by .json at its end")
    found = graded_answers(arguments.completions, arguments.grades, arguments.benchmark)
    made = made_at(arguments.completions)
    log = inspect_log(found.samples, found.graders, found.settings, found.benchmark, arguments.experiment, made)
    write_json(arguments.inspect, log)
    print(f"{arguments.inspect}: {len(log['samples']):,} answers, scored by {', '.join(found.graders)}")
