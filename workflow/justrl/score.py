"""Turn completions and their grades into a result JSON: `python -m justrl.score --help`."""

import argparse
from pathlib import Path

from justrl import cli


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m justrl.score", description=__doc__)
    parser.add_argument("--completions", required=True, nargs="+", type=Path, help="completions: every shard's Parquet")
    parser.add_argument(
        "--grades", required=True, nargs="+", type=Path, help="grades Parquet files of these completions"
    )
    parser.add_argument(
        "--benchmark", required=True, type=Path, help="benchmark Parquet (benchmark, id, question, answer)"
    )
    parser.add_argument("--headline", required=True, help="the grader whose figure stands for the result")
    parser.add_argument("--experiment", required=True, help="the experiment's name, as in the config")
    parser.add_argument("--name", required=True, help="what the result is of: run, run@step, run@base, published model")
    parser.add_argument("--step", type=int, help="training step of the checkpoint; 0 is the base model")
    parser.add_argument("--kind", choices=["run", "base", "external"], default="run", help="what the model is")
    parser.add_argument("--family", help="family of the published figures to put beside: deepseek or nemotron")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument("--config", type=Path, help="the resolved configuration as JSON, whose hash the result carries")
    parser.add_argument(
        "--sources", nargs="*", default=[], type=Path, help="source.json files of the model and benchmark"
    )
    parser.add_argument("--output", required=True, type=Path, help="result JSON to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Score, write the result, print the headline."""
    args = parse_arguments(argv)
    from justrl.analysis.provenance import collect_provenance
    from justrl.evaluation.completions import comparable, read_completions
    from justrl.evaluation.generate import read_benchmark
    from justrl.evaluation.grade import read_grades, with_golds
    from justrl.evaluation.score import check_samples, published_figures, score
    from justrl.io import read_json, write_json

    benchmark, questions = read_benchmark(args.benchmark)
    samples, settings = read_completions(args.completions)
    if settings.get("source") != "released":
        # Before anything else says something less to the point about a shard that was left out.
        check_samples(samples, settings, benchmark, questions)
    samples = with_golds(samples, settings, benchmark, questions)
    grades, grading = read_grades(args.grades, samples)
    result = score(
        samples,
        settings,
        grades,
        benchmark,
        questions,
        name=args.name,
        experiment=args.experiment,
        headline=args.headline,
        step=args.step,
        seed=args.seed,
    )
    result["published"] = published_figures(args.family, args.kind, benchmark, args.step)
    seeds = {"generation": settings.get("seed"), "bootstrap": args.seed}
    result["provenance"] = {
        **collect_provenance(read_json(args.config) if args.config else None, seeds, args.sources),
        "generation": comparable(settings),
        "generated_with": settings.get("environments", []),
        "grading": grading,
    }
    write_json(args.output, result)
    average = result["graders"][args.headline]["avg_at_k"]
    print(
        f"{benchmark} {args.name}: avg@{result['samples_per_question']} {average['value']:.2%} "
        f"[{average['ci_low']:.2%}, {average['ci_high']:.2%}] by {args.headline}"
    )


if __name__ == "__main__":
    cli.run(main)
