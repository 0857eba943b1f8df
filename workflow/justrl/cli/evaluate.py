"""Evaluate one model on one benchmark in one step.

Generates, grades and scores with the same functions as the workflow. By default, decoding is greedy (temperature 0,
15,360 new tokens, one answer per question) and the grader is `strict`. If --output-file ends in .jsonl, it gets one
line per answer (question, ground_truth, completion, extracted, outcome of each grader); otherwise it gets the result
with its statistics. Completions and grades are written next to it.
"""

import argparse
import importlib.util
from pathlib import Path

from justrl.cli.generate import add_backend_arguments, backend_options
from justrl.cli.options import chosen, number, whole
from justrl.data.messages import DEFAULT_SEPARATOR, DEFAULT_SUFFIX
from justrl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--model-path", required=True, help="model folder in Hugging Face's layout, or hub id")
    add("--dataset", required=True, help="name of a benchmark (aime2024, math500, ...), or Parquet, JSONL or CSV file")
    add("--output-file", required=True, type=Path, help="result JSON to write, or .jsonl with one line per answer")
    add("--max-tokens", type=whole(1), default=15360, help="maximum new tokens of an answer (default: 15360)")
    add("--temperature", type=number(0), default=0.0, help="sampling temperature (default: 0, greedy)")
    add("--top-p", type=number(0, 1), default=1.0, help="nucleus sampling (default: 1, off)")
    add("--samples", type=whole(1), default=1, help="answers per question (default: 1)")
    add("--seed", type=int, default=0, help="seed of sampling and bootstrap (default: 0)")
    add("--graders", default="strict", help="comma-separated graders, the primary grader first (default: strict)")
    add(
        "--prompt-separator", default=DEFAULT_SEPARATOR, help="text between question and suffix (default: two newlines)"
    )
    add("--prompt-suffix", default=DEFAULT_SUFFIX, help="instruction after each question (default: the paper's)")
    add("--limit", type=whole(1), help="use only the first N questions", metavar="N")
    add_backend_arguments(parser, backend="auto")
    parser.set_defaults(call=evaluate)


def read_questions(dataset: str) -> tuple[str, list]:
    """A dataset's name and questions, from a benchmark file of ours, a file of questions and answers, or a known name.

    Raises UserError if there is no such file, or if it has no questions and answers.
    """
    from justrl.config import load
    from justrl.data.benchmarks import format_benchmark, is_path, load_eval_dataset
    from justrl.evaluation.generating import Question, check_ids

    path = Path(dataset)
    if is_path(dataset, load().benchmarks):
        rows = format_benchmark(path.stem, path).to_pylist()
        names = {row["benchmark"] for row in rows}
        questions = [Question(row["id"], row["question"], row["answer"]) for row in rows]
        check_ids(questions, dataset)
        return names.pop() if len(names) == 1 else path.stem, questions
    if path.suffix:
        raise UserError(
            f"--dataset {dataset}: no such file; give a file, or the name of a benchmark in the configuration"
        )
    rows = load_eval_dataset(dataset)
    return dataset, [Question(str(index), row["question"], row["ground_truth"]) for index, row in enumerate(rows)]


def evaluate(arguments: argparse.Namespace) -> None:
    """Evaluate, write the result, and print the primary grader's score."""
    if arguments.backend == "auto":
        arguments.backend = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    from justrl.config import EvalProtocol, read_part
    from justrl.evaluation import grading
    from justrl.evaluation.completions import comparable, read_completions
    from justrl.evaluation.generating import GenerationJob, generate
    from justrl.evaluation.scoring import sample_lines, score
    from justrl.io import write_json, write_jsonl
    from justrl.models.folder import check_model_folder
    from justrl.report.provenance import result_provenance

    check_model_folder(arguments.model_path)
    benchmark, questions = read_questions(arguments.dataset)
    questions = questions[: arguments.limit]
    sampling = ("temperature", "top_p", "max_tokens", "prompt_separator", "prompt_suffix", "samples")
    protocol = read_part(EvalProtocol, chosen(arguments, *sampling), "evaluate")
    name, output = Path(arguments.model_path).name, arguments.output_file
    job = GenerationJob(
        model=arguments.model_path,
        benchmark=benchmark,
        questions=questions,
        protocol=protocol,
        protocol_name="greedy" if arguments.temperature == 0 else "sampled",
        output=output.with_suffix(".completions.parquet"),
        run=name,
        seed=arguments.seed,
        **backend_options(arguments),
    )
    made = generate(job)
    samples, settings = read_completions([made])
    samples = grading.with_golds(samples, settings, benchmark, questions)
    graders = arguments.graders.split(",")
    grades = grading.grade_samples(samples, graders)
    graded = output.with_suffix(".grades.parquet")
    grading.write_grades(grades, graded, samples, {"graders": graders})
    if output.suffix == ".jsonl":
        write_jsonl(output, sample_lines(samples, grades))
    else:
        named = {"name": name, "experiment": "evaluate", "headline": graders[0], "seed": arguments.seed}
        result = score(samples, settings, grades, benchmark, questions, **named)
        inputs = {"completions": made, "grades": graded}
        config = named | {"generation": comparable(settings), "graders": graders}
        result["provenance"] = result_provenance(config, settings, [{"graders": graders}], inputs)
        write_json(output, result)
    print(grading.format_summary(grading.summarise(grades)))
