"""verl's whole stack on this machine's processor, on two ranks: stuck, killed, told to stop, and finished.

One story in one test module, since each start of Ray, FSDP and vLLM costs a minute: every test goes on where the one
before it ended.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import tokenizers
import torch
from pyarrow import parquet

import recorded_steps
from justrl import config as experiment
from justrl.io import read_jsonl, write_json
from justrl.training import rollout_samples
from justrl.training.verl import checkpoints, guard
from tiny_model import MADE_HERE, name_another_end

pytest.importorskip("verl")

pytestmark = [pytest.mark.verl, pytest.mark.timeout(1500)]

RECIPE = {
    "prompts_per_step": 8,
    "rollouts_per_prompt": 4,
    "mini_batch_prompts": 4,
    "micro_batch_per_gpu": 64,
    "learning_rate": 1e-3,
    "warmup_steps": 3,
    "max_prompt_length": 64,
    "max_response_length": 24,
    "dtype": "float32",
    "gradient_checkpointing": False,
}
HARDWARE = {"gpu": "none", "nodes": 1, "gpus_per_node": 2, "save_every": 2}
LAST = 6


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a tiny model, questions, and the description of a run."""
    from justrl.data import arithmetic, tiny_model

    folder = tmp_path_factory.mktemp("verl_run")
    recipe = experiment.load().runs["deepseek"].recipe.as_dict() | RECIPE
    settings = {
        "source": "tiny", "family": "nemotron", "context_length": 128,
        "hidden_size": 64, "intermediate_size": 128, "layers": 2,
        "heads": 2, "key_value_heads": 1, "steps": 60, "batch_size": 32, "learning_rate": 4e-3, "digits": 1,
        "wrong_share": 0.4, "harder_share": 0.0, "slip_share": 0.1,
    }  # fmt: skip
    tiny_model.make_model(settings, seed=1, output=folder / "model", threads=2)
    # Its files name another end than the one of its turns, at which vLLM alone would not stop.
    name_another_end(folder / "model")
    # 5 steps an epoch, so that the segment goes over its end.
    sums = arithmetic.training_rows(40, digits=1, seed=1)
    questions = arithmetic.as_training_examples(sums, recipe["prompt_suffix"], recipe["prompt_separator"])
    arithmetic.write_parquet(questions, folder / "train.parquet")
    write_json(folder / "run.json", MADE_HERE | {"run": "tiny", "engine": "verl", "seed": 7, "recipe": recipe})
    return folder


class Attempt(subprocess.Popen):
    """A process that trains the segment; `earlier` are the folders of the attempts before it."""

    earlier: frozenset[Path]


def attempts(place: Path) -> frozenset[Path]:
    return frozenset((place / "work" / "verl").glob("attempt_*/"))


SPY = {"VERL_USE_EXTERNAL_MODULES": "mini_batch_spy"}


def start(place: Path, hang_minutes: float = 20, last: int = LAST, variables: Mapping[str, str] = SPY) -> Attempt:
    """Start the segment as the workflow does; `variables` name modules that verl's processes load."""
    earlier = attempts(place)
    hardware = HARDWARE | {"hang_timeout_minutes": hang_minutes, "cpus_per_node": 2}
    command = [sys.executable, "-m", "justrl", "train", "segment", "--run-file", str(place / "run.json")]
    command += ["--model", str(place / "model"), "--data", str(place / "train.parquet")]
    write_json(place / "hardware.json", hardware)
    command += [
        "--hardware",
        str(place / "hardware.json"),
        "--start-step",
        "0",
        "--to-step",
        str(last),
        "--keep-rollouts",
    ]
    command += ["--work-dir", str(place / "work"), "--model-out", str(place / "out" / "model")]
    command += ["--metrics-out", str(place / "out" / "metrics.jsonl")]
    output = (place / "output.txt").open("a")
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A home that cannot be written, and an allocator that a user has exported: neither is the training's business.
    nowhere = {"HOME": "/proc/nohome", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | nowhere | variables
    process = Attempt(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment)
    process.earlier = earlier
    return process


def progress(place: Path, process: Attempt) -> dict:
    """The latest report of this attempt: what one before it has left says nothing about it."""
    try:
        (own,) = attempts(place) - process.earlier
        return json.loads((own / "progress.json").read_text())
    except (FileNotFoundError, ValueError):
        return {"step": 0, "phase": "none"}


def wait_for(place: Path, process: Attempt, step: int, phase: str | None = None) -> None:
    """Wait until the trainer is at `step`, and in `phase` if given; a fast one may be a step further by then."""
    while process.poll() is None:
        now = progress(place, process)
        if now["step"] > step or (now["step"] == step and phase in (None, now["phase"])):
            return
        time.sleep(0.02)
    pytest.fail(f"ended with {process.returncode}:\n{(place / 'output.txt').read_text()[-4000:]}")


def finish(place: Path, process: subprocess.Popen) -> int:
    """Wait for the end; return the exit status."""
    try:
        return process.wait(timeout=1200)
    finally:
        if process.poll() is None:
            process.kill()


def survivors(pids: list[int]) -> dict[int, str]:
    """Those of the processes that still run a minute and a half later, with what the kernel says of each."""
    deadline = time.monotonic() + 90
    while (alive := {pid: text for pid in pids if (text := description(pid))}) and time.monotonic() < deadline:
        time.sleep(0.2)
    return alive


def description(pid: int) -> str:
    """A living process's command line, state and parent; empty if there is none."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
        return "" if state in "ZX" else f"{state} {parent} {Path(f'/proc/{pid}/cmdline').read_bytes()[:300]!r}"
    except OSError:
        return ""


def newest_state(place: Path) -> int:
    """The step of the newest whole state."""
    return checkpoints.states(place / "work" / "checkpoints")[-1].step


def test_stuck_it_is_stopped_with_a_diagnosis(place):
    # Far longer than a rollout of a tiny model takes on a machine that has other work.
    process = start(place, hang_minutes=4)
    wait_for(place, process, step=3, phase="rollout")
    tree = guard.descendants(process.pid)
    # A rank's trainer stands still, as in a collective that never ends.
    stuck = next(pid for pid in tree if b"WorkerDict" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(stuck, signal.SIGSTOP)
    assert finish(place, process) == 2
    output = (place / "output.txt").read_text()
    assert "made no progress for" in output
    (report,) = (place / "work" / "verl").glob("attempt_*/hang.txt")
    text = report.read_text()
    assert "stacks of process" in text
    assert "trainer_base.py" in text, "the trainer's own stack is not in the report"
    assert "GPU memory" in text
    assert survivors(tree) == {}
    assert newest_state(place) in (2, 4)


def test_killed_with_everything_it_leaves_nothing_running(place):
    saved = newest_state(place)
    process = start(place)
    wait_for(place, process, step=saved + 1, phase="rollout")
    tree = [process.pid, *guard.descendants(process.pid)]
    assert len(tree) > 10
    for pid in tree:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert survivors(tree[1:]) == {}
    assert newest_state(place) in (saved, saved + 2)


@pytest.mark.skipif("JUSTRL_LONG_VERL" not in os.environ, reason="one more start of verl: set JUSTRL_LONG_VERL=1")
def test_told_to_stop_it_saves_in_the_middle_of_a_step_and_asks_to_be_started_again(place):
    saved = newest_state(place)
    process = start(place)
    wait_for(place, process, step=saved + 2, phase="rollout")
    tree = guard.descendants(process.pid)
    process.send_signal(signal.SIGURG)
    assert finish(place, process) == 75
    # The step after a multiple of save_every is none: it was saved on the signal, or the next was over by then.
    assert newest_state(place) in (saved + 1, saved + 2)
    assert survivors(tree) == {}


def test_it_ends_as_if_nothing_had_happened(place):
    saved = newest_state(place)
    assert finish(place, start(place)) == 0, (place / "output.txt").read_text()[-4000:]
    log = (place / "output.txt").read_text()
    starts = [int(step) for step in re.findall(rf"from step (\d+) to {LAST}", log)]
    assert len(starts) == len(attempts(place)) and starts == sorted(starts)
    assert starts[0] == 0 < starts[1] and starts[-1] == saved
    rows = read_jsonl(place / "out" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, LAST + 1))
    # Warm-up from 0 over three steps, then constant, across attempts.
    expected = [1e-3 * min(1, step / 3) for step in range(LAST)]
    assert [row["lr"] for row in rows] == pytest.approx(expected)
    # verl's log has the rate after each step.
    logged = {
        line["step"]: line["data"]["actor/lr"]
        for file in sorted((place / "work" / "verl").glob("attempt_*.jsonl"))
        for line in map(json.loads, file.read_text().splitlines())
    }
    assert [logged[step] for step in range(1, LAST + 1)] == pytest.approx([*expected[1:], 1e-3])
    # verl's sampler leaves out the rows of the vocabulary that belong to no token, its trainer does not: in a model
    # that was hardly taught they take 1e-3. Weights of the step before would differ by ten times as much.
    assert all(row["rollout_probs_diff_mean"] < 3e-3 for row in rows), "vLLM and FSDP disagree about the policy"
    assert rows[-1]["epoch"] == 1
    assert len(checkpoints.states(place / "work" / "checkpoints")) <= 2
    assert (place / "out" / "model" / "model.safetensors").is_file()
    assert (place / "out" / "model" / "tokenizer.json").is_file()


def test_every_score_of_verls_own_dumps_is_the_papers_reward(place):
    from justrl.verifiers import get_reward

    reward = get_reward("paper")
    metrics = {row["step"]: row for row in read_jsonl(place / "out" / "metrics.jsonl")}
    for step in range(1, LAST + 1):
        rollouts = read_jsonl(place / "work" / "rollouts" / f"{step}.jsonl")
        assert len(rollouts) == RECIPE["prompts_per_step"] * RECIPE["rollouts_per_prompt"]
        scores = [reward(rollout["output"], rollout["gts"]) for rollout in rollouts]
        assert scores == [rollout["score"] for rollout in rollouts]
        assert metrics[step]["reward_mean"] == pytest.approx(sum(scores) / len(scores), abs=1e-6)
        assert metrics[step]["accuracy"] == pytest.approx(sum(s > 0 for s in scores) / len(scores), abs=1e-6)


def test_some_rollouts_of_each_step_are_kept_once_whatever_was_killed(place, recorded):
    kept = parquet.read_table(place / "out" / "rollouts.parquet").to_pylist()
    assert [row["step"] for row in kept] == [step for step in range(1, LAST + 1) for _ in range(8)]
    tokenizer = tokenizers.Tokenizer.from_file(str(place / "model" / "tokenizer.json"))
    samples = RECIPE["rollouts_per_prompt"]
    for step in range(1, LAST + 1):
        made = {row.place: row for batch in recorded[step].values() for row in batch}
        dumps = read_jsonl(place / "work" / "rollouts" / f"{step}.jsonl")
        dumped = {(rollout["output"], rollout["gts"], rollout["score"]) for rollout in dumps}
        rows = [row for row in kept if row["step"] == step]
        for number, row in zip(rollout_samples.places(step, len(made), 8), rows, strict=True):
            rollout = made[divmod(number, samples)]
            assert row["sample_index"] == rollout.sample
            assert row["prompt"] == tokenizer.decode(list(rollout.prompt_ids), skip_special_tokens=False)
            assert row["response"] == tokenizer.decode(list(rollout.response_ids))
            assert (row["response"], row["gold"], row["reward"]) in dumped and row["correct"] == (row["reward"] > 0)
            # Special tokens end an answer and are left out of its text.
            ended = tokenizer.decode([rollout.response_ids[-1]]) == ""
            assert (row["length"], row["finish_reason"]) == (len(rollout.response_ids), "stop" if ended else "length")


def test_each_epoch_asks_every_question_once(place):
    asked = [
        sorted({rollout["input"] for rollout in read_jsonl(place / "work" / "rollouts" / f"{step}.jsonl")})
        for step in range(1, 6)
    ]
    assert all(len(step) == RECIPE["prompts_per_step"] for step in asked)
    assert len({question for step in asked for question in step}) == 40


@pytest.fixture(scope="module")
def recorded(place) -> dict[int, recorded_steps.Step]:
    """Every step's mini-batches, as verl's workers updated on them."""
    return recorded_steps.read_steps(place / "work" / "verl")


def test_mini_batches_are_cut_in_the_authors_order_whatever_finished_first(recorded):
    """Their verl: prompts in order, samples side by side, balanced over the ranks, each share cut in its order."""
    from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

    prompts, samples, ranks = RECIPE["prompts_per_step"], RECIPE["rollouts_per_prompt"], HARDWARE["gpus_per_node"]
    part = RECIPE["mini_batch_prompts"] * samples // ranks
    assert sorted(recorded) == list(range(1, LAST + 1))
    for step in recorded.values():
        rows = sorted((row for batch in step.values() for row in batch), key=lambda row: row.place)
        assert [row.place for row in rows] == [(p, s) for p in range(prompts) for s in range(samples)]
        work = calculate_workload(torch.tensor([row.tokens for row in rows]))
        shares = get_seqlen_balanced_partitions(work, k_partitions=ranks, equal_size=True)
        expected = {
            (mini_batch, rank): [rows[i].place for i in share[mini_batch * part : (mini_batch + 1) * part]]
            for rank, share in enumerate(shares)
            for mini_batch in range(2)
        }
        assert {key: [row.place for row in batch] for key, batch in step.items()} == expected
    # Towards the end a tiny model at this learning rate may have learnt to answer alike.
    lengths = [{len(row.response_ids) for batch in step.values() for row in batch} for step in recorded.values()]
    assert sum(len(different) > 5 for different in lengths) >= LAST // 2, "answers of even lengths show nothing"


def test_answers_end_at_the_end_of_their_turn_and_its_token_is_trained(place, recorded):
    """No file of the model but its chat template names `<|im_end|>`."""
    tokenizer = tokenizers.Tokenizer.from_file(str(place / "model" / "tokenizer.json"))
    # A tiny model may happen upon the end that the files name, which stops an answer as well.
    end, of_files = map(tokenizer.token_to_id, ("<|im_end|>", "<|endoftext|>"))
    rows = [row for step in recorded.values() for batch in step.values() for row in batch]
    whole = [row for row in rows if len(row.response_ids) < RECIPE["max_response_length"]]
    assert len(whole) > len(rows) / 2
    assert end in (ends := {row.response_ids[-1] for row in whole}) and ends <= {end, of_files}
    assert all(not {end, of_files} & set(row.response_ids[:-1]) for row in rows)
    assert all(row.loss_mask == (1,) * len(row.response_ids) for row in rows)


def test_mini_batches_share_the_tokens_evenly(recorded):
    """Cut as they finished, the first mini-batch of two would hold the short answers: less than 0.35 of the tokens."""
    lengths = [
        [sum(len(row.response_ids) for (m, _), batch in step.items() if m == mini_batch for row in batch) for step in
         recorded.values()]
        for mini_batch in range(2)
    ]  # fmt: skip
    first, second = map(sum, lengths)
    assert 0.42 < first / (first + second) < 0.58
    everything = sorted(len(row.response_ids) for step in recorded.values() for batch in step.values() for row in batch)
    assert sum(everything[: len(everything) // 2]) / sum(everything) < 0.38


def test_the_reference_engine_makes_the_same_steps_from_the_same_rollouts(place, recorded):
    """Through three attempts."""
    check_by_the_reference_engine(place, recorded)


def check_by_the_reference_engine(place: Path, recorded: dict[int, recorded_steps.Step]) -> None:
    """All steps: losses, gradients, entropies, and in the end the weights, to bfloat16."""
    from safetensors.torch import load_file

    from justrl.training.reference.loss import compute_group_advantages
    from justrl.training.reference.policy import load_model, make_optimizer, warmup_schedule
    from justrl.training.reference.step import GRPOTrainer, RolloutBatch
    from justrl.verifiers import get_reward

    recipe = experiment.Recipe.model_validate(json.loads((place / "run.json").read_text())["recipe"])
    model, tokenizer = load_model(place / "model", "cpu", gradient_checkpointing=False)
    optimizer = make_optimizer(model, recipe)
    schedule, trainer = warmup_schedule(optimizer, recipe.warmup_steps), GRPOTrainer(model, optimizer, recipe)
    reward, samples = get_reward("paper"), recipe.rollouts_per_prompt
    for row in read_jsonl(place / "out" / "metrics.jsonl"):
        step = recorded[row["step"]]
        order = [trajectory for key in sorted(step) for trajectory in step[key]]
        rewards = torch.zeros(recipe.prompts_per_step, samples)
        for trajectory in order:
            a, b = re.search(r"What is (\d+) \+ (\d+)", tokenizer.decode(trajectory.prompt_ids)).groups()
            text = tokenizer.decode(trajectory.response_ids, skip_special_tokens=True)
            rewards[trajectory.place] = reward(text, str(int(a) + int(b)))
        advantages = compute_group_advantages(rewards, recipe.advantage_epsilon, recipe.loss != "dr_grpo")
        own = torch.tensor([advantages[trajectory.place] for trajectory in order])
        assert own.tolist() == pytest.approx([trajectory.advantage for trajectory in order], abs=1e-5)
        batch = RolloutBatch(
            [trajectory.prompt_ids for trajectory in order],
            [trajectory.response_ids for trajectory in order],
            rewards,
            advantages=own.view(-1, samples),
        )
        update = trainer.train_step(batch)
        schedule.step()
        for name in ("entropy", "entropy_as_published", "policy_loss", "grad_norm"):
            assert update[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6), (row["step"], name)
    ours, theirs = model.state_dict(), load_file(place / "out" / "model" / "model.safetensors")
    same = {name: (ours[name].bfloat16() == theirs[name]).float() for name in theirs}
    # A tensor may have only 32 weights, and any of them may lie where bfloat16 rounds to either side.
    assert torch.cat([equal.flatten() for equal in same.values()]).mean() > 0.99
    assert min(equal.mean() for equal in same.values()) > 0.9
    base = load_file(place / "model" / "model.safetensors")
    assert min((base[name].bfloat16() == theirs[name]).float().mean().item() for name in theirs) < 0.5


@pytest.mark.skipif("JUSTRL_LONG_VERL" not in os.environ, reason="two more starts of verl: set JUSTRL_LONG_VERL=1")
def test_a_step_ahead_it_trains_every_prompt_in_order_though_it_was_stopped(place, tmp_path):
    """`staleness: 1`, verl's colocate_async; a state holds the rollouts that were under way."""
    for name in ("model", "train.parquet"):
        (tmp_path / name).symlink_to(place / name)
    described = json.loads((place / "run.json").read_text())
    described["recipe"]["staleness"] = 1
    write_json(tmp_path / "run.json", described)
    process = start(tmp_path, last=4)
    wait_for(tmp_path, process, step=2, phase="rollout")
    process.send_signal(signal.SIGURG)
    assert finish(tmp_path, process) == 75
    saved = newest_state(tmp_path)
    assert 1 <= saved <= 3
    assert finish(tmp_path, start(tmp_path, last=4)) == 0, (tmp_path / "output.txt").read_text()[-4000:]
    assert f"from step {saved} to 4" in (tmp_path / "output.txt").read_text()

    # Each step trains what was asked a step before, which is what the synchronous trainer draws for it.
    for step in range(1, 5):
        ahead, drawn = (
            sorted(row["input"] for row in read_jsonl(folder / "work" / "rollouts" / f"{step}.jsonl"))
            for folder in (tmp_path, place)
        )
        assert ahead == drawn, step
    rows = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(row["rollouts"] == 32 for row in rows)
    # The first batch is asked of the base model, which is what step 1 trains; later ones are begun a step before.
    assert rows[0]["staleness"] == 0 and 0 < rows[1]["staleness"] <= 1
