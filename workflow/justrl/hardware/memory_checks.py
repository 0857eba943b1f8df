"""Checks that a training job fits the memory of its GPUs, and that the weights of a model reach vLLM on a CPU."""

import math
import shutil
from pathlib import Path
from typing import Any, Protocol

from justrl.config import Hardware, Recipe
from justrl.hardware.checks import FAILED, OK, SKIPPED, WARNING, Check
from justrl.hardware.memory import TIGHT, job_of, transfer_mib
from justrl.hardware.reference_memory import reference_job
from justrl.models.folder import largest_tensor
from justrl.models.shape import ModelShape, read_shape


class MemoryJob(Protocol):
    """The memory of a training job on either engine, with the engine's settings."""

    @property
    def card(self) -> float:
        """Memory of a GPU in GiB."""

    @property
    def settings(self) -> Any:
        """The settings that are derived if the configuration gives none."""

    def phases(self, settings: Any) -> dict[str, dict[str, float]]:
        """GiB on a GPU by phase and by component."""

    def fullest(self, settings: Any) -> tuple[str, float]:
        """The phase with the most memory, and its GiB."""

    def problem(self, settings: Any) -> str | None:
        """A description of what does not fit, or None."""

    def remedy(self) -> str:
        """Settings that would fit."""


def memory_job(hardware: Hardware, engine: str, recipe: Recipe, shape: ModelShape) -> MemoryJob | None:
    """The memory of a training job on either engine; None on a CPU."""
    return job_of(hardware, recipe, shape) if engine == "verl" else reference_job(hardware, recipe, shape)


def check_weight_transfer(folder: str | Path, hardware: Hardware, engine: str, shm: str = "/dev/shm") -> Check:
    """Check the buffer in which verl sends weights to vLLM on a CPU.

    It must hold each of the model's tensors, and the shared memory must hold the buffer of every rank.
    """
    name, ranks = "weight transfer", max(1, hardware.gpus_per_node)
    if engine != "verl" or not hardware.on_cpu:
        return Check(name, OK, "larger tensors go by themselves" if engine == "verl" else "none: one process")
    size, tensor = largest_tensor(folder)
    needed, given, free = 4 * size / 2**20, transfer_mib(read_shape(folder)), shutil.disk_usage(shm).free / 2**20
    found = f"{given} MiB for each rank ({ranks}); {tensor} takes {needed:,.0f}, {shm} has {free:,.0f} free"
    if needed > given:
        return Check(name, FAILED, found, "train with `engine: reference`, or on GPUs, which have no such limit")
    if ranks * given > free:
        return Check(name, FAILED, found, f"start the container with --shm-size={math.ceil(ranks * given / 512)}g")
    return Check(name, OK, found)


def check_memory(hardware: Hardware, engine: str, recipe: Recipe, shape: ModelShape | None) -> Check:
    """Check that every phase of a step fits the configured GPUs."""
    job = memory_job(hardware, engine, recipe, shape) if shape else None
    if job is None:
        if hardware.gpus and shape is None:
            later = "size of the model unknown until `snakemake data` has fetched its config.json"
            return Check("memory", SKIPPED, later)
        return Check("memory", OK, "not planned on a CPU")
    if found := job.problem(job.settings):
        return Check("memory", FAILED, found, job.remedy())
    phase, most = job.fullest(job.settings)
    found = f"peak GPU memory: {most:.1f} of {job.card:.1f} GiB ({phase})"
    if most > TIGHT * job.card:
        return Check(
            "memory", WARNING, found, "set hardware.engine back to null, or see the memory table of `justrl plan`"
        )
    return Check("memory", OK, found)
