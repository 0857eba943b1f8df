"""Train a segment with verl: resolve its configuration, run verl's trainer supervised, and put the result in its place.

    work_dir/verl/attempt_0001.jsonl     verl's own log of the attempt, one line per step
    work_dir/verl/attempt_0001/          settings.json (ours), config.yaml (all of verl's), launch.log, progress.json,
                                         stacks/, hang.txt
    work_dir/verl/leftovers.*.json       leftovers of a killed guard on a host; removed by the next attempt there

verl itself resumes from the newest complete state. Training depends only on the step, not on how a run was divided into
segments or attempts, except for the sampled tokens (docs/verl.md).
"""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from justrl.config.files import in_words
from justrl.errors import UserError
from justrl.hardware.machine import require_verl_stack
from justrl.hardware.memory import check_start
from justrl.io import atomic_write, read_json, write_json, write_jsonl
from justrl.models.folder import check_weights
from justrl.models.sampling import check_tokenizer_of_verl, copy_tokenizer, load_tokenizer
from justrl.models.shape import read_shape
from justrl.training.segment import SegmentInterrupted, SegmentRequest, WorkDir, training_differences, way_back
from justrl.training.trackers import Trackers
from justrl.training.verl import checkpoints, environment, translate
from justrl.training.verl import step_log as metrics
from justrl.training.verl.progress import Progress as AttemptFiles
from justrl.training.verl.settings import VerlRequest
from justrl.training.verl.supervisor import Supervisor
from justrl.training.watchdog import START_SECONDS, Progress, watched

IDENTITY = "identity.json"


def train_segment(request: SegmentRequest) -> None:
    """Train a segment, or restore it if it was finished before; publish its model and metrics.

    Raises:
        SegmentInterrupted: a stop signal came; the state is saved, start again to resume.
        UserError: verl is not installed or rejects the configuration, another trainer is running in the work
            directory, the training failed or made no progress, or an alarm was raised (`justrl.training.alarms`); the
            message names the log.
    """
    require_verl_stack()
    check_start(request.hardware, request.recipe, request.model_dir)
    work = WorkDir(request.work_dir)
    with work.attempt(request) as lock:
        if not work.has_archive(request):
            with watched(f"run {request.run}", request.hardware.hang_seconds) as progress:
                segment = Segment(request, work, progress)
                segment.train()
                lock.check()
                progress("while its model is written", max(request.hardware.hang_seconds, START_SECONDS))
                work.archive(request, segment.write_model, segment.rows())
        work.publish(request)


class Segment:
    """One segment's place on disk, and the attempt that trains it."""

    def __init__(self, request: SegmentRequest, work: WorkDir, progress: Progress):
        self.request, self.work, self.progress = request, work, progress
        self.logs = work.path / "verl"

    def train(self) -> None:
        """Run verl from the newest complete state to the segment's last step; do nothing if that step is trained."""
        load_tokenizer(self.request.model_dir)
        check_tokenizer_of_verl(self.request.model_dir)
        check_weights(self.request.model_dir)
        self._check_identity()
        wanted = self._wanted()
        start = checkpoints.choose(
            self.work.checkpoints,
            ranks=wanted.ranks,
            start_step=self.request.start_step,
            last_step=self.request.to_step,
            logged=set(self._logged()),
        )
        if start == self.request.to_step:
            print(f"step {start} is trained already: publishing it", file=sys.stderr, flush=True)
            return
        checkpoints.point_to(self.work.checkpoints, start)
        trackers = Trackers(self.request, start)
        try:
            self._attempt(wanted, start, trackers)
        finally:
            trackers.close()

    def _attempt(self, wanted: VerlRequest, start: int, trackers: Trackers) -> None:
        """Run verl's trainer from the state of step `start`."""
        log = metrics.next_attempt(self.logs)
        # Reserves the number: otherwise an attempt that fails before its first step would share a folder with the next.
        log.touch()
        attempt = log.with_suffix("")
        attempt.mkdir(parents=True, exist_ok=True)
        asked = attempt / "settings.json"
        write_json(asked, [asdict(row) for row in translate.asked(wanted)])
        earlier = [row for step, row in self._logged().items() if step <= start]
        AttemptFiles(attempt).write_alarms(self.request.recipe.alarms, earlier)
        if others := os.environ.get(environment.MODULES_VARIABLE):
            print(f"verl: {environment.MODULES_VARIABLE} is set, so {others} is loaded as well", file=sys.stderr)
        for name in filter(os.environ.get, environment.ALLOCATOR):
            print(f"verl: {name}={os.environ[name]} is dropped: verl sets torch's allocator itself", file=sys.stderr)
        print(f"verl: from step {start} to {self.request.to_step}, log {attempt / 'launch.log'}", file=sys.stderr)
        supervisor = Supervisor(
            attempt=attempt,
            command=environment.command(wanted, asked, self.logs / "leftovers"),
            variables=environment.variables(wanted, attempt, log),
            idle_seconds=self.request.hardware.hang_seconds,
            on_metrics=lambda: self._tell(trackers, log),
            log=log,
            is_done=self._is_done,
            on_look=lambda: self.progress("beside verl's trainer", self.request.hardware.hang_seconds),
        )
        stopped = supervisor.run()
        self._tell(trackers, log)
        if stopped:
            saved = checkpoints.states(self.work.checkpoints)
            raise SegmentInterrupted(
                f"run {self.request.run}: stopped by a signal; saved up to step {saved[-1].step if saved else 0}, "
                "start again to go on"
            )
        if not self._is_done():
            raise UserError(f"verl ended without reaching step {self.request.to_step}: see {supervisor.output}")

    def _is_done(self) -> bool:
        """Return whether the segment's last step is logged and completely saved."""
        saved = [state.step for state in checkpoints.states(self.work.checkpoints)]
        return self.request.to_step in saved and self.request.to_step in self._logged()

    def _wanted(self) -> VerlRequest:
        """Return the request to verl, with this machine's paths."""
        request = self.request
        return VerlRequest(
            recipe=request.recipe,
            seed=request.seed,
            hardware=request.hardware,
            run=request.run,
            start_step=request.start_step,
            to_step=request.to_step,
            model=str(request.model_dir.resolve()),
            shape=read_shape(request.model_dir),
            train_file=str(request.train_file.resolve()),
            checkpoints=str(self.work.checkpoints.resolve()),
            rollouts=str(self.work.path.resolve() / "rollouts") if request.execution.keep_rollouts else None,
            cpus=environment.cpus(request.hardware),
        )

    def _check_identity(self) -> None:
        """Refuse to resume from the state of another recipe, seed or training set."""
        file = self.work.checkpoints / IDENTITY
        mine = self.request.identity()
        if file.is_file() and (changed := in_words(training_differences(read_json(file), mine))):
            raise UserError(
                f"{self.work.checkpoints} holds the state of another training ({changed}): "
                f"{way_back(self.request.run, self.work.path)}"
            )
        write_json(file, mine)

    def rows(self) -> list[dict]:
        """Return the metrics of the segment's steps, in order."""
        first, last = self.request.start_step, self.request.to_step
        return [row for step, row in self._logged().items() if first < step <= last]

    def _logged(self) -> dict[int, dict]:
        """Return the metrics of all steps that any attempt logged, by step, in order."""
        return dict(sorted(metrics.read_attempts(self.logs, self.request.recipe).items()))

    def _tell(self, trackers: Trackers, log: Path) -> None:
        """Write the metrics so far, and log this attempt's steps to the trackers."""
        trackers.tell(metrics.read_attempt(log, self.request.recipe))
        write_jsonl(self.work.live_metrics, list(self._logged().values()))

    def write_model(self, folder: Path) -> None:
        """Merge the shards of the last step into a Hugging Face folder, in bfloat16: the weights used for rollouts.

        verl's merger supports no other precision; the float32 master weights stay in the training state.
        """
        actor = self.work.checkpoints / f"global_step_{self.request.to_step}" / "actor"
        command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
        command += ["--local_dir", str(actor), "--target_dir", str(folder)]
        log = self.logs / "merge.log"
        with atomic_write(log) as handle:
            status = subprocess.run(
                command, env=environment.merge_variables(), stdout=handle, stderr=subprocess.STDOUT, check=False
            ).returncode
        if status != 0 or not (folder / "config.json").is_file():
            raise UserError(f"verl's model merger failed (status {status}) on {actor}: see {log}")
        copy_tokenizer(self.request.model_dir, folder)
