"""Download, clean and check training data, benchmarks and models; make the sums and the model of the mini experiment.

    justrl data prepare --dataset-name BytedTsinghua-SIA/DAPO-Math-17k --output-dir data \\
        --tokenizer MODEL_DIR
    justrl data download model --hub-id deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B \\
        --output models/deepseek
"""

import argparse
import json
import sys
from pathlib import Path

from justrl.commands.options import add_subcommands, chosen, number, whole
from justrl.data.messages import DEFAULT_SEPARATOR, DEFAULT_SUFFIX
from justrl.machine import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the sub-commands."""
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
    parser.add_argument("--revision", default="main", help="branch, tag or commit; a branch is locked once resolved")
    parser.add_argument("--subset", "--hub-config", help="subset (`config_name`) of a data set of the hub")
    parser.add_argument("--lock", type=Path, help="lock file that keeps revisions and hashes (data.lock.json)")
    parser.add_argument("--mirror", type=Path, help="folder of local copies, laid out as DIR/<hub id>/files")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("--timeout", type=number(0), default=5.0, help="seconds to wait for the hub to answer")


def _hub(arguments: argparse.Namespace):
    from justrl.data.sources import Hub

    return Hub(**chosen(arguments, "mirror", "offline", "timeout"))


def _prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset-name", required=True, help="hub id, or a Parquet, JSON, JSONL or CSV file, or a folder"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of train.parquet and data_card.json")
    parser.add_argument("--tokenizer", type=Path, help="model folder whose chat template measures prompts")
    parser.add_argument(
        "--max-prompt-length", type=whole(1), default=1024, help="drop longer prompts, in tokens (default 1024)"
    )
    parser.add_argument("--prompt-suffix", default=DEFAULT_SUFFIX, help="instruction after the question")
    parser.add_argument("--prompt-separator", default=DEFAULT_SEPARATOR, help=r"what joins them, \n for a newline")
    parser.add_argument("--split", default="train", help="split of the data set (default train)")
    parser.add_argument("--question-column", help="column of the question, if its name is not a known one")
    parser.add_argument("--answer-column", help="column of the answer, if unknown; dots reach into structs")
    parser.add_argument("--keep-wrapper", action="store_true", help="keep DAPO's own instruction around a question")
    parser.add_argument("--keep-duplicates", action="store_true", help="keep every copy of a question")
    parser.add_argument("--keep-contradictions", action="store_true", help="keep questions with different answers")
    _hub_arguments(parser)


def prepare(arguments: argparse.Namespace) -> None:
    """Clean DAPO-Math-17k, or a data set like it, into training prompts."""
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
    parser.add_argument("kind", choices=("dataset", "benchmark", "model"))
    parser.add_argument("--hub-id", required=True, help="for example BytedTsinghua-SIA/DAPO-Math-17k")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    _hub_arguments(parser)


def download(arguments: argparse.Namespace) -> None:
    """Download one source into a folder, with source.json: revision, origin, SHA-256."""
    from justrl.data import sources

    source = sources.locate(
        "model" if arguments.kind == "model" else "dataset",
        hub=_hub(arguments),
        **chosen(arguments, "hub_id", "revision", "subset", "lock"),
    )
    sources.download(source, arguments.output)
    print(f"{source.hub_id} at {source.revision or 'an unrecorded revision'} from {source.origin}: {arguments.output}")


def _local(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("dataset", "benchmark", "model"))
    parser.add_argument("--path", type=Path, required=True, help="data file, or folder of data files or of a model")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")


def local(arguments: argparse.Namespace) -> None:
    """Copy data or a model from the disk into a folder, with source.json: where from, SHA-256."""
    from justrl.config_files import find
    from justrl.data import sources

    source = sources.local_source(find(arguments.path), "model" if arguments.kind == "model" else "dataset")
    sources.download(source, arguments.output)
    print(f"{len(source.files)} files of {arguments.path}: {arguments.output}")


def _benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="the benchmark's name in the configuration")
    parser.add_argument("--input", type=Path, required=True, help="data file, or folder of a download")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--rows", type=whole(0), help="number of questions there must be; 0, where none is said")
    parser.add_argument("--subset", "--hub-config", help="subset (`config_name`) of the data set")
    parser.add_argument("--split", help="split of the data set")
    for what in ("question", "answer", "id"):
        parser.add_argument(f"--{what}-column", help=f"column of the {what}, if its name is not a known one")


def benchmark(arguments: argparse.Namespace) -> None:
    """Bring a benchmark to the columns benchmark, id, question, answer."""
    from justrl.data.benchmarks import format_benchmark
    from justrl.io import write_parquet

    keys = ("rows", "subset", "split", "question_column", "answer_column", "id_column")
    table = format_benchmark(arguments.name, arguments.input, **chosen(arguments, *keys))
    write_parquet(table, arguments.output)
    print(f"{table.num_rows} questions: {arguments.output}", file=sys.stderr)


def _contamination(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train", type=Path, required=True, help="training Parquet (verl's schema)")
    parser.add_argument("--benchmarks", type=Path, nargs="+", required=True, help="benchmark Parquet files")
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="gets contamination.json, contamination.csv and train.parquet"
    )
    parser.add_argument("--remove", action="store_true", help="leave out training questions that meet a benchmark's")
    parser.add_argument("--ngram", type=whole(1), default=13, help="words in a row (default 13)")


def contamination(arguments: argparse.Namespace) -> None:
    """Find training questions that benchmarks also ask."""
    from justrl.data.contamination import compare_files

    report = compare_files(
        arguments.train, arguments.benchmarks, arguments.output_dir, arguments.remove, arguments.ngram
    )
    rows = report["train_rows"]
    text = f"{rows['met']} of {rows['in']} training questions meet a benchmark's; {rows['removed']} removed"
    print(text, file=sys.stderr)


def _arithmetic(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("side", choices=("train", "benchmark"), help="sums to train on, or never trained on")
    parser.add_argument("--rows", type=whole(1), required=True, help="how many sums")
    parser.add_argument("--digits", type=whole(1), required=True, help="digits of each of the two numbers")
    parser.add_argument(
        "--harder-share", type=number(0, 1), default=0.0, help="share of training sums with one digit more"
    )
    parser.add_argument("--seed", type=int, required=True, help="which sums are drawn and in what order")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write, or its folder")
    parser.add_argument("--formatted", action="store_true", help="write verl's training schema, ready for a trainer")


def arithmetic(arguments: argparse.Namespace) -> None:
    """Make sums with exact answers, for training or held out."""
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
    parser.add_argument("side", choices=("train", "benchmark"), help="questions to train on, or never trained on")
    parser.add_argument("--task", required=True, help="a task of reasoning-gym, such as chain_sum")
    parser.add_argument("--settings", default="{}", help="JSON of the task's settings")
    parser.add_argument("--rows", type=whole(1), required=True, help="how many questions")
    parser.add_argument("--seed", type=int, required=True, help="which questions are drawn and in what order")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write, or its folder")


def task(arguments: argparse.Namespace) -> None:
    """Make questions of a task of reasoning-gym, for training or held out."""
    from justrl.data import tasks
    from justrl.data.arithmetic import write_parquet
    from justrl.io import json_argument

    make = tasks.benchmark_rows if arguments.side == "benchmark" else tasks.training_rows
    settings = json_argument(arguments.settings, "--settings")
    file = write_parquet(make(arguments.task, settings, arguments.rows, arguments.seed), arguments.output)
    print(f"{arguments.rows} questions of {arguments.task} -> {file}")


def _warm_start(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", type=json.loads, required=True, help="JSON of a model entry of the configuration")
    parser.add_argument("--seed", type=int, required=True, help="initial weights and examples")
    parser.add_argument("--output", type=Path, required=True, help="the Hugging Face folder to write")
    parser.add_argument("--threads", type=whole(1), default=usable_cores(), help="CPU threads")
    parser.add_argument("--prompt-suffix", default=DEFAULT_SUFFIX, help="what is put after every question")


def warm_start(arguments: argparse.Namespace) -> None:
    """Make a tiny Qwen2 and teach it the form of a solution."""
    from justrl.data.warm_start import make_model

    make_model(arguments.settings, arguments.seed, arguments.output, arguments.threads, arguments.prompt_suffix)
