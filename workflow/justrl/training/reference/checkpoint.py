"""Full training states on disk: complete, verified and safe to read.

A state is a folder `step_000020` of safetensors, JSON and a tensors-only torch file, with a manifest of sizes and
SHA-256 sums, written last. The folder is renamed into place, so it exists completely or not at all; later damage is
detected by the sums. Nothing is unpickled.
"""

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from justrl.config.files import in_words
from justrl.errors import UserError
from justrl.io import (
    atomic_folder,
    file_sha256,
    is_disk_full,
    json_sha256,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from justrl.training.segment import step_name, training_differences

FORMAT = "justrl-reference-1"
MANIFEST = "manifest.json"
# The parts of a state in state.json and in tensors.pt.
HEADER, TENSORS = ("step", "identity", "scheduler", "threads"), ("optimizer", "random")


class RefusedCheckpoint(UserError):
    """A checkpoint that must not be used: damaged, of another format, or of another training."""


@dataclass
class TrainingState:
    """Everything that training step `step + 1` depends on, and the metrics of the steps up to `step`.

    No sampler or generator state is needed: data order and rollouts are functions of (seed, step).
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    identity: dict[str, Any]
    metrics: list[dict] = field(default_factory=list)
    random: dict[str, Any] = field(default_factory=dict)
    threads: int = 1


def state_step(folder: Path) -> int:
    """Return the step in a state folder's name."""
    return int(folder.name.removeprefix("step_"))


def list_states(folder: Path) -> list[Path]:
    """List the states in a folder, oldest first, without unfinished ones."""
    return sorted(p for p in folder.glob("step_*") if p.name[5:].isdigit()) if folder.is_dir() else []


def write_manifest(folder: Path) -> None:
    """Write the manifest of a folder: size and SHA-256 of every file."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    entries = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": file_sha256(p)} for p in files}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": entries})


def verify_manifest(folder: Path) -> None:
    """Check every file of a folder against its manifest.

    Raises RefusedCheckpoint: names the first file that is missing or changed.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        files, form = manifest["files"].items(), manifest["format"]
    except (OSError, UserError, KeyError, TypeError, AttributeError) as error:
        raise RefusedCheckpoint(f"{folder}: no readable {MANIFEST} ({error})") from None
    if form != FORMAT:
        raise RefusedCheckpoint(f"{folder}: its format is {form!r}, this version reads {FORMAT!r}")
    if not files or not all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for _, entry in files):
        raise RefusedCheckpoint(f"{folder}: its {MANIFEST} lists no files with their sizes and hashes")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {MANIFEST}
    if unlisted := sorted(there - manifest["files"].keys()):
        raise RefusedCheckpoint(f"{folder}: {unlisted[0]} is not in its {MANIFEST}")
    for name, entry in files:
        path = folder / name
        if not path.is_file():
            raise RefusedCheckpoint(f"{folder}: {name} is missing")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise RefusedCheckpoint(f"{folder}: {name} is torn: {size} bytes instead of {entry['bytes']}")
        if file_sha256(path) != entry["sha256"]:
            raise RefusedCheckpoint(f"{folder}: the contents of {name} do not match its SHA-256 in {MANIFEST}")


def save_state(folder: Path, state: TrainingState, spare: Path | None = None) -> Path:
    """Write a state to `folder`; of this training's other states, keep only `spare`, the last one known to be good.

    The others are removed first, so that there are never more than two on disk, including the one being written.

    Raises UserError: the disk is full; the previous state is untouched.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    target = folder / step_name(state.step)
    for leftover in folder.glob(".step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    make_room(folder, state, spare)
    try:
        with atomic_folder(target, sync=True) as temporary:
            weights = {name: tensor.contiguous() for name, tensor in state.model.items()}
            save_file(weights, temporary / "model.safetensors")
            torch.save({name: getattr(state, name) for name in TENSORS}, temporary / "tensors.pt")
            write_json(temporary / "state.json", {name: getattr(state, name) for name in HEADER})
            write_jsonl(temporary / "metrics.jsonl", state.metrics)
            write_manifest(temporary)
    except Exception as error:
        if not is_disk_full(error):
            raise
        free = shutil.disk_usage(folder).free / 2**20
        kept = ", ".join(path.name for path in list_states(folder)) or "none"
        raise UserError(
            f"no space to save the training state of step {state.step} in {folder} ({free:.0f} MiB free): free some "
            f"space and start again; intact states: {kept}"
        ) from error
    return target


def make_room(folder: Path, state: TrainingState, spare: Path | None) -> None:
    """Remove unreadable states and those of this training, except `spare`.

    States of other trainings stay; if one has the name of `state`, it is renamed to `foreign_...`.
    """
    for path in list_states(folder):
        identity = read_identity(path)
        if path != spare and (identity is None or not training_differences(identity, state.identity)):
            shutil.rmtree(path)
        elif state_step(path) == state.step:
            aside = folder / f"foreign_{path.name}_{json_sha256(identity)[:8]}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def read_identity(folder: Path) -> dict | None:
    """Return the identity of the training that a state belongs to; None if it cannot be read."""
    try:
        return read_json(folder / "state.json")["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_state(folder: Path, identity: dict) -> TrainingState:
    """Load a state after checking all its files and that it belongs to this training.

    Raises RefusedCheckpoint: it is damaged, of another training or of another format; the message gives the reason.
    """
    import torch
    from safetensors.torch import load_file

    verify_manifest(folder)
    header = read_json(folder / "state.json")
    if differing := in_words(training_differences(header["identity"], identity)):
        raise RefusedCheckpoint(f"{folder}: it belongs to another training ({differing})")
    tensors = torch.load(folder / "tensors.pt", map_location="cpu", weights_only=True)
    return TrainingState(
        model=load_file(folder / "model.safetensors"),
        metrics=read_jsonl(folder / "metrics.jsonl"),
        **{name: header[name] for name in HEADER},
        **{name: tensors[name] for name in TENSORS},
    )


def newest_state(folder: Path, identity: dict, first: int, last: int) -> tuple[Path, TrainingState] | None:
    """Load the newest usable state between the steps `first` and `last`; print why newer ones were skipped."""
    for path in reversed(list_states(folder)):
        if not first <= state_step(path) <= last:
            continue
        try:
            return path, load_state(path, identity)
        except RefusedCheckpoint as refusal:
            print(f"checkpoint refused, looking for the one before: {refusal}", file=sys.stderr, flush=True)
    return None
