"""Evaluate one model on one benchmark in one go: `python -m justrl.evaluate --help`.

Generates, grades and scores with the functions that the workflow's rules use. By default greedily (temperature 0,
15,360 new tokens, one answer per question) and graded by the strict verifier.
"""

import argparse
import importlib.util
from pathlib import Path

from justrl import cli
from justrl.errors import UserError
from justrl.generate import add_backend_arguments, engine_options

SUFFIX = "Please reason step by step, and put your final answer within \\boxed{}."


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; every option may be written with underscores or hyphens."""
    parser = argparse.ArgumentParser(
        prog="python -m justrl.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add(name: str, **options) -> None:
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", **options)

    add("model_path", required=True, help="Hugging Face model folder, or a hub id")
    add("dataset", required=True, help="a benchmark by name (aime2024, math500, ...), or a Parquet or JSONL file")
    add("output_file", required=True, type=Path, help="result JSON to write; completions and grades go beside it")
    add("max_tokens", type=int, default=15360, help="longest answer in tokens (default: 15360)")
    add("temperature", type=float, default=0.0, help="0 is greedy (default: 0)")
    add("top_p", type=float, default=1.0, help="nucleus sampling (default: 1, off)")
    add("samples", type=int, default=1, help="answers per question (default: 1)")
    add("seed", type=int, default=0, help="seed of sampling and of the bootstrap (default: 0)")
    add("graders", default="strict", help="graders by comma, the headline first (default: strict)")
    add("prompt_separator", default="\n\n", help="between question and suffix (default: two newlines)")
    add("prompt_suffix", default=SUFFIX, help="what follows every question")
    add("limit", type=int, help="only the first so many questions")
    add_backend_arguments(parser, backend="auto")
    return parser.parse_args(argv)


def read_questions(dataset: str) -> tuple[str, list]:
    """A dataset's name and questions: a benchmark file of ours, any file with questions and answers, or a known name.

    Raises:
        UserError: no such file, or one without questions and answers.
    """
    from justrl.data.benchmarks import format_benchmark, load_eval_dataset
    from justrl.evaluation.generate import Question, check_ids

    path = Path(dataset)
    if path.exists():
        rows = format_benchmark(path.stem, path).to_pylist()
        names = {row["benchmark"] for row in rows}
        questions = [Question(row["id"], row["question"], row["answer"]) for row in rows]
        check_ids(questions, dataset)
        return names.pop() if len(names) == 1 else path.stem, questions
    if path.suffix:
        raise UserError(f"there is no dataset file {dataset}")
    rows = load_eval_dataset(dataset)
    return dataset, [Question(str(index), row["question"], row["ground_truth"]) for index, row in enumerate(rows)]


def _installed_backend() -> str:
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


def main(argv: list[str] | None = None) -> None:
    """Evaluate, write the result, print the headline."""
    args = parse_arguments(argv)
    from justrl.evaluation import grade as grading
    from justrl.evaluation.completions import read_completions
    from justrl.evaluation.generate import GenerationJob, generate
    from justrl.evaluation.protocol import Protocol
    from justrl.evaluation.score import score
    from justrl.io import write_json

    benchmark, questions = read_questions(args.dataset)
    questions = questions[: args.limit]
    protocol = Protocol(
        name="greedy" if args.temperature == 0 else "sampled",
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        prompt_separator=args.prompt_separator,
        prompt_suffix=args.prompt_suffix,
        samples=args.samples,
    )
    stem = args.output_file.with_suffix("")
    completions = generate(
        GenerationJob(
            model=args.model_path,
            benchmark=benchmark,
            questions=questions,
            protocol=protocol,
            output=Path(f"{stem}.completions.parquet"),
            run=Path(args.model_path).name,
            seed=args.seed,
            backend=_installed_backend() if args.backend == "auto" else args.backend,
            dtype=args.dtype,
            tensor_parallel_size=args.tensor_parallel_size,
            batch_size=args.batch_size,
            engine_options=engine_options(args.engine_options),
        )
    )
    samples, settings = read_completions([completions])
    graders = args.graders.split(",")
    grades = grading.grade_samples(samples, graders)
    grading.write_grades(grades, f"{stem}.grades.parquet", samples, {"graders": graders})
    name = Path(args.model_path).name
    result = score(
        samples,
        settings,
        grades,
        benchmark,
        questions,
        name=name,
        experiment="evaluate",
        headline=graders[0],
        seed=args.seed,
    )
    write_json(args.output_file, result)
    print(grading.format_summary(grading.summarise(grades)))


if __name__ == "__main__":
    cli.run(main)
