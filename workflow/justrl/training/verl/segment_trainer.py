"""verl's trainers, extended at their hooks for a supervised segment; the algorithm is verl's.

Added: progress reports; the share of correct answers and the entropy as published as metrics; saved rollouts of each
step; at most two full states on disk; alarms (`justrl.training.alarms`); and a save at the first safe moment when the
supervisor asks to stop, even in the middle of the rollouts.

Fixed, because verl 0.9.1 silently continues:
1. Trajectories arrive in the order in which they finish, short ones first, and mini-batches are cut in that order. Here
   they are put back in the order of prompts and samples, as the authors' verl balanced and cut them (`_balance_batch`,
   `update_policy`): each rank takes a balanced share, in order, and each mini-batch is the next part of every share.
2. A step with missing trajectories is filled up with copies; here it stops the training.
3. A gradient that is not finite skips the update; here it stops the training.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import transfer_queue as tq
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu

from justrl.models.sampling import stop_token_ids
from justrl.training import rollout_samples
from justrl.training.alarms import AlarmRaised, Answer
from justrl.training.published_entropy import entropy_as_published
from justrl.training.segment import WorkDir
from justrl.training.verl import checkpoints, step_log
from justrl.training.verl.progress import KEEP_VARIABLE, LOAD_STATE, LOAD_WEIGHTS, POLL_VARIABLE, START, Progress


class SegmentStopped(Exception):
    """The supervisor asked to stop, and the state is saved."""


class TrainingProblem(Exception):
    """A step failed in a way that verl would ignore."""


def prompt_id(step: int, place: int) -> str:
    """Return the id of the prompt at a place in a step's batch; verl names a trajectory <prompt id>_<sample>_<turn>."""
    return f"{step}-{place}"


def place_of(key: str) -> tuple[int, int]:
    """Return a trajectory's position in its step: (place of its prompt, sample)."""
    prompt, sample, _ = key.split("_")
    return int(prompt.split("-")[1]), int(sample)


def missing_trajectories(keys: list[str], prompts: int, samples: int) -> list[tuple[int, int]]:
    """Return the positions (prompt, sample) of a step that have no trajectory."""
    return sorted({(p, s) for p in range(prompts) for s in range(samples)} - {place_of(key) for key in keys})


class _Loader:
    """Replaces the data loader while a state is saved, with the position at the start of the step."""

    def __init__(self, position: dict):
        self.position = position

    def state_dict(self) -> dict:
        return self.position


class SegmentHooks(PPOTrainer):
    """Extensions for both of verl's trainers, for one segment of a run."""

    train_dataloader: Any

    def __init__(self, config):
        self._progress = Progress.of_this_attempt()
        self._progress.report(0, START)
        super().__init__(config)
        self._position: dict = {}
        self._saved_step = -1
        self._alarms = self._progress.alarms(self._work.path)
        self._watch_rollouts()

    @property
    def _work(self) -> WorkDir:
        return WorkDir(Path(self.config.trainer.default_local_dir).parent)

    def _watch_rollouts(self) -> None:
        """Check for a request to stop whenever verl checks the running rollouts."""
        buffer = self.replay_buffer
        buffer.poll_interval = float(os.environ[POLL_VARIABLE])
        wait = buffer._wait_for_next_poll

        def wait_and_watch(partition_id: str, last_debug_time: float) -> float:
            if self._progress.stop.exists():
                self._save_before_this_step()
            return wait(partition_id, last_debug_time)

        buffer._wait_for_next_poll = wait_and_watch

    def _load_checkpoint(self):
        self._progress.report(0, LOAD_STATE)
        super()._load_checkpoint()
        self._saved_step = self.global_steps
        self._progress.report(self.global_steps, LOAD_WEIGHTS)

    def on_step_begin(self):
        self._position = self.train_dataloader.state_dict()
        self._progress.report(self.global_steps, "rollout")
        super().on_step_begin()

    def _next_train_batch(self, num_prompts: int | None = None):
        """Return the next prompts, with ids that give their place in the step instead of random ones."""
        batch = super()._next_train_batch(num_prompts)
        names = [prompt_id(self.global_steps, place) for place in range(len(batch))]
        tu.assign_non_tensor_stack(batch, "uid", names)
        return batch

    def _balance_batch(self, batch, metrics, *args, **kwargs):
        """Sort the step's trajectories by prompt and sample, then balance them over the ranks."""
        prompts, samples = self.config.data.train_batch_size, self.config.actor_rollout_ref.rollout.n
        if missing := missing_trajectories(batch.keys, prompts, samples):
            self._fail(
                f"step {self.global_steps}: {len(missing)} of {prompts * samples} rollouts are missing (prompt "
                f"{missing[0][0]} of the step, sample {missing[0][1]}, and so on): the cause is further "
                "up in launch.log, at 'Error in _run_prompt'; a step with fewer rollouts would change the recipe"
            )
        metrics["justrl/rollouts"] = len(batch)
        batch.reorder(sorted(range(len(batch)), key=lambda row: place_of(batch.keys[row])))
        return super()._balance_batch(batch, metrics, *args, **kwargs)

    def _compute_old_log_prob(self, batch, metrics):
        rows = sorted(range(len(batch)), key=lambda row: place_of(batch.keys[row]))
        result = super()._compute_old_log_prob(batch, metrics)
        keys = [batch.keys[row] for row in rows]
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["entropy"])
        entropies = data["entropy"].unbind()
        if self.config.actor_rollout_ref.actor.loss_agg_mode != "token-mean":
            # verl aggregates the logged entropy like the loss; ours is a mean over tokens with every loss.
            total = sum(float(row.sum(dtype=torch.float64)) for row in entropies)
            metrics["actor/entropy"] = total / sum(len(row) for row in entropies)
        metrics["justrl/entropy_as_published"] = entropy_as_published(
            [batch.tags[row]["seq_len"] for row in rows],
            [len(row) for row in entropies],
            lambda row, tokens: float(entropies[row][:tokens].sum(dtype=torch.float64)),
        )
        self._look_at_rollouts(batch, metrics)
        return result

    def _look_at_rollouts(self, batch, metrics) -> None:
        """Add metrics of the rewards to a step, save a few rollouts, and stop if an alarm is raised."""
        lengths = {
            key: tag["response_len"]
            for key, tag in zip(batch.keys, batch.tags, strict=True)
            if not tag.get("is_padding", False)
        }
        keys = sorted(lengths, key=place_of)
        data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        extra = [fields["reward_extra_info"] for fields in _listed(data["extra_fields"])]
        for name, key in (("accuracy", "acc"), ("undecided", "undecided")):
            metrics[f"justrl/{name}"] = float(np.mean([fields[key] for fields in extra]))
        scores = [float(fields["score"]) for fields in extra]
        metrics |= {"justrl/score_highest": max(scores), "justrl/score_lowest": min(scores)}
        # Before the step is logged: a step that is not logged is repeated.
        self._keep_rollouts(keys, batch.partition_id)
        limit = self.config.actor_rollout_ref.rollout.response_length
        cut_off = float(np.mean([length == limit for length in lengths.values()]))
        row = step_log.in_our_names(metrics | {"response_length/clip_ratio": cut_off})
        whole = next((key for key in keys if lengths[key] < limit), keys[0])

        def answer() -> Answer:
            (shown,) = self._read_rollouts([whole], batch.partition_id)
            return Answer(shown["response"], shown["gold"])

        try:
            self._alarms.look({"step": self.global_steps, **row}, answer)
        except AlarmRaised as alarm:
            self._save_state_before()
            self._fail(str(alarm))

    def _update_actor(self, batch, metrics):
        batch = super()._update_actor(batch, metrics)
        for name in ("actor/grad_norm", "actor/pg_loss"):
            if not np.isfinite(metrics[name]):
                self._fail(
                    f"step {self.global_steps}: {name} is {metrics[name]}, so verl skipped an update; training stops. "
                    f"The last good state is in {self.config.trainer.default_local_dir}"
                )
        return batch

    def _fail(self, problem: str) -> NoReturn:
        self._progress.fail(problem)
        raise TrainingProblem(problem)

    def on_sample_end(self):
        super().on_sample_end()
        self._progress.report(self.global_steps, "update")

    def on_step_end(self):
        if self._progress.stop.exists() and self._saved_step != self.global_steps:
            self._save_checkpoint()
        super().on_step_end()
        self._progress.report(self.global_steps, "log")

    def _save_state_before(self) -> None:
        """Save the state at the start of this step, which does not change before the update."""
        self.global_steps -= 1
        if self._saved_step != self.global_steps and self.global_steps > 0:
            loader, self.train_dataloader = self.train_dataloader, _Loader(self._position)
            self._save_checkpoint()
            self.train_dataloader = loader
        self.global_steps += 1

    def _save_before_this_step(self) -> None:
        self._save_state_before()
        raise SegmentStopped(f"asked to stop; saved after step {self._saved_step}")

    def _save_checkpoint(self):
        self._progress.report(self.global_steps, "save")
        checkpoints.remove_all_but_newest(Path(self.config.trainer.default_local_dir))
        self._save_queue()
        super()._save_checkpoint()
        self._saved_step = self.global_steps

    def _save_queue(self) -> None:
        """Save the unfinished rollouts; a synchronous trainer has none between its steps."""

    def _keep_rollouts(self, keys: list[str], partition: str) -> None:
        """Save a few of the step's rollouts for inspection; `keys` are in the same order as in the reference engine."""
        wanted = int(os.environ[KEEP_VARIABLE])
        kept = [keys[place] for place in rollout_samples.places(self.global_steps, len(keys), wanted)]
        rows = self._read_rollouts(kept, partition) if kept else []
        rollout_samples.write(self._work.rollouts, self.global_steps, rows)

    def _read_rollouts(self, keys: list[str], partition: str) -> list[dict[str, Any]]:
        """Return rollouts as rows of `rollout_samples`."""
        fields = ["prompts", "responses", "rm_scores", "reward_model", "extra_fields"]
        data = tq.kv_batch_get(keys=keys, partition_id=partition, select_fields=fields)
        columns = [data[name].unbind() for name in fields[:3]] + [_listed(data[name]) for name in fields[3:]]
        limit = self.config.actor_rollout_ref.rollout.response_length
        stops = stop_token_ids(self.config.actor_rollout_ref.model.path, self.tokenizer)
        return [
            {
                "step": self.global_steps,
                "sample_index": place_of(key)[1],
                "prompt": self.tokenizer.decode(prompt),
                "gold": gold["ground_truth"],
                "response": self.tokenizer.decode(response, skip_special_tokens=True),
                "length": len(response),
                "reward": float(scores.sum()),
                "correct": extra["reward_extra_info"]["acc"] > 0,
                # verl does not keep vLLM's finish reason; only a response of full length can be truncated.
                "finish_reason": "length" if len(response) == limit and int(response[-1]) not in stops else "stop",
            }
            for key, prompt, response, scores, gold, extra in zip(keys, *columns, strict=True)
        ]


def _listed(values: Any) -> list:
    """Return a batch column as a list: tensordict returns a stack or, if it has unpacked it before, a plain list."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


class SegmentTrainer(SegmentHooks, PPOTrainerSync):
    """The paper's trainer: each step is sampled with the weights that it updates."""


class AheadTrainer(SegmentHooks, PPOTrainerColocateAsync):
    """Trainer that is one step ahead (`staleness: 1`): it samples the next step while this step's last rollouts run.

    When a step's own rollouts are complete, verl aborts the others, trains, and continues them with the new weights.
    verl 0.9.1 takes whichever rollouts are finished. Here each step trains exactly the prompts that were requested one
    step earlier, all of them and in the order of the data, whatever finishes first and however often the training is
    interrupted:

    1. Prompts that fill the queue at the start, or are requested again after a resume, are dated one step back.
    2. A prompt that fails stops the training; verl would request another one instead.
    3. The queue is saved before the state that needs it; the state counts as complete once data.pt exists.
    """

    def __init__(self, config):
        super().__init__(config)
        self.replay_buffer.refill_fn = self._refuse_others

    def _refuse_others(self, prompts: int) -> NoReturn:
        self._fail(
            f"step {self.global_steps}: {prompts} prompts of it failed: the cause is further up in "
            "launch.log, at 'Error in _run_prompt'; replacing them would change the step"
        )

    @contextmanager
    def _a_step_back(self) -> Iterator[None]:
        self.global_steps -= 1
        yield
        self.global_steps += 1

    def on_train_begin(self):
        with self._a_step_back():
            super().on_train_begin()

    def _reissue_inflight_prompts(self, *args, **kwargs):
        with self._a_step_back():
            return super()._reissue_inflight_prompts(*args, **kwargs)

    def _load_checkpoint(self):
        super()._load_checkpoint()
        items = (tq.kv_list("train") or {}).get("train", {})
        # Trajectories of the saved step: verl removes them from the queue only after the save.
        trained = [key for key, tag in items.items() if not tag.get("is_prompt") and key.split("_")[0] not in items]
        if trained:
            tq.kv_clear(keys=trained, partition_id="train")

    def _save_queue(self) -> None:
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        tq.save_checkpoint(folder / "transfer_queue", metadata={"global_steps": self.global_steps})

    def _save_state_before(self) -> None:
        """Keep the last saved state: the queue has advanced, and it can be saved only at the end of a step."""

    def _save_before_this_step(self) -> None:
        """Stop if the state before this step is saved; otherwise save at the step's end: the queue has advanced."""
        if self._saved_step == self.global_steps - 1:
            raise SegmentStopped(f"asked to stop; saved after step {self._saved_step}")

    def _balance_batch(self, batch, metrics, *args, **kwargs):
        """Log by how many steps, on average, the rollouts' first tokens are older than the current weights."""
        ages = [self.global_steps - 1 - tag["min_global_steps"] for tag in batch.tags]
        metrics["justrl/staleness"] = float(np.mean(ages))
        if not 0 <= min(ages) <= max(ages) <= 1:
            self._fail(
                f"step {self.global_steps}: rollouts are {min(ages)} to {max(ages)} steps older than the weights"
            )
        return super()._balance_batch(batch, metrics, *args, **kwargs)


def install() -> None:
    """Register these trainers for verl's trainer modes, in the process that runs them."""
    TRAINER_REGISTRY["sync"] = SegmentTrainer
    TRAINER_REGISTRY["colocate_async"] = AheadTrainer
