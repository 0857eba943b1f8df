"""Prepare the training data: the seed design's first command.

    python -m justrl.prepare_data --dataset_name BytedTsinghua-SIA/DAPO-Math-17k --output_dir data --tokenizer MODEL_DIR

writes `train.parquet` (verl's schema) and `data_card.json` (what was dropped and why, hashes, revisions).
"""

import argparse
from pathlib import Path

from justrl.data.download import add_hub_arguments, hub_of
from justrl.data.prompts import DEFAULT_SEPARATOR, DEFAULT_SUFFIX


def parser() -> argparse.ArgumentParser:
    """Build the command line; every option may be written with underscores or hyphens."""
    options = argparse.ArgumentParser(
        prog="python -m justrl.prepare_data",
        description="Clean DAPO-Math-17k, or a data set like it, into training prompts; write train.parquet and "
        "data_card.json.",
    )

    def add(name: str, **settings) -> None:
        options.add_argument(f"--{name}", f"--{name.replace('_', '-')}", dest=name, **settings)

    add("dataset_name", required=True, help="hub id, or a Parquet, JSON or JSON lines file, or a folder of those")
    add("output_dir", type=Path, required=True, help="folder of train.parquet and data_card.json")
    options.add_argument("--tokenizer", type=Path, help="model folder whose chat template measures prompts")
    add("max_prompt_length", type=int, default=1024, help="drop prompts of more tokens (default 1024)")
    add("prompt_suffix", default=DEFAULT_SUFFIX, help="instruction after the question")
    add("prompt_separator", default=DEFAULT_SEPARATOR, help=r"what joins them, \n for a newline (default two)")
    options.add_argument("--revision", default="main", help="revision on the hub; a branch is resolved once and locked")
    options.add_argument("--config", help="configuration of the data set")
    options.add_argument("--split", default="train", help="split of the data set (default train)")
    add("question_column", help="column of the question, if its name is not a known one")
    add("answer_column", help="column of the answer, if its name is not a known one; dots reach into structs")
    add("keep_duplicates", action="store_true", help="keep every copy of a question")
    add("keep_contradictions", action="store_true", help="keep questions that come with different answers")
    add_hub_arguments(options)
    return options


def main() -> None:
    """Parse the command line, clean the data, print what came of it."""
    arguments = parser().parse_args()
    from justrl.data.dapo import process_dapo_dataset

    card = process_dapo_dataset(
        arguments.dataset_name,
        arguments.output_dir,
        tokenizer=arguments.tokenizer,
        max_prompt_length=arguments.max_prompt_length,
        suffix=arguments.prompt_suffix,
        separator=arguments.prompt_separator.replace(r"\n", "\n"),
        revision=arguments.revision,
        config=arguments.config,
        split=arguments.split,
        question_column=arguments.question_column,
        answer_column=arguments.answer_column,
        lock=arguments.lock,
        hub=hub_of(arguments),
        remove_duplicates=not arguments.keep_duplicates,
        remove_contradictions=not arguments.keep_contradictions,
    )
    rows = card["rows"]
    overlong = (
        "prompt length not checked (no --tokenizer)" if rows["overlong"] is None else f"{rows['overlong']} overlong"
    )
    print(
        f"{rows['in']} rows: {rows['incomplete']} incomplete, {rows['duplicates']} duplicates, {rows['conflicting']} "
        f"questions with contradictory answers, {overlong}; {rows['out']} questions in {arguments.output_dir}"
    )


if __name__ == "__main__":
    from justrl.cli import run

    run(main)
