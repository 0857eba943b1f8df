"""Generate one shard of a benchmark's completions: `python -m justrl.generate --help`."""

import argparse
import json
from pathlib import Path

from justrl import cli
from justrl.errors import UserError


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m justrl.generate", description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face model folder, or a hub id")
    parser.add_argument("--model-name", help="what the results call the model (default: --model)")
    parser.add_argument(
        "--model-revision", help="the model's commit or checkpoint; loaded at it if --model is a hub id"
    )
    parser.add_argument(
        "--benchmark", required=True, type=Path, help="benchmark Parquet (benchmark, id, question, answer)"
    )
    parser.add_argument("--protocol", required=True, help="the evaluation protocol: a JSON file or inline JSON")
    parser.add_argument("--samples", type=int, help="answers per question (default: the protocol's)")
    parser.add_argument("--run", required=True, help="the experiment's name, part of every sample's seed")
    parser.add_argument("--seed", required=True, type=int, help="the experiment's seed, part of every sample's seed")
    parser.add_argument("--shard", type=int, default=0, help="which shard to make, from 0 (default: 0)")
    parser.add_argument("--shards", type=int, default=1, help="how many shards there are (default: 1)")
    parser.add_argument("--output", required=True, type=Path, help="completions Parquet to write")
    add_backend_arguments(parser)
    return parser.parse_args(argv)


def add_backend_arguments(parser: argparse.ArgumentParser, backend: str = "vllm") -> None:
    """Add the options that say what generates and how fast, none of which belongs to a protocol."""
    parser.add_argument(
        "--backend",
        choices=["vllm", "transformers", *(["auto"] if backend == "auto" else [])],
        default=backend,
        help=f"what generates (default: {backend}{', vllm if it is installed' if backend == 'auto' else ''})",
    )
    parser.add_argument(
        "--dtype", default="auto", help="auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16 or float16"
    )
    parser.add_argument(
        "--tensor-parallel-size",
        "--tensor_parallel_size",
        type=int,
        default=1,
        help="GPUs that share the model (default: 1)",
    )
    parser.add_argument("--batch-size", type=int, help="sequences decoded together (default: the backend's)")
    parser.add_argument(
        "--engine-options", default="{}", help='more arguments of vllm.LLM as JSON: {"gpu_memory_utilization": 0.85}'
    )


def engine_options(text: str) -> dict:
    """The value of --engine-options; UserError unless it is a JSON object."""
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--engine-options is not JSON: {error}") from None
    if not isinstance(options, dict):
        raise UserError(f"--engine-options must be a JSON object, got {text}")
    return options


def main(argv: list[str] | None = None) -> None:
    """Generate one shard."""
    args = parse_arguments(argv)
    from justrl.evaluation.generate import GenerationJob, generate, read_benchmark
    from justrl.evaluation.protocol import load_protocol

    protocol = load_protocol(args.protocol)
    benchmark, questions = read_benchmark(args.benchmark)
    generate(
        GenerationJob(
            model=args.model,
            model_name=args.model_name,
            model_revision=args.model_revision,
            benchmark=benchmark,
            questions=questions,
            protocol=protocol,
            samples=args.samples,
            run=args.run,
            seed=args.seed,
            shard=args.shard,
            shards=args.shards,
            output=args.output,
            backend=args.backend,
            dtype=args.dtype,
            tensor_parallel_size=args.tensor_parallel_size,
            batch_size=args.batch_size,
            engine_options=engine_options(args.engine_options),
        )
    )


if __name__ == "__main__":
    cli.run(main)
