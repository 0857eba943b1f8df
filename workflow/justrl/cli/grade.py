"""Grade saved answers: our Parquet, or the JSONL that the authors released.

`--graders` runs rule-based graders on all answers. `--grader model` runs a judge model on the answers that the rules
rejected.
"""

import argparse
from pathlib import Path

from justrl.cli.generate import add_backend_arguments, backend_options
from justrl.cli.options import whole
from justrl.config import OwnFunction, read_part
from justrl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--completions", required=True, nargs="+", type=Path, help="completions Parquet of all shards, or JSONL")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--graders", help="comma-separated rule-based graders: strict,paper,paper_rules,symbolic")
    add(
        "--custom-graders",
        metavar="JSON",
        default="{}",
        help='additional graders as Python functions: {"mine": {"file": "my_grader.py", "function": "grade"}}',
    )
    # The name of the option in version 0.1.
    parser.add_argument("--own-graders", dest="custom_graders", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    which.add_argument("--grader", choices=["model"], help="use a judge model")
    add("--output", type=Path, help="grades Parquet to write (default: print the summary only)")
    add_config_argument(parser)
    add("--summary", type=Path, help="also write the printed counts, as JSON")
    add("--golds", type=Path, help="benchmark Parquet with the reference answers (default: those in the completions)")
    add("--processes", type=whole(1), help="processes of paper_rules and symbolic (default: one per core)")
    model = parser.add_argument_group("with --grader model")
    model.add_argument(
        "--rejected-by",
        type=Path,
        help="grades Parquet of the rules; only rejected answers are judged (default: judge all)",
    )
    model.add_argument(
        "--rules", default="paper_rules", help="grader whose rejected answers are judged (default: paper_rules)"
    )
    model.add_argument("--model", help="judge model: folder in Hugging Face's layout, or hub id")
    model.add_argument("--model-revision", help="commit of the judge model on the hub")
    model.add_argument(
        "--max-tokens", type=whole(1), default=2048, help="maximum new tokens of a verdict (default: 2048)"
    )
    model.add_argument(
        "--empty-question", action="store_true", help="leave out the question, as the authors' script does"
    )
    model.add_argument(
        "--exact-verdict",
        action="store_true",
        help="count only the bare letter A as correct, as the authors' script does",
    )
    add_backend_arguments(model)
    parser.set_defaults(call=grade)


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option with the required generation settings of the completions."""
    text = 'required settings of the completions, as JSON or file: {"generation": {"protocol": {"temperature": 0.7}}}'
    parser.add_argument("--config", default="{}", metavar="JSON", help=text)


def grade(arguments: argparse.Namespace) -> None:
    """Grade, write the verdicts, and print their counts."""
    if arguments.grader and not arguments.model:
        raise UserError("--grader model needs --model, the judge's folder or hub id")
    from justrl.evaluation import grading
    from justrl.evaluation.completions import check_made_with, model_fingerprint, read_completions
    from justrl.evaluation.generating import read_benchmark
    from justrl.io import json_argument, write_json
    from justrl.models.folder import revision_of

    samples, made = read_completions(arguments.completions)
    check_made_with(made, json_argument(arguments.config, "--config").get("generation") or {})
    if arguments.golds:
        samples = grading.with_golds(samples, made, *read_benchmark(arguments.golds))
    grading.check_whole(samples, made)
    judged, graders, options = samples, (arguments.graders or "").split(","), {}
    if arguments.grader:
        graders = [arguments.grader]
        options = {"model": _judge(arguments)}
        if arguments.rejected_by:
            rules, _ = grading.read_grades([arguments.rejected_by], samples)
            judged = grading.rejected_samples(samples, rules, arguments.rules)
    elif arguments.processes is not None:
        options = {name: {"processes": arguments.processes} for name in ("paper_rules", "symbolic")}
    given = json_argument(arguments.custom_graders, "--custom-graders")
    own = {name: read_part(OwnFunction, entry, f"--custom-graders {name}") for name, entry in given.items()}
    grades = grading.grade_samples(judged, graders, options, own)
    summary = grading.summarise(grades)
    print(grading.format_summary(summary))
    if arguments.output:
        # The number of processes does not affect verdicts, so it is not recorded for rule graders.
        settings = {"graders": graders, "options": options if arguments.grader else {}}
        if own:
            settings["custom_graders"] = {name: function.as_dict() for name, function in own.items()}
        if arguments.grader:
            settings["after"] = arguments.rules if arguments.rejected_by else None
            settings["judge"] = {
                "model_fingerprint": model_fingerprint(arguments.model),
                "revision": arguments.model_revision or revision_of(arguments.model),
            }
        grading.write_grades(grades, arguments.output, samples, settings)
    if arguments.summary:
        write_json(arguments.summary, summary)


def _judge(arguments: argparse.Namespace) -> dict:
    return {
        "model": arguments.model,
        "revision": arguments.model_revision,
        "max_tokens": arguments.max_tokens,
        "fill_question": not arguments.empty_question,
        "exact_verdict": arguments.exact_verdict,
        **backend_options(arguments),
    }
