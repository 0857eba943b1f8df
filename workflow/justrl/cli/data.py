"""Download, clean and check training data, benchmarks and models; generate the data and model of the mini experiment.

    justrl data prepare --dataset-name BytedTsinghua-SIA/DAPO-Math-17k --output-dir data \\
        --tokenizer MODEL_DIR
    justrl data download model --hub-id deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \\
        --output models/deepseek
"""

import argparse
import sys
from pathlib import Path

from justrl.cli.options import add_subcommands, chosen, number, whole
from justrl.data.messages import DEFAULT_SEPARATOR, DEFAULT_SUFFIX
from justrl.hardware.machine import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    calls = {
        prepare: _prepare,
        download: _download,
        local: _local,
        benchmark: _benchmark,
        contamination: _contamination,
        arithmetic: _arithmetic,
        task: _task,
        warm_start: _warm_start,
    }
    add_subcommands(parser, calls)


def _hub_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--revision", default="main", help="branch, tag or commit (default: main); --lock records the commit")
    add("--subset", "--hub-config", help="subset (`config_name`) of a data set on the hub")
    add("--lock", type=Path, help="lock file with revisions and hashes (data.lock.json)")
    add("--mirror", type=Path, help="folder with local copies: DIR/<hub id>/files")
    add("--offline", action="store_true", help="never use the network")
    add("--timeout", type=number(0), default=5.0, help="seconds to wait for the hub (default: 5)")


def _hub(arguments: argparse.Namespace):
    from justrl.data.sources import Hub

    return Hub(**chosen(arguments, "mirror", "offline", "timeout"))


def _prepare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset-name", required=True, help="hub id, folder, or Parquet, JSON, JSONL or CSV file")
    add("--output-dir", type=Path, required=True, help="folder for train.parquet and data_card.json")
    add("--tokenizer", type=Path, help="model folder whose chat template is used to count prompt tokens")
    add("--max-prompt-length", type=whole(1), default=1024, help="drop prompts with more tokens (default: 1024)")
    add("--prompt-suffix", default=DEFAULT_SUFFIX, help="instruction after the question (default: the paper's)")
    add("--prompt-separator", default=DEFAULT_SEPARATOR, help=r"text between them, \n for a newline (default: \n\n)")
    add("--split", default="train", help="split of the data set (default: train)")
    add("--question-column", help="column with the question (default: the first known name)")
    add("--answer-column", help="column with the answer (default: the first known name); a dot selects a field")
    add("--keep-wrapper", action="store_true", help="keep DAPO's own instruction around each question")
    add("--keep-duplicates", action="store_true", help="keep all copies of a question")
    add("--keep-contradictions", action="store_true", help="keep questions whose copies have different answers")
    _hub_arguments(parser)


def prepare(arguments: argparse.Namespace) -> None:
    """Clean DAPO-Math-17k or a similar data set and write training prompts."""
    from justrl.data.dapo import process_dapo_dataset

    card = process_dapo_dataset(
        arguments.dataset_name,
        arguments.output_dir,
        suffix=arguments.prompt_suffix,
        separator=arguments.prompt_separator.replace(r"\n", "\n"),
        hub=_hub(arguments),
        remove_wrapper=not arguments.keep_wrapper,
        remove_duplicates=not arguments.keep_duplicates,
        remove_contradictions=not arguments.keep_contradictions,
        **chosen(arguments, "tokenizer", "max_prompt_length", "question_column", "answer_column"),
        **chosen(arguments, "revision", "subset", "split", "lock"),
    )
    rows = card["rows"]
    overlong = "not measured (no --tokenizer)" if rows["overlong"] is None else f"{rows['overlong']} overlong"
    print(
        f"{rows['in']} rows: {rows['incomplete']} incomplete, {rows['duplicates']} duplicates, {rows['conflicting']} "
        f"questions with contradictory answers, {overlong}; {rows['out']} questions in {arguments.output_dir}"
    )


def _download(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("kind", choices=("dataset", "benchmark", "model"))
    add("--hub-id", required=True, help="such as BytedTsinghua-SIA/DAPO-Math-17k")
    add("--output", type=Path, required=True, help="folder to write")
    _hub_arguments(parser)


def download(arguments: argparse.Namespace) -> None:
    """Download a data set, benchmark or model; source.json records revision, origin and SHA-256."""
    from justrl.data import sources

    source = sources.locate(
        "model" if arguments.kind == "model" else "dataset",
        hub=_hub(arguments),
        **chosen(arguments, "hub_id", "revision", "subset", "lock"),
    )
    sources.download(source, arguments.output)
    print(f"{source.hub_id} at {source.revision or 'an unrecorded revision'} from {source.origin}: {arguments.output}")


def _local(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("kind", choices=("dataset", "benchmark", "model"))
    add("--path", type=Path, required=True, help="data file, or folder of data files or of a model")
    add("--output", type=Path, required=True, help="folder to write")


def local(arguments: argparse.Namespace) -> None:
    """Copy data or a model from disk; source.json records origin and SHA-256."""
    from justrl.config.files import find
    from justrl.data import sources

    source = sources.local_source(find(arguments.path), "model" if arguments.kind == "model" else "dataset")
    sources.download(source, arguments.output)
    print(f"{len(source.files)} files of {arguments.path}: {arguments.output}")


def _benchmark(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--name", required=True, help="the benchmark's name in the configuration")
    add("--input", type=Path, required=True, help="data file, or folder of a downloaded data set")
    add("--output", type=Path, required=True, help="Parquet file to write")
    add("--rows", type=whole(0), help="expected number of questions; 0: any number")
    add("--subset", "--hub-config", help="subset (`config_name`) of the data set")
    add("--split", help="split of the data set")
    for what in ("question", "answer", "id"):
        add(f"--{what}-column", help=f"column with the {what} (default: the first known name)")


def benchmark(arguments: argparse.Namespace) -> None:
    """Convert a benchmark to the columns benchmark, id, question, answer."""
    from justrl.data.benchmarks import format_benchmark
    from justrl.io import write_parquet

    keys = ("rows", "subset", "split", "question_column", "answer_column", "id_column")
    table = format_benchmark(arguments.name, arguments.input, **chosen(arguments, *keys))
    write_parquet(table, arguments.output)
    print(f"{table.num_rows} questions: {arguments.output}", file=sys.stderr)


def _contamination(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--train", type=Path, required=True, help="training Parquet (verl's schema)")
    add("--benchmarks", type=Path, nargs="+", required=True, help="benchmark Parquet files")
    add("--output-dir", type=Path, required=True, help="gets contamination.json, contamination.csv and train.parquet")
    add("--remove", action="store_true", help="remove training questions that overlap with a benchmark")
    add("--ngram", type=whole(1), default=13, help="length of an overlap in words (default: 13)")


def contamination(arguments: argparse.Namespace) -> None:
    """Find training questions that overlap with benchmarks."""
    from justrl.data.contamination import compare_files

    report = compare_files(
        arguments.train, arguments.benchmarks, arguments.output_dir, arguments.remove, arguments.ngram
    )
    rows = report["train_rows"]
    text = f"{rows['met']} of {rows['in']} training questions overlap with a benchmark; {rows['removed']} removed"
    print(text, file=sys.stderr)


def _arithmetic(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("side", choices=("train", "benchmark"), help="sums for training, or held-out sums")
    add("--rows", type=whole(1), required=True, help="number of sums")
    add("--digits", type=whole(1), required=True, help="digits of each operand")
    add(
        "--harder-share", type=number(0, 1), default=0.0, help="share of training sums with one more digit (default: 0)"
    )
    add("--seed", type=int, required=True, help="seed of the sums and their order")
    add("--output", type=Path, required=True, help="Parquet file or folder to write to")
    add("--formatted", action="store_true", help="write verl's training schema")


def arithmetic(arguments: argparse.Namespace) -> None:
    """Generate sums with exact answers, for training or held out."""
    from justrl.data import arithmetic as sums

    size = arguments.rows, arguments.digits, arguments.seed
    if arguments.side == "benchmark":
        rows = sums.benchmark_rows(*size)
    else:
        rows = sums.training_rows(*size, arguments.harder_share)
    if arguments.formatted:
        rows = sums.as_training_examples(rows, DEFAULT_SUFFIX, DEFAULT_SEPARATOR)
    file = sums.write_parquet(rows, arguments.output)
    print(f"{len(rows)} sums of {arguments.digits} digits -> {file}")


def _task(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("side", choices=("train", "benchmark"), help="questions for training, or held-out questions")
    add("--task", required=True, help="task of reasoning-gym, such as chain_sum")
    add("--settings", default="{}", help="settings of the task as JSON (default: {})")
    add("--rows", type=whole(1), required=True, help="number of questions")
    add("--seed", type=int, required=True, help="seed of the questions and their order")
    add("--output", type=Path, required=True, help="Parquet file or folder to write to")


def task(arguments: argparse.Namespace) -> None:
    """Generate questions of a task of reasoning-gym, for training or held out."""
    from justrl.data import tasks
    from justrl.data.arithmetic import write_parquet
    from justrl.io import json_argument

    make = tasks.benchmark_rows if arguments.side == "benchmark" else tasks.training_rows
    settings = json_argument(arguments.settings, "--settings")
    file = write_parquet(make(arguments.task, settings, arguments.rows, arguments.seed), arguments.output)
    print(f"{arguments.rows} questions of {arguments.task} -> {file}")


def _warm_start(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--settings", required=True, help="an entry of `models` of the configuration, as JSON")
    add("--seed", type=int, required=True, help="seed of initial weights and examples")
    add("--output", type=Path, required=True, help="model folder to write, in Hugging Face's layout")
    add("--threads", type=whole(1), default=usable_cores(), help="CPU threads (default: all cores)")
    add("--prompt-suffix", default=DEFAULT_SUFFIX, help="instruction after each question (default: the paper's)")


def warm_start(arguments: argparse.Namespace) -> None:
    """Warm-start a tiny Qwen2 by supervised training."""
    from justrl.config import TinyModel, read_part
    from justrl.data.tiny_model import make_model
    from justrl.io import json_argument

    given = json_argument(arguments.settings, "--settings") | {"source": "tiny"}
    settings = read_part(TinyModel, given, "--settings").as_dict()
    make_model(settings, arguments.seed, arguments.output, arguments.threads, arguments.prompt_suffix)
