"""What both engines share: the request for a segment, and the working folder that outlives a killed job.

work_dir/checkpoints/             rolling full training states, the engine's own format, at most 2
work_dir/finished/step_000060/    hard links to what was published: a finished segment is restored, never retrained
work_dir/metrics.jsonl            live: one line per step as it happens
work_dir/LOCK                     who trains here now
"""

import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from justrl.engines import lock as locking
from justrl.errors import UserError
from justrl.io import read_json, read_jsonl, write_json, write_jsonl

# Exit status of a trainer that was told to stop and saved first: sysexits' EX_TEMPFAIL, "try again".
EX_TEMPFAIL = 75

# Metrics that depend on the machine and the hour; all others are the same for the same seed, interrupted or not.
TIMING_FIELDS = ("step_seconds", "tokens_per_second", "rollout_seconds", "update_seconds")

# Recipe keys that say how a step is computed, not what: changing them in mid-training is allowed.
EXECUTION_KEYS = ("micro_batch_per_gpu", "gradient_checkpointing")


class SegmentInterrupted(Exception):
    """The segment was told to stop, saved its state and can be started again; nothing is lost."""

    status = EX_TEMPFAIL


@dataclass(frozen=True)
class SegmentRequest:
    """Train `run` from `start_step` to `to_step` and publish model and metrics.

    `model_dir` is the run's base model, for later segments too: these go on from the state in `work_dir`.
    `hardware` holds what does not change the result: threads, device, save_every, ...
    """

    run: str
    engine: str
    recipe: dict[str, Any]
    seed: int
    model_dir: Path
    train_file: Path
    start_step: int
    to_step: int
    work_dir: Path
    model_out: Path
    metrics_out: Path
    hardware: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if not 0 <= self.start_step < self.to_step:
            raise UserError(
                f"run {self.run}: a segment goes forward from step 0 or later, got {self.start_step} to {self.to_step}"
            )
        if not self.train_file.is_file():
            raise UserError(f"run {self.run}: no training data at {self.train_file}")
        if not (self.model_dir / "config.json").is_file():
            raise UserError(f"run {self.run}: no Hugging Face model in {self.model_dir} (config.json is missing)")

    def identity(self) -> dict[str, Any]:
        """What makes two trainings the same: a state is only ever resumed by the training that it belongs to."""
        recipe = {key: value for key, value in self.recipe.items() if key not in EXECUTION_KEYS}
        identity = {
            "run": self.run,
            "engine": self.engine,
            "seed": self.seed,
            "base_model_sha256": weights_sha256(self.model_dir),
            "train_file_sha256": file_sha256(self.train_file),
            "recipe": recipe,
        }
        return json.loads(json.dumps(identity))


def step_name(step: int) -> str:
    """Name the folder of a step, so that names sort as steps do."""
    return f"step_{step:06d}"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def weights_sha256(folder: Path) -> str:
    """Return one SHA-256 for all weight files of a model folder."""
    files = sorted(path.resolve() for path in folder.glob("*.safetensors"))
    return _sums_sha256(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@functools.lru_cache(maxsize=8)
def _sums_sha256(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash the hashes of files; sizes and times are there to notice a change."""
    sums = "".join(file_sha256(Path(name)) for name, _, _ in files)
    return hashlib.sha256(sums.encode()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush every file in a folder, and the folder itself, to the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links, or by bytes where the file system has none."""
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            link_file(path, place)


def link_file(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where that cannot be done."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def replace_folder(temporary: Path, target: Path) -> None:
    """Put a finished folder in its place, moving aside whatever was there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)


class WorkDir:
    """The working folder of a run; see the module's description for what is in it."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.finished = self.path / "finished"
        self.live_metrics = self.path / "metrics.jsonl"

    @contextmanager
    def hold(self, wait_minutes: float = 0.0) -> Iterator[locking.Lock]:
        """Be the only trainer here for the length of a block; see `lock.hold`."""
        with locking.hold(self.path / "LOCK", wait_minutes) as lock:
            yield lock

    def archive(self, request: SegmentRequest, write_model: Callable[[Path], None], metrics: list[dict]) -> None:
        """Keep what a finished segment publishes: the model that `write_model(folder)` writes, and its metrics.

        Raises:
            UserError: the metrics are not those of exactly the segment's steps.
        """
        steps = [row["step"] for row in metrics]
        if steps != list(range(request.start_step + 1, request.to_step + 1)):
            raise UserError(
                f"run {request.run}: the metrics of steps {request.start_step + 1} to {request.to_step} are incomplete "
                f"({len(steps)} lines): start the run again from a step that has them"
            )
        name = step_name(request.to_step)
        temporary = self.finished / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_model(temporary / "model")
        write_jsonl(temporary / "metrics.jsonl", metrics)
        files = {str(path.relative_to(temporary)): file_sha256(path) for path in temporary.rglob("*") if path.is_file()}
        segment = {"start_step": request.start_step, "identity": request.identity(), "sha256": files}
        write_json(temporary / "segment.json", segment)
        sync_folder(temporary)
        replace_folder(temporary, self.finished / name)

    def has_archive(self, request: SegmentRequest) -> bool:
        """Say whether the segment was finished before, by the same training and with every byte still there."""
        folder = self.finished / step_name(request.to_step)
        if not folder.is_dir():
            return False
        try:
            segment = read_json(folder / "segment.json")
            damaged = [name for name, sha in segment["sha256"].items() if file_sha256(folder / name) != sha]
            problem = f"{', '.join(damaged)} changed since" if damaged else None
            if segment["identity"] != request.identity():
                problem = "it belongs to another training (recipe, seed or data)"
        except (OSError, ValueError, KeyError) as error:
            problem = f"not readable: {error}"
        if problem:
            print(f"{folder} is not used: {problem}", file=sys.stderr, flush=True)
            return False
        # Segments may have been cut differently then; the steps must be the ones asked for.
        return segment["start_step"] == request.start_step

    def publish(self, request: SegmentRequest) -> None:
        """Put the archived model and metrics of a segment where the request wants them, each atomically."""
        folder = self.finished / step_name(request.to_step)
        temporary = request.model_out.with_name(f".{request.model_out.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        link_tree(folder / "model", temporary)
        replace_folder(temporary, request.model_out)
        write_jsonl(request.metrics_out, read_jsonl(folder / "metrics.jsonl"))
