"""Grade kept completions, ours (Parquet) or the authors' released ones (JSONL): `python -m justrl.grade --help`.

`--graders` runs rule graders on everything; `--grader model` runs a judge model on what the rules rejected.
"""

import argparse
from pathlib import Path

from justrl import cli
from justrl.errors import UserError
from justrl.generate import add_backend_arguments, engine_options


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m justrl.grade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--completions", required=True, nargs="+", type=Path, help="completions: every shard's Parquet, or JSONL"
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--graders", help="rule graders, by comma: strict,paper,paper_rules,symbolic")
    which.add_argument("--grader", choices=["model"], help="a judge model, on what the rules rejected")
    parser.add_argument("--output", type=Path, help="grades Parquet to write (default: only print the summary)")
    parser.add_argument("--summary", type=Path, help="write the printed counts as JSON too")
    parser.add_argument("--golds", type=Path, help="benchmark Parquet to take the right answers from")
    parser.add_argument(
        "--processes", type=int, help="worker processes of paper_rules and symbolic (default: the cores)"
    )
    model = parser.add_argument_group("with --grader model")
    model.add_argument("--rejected-by", type=Path, help="the rules' grades Parquet (without: judge everything)")
    model.add_argument("--rules", default="paper_rules", help="whose rejections to judge (default: paper_rules)")
    model.add_argument("--model", help="the judge: a Hugging Face model folder, or a hub id")
    model.add_argument("--model-revision", help="the judge's commit")
    model.add_argument("--max-tokens", type=int, default=2048, help="longest verdict in tokens (default: 2048)")
    model.add_argument(
        "--empty-question", action="store_true", help="leave the question out, as the authors' script does"
    )
    add_backend_arguments(model)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Grade, write the verdicts, print their counts."""
    args = parse_arguments(argv)
    if args.grader and not args.model:
        raise UserError("--grader model needs --model, the judge's folder or hub id")
    from justrl.evaluation import grade as grading
    from justrl.evaluation.completions import read_completions
    from justrl.evaluation.generate import read_benchmark
    from justrl.io import write_json

    samples, made = read_completions(args.completions)
    if args.golds:
        samples = grading.with_golds(samples, made, *read_benchmark(args.golds))
    judged, graders, options = samples, (args.graders or "").split(","), {}
    if args.grader:
        graders = [args.grader]
        options = {"model": _model_options(args)}
        if args.rejected_by:
            rules, _ = grading.read_grades([args.rejected_by], samples)
            judged = grading.rejected_samples(samples, rules, args.rules)
    elif args.processes is not None:
        options = {name: {"processes": args.processes} for name in ("paper_rules", "symbolic")}
    grades = grading.grade_samples(judged, graders, options)
    summary = grading.summarise(grades)
    print(grading.format_summary(summary))
    if args.output:
        settings = {"graders": graders, "options": options}
        if args.grader:
            settings["after"] = args.rules if args.rejected_by else None
        grading.write_grades(grades, args.output, samples, settings)
    if args.summary:
        write_json(args.summary, summary)


def _model_options(args: argparse.Namespace) -> dict:
    return {
        "model": args.model,
        "revision": args.model_revision,
        "backend": args.backend,
        "dtype": args.dtype,
        "max_tokens": args.max_tokens,
        "fill_question": not args.empty_question,
        "tensor_parallel_size": args.tensor_parallel_size,
        "batch_size": args.batch_size,
        "engine_options": engine_options(args.engine_options),
    }


if __name__ == "__main__":
    cli.run(main)
