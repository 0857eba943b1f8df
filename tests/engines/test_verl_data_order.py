"""Continuing from step k gives the questions that an unbroken run gives, across the end of an epoch too.

verl's own data set, sampler, loader and saved position are used, as its trainer uses them; only Ray is left out.
"""

import io
import json
import os
import random
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("verl")
from tensordict import TensorDict
from transformers import AutoTokenizer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions

import real_models
from justrl import config as experiment
from justrl.data import arithmetic
from justrl.data.messages import build_messages
from justrl.models.chat_template import ChatTokenizer
from justrl.models.sampling import stop_token_ids
from justrl.training.published_entropy import balanced_parts
from justrl.training.verl import translate
from justrl.training.verl.agent_loop import builder_model_type, refuse_longer
from justrl.training.verl.progress import Progress
from justrl.training.verl.segment_trainer import AheadTrainer, SegmentTrainer, TrainingProblem
from justrl.training.verl.settings import VerlRequest
from tiny_model import make_tiny_model

pytestmark = pytest.mark.verl

ROWS, BATCH = 22, 4  # 5 steps an epoch; two rows of each epoch are left over
STEPS = 13


@pytest.fixture(scope="module")
def make_trainer(tmp_path_factory):
    """A function that makes verl's trainer as far as its data loader, freshly as each process does."""
    folder = tmp_path_factory.mktemp("data_order")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    make_tiny_model(folder / "model")
    config = experiment.load()
    recipe = config.runs["deepseek"].recipe
    sums = arithmetic.training_rows(ROWS, digits=2, seed=1)
    questions = arithmetic.as_training_examples(sums, recipe.prompt_suffix, recipe.prompt_separator)
    arithmetic.write_parquet(questions, folder / "train.parquet")
    recipe = recipe.model_copy(update={"prompts_per_step": BATCH, "mini_batch_prompts": 2, "max_prompt_length": 200})

    def make(seed: int = 42):
        request = VerlRequest(
            recipe=recipe,
            seed=seed,
            hardware=config.hardware,
            to_step=STEPS,
            model=str(folder / "model"),
            train_file=str(folder / "train.parquet"),
        )
        trainer = object.__new__(PPOTrainerSync)
        trainer.config = translate.resolve(request)
        trainer.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        trainer.processor, trainer.trainer_mode, trainer.parameter_sync_step = None, "sync", 1
        trainer.global_steps = 1
        trainer._init_dataloader()
        return trainer

    return make


def draw(trainer, steps: int) -> list[list[int]]:
    """The questions of the next `steps` steps, by their index in the training set."""
    return [[info["index"] for info in trainer._next_train_batch()["extra_info"]] for _ in range(steps)]


def saved(trainer) -> io.BytesIO:
    """The position of the loader, written as verl writes it."""
    buffer = io.BytesIO()
    torch.save(trainer.train_dataloader.state_dict(), buffer)
    buffer.seek(0)
    return buffer


@pytest.fixture(scope="module")
def unbroken(make_trainer) -> list[list[int]]:
    return draw(make_trainer(), STEPS)


def test_each_epoch_is_another_order_of_all_questions(unbroken):
    first, second = unbroken[:5], unbroken[5:10]
    for epoch in (first, second):
        seen = [index for batch in epoch for index in batch]
        assert len(set(seen)) == 20
    assert first != second


def test_seed_decides_the_order(make_trainer, unbroken):
    assert draw(make_trainer(), 5) == unbroken[:5]
    assert draw(make_trainer(seed=43), 5) != unbroken[:5]


@pytest.mark.parametrize("step", [1, 4, 5, 6, 9, 10, 11])
def test_a_resumed_run_goes_on_in_the_unbroken_order(make_trainer, unbroken, step):
    """Steps 5 and 10 end an epoch: there older versions of verl stopped quietly, having trained nothing."""
    before = make_trainer()
    assert draw(before, step) == unbroken[:step]
    after = make_trainer()
    after.train_dataloader.load_state_dict(torch.load(saved(before), weights_only=False))
    assert draw(after, STEPS - step) == unbroken[step:]


def test_a_chain_of_segments_is_the_unbroken_run(make_trainer, unbroken):
    drawn, position = [], None
    for steps in (3, 2, 5, 3):
        trainer = make_trainer()
        if position is not None:
            trainer.train_dataloader.load_state_dict(torch.load(position, weights_only=False))
        drawn += draw(trainer, steps)
        position = saved(trainer)
    assert drawn == unbroken


def test_a_save_in_the_middle_of_the_rollouts_repeats_the_step(make_trainer, unbroken):
    """What the trainer does when it is told to stop: the position from before the step is saved with its state."""
    trainer = make_trainer()
    draw(trainer, 4)
    position = saved(trainer)
    draw(trainer, 1)
    again = make_trainer()
    again.train_dataloader.load_state_dict(torch.load(position, weights_only=False))
    assert draw(again, 2) == unbroken[4:6]


def test_trajectories_go_back_to_the_order_of_prompts_and_samples(make_trainer):
    """verl's own batch of keys, as it comes: in the order in which rollouts were put; the names are ours."""
    from transfer_queue import KVBatchMeta

    trainer = SegmentTrainer.__new__(SegmentTrainer)
    trainer.__dict__ |= vars(make_trainer())
    trainer.global_steps = 7
    names = list(trainer._next_train_batch()["uid"])
    assert names == ["7-0", "7-1", "7-2", "7-3"]
    samples = trainer.config.actor_rollout_ref.rollout.n
    keys = [f"{name}_{sample}_0" for name in names for sample in range(samples)]
    finished = random.Random(1).sample(keys, len(keys))
    trainer.actor_rollout_wg, trainer.use_critic = SimpleNamespace(_dispatch_info={"actor": [0]}), False
    metrics = {}
    tags = [{"seq_len": 10 + i} for i in range(len(keys))]
    batch = trainer._balance_batch(KVBatchMeta(keys=finished, tags=tags, partition_id="train"), metrics)
    assert batch.keys == keys and metrics["justrl/rollouts"] == len(keys)


def test_a_step_that_lacks_rollouts_ends_the_training_with_a_sentence(make_trainer, tmp_path):
    from transfer_queue import KVBatchMeta

    trainer = SegmentTrainer.__new__(SegmentTrainer)
    trainer.__dict__ |= vars(make_trainer())
    trainer.global_steps, trainer._progress = 7, Progress(tmp_path)
    keys = [f"7-{prompt}_{sample}_0" for prompt in range(BATCH) for sample in range(8)]
    keys.remove("7-2_5_0")
    batch = KVBatchMeta(keys=keys, tags=[{"seq_len": 9}] * len(keys), partition_id="train")
    with pytest.raises(TrainingProblem, match=r"step 7: 1 of 32 rollouts are missing \(prompt 2 of the step, sample 5"):
        trainer._balance_batch(batch, {})
    assert "1 of 32 rollouts are missing" in Progress(tmp_path).problem()


def test_a_step_ahead_knows_how_old_its_rollouts_are(make_trainer, tmp_path):
    """Asked at step 6, trained at step 7 with the weights of step 6: begun under those of step 5 or 6, never older."""
    from transfer_queue import KVBatchMeta

    trainer = AheadTrainer.__new__(AheadTrainer)
    trainer.__dict__ |= vars(make_trainer())
    trainer.global_steps, trainer._progress = 7, Progress(tmp_path)
    with trainer._a_step_back():
        names = list(trainer._next_train_batch()["uid"])
    assert names == ["6-0", "6-1", "6-2", "6-3"] and trainer.global_steps == 7
    trainer.actor_rollout_wg, trainer.use_critic = SimpleNamespace(_dispatch_info={"actor": [0]}), False
    samples = trainer.config.actor_rollout_ref.rollout.n
    keys = [f"{name}_{sample}_0" for name in names for sample in range(samples)]

    def balance(weights):
        tags = [{"seq_len": 9, "min_global_steps": weights[place % 2]} for place in range(len(keys))]
        metrics = {}
        trainer._balance_batch(KVBatchMeta(keys=list(keys), tags=tags, partition_id="train"), metrics)
        return metrics["justrl/staleness"]

    assert balance((5, 6)) == 0.5 and balance((6, 6)) == 0
    with pytest.raises(TrainingProblem, match="step 7: rollouts are 0 to 2 steps older than the weights"):
        balance((4, 6))


def test_a_gradient_that_is_not_finite_ends_the_training_with_a_sentence(make_trainer, tmp_path):
    """verl has skipped the update by then and would go on."""
    trainer = SegmentTrainer.__new__(SegmentTrainer)
    trainer.__dict__ |= vars(make_trainer())
    trainer.global_steps, trainer._progress = 3, Progress(tmp_path)
    output = TensorDict({}, [])
    numbers = {"grad_norm": [1.0, float("inf")], "pg_loss": [0.1, 0.1], "mfu": [0.0]}
    tensordict_utils.assign_non_tensor_data(output, "metrics", numbers)
    trainer.actor_rollout_wg = SimpleNamespace(update_actor=lambda batch: output)
    with pytest.raises(TrainingProblem, match=r"step 3: actor/grad_norm is inf, so verl skipped an update"):
        trainer._update_actor(SimpleNamespace(extra_info={}), {})
    assert "verl skipped an update" in Progress(tmp_path).problem()


@pytest.mark.parametrize(
    ("family", "model_type", "builder"),
    [
        ("nemotron", "qwen2", "QwenContinuousTokenBuilder"),
        ("deepseek", "qwen2", "DeepSeekContinuousTokenBuilder"),
        ("deepseek", "llama", "ContinuousTokenBuilder"),
    ],
)
def test_prompts_are_built_by_what_the_tokenizer_has(tmp_path, family, model_type, builder):
    """By the model's type alone verl would look for `<|im_end|>` in DeepSeek's tokenizer, and fail."""
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(tmp_path / "model", family=family))
    chosen = builder_model_type(model_type, tokenizer.get_vocab())
    made = create_continuous_token_builder(tokenizer, hf_model_type=chosen)
    assert type(made).__name__ == builder
    message = [{"role": "user", "content": "What is 1 + 1?"}]
    expected = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    assert made.build_initial_tokens(message) == expected
    if (family, model_type) == ("deepseek", "qwen2"):
        with pytest.raises(ValueError, match="im_end"):
            create_continuous_token_builder(tokenizer, hf_model_type=model_type)


def test_a_prompt_that_is_too_long_is_refused_and_not_cut():
    from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

    loop = object.__new__(SingleTurnAgentLoop)
    loop.rollout_config = SimpleNamespace(prompt_length=4)
    assert loop._cap_text_prompt_length([1, 2, 3, 4, 5]) == [2, 3, 4, 5], "verl's own way"
    assert refuse_longer(loop, [1, 2, 3, 4]) == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"has 5 tokens, recipe.max_prompt_length is 4"):
        refuse_longer(loop, [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("name", "builder"),
    [
        ("smollm2-135m-q4", "ContinuousTokenBuilder"),
        ("r1-tokenizer", "DeepSeekContinuousTokenBuilder"),
        ("qwen-tokenizer", "QwenContinuousTokenBuilder"),
    ],
)
def test_prompts_of_real_models_are_those_of_their_tokenizer_json(name, builder):
    from verl.utils.tokenizer import hf_tokenizer
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    folder = real_models.folder(name)
    tokenizer = hf_tokenizer(str(folder))
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    made = create_continuous_token_builder(
        tokenizer, hf_model_type=builder_model_type(model_type, tokenizer.get_vocab())
    )
    assert type(made).__name__ == builder
    own = ChatTokenizer(folder)
    for question in ("What is 12 + 25?", "Let $x$ be ½.\n\nFind  $x^2$:\t设实数"):
        messages = build_messages(question)
        assert made.build_initial_tokens(messages) == next(own.encode([own.render(messages)]))
    # What verl's own trainer takes for the ends of an answer are among ours.
    assert tokenizer.eos_token_id in stop_token_ids(folder, own)


@pytest.mark.parametrize("seed", range(20))
def test_shares_and_micro_batches_are_those_of_verl(seed):
    """Of which the entropy as published is made; ties included."""
    source = random.Random(seed)
    lengths = [source.randrange(1, 12 if seed % 2 else 16_000) for _ in range(96)]
    for parts in (1, 5, 8, 32):
        assert balanced_parts(lengths, parts, False) == get_seqlen_balanced_partitions(lengths, parts, False)
        if 96 % parts == 0:
            assert balanced_parts(lengths, parts, True) == get_seqlen_balanced_partitions(lengths, parts, True)
