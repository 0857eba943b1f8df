"""Speed of the reference engine on one device, component by component: on the paper's kind of GPU, or tiny on a CPU.

    python bench/gpu.py                           (the 1.5B shape, 16,384 tokens; needs one GPU of 80 GB)
    python bench/gpu.py --shape tiny --tokens 512 (on any machine)

    update    one optimizer step of the paper's recipe on sequences of different lengths: tokens per second, share of
              the device's peak (MFU: 6 FLOPs per parameter and token plus the attention's, without recomputation by
              checkpointing), peak memory. Target on an H100: 45% and less than 60 GiB.
    packing   forward and backward through the layers, with sequences padded to the longest, as in the engine, and
              concatenated in one row
    kernels   log-probabilities and both gradients by our kernel and by those of Liger, cut-cross-entropy and TRL, if
              installed, compared with full logits; `relative_difference` is the distance of the gradients from theirs
    decode    tokens per second of rollouts

Prints JSON; an entry that could not be measured gives the reason.
"""

import argparse
import importlib.util
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from justrl.config import Recipe, read_part
from justrl.config import files as config_files
from justrl.config.hardware import find_gpu
from justrl.errors import UserError
from justrl.models.sampling import Sampling, SamplingRequest
from justrl.models.shape import DEEPSEEK, ModelShape
from justrl.models.transformers_backend import TransformersBackend
from justrl.training.reference.logprobs import chunked_log_probs
from justrl.training.reference.policy import make_optimizer
from justrl.training.reference.step import GRPOTrainer, RolloutBatch

ROOT = Path(__file__).resolve().parents[1]
SHAPES = {"1.5b": DEEPSEEK, "tiny": ModelShape(2, 64, 128, 4, 2, 16, 512, tied=False)}


class Device:
    """A device: elapsed seconds and peak memory of the calls on it."""

    def __init__(self, name: str):
        self.name = name
        self.gpu = name == "cuda"

    def seconds(self, call: Callable[[], Any], rounds: int = 3) -> float:
        """Elapsed seconds of a call, the shortest of several rounds after a warm-up."""
        self._once(call)
        return min(self._once(call) for _ in range(rounds))

    def _once(self, call: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def peak(self, call: Callable[[], Any]) -> float | None:
        """The peak of allocated memory during a call in GiB; None on a CPU."""
        if not self.gpu:
            call()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() / 2**30

    def describe(self) -> dict[str, Any]:
        """Name and peak of the device; TFLOP/s is None if unknown."""
        if not self.gpu:
            return {"name": "cpu", "threads": torch.get_num_threads(), "tflops": None}
        name = torch.cuda.get_device_name()
        try:
            return {"name": name, "tflops": find_gpu(name).tflops}
        except UserError as error:
            return {"name": name, "tflops": None, "why_not": str(error)}


def make_model(shape: ModelShape, device: Device, longest: int):
    """A Qwen2 of that shape with random weights in float32, on the device."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=longest,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    with torch.device(device.name):
        return Qwen2ForCausalLM(config)


def ragged(tokens: int, count: int) -> list[int]:
    """`count` lengths that sum to `tokens`, with the log-normal distribution of response lengths."""
    chance = random.Random(0)
    weights = [chance.lognormvariate(0, 0.7) for _ in range(count)]
    lengths = [max(4, int(tokens * weight / sum(weights))) for weight in weights]
    return [*lengths[:-1], max(4, tokens - sum(lengths[:-1]))]


def update_flops(shape: ModelShape, lengths: list[int]) -> float:
    """FLOPs of forward and backward: 6 per matrix parameter and token, plus the causal attention's.

    The attention of a forward pass costs 4 x head size x heads x layers per pair of tokens that attend to each other,
    and three times as much including the backward pass. The embedding is a lookup and costs nothing.
    """
    products = shape.layers * shape.layer + shape.vocabulary * shape.width
    pairs = sum(length * (length + 1) / 2 for length in lengths)
    return 6 * products * sum(lengths) + 12 * shape.layers * shape.heads * shape.head_size * pairs


def update(model, shape: ModelShape, device: Device, tokens: int) -> dict[str, Any]:
    """Measure one optimizer step of the paper's recipe on eight sequences."""
    changed = {"rollouts_per_prompt": 8, "mini_batch_prompts": 1, "micro_batch_per_gpu": 1}
    changed |= {} if device.gpu else {"dtype": "float32"}
    recipe = read_part(Recipe, config_files.read()["recipe"] | changed, "config.yaml")
    lengths = ragged(tokens, 8)
    chance = random.Random(1)
    sequences = [[chance.randrange(shape.vocabulary) for _ in range(length)] for length in lengths]
    batch = RolloutBatch(
        prompts=[sequence[:1] for sequence in sequences],
        responses=[sequence[1:] for sequence in sequences],
        rewards=torch.tensor([[1.0, -1.0] * 4]),
        old_log_probs=[torch.full((length - 1,), -10.0) for length in lengths],
    )
    model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer = GRPOTrainer(model, make_optimizer(model, recipe), recipe)
    seconds = device.seconds(lambda: trainer.train_step(batch))
    flops, peak = update_flops(shape, lengths), device.describe()["tflops"]
    made = {
        "tokens": tokens,
        "longest": max(lengths),
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "flops": flops,
        "mfu": flops / seconds / (peak * 1e12) if peak else None,
        "memory_gib": device.peak(lambda: trainer.train_step(batch)),
    }
    model.gradient_checkpointing_disable()
    model.zero_grad(set_to_none=True)
    return made


def packing(model, shape: ModelShape, device: Device, tokens: int) -> dict[str, Any]:
    """Measure forward and backward through the layers, padded and packed; both must give the same hidden states."""
    lengths = ragged(tokens // 4, 8)
    torch.manual_seed(2)
    sequences = [torch.randint(shape.vocabulary, (length,), device=device.name) for length in lengths]
    padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    there = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in sequences], batch_first=True).bool()
    packed = torch.cat(sequences)[None]
    positions = torch.cat([torch.arange(length, device=device.name) for length in lengths])[None]

    def states(ids: torch.Tensor, **more: Any) -> torch.Tensor:
        with torch.autocast(device.name, dtype=torch.bfloat16, enabled=device.gpu):
            return model.model(input_ids=ids, use_cache=False, **more).last_hidden_state

    ways = {
        "padded": lambda: states(padded)[there],
        "packed": lambda: states(packed, position_ids=positions)[0],
    }
    with torch.no_grad():
        one, other = ways["padded"](), ways["packed"]()
    made: dict[str, Any] = {"tokens": sum(lengths), "places": padded.numel()}
    made["difference"] = float((one.float() - other.float()).abs().max())
    for name, way in ways.items():
        made[f"{name}_seconds"] = device.seconds(lambda way=way: way().float().sum().backward())
        model.zero_grad(set_to_none=True)
    return made


def liger(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Liger's fused linear cross-entropy, one loss per token."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    return -LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, targets, None, None, -100, 0.0, 0.0, "none")[0]


def cut_cross_entropy(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Apple's cut cross-entropy, one loss per token."""
    from cut_cross_entropy import linear_cross_entropy

    return -linear_cross_entropy(hidden, weight, targets, reduction="none")


def trl(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """TRL's kernel over tiles of tokens and vocabulary, with its default tile size."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    return ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ())[
        0
    ]


KERNELS: dict[str, tuple[str, Callable]] = {
    "liger": ("liger_kernel", liger),
    "cut_cross_entropy": ("cut_cross_entropy", cut_cross_entropy),
    "trl": ("trl", trl),
}


def kernels(shape: ModelShape, device: Device, tokens: int) -> dict[str, Any]:
    """Each kernel's seconds, memory and largest relative difference of its gradients from those of full logits."""
    dtype = torch.bfloat16 if device.gpu else torch.float32
    torch.manual_seed(3)
    options = {"device": device.name, "dtype": dtype}
    head = torch.nn.Linear(shape.width, shape.vocabulary, bias=False, **options)
    hidden = torch.randn(tokens, shape.width, requires_grad=True, **options)
    targets = torch.randint(shape.vocabulary, (tokens,), device=device.name)
    weights = torch.randn(tokens, device=device.name)

    def whole(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = (hidden @ weight.t()).float()
        return torch.log_softmax(logits, dim=-1).gather(-1, targets[:, None]).squeeze(-1)

    def ours(hidden: torch.Tensor, _: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return chunked_log_probs(hidden, head, targets)[0]

    ways = {"whole": ("torch", whole), "ours": ("torch", ours)} | KERNELS
    made: dict[str, Any] = {"tokens": tokens}
    expected: list[torch.Tensor] = []
    for name, (package, way) in ways.items():
        if importlib.util.find_spec(package) is None:
            made[name] = {"why_not": f"{package} is not installed"}
            continue

        def gradients(way: Callable = way) -> list[torch.Tensor]:
            loss = (way(hidden, head.weight, targets).float() * weights).sum()
            return list(torch.autograd.grad(loss, [hidden, head.weight]))

        try:
            found = gradients()
            expected = expected or found
            pairs = zip(found, expected, strict=True)
            difference = max(float((a - b).float().norm() / b.float().norm()) for a, b in pairs)
            made[name] = {"seconds": device.seconds(gradients), "memory_gib": device.peak(gradients)}
            made[name]["relative_difference"] = difference
        except (RuntimeError, TypeError, ValueError) as error:
            made[name] = {"why_not": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return made


class NoText:
    """Replaces the tokenizer if no text is needed."""

    def decode(self, tokens: list[int], **_: Any) -> str:
        """An empty string."""
        return ""


def decode(model, shape: ModelShape, device: Device, rows: int, new: int) -> dict[str, Any]:
    """Measure the rollouts of a batch, all of maximum length."""
    chance = random.Random(4)
    sampling = Sampling(1.0, 1.0, -1, new, (), log_probs=True)
    prompts = [[chance.randrange(shape.vocabulary) for _ in range(chance.randrange(8, 64))] for _ in range(rows)]
    requests = [SamplingRequest(str(i), prompt, (0, i), sampling) for i, prompt in enumerate(prompts)]
    backend = TransformersBackend(model.eval(), NoText())

    def sample() -> None:
        with torch.autocast(device.name, dtype=torch.bfloat16, enabled=device.gpu):
            assert sum(answer.token_count for answer in backend.generate(requests)) == rows * new

    seconds = device.seconds(sample, rounds=1)
    return {"rows": rows, "new_tokens": new, "seconds": seconds, "tokens_per_second": rows * new / seconds}


def main() -> None:
    """Measure the requested entries and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="1.5b")
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--rows", type=int, default=64, help="responses decoded together")
    parser.add_argument("--new-tokens", type=int, default=256)
    arguments = parser.parse_args()
    device = Device("cuda" if torch.cuda.is_available() else "cpu")
    if not device.gpu and arguments.shape != "tiny":
        sys.exit("no GPU is visible: --shape tiny --tokens 512 runs on a CPU, the 1.5B shape would take hours")
    shape, tokens = SHAPES[arguments.shape], arguments.tokens
    model = make_model(shape, device, longest=tokens)
    made = {
        "device": device.describe(),
        "torch": torch.__version__,
        "shape": arguments.shape,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "update": update(model, shape, device, tokens),
        "packing": packing(model, shape, device, tokens),
        "decode": decode(model, shape, device, arguments.rows, arguments.new_tokens),
        "kernels": kernels(shape, device, tokens // 4),
    }
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
