"""Continuing from step k gives the questions that an unbroken run gives, across the end of an epoch too.

verl's own data set, sampler, loader and saved position are used, as its trainer uses them; only Ray is left out.
"""

import io
import os

import pytest
import torch

pytest.importorskip("verl")
from transformers import AutoTokenizer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from justrl import config as experiment
from justrl.data import arithmetic
from justrl.engines.verl import translate
from justrl.engines.verl.request import Request
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
    recipe = experiment.recipe_of(config, "deepseek")
    sums = arithmetic.training_rows(ROWS, digits=2, seed=1)
    questions = arithmetic.as_training_examples(sums, recipe["prompt_suffix"], recipe["prompt_separator"])
    arithmetic.write_parquet(questions, folder / "train.parquet")
    recipe |= {
        "prompts_per_step": BATCH,
        "mini_batch_prompts": 2,
        "max_prompt_length": 200,
    }

    def make(seed: int = 42):
        request = Request(
            recipe=recipe,
            seed=seed,
            hardware=config["hardware"],
            to_step=STEPS,
            model=str(folder / "model"),
            train_file=str(folder / "train.parquet"),
            validation_file=str(folder / "train.parquet"),
        )
        trainer = object.__new__(PPOTrainerSync)
        trainer.config = translate.resolve(request)
        trainer.tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        trainer.processor, trainer.trainer_mode, trainer.parameter_sync_step = None, "sync", 1
        trainer._init_dataloader()
        return trainer

    return make


def draw(trainer, steps: int) -> list[list[int]]:
    """The questions of the next `steps` steps, by their index in the training set."""
    return [[info["index"] for info in trainer._fetch_one_gen_batch()["extra_info"]] for _ in range(steps)]


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
