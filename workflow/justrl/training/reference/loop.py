"""The reference engine's training loop, on a CPU or one GPU: rollouts, rewards, updates, states, metrics, progress.

Under torchrun, several processes divide every mini-batch among them.

A step is a function of the policy and (seed, step), which determine its questions and what is sampled for them. A
training that is killed at any point and resumed on the same machine is therefore bit-identical to an uninterrupted one.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from justrl.config.files import in_words
from justrl.errors import UserError
from justrl.io import write_jsonl
from justrl.models.sampling import Completed, Sampling, stop_token_ids
from justrl.training import rollout_samples
from justrl.training.alarms import AlarmRaised, Answer, Watch
from justrl.training.reference.checkpoint import (
    TrainingState,
    list_states,
    newest_state,
    read_identity,
    save_state,
    state_step,
)
from justrl.training.reference.distributed import ProcessGroup, join_processes
from justrl.training.reference.policy import (
    export_policy,
    load_model,
    make_deterministic,
    make_optimizer,
    random_state,
    unshared_tensors,
    warmup_schedule,
)
from justrl.training.reference.rollout import (
    Question,
    RolloutBackend,
    TransformersRollouts,
    VllmRollouts,
    load_questions,
    step_questions,
)
from justrl.training.reference.step import GRPOTrainer, NonFiniteError, RolloutBatch
from justrl.training.reward import RewardFunction, Rewards
from justrl.training.segment import (
    SegmentInterrupted,
    SegmentRequest,
    WorkDir,
    check_not_left_behind,
    stop_signals,
    training_differences,
    way_back,
)
from justrl.training.trackers import Trackers
from justrl.training.watchdog import Progress, watched


def train_segment(request: SegmentRequest) -> None:
    """Train a segment, or restore it if it was finished before; publish its model and metrics.

    Raises:
        SegmentInterrupted: a stop signal came; the state is saved, start again to resume.
        UserError: another trainer is running in the work directory, there is no state to resume from, the disk is
            full, the loss is not finite, or an alarm was raised (`justrl.training.alarms`).
    """
    work = WorkDir(request.work_dir)
    joined = join_processes(request.execution.device)
    with joined as world, work.attempt(request) if world.is_main else nullcontext() as lock:
        if not world.from_main(work.has_archive(request) if world.is_main else None):
            with watched(f"run {request.run}", request.hardware.hang_seconds) as progress:
                loop = train(request, work, world, lock.check if lock else lambda: None, progress)
                if lock:
                    lock.check()
                    rows = [row for row in loop.rows if row["step"] > request.start_step]
                    work.archive(request, loop.export, rows)
        if world.is_main:
            work.publish(request)


class TrainingLoop:
    """A run in memory: policy, optimizer and questions; makes the next step."""

    def __init__(self, request: SegmentRequest, world: ProcessGroup):
        recipe = request.recipe
        self.request, self.world, self.recipe = request, world, recipe
        make_deterministic(request.execution.threads, world.device)
        self.model, self.tokenizer = load_model(request.model_dir, world.device, recipe.gradient_checkpointing)
        self.optimizer = make_optimizer(self.model, recipe)
        self.scheduler = warmup_schedule(self.optimizer, recipe.warmup_steps)
        self.trainer = GRPOTrainer(self.model, self.optimizer, recipe, world)
        self.reward = RewardFunction(recipe)
        self.questions = load_questions(request.train_file, self.tokenizer, recipe.max_prompt_length)
        self.identity = request.identity()
        self.rows: list[dict] = []
        self.alarms = Watch(request.work_dir, recipe.alarms, [], writes=world.is_main)
        self.backend = self._make_backend()

    def _make_backend(self) -> RolloutBackend:
        """Return the sampler named by `execution.rollouts`: transformers (bit-reproducible) or vllm (fast)."""
        recipe, execution = self.recipe, self.request.execution
        sampling = Sampling(
            recipe.temperature,
            recipe.top_p,
            recipe.top_k,
            recipe.max_response_length,
            tuple(stop_token_ids(self.request.model_dir, self.tokenizer)),
            log_probs=True,
        )
        name = execution.rollouts
        if name == "transformers":
            size, autocast = execution.rollout_batch_size, recipe.dtype == "bfloat16"
            return TransformersRollouts(self.model, self.tokenizer, sampling, batch_size=size, autocast=autocast)
        if name != "vllm" or self.world.size > 1:
            raise UserError(f"--rollouts must be transformers, or vllm in a single process; got {name!r}")
        return VllmRollouts(self.request, sampling, self.export)

    @property
    def step(self) -> int:
        """The last finished step."""
        return self.rows[-1]["step"] if self.rows else 0

    def state(self) -> TrainingState:
        """Return everything that the next step depends on."""
        return TrainingState(
            step=self.step,
            model=unshared_tensors(self.model),
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            identity=self.identity,
            metrics=self.rows,
            random=random_state(),
            threads=torch.get_num_threads(),
        )

    def restore(self, state: TrainingState) -> None:
        """Restore a training state."""
        absent = self.model.load_state_dict(state.model, strict=False).missing_keys
        if set(absent) != set(self.model.state_dict()) - set(unshared_tensors(self.model)):
            raise UserError(f"the training state of step {state.step} lacks the weights {', '.join(absent)}")
        self.optimizer.load_state_dict(state.optimizer)
        self.scheduler.load_state_dict(state.scheduler)
        torch.set_rng_state(state.random["cpu"])
        if self.world.device != "cpu" and "cuda" in state.random:
            torch.cuda.set_rng_state(state.random["cuda"])
        if self.world.device == "cpu":
            # The order of summation, and therefore the last bit, depends on the number of threads.
            torch.set_num_threads(state.threads)
        self.rows = list(state.metrics)
        self.alarms = Watch(self.request.work_dir, self.recipe.alarms, self.rows, writes=self.world.is_main)

    def export(self, folder: Path) -> None:
        """Write the policy as a Hugging Face folder."""
        export_policy(self.model, self.request.model_dir, folder, self.recipe.dtype)

    def roll_out(self, step: int) -> tuple[list[Question], list[Completed]]:
        """Sample the responses to this process's questions of a step; responses to one question are adjacent."""
        recipe, mini = self.recipe, self.recipe.mini_batch_prompts
        order = self.request.seed if recipe.data_seed is None else recipe.data_seed
        chosen = step_questions(step, recipe.prompts_per_step, len(self.questions), order)
        # This process's positions in the step's batch: an equal part of every mini-batch.
        share = self.world.share(mini, "recipe.mini_batch_prompts")
        starts = range(0, recipe.prompts_per_step, mini)
        slots = [slot for start in starts for slot in range(start + share.start, start + share.stop)]
        pairs = [(slot, sample) for slot in slots for sample in range(recipe.rollouts_per_prompt)]
        questions = [self.questions[chosen[slot]] for slot, _ in pairs]
        seeds = [(self.request.seed, step, slot, sample) for slot, sample in pairs]
        return questions, self.backend.generate([question.prompt for question in questions], seeds)

    def train_step(self) -> dict:
        """Train the next step and return its metrics.

        Raises:
            NonFiniteError: the loss or gradient is not finite; the batch is written to the work directory.
            AlarmRaised: the step cannot be correct; the policy has not been updated.
        """
        step, began = self.step + 1, time.monotonic()
        questions, rollouts = self.roll_out(step)
        responses = [rollout.token_ids for rollout in rollouts]
        completions = [rollout.text for rollout in rollouts]
        lengths = [len(response) for response in responses]
        golds, rows = [question.gold for question in questions], [question.row for question in questions]
        rewards = self.reward(completions, golds, lengths, rows)
        self._keep(step, questions, rollouts, rewards)
        rolled_out = time.monotonic()
        batch = RolloutBatch(
            [question.prompt for question in questions],
            responses,
            torch.tensor(rewards.totals).view(-1, self.recipe.rollouts_per_prompt),
            [rollout.log_probs for rollout in rollouts],
        )
        summary = {"step": step, **self._summary(questions, lengths, rewards)}
        whole = next((i for i, length in enumerate(lengths) if length < self.recipe.max_response_length), 0)
        rate = self.optimizer.param_groups[0]["lr"]
        try:
            update = self.trainer.train_step(
                batch,
                lambda found: self.alarms.look(summary | found, lambda: Answer(completions[whole], golds[whole])),
            )
        except NonFiniteError as error:
            raise self._dump(step, error, questions, completions, rewards) from error
        self.scheduler.step()
        now = time.monotonic()
        row = {**summary, **update, "lr": rate}
        row["tokens_per_second"] = (row["prompt_tokens"] + row["response_tokens"]) / (now - began)
        row |= {"step_seconds": now - began, "rollout_seconds": rolled_out - began, "update_seconds": now - rolled_out}
        self.rows.append(row)
        return row

    def _keep(self, step: int, questions: list[Question], rollouts: list[Completed], rewards: Rewards) -> None:
        """Save a few of the step's rollouts for inspection; each process selects its share of them."""
        wanted, world = self.request.hardware.rollouts_kept, self.world
        mine = wanted // world.size + (world.rank < wanted % world.size)
        totals, correct = rewards.totals, rewards.correct
        rows = [
            {
                "step": step,
                "sample_index": place % self.recipe.rollouts_per_prompt,
                "prompt": self.tokenizer.decode(questions[place].prompt),
                "gold": questions[place].gold,
                "response": rollouts[place].text,
                "length": len(rollouts[place].token_ids),
                "reward": totals[place],
                "correct": correct[place],
                "finish_reason": rollouts[place].finish_reason,
            }
            for place in rollout_samples.places(step, len(rollouts), mine)
        ]
        everything = world.gather(rows)
        if world.is_main:
            rollout_samples.write(self.request.work_dir / "rollouts", step, everything)

    def _summary(self, questions: list[Question], lengths: list[int], rewards: Rewards) -> dict:
        """Return the metrics of the rollouts of all processes."""
        prompts = [len(question.prompt) for question in questions]
        columns = zip(
            prompts, lengths, rewards.scores, rewards.penalties, rewards.correct, rewards.undecided, strict=True
        )
        everything = self.world.gather(list(columns))
        prompts, lengths, scores, penalties, correct, undecided = (
            list(column) for column in zip(*everything, strict=True)
        )
        count, group = len(everything), self.recipe.rollouts_per_prompt
        solved = [sum(correct[i : i + group]) for i in range(0, count, group)]
        longest = self.recipe.max_response_length
        return {
            "reward_mean": (sum(scores) + sum(penalties)) / count,
            "accuracy": sum(correct) / count,
            "undecided": sum(undecided) / count,
            "rollouts": count,
            "score_mean": sum(scores) / count,
            "score_highest": max(scores),
            "score_lowest": min(scores),
            "overlong_penalty_mean": sum(penalties) / count,
            "solve_all": sum(n == group for n in solved) / len(solved),
            "solve_none": sum(n == 0 for n in solved) / len(solved),
            "response_length_mean": sum(lengths) / count,
            "response_length_max": max(lengths),
            "response_clip_ratio": sum(length == longest for length in lengths) / count,
            "prompt_tokens": sum(prompts),
            "response_tokens": sum(lengths),
        }

    def _dump(self, step: int, error: NonFiniteError, questions, completions, rewards: Rewards) -> NonFiniteError:
        """Write the batch of a failed step to a file; return an error that names the file."""
        path = self.request.work_dir / f"nonfinite_step_{step}.json"
        if self.world.rank:
            path = path.with_name(f"nonfinite_step_{step}_rank_{self.world.rank}.json")
        group = self.recipe.rollouts_per_prompt
        size = group * self.recipe.mini_batch_prompts // self.world.size
        sequences = [
            {
                "mini_batch": index // size + 1,
                "prompt": self.tokenizer.decode(question.prompt),
                "gold": question.gold,
                "completion": completion,
                "score": score,
                "penalty": penalty,
            }
            for index, (question, completion, score, penalty) in enumerate(
                zip(questions, completions, rewards.scores, rewards.penalties, strict=True)
            )
        ]
        document = {"step": step, "mini_batch": error.mini_batch + 1, "error": str(error), "sequences": sequences}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
        return NonFiniteError(
            f"step {step}: {error}; training stops. The batch is in {path}, the last good state in "
            f"{self.request.work_dir / 'checkpoints'}",
            error.mini_batch,
        )


def train(
    request: SegmentRequest,
    work: WorkDir,
    world: ProcessGroup,
    check_lock: Callable[[], None],
    progress: Progress,
) -> TrainingLoop:
    """Train from the newest usable state to `request.to_step`, saving on the way.

    Args:
        check_lock: called before every save; raises if another trainer has taken over.
        progress: reports the next activity to the watcher. The watcher kills the process if a step, or the time between
            two steps, takes longer than `hardware.hang_timeout_minutes`, so that a queue can retry.

    Raises:
        SegmentInterrupted: a stop signal came; the current step was finished and saved.
        AlarmRaised: a step cannot be correct; the state of the previous step is saved.
        UserError: there is no state to resume from, or no space to save one.
    """
    received: list[int] = []
    with stop_signals(lambda number, _frame: received.append(number)):
        loop = TrainingLoop(request, world)
        spare = restore_newest(loop, work)
        reporter = Reporter(request, loop.rows) if world.is_main else None
        try:
            saved = loop.step
            while True:
                finished, stop = loop.step == request.to_step, world.any(bool(received))
                due = finished or stop or loop.step % request.hardware.save_every == 0
                if world.is_main and due and loop.step != saved:
                    check_lock()
                    spare, saved = save_state(work.checkpoints, loop.state(), spare), loop.step
                if finished:
                    return loop
                if stop:
                    raise SegmentInterrupted(f"{request.run}: stopped by a signal; step {loop.step} is saved")
                progress(f"in step {loop.step + 1}", request.hardware.hang_seconds)
                try:
                    row = loop.train_step()
                except AlarmRaised:
                    if world.is_main and loop.step != saved:
                        check_lock()
                        save_state(work.checkpoints, loop.state(), spare)
                    raise
                progress(f"after step {loop.step}", request.hardware.hang_seconds)
                if reporter:
                    reporter.report(row)
        finally:
            if reporter:
                reporter.close()


def restore_newest(loop: TrainingLoop, work: WorkDir) -> Path | None:
    """Resume from the newest usable state of the segment and return its path; None at the start of a run.

    Raises UserError: a later segment finds no state, or the run has states after the end of this segment.
    """
    request = loop.request
    found = newest_state(work.checkpoints, loop.identity, request.start_step, request.to_step)
    identities = {state_step(path): read_identity(path) for path in list_states(work.checkpoints)}
    mine = [step for step, known in identities.items() if known and not training_differences(known, loop.identity)]
    newest = max(mine, default=0)
    start = found[1].step if found else request.start_step
    check_not_left_behind(work.checkpoints, start, request.to_step, newest)
    if found:
        path, state = found
        loop.restore(state)
        if loop.world.is_main:
            print(f"{request.run}: resuming from the state of step {loop.step}", flush=True)
        return path
    if request.start_step:
        raise UserError(
            f"run {request.run}: no usable training state of step {request.start_step} or later in {work.checkpoints}"
            f"{_whose(identities, loop.identity)}; nothing is deleted: {way_back(request.run, request.work_dir)}"
        )
    return None


def _whose(identities: Mapping[int, Mapping[str, Any] | None], mine: Mapping[str, Any]) -> str:
    """Say how the newest readable state's training differs from this one; empty if it does not or there is none."""
    known = [identity for _, identity in sorted(identities.items()) if identity]
    found = training_differences(known[-1], mine) if known else []
    return f", and the newest belongs to another training ({in_words(found)})" if found else ""


class ProgressBar:
    """Shows step, reward and remaining time: a bar on a terminal, in a log file one line per `every` steps."""

    def __init__(self, description: str, first: int, last: int, every: int):
        self._last, self._every = last, every
        self._began, self._first = time.monotonic(), first
        self._description = description
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=last, initial=first, desc=description, unit="step", dynamic_ncols=True)

    def update(self, row: dict) -> None:
        """Show one more step."""
        summary = f"reward {row['reward_mean']:+.3f}, accuracy {row['accuracy']:.3f}"
        if self._bar is not None:
            self._bar.set_postfix_str(summary)
            self._bar.update()
        elif row["step"] % self._every == 0 or row["step"] == self._last:
            per_step = (time.monotonic() - self._began) / (row["step"] - self._first)
            left = per_step * (self._last - row["step"])
            print(
                f"{self._description}: step {row['step']}/{self._last}, {summary}, entropy {row['entropy']:.3f}, "
                f"{row['response_length_mean']:.0f} tokens, {per_step:.2f} s/step, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


class Reporter:
    """Writes a segment's metrics to file and trackers, and its progress to the terminal; for the main process only.

    When a training resumes, the rows of the steps that it repeats are removed.

    Args:
        rows: the metrics of the finished steps.
    """

    def __init__(self, request: SegmentRequest, rows: list[dict]):
        done = rows[-1]["step"] if rows else 0
        self._trackers = Trackers(request, done)
        file = request.work_dir / "metrics.jsonl"
        write_jsonl(file, rows)
        self._file = file.open("a", encoding="utf-8")
        self._progress = ProgressBar(request.run, done, request.to_step, request.execution.log_every)

    def report(self, row: dict) -> None:
        """Report one more step."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._trackers.tell([row])
        self._progress.update(row)

    def close(self) -> None:
        """Close all files."""
        self._progress.close()
        self._file.close()
        self._trackers.close()
