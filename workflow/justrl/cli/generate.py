"""Generate answers to benchmarks, or one shard of them; resumes after an interruption."""

import argparse
from pathlib import Path

from justrl.cli.options import chosen, whole
from justrl.errors import UserError
from justrl.io import json_object


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--model", required=True, help="model folder in Hugging Face's layout, or hub id")
    add("--model-name", help="name of the model in the results (default: --model)")
    add("--model-revision", help="commit of the model on the hub")
    add("--benchmark", required=True, nargs="+", type=Path, help="benchmark Parquet files")
    add("--protocol", required=True, help="evaluation protocol, as a JSON file or JSON text")
    add(
        "--samples",
        nargs="+",
        type=whole(1),
        help="answers per question: one number for all benchmarks, or one for each",
    )
    add("--run", required=True, help="name of the run, part of each sample's seed")
    add("--seed", required=True, type=int, help="seed of the experiment, part of each sample's seed")
    add("--shard", type=whole(0), default=0, help="number of the shard to generate, from 0 (default: 0)")
    add("--shards", type=whole(1), default=1, help="number of shards (default: 1)")
    add("--output", required=True, nargs="+", type=Path, help="completions Parquet to write, one per benchmark")
    add_backend_arguments(parser)
    parser.set_defaults(call=generate_benchmarks)


def add_backend_arguments(parser: "argparse._ActionsContainer", backend: str = "vllm") -> None:
    """Add the options for backend and speed, which are not part of a protocol."""
    add = parser.add_argument
    choices, note = ["vllm", "transformers"], ""
    if backend == "auto":
        choices, note = [*choices, "auto"], ", vllm if it is installed"
    add("--backend", choices=choices, default=backend, help=f"inference library (default: {backend}{note})")
    add(
        "--dtype",
        default="auto",
        help="auto (float32 on a CPU, bfloat16 on a GPU), float32, bfloat16 or float16 (default: auto)",
    )
    add("--tensor-parallel-size", type=whole(1), default=1, help="number of GPUs that share the model (default: 1)")
    add("--batch-size", type=whole(1), help="sequences decoded at a time (default: the backend's)")
    add(
        "--engine-options",
        default="{}",
        help='further arguments of vllm.LLM as JSON, such as {"gpu_memory_utilization": 0.85}',
    )


def backend_options(arguments: argparse.Namespace) -> dict:
    """The parsed options of `add_backend_arguments`, by the argument names of the generation functions."""
    names = ("backend", "dtype", "tensor_parallel_size", "batch_size")
    return chosen(arguments, *names) | {"engine_options": json_object(arguments.engine_options, "--engine-options")}


def generate_benchmarks(arguments: argparse.Namespace) -> None:
    """Generate one shard of each benchmark, one after the other."""
    files, outputs, samples = arguments.benchmark, arguments.output, arguments.samples or [None]
    samples = samples * len(files) if len(samples) == 1 else samples
    if not len(files) == len(outputs) == len(samples):
        raise UserError(
            f"--benchmark names {len(files)} files: give --output as many files, and --samples one number or as many"
        )
    from justrl.evaluation.completions import load_protocol
    from justrl.evaluation.generating import GenerationJob, generate, read_benchmark

    protocol_name, protocol = load_protocol(arguments.protocol)
    for (benchmark, questions), output, count in zip(map(read_benchmark, files), outputs, samples, strict=True):
        generate(
            GenerationJob(
                benchmark=benchmark,
                questions=questions,
                protocol=protocol,
                protocol_name=protocol_name,
                samples=count,
                output=output,
                **chosen(arguments, "model", "model_name", "model_revision", "run", "seed", "shard", "shards"),
                **backend_options(arguments),
            )
        )
