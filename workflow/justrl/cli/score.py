"""Compute a result JSON from completions and grades: avg@k with its interval, pass@k, maj@k, lengths, provenance.

Seed, checkpoint and step are read from the completions.
"""

import argparse
from pathlib import Path

from justrl.cli.grade import add_config_argument
from justrl.cli.options import chosen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--completions", required=True, nargs="+", type=Path, help="completions Parquet of all shards")
    parser.add_argument("--grades", required=True, nargs="+", type=Path, help="grades Parquet of these completions")
    parser.add_argument("--benchmark", required=True, type=Path, help="benchmark Parquet of the questions")
    parser.add_argument("--headline", required=True, help="primary grader")
    parser.add_argument("--experiment", required=True, help="name of the experiment in the configuration")
    parser.add_argument("--name", required=True, help="evaluated model: run, run@step, run@base or published model")
    parser.add_argument("--family", help="family of published scores to compare with: deepseek or nemotron")
    add_config_argument(parser)
    parser.add_argument("--output", required=True, type=Path, help="result JSON to write")
    parser.set_defaults(call=score)


def score(arguments: argparse.Namespace) -> None:
    """Score, write the result, and print the primary grader's score."""
    from justrl.evaluation.completions import comparable
    from justrl.evaluation.scoring import score_files
    from justrl.io import json_argument, write_json
    from justrl.report.provenance import result_provenance

    config = json_argument(arguments.config, "--config")
    named = chosen(arguments, "name", "experiment", "headline")
    inputs = chosen(arguments, "completions", "grades", "benchmark")
    asked = config.get("generation") or {}
    result, settings, grading = score_files(**inputs, **named, asked=asked, family=arguments.family)
    config = config or named | {"generation": comparable(settings)}
    write_json(arguments.output, {**result, "provenance": result_provenance(config, settings, grading, inputs)})
    average = result["graders"][arguments.headline]["avg_at_k"]
    print(
        f"{result['benchmark']} {arguments.name}: avg@{result['samples_per_question']} {average['value']:.2%} "
        f"[{average['ci_low']:.2%}, {average['ci_high']:.2%}] by {arguments.headline}"
    )
