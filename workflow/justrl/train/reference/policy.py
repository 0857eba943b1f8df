"""The policy: loading, optimizer, learning-rate schedule, determinism, export."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from justrl.config import Recipe
from justrl.generation.base import copy_tokenizer, load_tokenizer
from justrl.generation.weight_checks import check_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def warmup_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A constant rate after a linear warm-up from zero, advanced once per training step, not per mini-batch.

    As in verl (`get_constant_schedule_with_warmup`): the first step of a warm-up has rate 0, step s has
    `(s - 1) / warmup_steps` of the full rate.
    """
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min(1.0, done / warmup_steps if warmup_steps else 1)
    )


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over all parameters, weight decay on each of them, as verl has it; in one pass over memory."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=recipe.adam_betas,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def make_deterministic(threads: int | None, device: str) -> None:
    """Fix what the result could depend on: number of threads, choice of kernels, seeds."""
    if threads:
        torch.set_num_threads(threads)
    # cuBLAS adds up in one order only with a workspace of fixed size, which it reads when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # A few CUDA kernels have no deterministic version; there it warns, on CPU nothing is left to chance.
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    # It would also fill every tensor that is made without values; here all are written before they are read.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.manual_seed(0)


def load_model(folder: Path, device: str, gradient_checkpointing: bool):
    """Load a causal language model with float32 parameters, and its tokenizer."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder)
    check_weights(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False, use_safetensors=True
    )
    if gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.nn.Module.to(model, device)
    return model, tokenizer


def unshared_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's tensors, each once: tied weights appear under their first name only."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor
    return tensors


def random_state() -> dict[str, torch.Tensor]:
    """The states of torch's generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def export_policy(model: "PreTrainedModel", base: Path, folder: Path, dtype: str) -> None:
    """Write a policy as a Hugging Face folder, in the precision that it is computed in, with its base's tokenizer."""
    wanted = getattr(torch, dtype)
    tensors = {name: tensor.to(wanted) for name, tensor in unshared_tensors(model).items()}
    before, model.config.dtype = model.config.dtype, wanted
    model.save_pretrained(folder, state_dict=tensors)
    model.config.dtype = before
    copy_tokenizer(base, folder)
