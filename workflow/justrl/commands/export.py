"""Export an evaluation as an Inspect log, with all answers and one score per grader.

    justrl export --inspect log.json --completions FILE --grades FILE \\
        --benchmark questions.parquet --experiment NAME

View it with `inspect view --log-dir FOLDER`, or read it with `inspect_ai.log.read_eval_log`.
"""

import argparse
from pathlib import Path

from justrl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--inspect", required=True, type=Path, metavar="LOG.json", help="log to write")
    parser.add_argument("--completions", required=True, nargs="+", type=Path, help="completions Parquet of all shards")
    parser.add_argument("--grades", required=True, nargs="+", type=Path, help="grades Parquet of these completions")
    parser.add_argument("--benchmark", required=True, type=Path, help="benchmark Parquet of the questions")
    parser.add_argument(
        "--experiment",
        required=True,
        metavar="NAME",
        help='experiments other than "paper" are tagged "not a paper result"',
    )
    parser.set_defaults(call=export)


def export(arguments: argparse.Namespace) -> None:
    """Write the log."""
    from justrl.analysis.inspect_log import inspect_log, made_at
    from justrl.analysis.samples import graded_answers
    from justrl.io import write_json

    if arguments.inspect.suffix != ".json":
        raise UserError(
            f"--inspect {arguments.inspect}: the name must end in .json, by which Inspect recognizes the format"
        )
    found = graded_answers(arguments.completions, arguments.grades, arguments.benchmark)
    made = made_at(arguments.completions)
    log = inspect_log(found.samples, found.graders, found.settings, found.benchmark, arguments.experiment, made)
    write_json(arguments.inspect, log)
    print(f"{arguments.inspect}: {len(log['samples']):,} answers, scored by {', '.join(found.graders)}")
