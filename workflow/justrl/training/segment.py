"""A training segment, for both engines: the request, and the work directory, which survives a killed job.

work_dir/checkpoints/             rolling full training states in the engine's own format, at most 2
work_dir/finished/step_000060/    hard links to the published files: a finished segment is restored, never retrained
work_dir/metrics.jsonl            live: one line per step as it happens
work_dir/rollouts/step_000012.parquet    saved rollouts of that step, kept until the next segment is finished
work_dir/alarms.json              the alarms that stopped this training, and which of them were accepted (`alarms`)
work_dir/attempts.jsonl           when each attempt to train a segment began, on how many GPUs, and how it ended
work_dir/node.json                what the first attempt found about the GPUs of its node
work_dir/LOCK                     the current owner
"""

import json
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from justrl.config import Hardware, Recipe
from justrl.config.files import differences
from justrl.config.schema import engine_problems
from justrl.errors import UserError
from justrl.io import (
    atomic_folder,
    file_sha256,
    link_file,
    link_tree,
    read_json,
    read_jsonl,
    read_whole_lines,
    weights_sha256,
    write_json,
    write_jsonl,
)
from justrl.training import alarms, rollout_samples
from justrl.training import run_lock as locking

# The only file in the folder of a model that was not kept.
NOT_KEPT = "not_kept.json"

# Exit status of a trainer that was asked to stop and saved first: EX_TEMPFAIL of sysexits, "try again".
EX_TEMPFAIL = 75

# Metrics that depend on the machine and its load; all others are the same for the same seed, interrupted or not.
TIMING_FIELDS = ("step_seconds", "tokens_per_second", "rollout_seconds", "update_seconds")

# Recipe keys that affect how a step is computed or monitored, not its result: they may change during a training.
EXECUTION_KEYS = ("micro_batch_per_gpu", "gradient_checkpointing", "alarms")


# Slurm can be configured to send SIGURG before the time limit (processes ignore it by default); SIGTERM comes when the
# limit is reached or the job is preempted.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGURG, signal.SIGUSR1)


@contextmanager
def stop_signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Call `handler(number, frame)` for each of `STOP_SIGNALS` that arrives while the block runs."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


class SegmentInterrupted(Exception):
    """The segment was asked to stop and saved its state; it can be started again and loses nothing."""

    status = EX_TEMPFAIL


@dataclass(frozen=True)
class Execution:
    """How a segment is trained on this machine; none of it changes the result.

    `threads` None keeps torch's default, `device` None uses the GPU if there is one, `rollouts` is the sampler
    (transformers or vllm), `rollout_batch_size` None generates all responses of a step together, and `trackers` are
    the metric loggers in addition to TensorBoard.
    """

    threads: int | None = None
    device: str | None = None
    log_every: int = 10
    rollouts: str = "transformers"
    rollout_batch_size: int | None = None
    wait_for_owner_minutes: float = 0.0
    keep_rollouts: bool = False
    trackers: tuple[str, ...] = ()


@dataclass(frozen=True)
class SegmentRequest:
    """Request to train `run` from `start_step` to `to_step` and publish model and metrics.

    `model_dir` is the run's base model, also in later segments, which resume from the state in `work_dir`.
    `hardware` and `execution` do not change the result. Without `keep_export`, a note is published instead of the
    model; such a step is not evaluated, and the next segment does not need its model.
    """

    run: str
    engine: str
    recipe: Recipe
    seed: int
    model_dir: Path
    train_file: Path
    start_step: int
    to_step: int
    work_dir: Path
    model_out: Path
    metrics_out: Path
    hardware: Hardware
    execution: Execution = field(default_factory=Execution)
    keep_export: bool = True

    def __post_init__(self):
        for problem in engine_problems(self.engine, self.recipe):
            raise UserError(f"run {self.run}: {problem}")
        if not 0 <= self.start_step < self.to_step:
            raise UserError(
                f"run {self.run}: a segment must start at step 0 or later and end after its start, got "
                f"{self.start_step} to {self.to_step}"
            )
        if not self.train_file.is_file():
            raise UserError(f"run {self.run}: no training data at {self.train_file}")
        if not (self.model_dir / "config.json").is_file():
            raise UserError(f"run {self.run}: no Hugging Face model in {self.model_dir} (config.json is missing)")

    def identity(self) -> dict[str, Any]:
        """Return what identifies a training: a state is resumed only by the training that it belongs to."""
        recipe = {key: value for key, value in self.recipe.as_dict().items() if key not in EXECUTION_KEYS}
        identity = {
            "run": self.run,
            "engine": self.engine,
            "seed": self.seed,
            "base_model_sha256": weights_sha256(self.model_dir),
            "train_file_sha256": file_sha256(self.train_file),
            "recipe": recipe,
        }
        return json.loads(json.dumps(identity))


def training_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the differences between two trainings' identities; recipe keys that one lacks have their defaults."""
    defaults = {key: field.default for key, field in Recipe.model_fields.items() if not field.is_required()}
    older, newer = ({**described, "recipe": defaults | described.get("recipe", {})} for described in (before, now))
    return list(differences(older, newer))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def step_name(step: int) -> str:
    """Return the folder name of a step; names sort in the order of steps."""
    return f"step_{step:06d}"


def way_back(run: str, work_dir: Path) -> str:
    """Say how to proceed when the saved state does not match the request; nothing is deleted."""
    results = work_dir.parent.parent.parent
    return (
        "undo the change, or restore the files that the run was trained with; to retrain, first move the run "
        f"away with `justrl set-aside {run} --results {results}`"
    )


def check_not_left_behind(checkpoints: Path, start: int, to_step: int, newest: int) -> None:
    """Refuse to train a segment again if its run has newer states: the first save would delete them.

    `start` is the step from which training would resume; `newest` is the newest state of this training in
    `checkpoints`.

    Raises UserError: there are steps to train, and there is a state after the end of the segment.
    """
    if start < to_step < newest:
        work = checkpoints.parent
        raise UserError(
            f"{checkpoints} holds the training state of step {newest}, and training the segment that ends "
            f"at step {to_step} again would delete it: {way_back(work.parent.name, work)}"
        )


class WorkDir:
    """The work directory of a run; see the module's docstring for its contents."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.finished = self.path / "finished"
        self.rollouts = self.path / "rollouts"
        self.live_metrics = self.path / "metrics.jsonl"
        self.attempts = self.path / "attempts.jsonl"
        self.node = self.path / "node.json"

    @contextmanager
    def attempt(self, request: SegmentRequest) -> Iterator[locking.Lock]:
        """Hold the run lock while the block runs (see `run_lock.hold`) and record the outcome of the attempt."""
        with locking.hold(self.path / "LOCK", request.execution.wait_for_owner_minutes) as lock:
            name = uuid.uuid4().hex
            self._write_down(attempt=name, began=_now(), to_step=request.to_step, gpus=request.hardware.gpus)
            ended = "finished"
            try:
                yield lock
            except BaseException as error:
                ended = "stopped" if isinstance(error, SegmentInterrupted) else "failed"
                raise
            finally:
                with suppress(OSError):  # a full disk, which may be why the attempt failed
                    self._write_down(attempt=name, ended=_now(), how=ended)

    def _write_down(self, **line: Any) -> None:
        # Starts with a line break, because a killed writer may have left an incomplete line.
        with self.attempts.open("a", encoding="utf-8") as handle:
            handle.write("\n" + json.dumps(line) + "\n")

    def read_attempts(self) -> list[dict[str, Any]]:
        """Return the attempts in order: attempt, began, to_step, gpus; ended and how, unless killed or still running.

        `how` is finished, stopped (by request, with the state saved) or failed. Times are UTC. Empty without a record.
        """
        found: dict[str, dict[str, Any]] = {}
        for line in read_whole_lines(self.attempts) if self.attempts.is_file() else []:
            found.setdefault(line.get("attempt", ""), {}).update(line)
        return [attempt for attempt in found.values() if "began" in attempt]

    def archive(self, request: SegmentRequest, write_model: Callable[[Path], None], metrics: list[dict]) -> None:
        """Archive a finished segment: metrics and the model that `write_model(folder)` writes, or a note instead of it.

        Raises UserError: the metrics are not those of exactly the segment's steps.
        """
        steps = [row["step"] for row in metrics]
        if steps != list(range(request.start_step + 1, request.to_step + 1)):
            raise UserError(
                f"run {request.run}: the metrics of steps {request.start_step + 1} to {request.to_step} are incomplete "
                f"({len(steps)} lines): restart the run from a step with complete metrics"
            )
        with atomic_folder(self.finished / step_name(request.to_step), sync=True) as folder:
            if request.keep_export:
                write_model(folder / "model")
            else:
                write_json(folder / "model" / NOT_KEPT, {"step": request.to_step, "why": "keep_checkpoints: evaluated"})
            write_jsonl(folder / "metrics.jsonl", alarms.with_accepted(metrics, self.path))
            rollout_samples.join(self.rollouts, steps, folder / rollout_samples.FILE)
            files = {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}
            segment = {"start_step": request.start_step, "identity": request.identity(), "sha256": files}
            write_json(folder / "segment.json", segment)

    def has_archive(self, request: SegmentRequest) -> bool:
        """Return whether the same training has already finished this segment, with all archived files intact."""
        folder = self.finished / step_name(request.to_step)
        if not folder.is_dir():
            return False
        try:
            segment = read_json(folder / "segment.json")
            there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
            unknown = there - {"segment.json"} ^ segment["sha256"].keys()
            damaged = [name for name, sha in segment["sha256"].items() if file_sha256(folder / name) != sha]
            problem = f"{', '.join(damaged)} changed since" if damaged else None
            if unknown:
                problem = f"its list of files differs from the files in the folder ({', '.join(sorted(unknown)[:3])})"
            if training_differences(segment["identity"], request.identity()):
                problem = "it belongs to another training (recipe, seed or data)"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"not readable: {error}"
        if problem:
            print(f"{folder} is not used: {problem}", file=sys.stderr, flush=True)
            return False
        # The run may have been split into other segments then, so the start step must match, too.
        return segment["start_step"] == request.start_step

    def publish(self, request: SegmentRequest) -> None:
        """Copy the archived model and metrics of a segment to the paths in the request, each atomically."""
        folder = self.finished / step_name(request.to_step)
        with atomic_folder(request.model_out) as model:
            link_tree(folder / "model", model)
        kept = request.metrics_out.with_name(rollout_samples.FILE)
        kept.unlink(missing_ok=True)
        if (folder / rollout_samples.FILE).is_file():
            link_file(folder / rollout_samples.FILE, kept)
        rollout_samples.remove(self.rollouts, request.start_step)
        write_jsonl(request.metrics_out, read_jsonl(folder / "metrics.jsonl"))
