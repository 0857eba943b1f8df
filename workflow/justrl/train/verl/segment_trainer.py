"""verl's trainers, with what a supervised segment needs added at their hooks; the algorithm is verl's.

Added: reports of progress, the share of right answers and the entropy as published as metrics, a few rollouts of each
step kept to be read, at most two full states on disk, alarms (`justrl.train.alarms`), and a save at the first safe
moment when the supervisor asks to stop, even in the middle of the rollouts.

Mended, since verl 0.9.1 goes on without a word:
1. Trajectories come in the order in which they finished, short ones first, and mini-batches are cut from that. They are
   put back in the order of prompts and samples, from which the authors' verl balanced and cut (`_balance_batch`,
   `update_policy`): each rank takes a balanced share, in order, and each mini-batch is the next part of every share.
2. A step that lacks trajectories is filled up with copies; here it ends the training.
3. A gradient that is not finite skips the update; here it ends the training.
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

from justrl.generation.base import stop_token_ids
from justrl.train import kept_rollouts
from justrl.train.alarms import AlarmRaised, Answer
from justrl.train.published_entropy import entropy_as_published
from justrl.train.segment import WorkDir
from justrl.train.verl import checkpoints, step_log
from justrl.train.verl.progress import KEEP_VARIABLE, LOAD_STATE, LOAD_WEIGHTS, POLL_VARIABLE, START, Progress


class SegmentStopped(Exception):
    """The supervisor asked to stop, and the state is saved."""


class TrainingProblem(Exception):
    """A step went wrong in a way that verl would pass over."""


def prompt_id(step: int, place: int) -> str:
    """Name the prompt at a place of a step's batch; verl names a trajectory <prompt id>_<sample>_<turn>."""
    return f"{step}-{place}"


def place_of(key: str) -> tuple[int, int]:
    """Where a trajectory belongs in its step: (place of its prompt, sample)."""
    prompt, sample, _ = key.split("_")
    return int(prompt.split("-")[1]), int(sample)


def missing_trajectories(keys: list[str], prompts: int, samples: int) -> list[tuple[int, int]]:
    """The places (prompt, sample) of a step for which there is no trajectory."""
    return sorted({(p, s) for p in range(prompts) for s in range(samples)} - {place_of(key) for key in keys})


class _Loader:
    """Stands in for the data loader while a state is saved, with the position at which the step began."""

    def __init__(self, position: dict):
        self.position = position

    def state_dict(self) -> dict:
        return self.position


class SegmentHooks(PPOTrainer):
    """What is added to either of verl's trainers, for one segment of a run."""

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
        """Look for a request to stop whenever verl looks at the rollouts under way."""
        buffer = self.replay_buffer
        buffer.poll_interval = float(os.environ[POLL_VARIABLE])
        wait = buffer._wait_for_next_poll

        def wait_and_watch(partition_id: str, last_debug_time: float) -> float:
            if self._progress.stop_requested():
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
        """The next prompts, with names that say their place in the step instead of random ones."""
        batch = super()._next_train_batch(num_prompts)
        names = [prompt_id(self.global_steps, place) for place in range(len(batch))]
        tu.assign_non_tensor_stack(batch, "uid", names)
        return batch

    def _balance_batch(self, batch, metrics, *args, **kwargs):
        """Put the step's trajectories in the order of prompts and samples, then balance them over the ranks."""
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
            # verl aggregates the entropy it logs as it does the loss; ours is a mean over tokens under every loss.
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
        """Add what the rewards say to a step's metrics, keep a few rollouts, and end where an alarm is raised."""
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
        # Before the step is logged: one that is not is made again.
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
        if self._progress.stop_requested() and self._saved_step != self.global_steps:
            self._save_checkpoint()
        super().on_step_end()
        self._progress.report(self.global_steps, "log")

    def _save_state_before(self) -> None:
        """Save the state in which this step began: nothing of it has changed before the update."""
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
        """Save the rollouts that are under way, of which a synchronous trainer has none between its steps."""

    def _keep_rollouts(self, keys: list[str], partition: str) -> None:
        """Write a few of the step's rollouts down to be read; `keys` are in order, as those of the reference engine."""
        wanted = int(os.environ[KEEP_VARIABLE])
        kept = [keys[place] for place in kept_rollouts.places(self.global_steps, len(keys), wanted)]
        rows = self._read_rollouts(kept, partition) if kept else []
        kept_rollouts.write(self._work.rollouts, self.global_steps, rows)

    def _read_rollouts(self, keys: list[str], partition: str) -> list[dict[str, Any]]:
        """Rollouts as rows of `kept_rollouts`."""
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
                # verl does not keep why vLLM stopped; only one that is full may have been cut off.
                "finish_reason": "length" if len(response) == limit and int(response[-1]) not in stops else "stop",
            }
            for key, prompt, response, scores, gold, extra in zip(keys, *columns, strict=True)
        ]


def _listed(values: Any) -> list:
    """Objects of a batch: tensordict hands out a stack or, where it has unpacked one before, a plain list."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


class SegmentTrainer(SegmentHooks, PPOTrainerSync):
    """The paper's: each step is sampled with the weights that it trains."""


class AheadTrainer(SegmentHooks, PPOTrainerColocateAsync):
    """A step ahead (`staleness: 1`): while the last rollouts of a step are awaited, those of the next are sampled.

    When a step's own are there, verl aborts the others, trains, and goes on with them under the new weights. verl 0.9.1
    takes whatever is finished; here each step trains exactly the prompts that were asked a step earlier, all of them
    and in the order of the data, whatever finishes first and however often the training is interrupted:

    1. What fills the queue at the start, or is asked again after a resume, is dated a step back, as it would have been.
    2. A prompt that fails ends the training; verl would ask another in its place.
    3. The queue is saved before the state that needs it, which counts as whole once data.pt is there.
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
        # Trajectories of the step that was saved: verl takes them off the queue after the save.
        trained = [key for key, tag in items.items() if not tag.get("is_prompt") and key.split("_")[0] not in items]
        if trained:
            tq.kv_clear(keys=trained, partition_id="train")

    def _save_queue(self) -> None:
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        tq.save_checkpoint(folder / "transfer_queue", metadata={"global_steps": self.global_steps})

    def _save_state_before(self) -> None:
        """The last one saved is kept: the queue has moved on, and only a step's end can be saved."""

    def _save_before_this_step(self) -> None:
        """Stop if the state before this step is saved; else it is saved at the step's end: the queue has moved on."""
        if self._saved_step == self.global_steps - 1:
            raise SegmentStopped(f"asked to stop; saved after step {self._saved_step}")

    def _balance_batch(self, batch, metrics, *args, **kwargs):
        """Say how many steps older than the weights the rollouts' first tokens are, on average."""
        ages = [self.global_steps - 1 - tag["min_global_steps"] for tag in batch.tags]
        metrics["justrl/staleness"] = float(np.mean(ages))
        if not 0 <= min(ages) <= max(ages) <= 1:
            self._fail(
                f"step {self.global_steps}: rollouts are {min(ages)} to {max(ages)} steps older than the weights"
            )
        return super()._balance_batch(batch, metrics, *args, **kwargs)


def install() -> None:
    """Make verl's trainer modes these trainers, in the process that runs them."""
    TRAINER_REGISTRY["sync"] = SegmentTrainer
    TRAINER_REGISTRY["colocate_async"] = AheadTrainer
