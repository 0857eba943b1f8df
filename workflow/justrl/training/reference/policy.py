"""The policy: loading, optimizer, learning-rate schedule, determinism and export."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from justrl.config import Recipe
from justrl.models.folder import check_weights
from justrl.models.sampling import copy_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def warmup_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Return a schedule with a linear warm-up from zero and then a constant rate, advanced once per training step.

    As in verl (`get_constant_schedule_with_warmup`): the first step of the warm-up has rate 0, and step s has
    `(s - 1) / warmup_steps` of the full rate. It does not advance per mini-batch.
    """
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min(1.0, done / warmup_steps if warmup_steps else 1)
    )


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return a fused AdamW over all parameters, with weight decay on each of them, as in verl."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=recipe.learning_rate,
        betas=recipe.adam_betas,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def make_deterministic(threads: int | None, device: str) -> None:
    """Fix everything that the result could depend on: number of threads, choice of kernels, seeds."""
    if threads:
        torch.set_num_threads(threads)
    # cuBLAS sums in a fixed order only with a workspace of fixed size; it reads this variable when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # A few CUDA kernels have no deterministic version and only warn; on a CPU every operation is deterministic.
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    # Filling uninitialised tensors is part of deterministic mode; here all are written before they are read.
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
    """Return the model's tensors, each once: tied weights appear only under their first name."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor
    return tensors


def random_state() -> dict[str, torch.Tensor]:
    """Return the states of torch's random generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def export_policy(model: "PreTrainedModel", base: Path, folder: Path, dtype: str) -> None:
    """Write a policy as a Hugging Face folder, in its compute precision and with the tokenizer of its base model."""
    wanted = getattr(torch, dtype)
    tensors = {name: tensor.to(wanted) for name, tensor in unshared_tensors(model).items()}
    before, model.config.dtype = model.config.dtype, wanted
    model.save_pretrained(folder, state_dict=tensors)
    model.config.dtype = before
    copy_tokenizer(base, folder)
