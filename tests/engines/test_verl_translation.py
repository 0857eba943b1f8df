"""Every row of the paper's table, and every row known from the authors' script, read out of verl's resolved config."""

import json
import subprocess
import sys

import pytest

from justrl import config as experiment
from justrl.engines.verl.request import Request, Row
from justrl.errors import UserError

pytest.importorskip("verl")
from omegaconf import OmegaConf

from justrl.engines.verl import settings, translate

pytestmark = pytest.mark.verl

RUNS = ("deepseek", "nemotron", "deepseek_overlong", "deepseek_overlong_robust")
ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"

# Written down from the paper and from `run_scaling_ssh_distill.sh` by hand, not computed from config.yaml.
PAPER_TABLE = {
    "algorithm.adv_estimator": "grpo",
    "algorithm.use_kl_in_reward": False,
    f"{ACTOR}.use_kl_loss": False,
    f"{ACTOR}.entropy_coeff": 0.0,
    "data.train_batch_size": 256,
    "data.max_prompt_length": 1024,
    "data.max_response_length": 15360,
    f"{ACTOR}.ppo_mini_batch_size": 64,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": 1,
    f"{ACTOR}.clip_ratio_low": 0.2,
    f"{ACTOR}.clip_ratio_high": 0.28,
    f"{ACTOR}.optim.lr": 1e-6,
    f"{ACTOR}.optim.lr_scheduler_type": "constant",
    f"{ROLLOUT}.temperature": 1.0,
    f"{ROLLOUT}.top_p": 1.0,
    f"{ROLLOUT}.n": 8,
}
AUTHORS_SCRIPT = {
    "algorithm.kl_ctrl.kl_coef": 0.0,
    "data.filter_overlong_prompts": True,
    "data.truncation": "error",
    f"{ACTOR}.optim.lr_warmup_steps": 10,
    f"{ACTOR}.optim.weight_decay": 0.1,
    f"{MODEL}.use_remove_padding": True,
    f"{ACTOR}.grad_clip": 1.0,
    f"{ACTOR}.optim.clip_grad": 1.0,
    f"{ACTOR}.use_dynamic_bsz": True,
    f"{ACTOR}.ppo_max_token_len_per_gpu": 32768,
    f"{ACTOR}.kl_loss_coef": 0.0,
    f"{ACTOR}.clip_ratio_c": 10.0,
    f"{ACTOR}.ulysses_sequence_parallel_size": 1,
    f"{MODEL}.enable_gradient_checkpointing": True,
    f"{ACTOR}.fsdp_config.param_offload": False,
    f"{ACTOR}.fsdp_config.optimizer_offload": False,
    f"{ROLLOUT}.tensor_model_parallel_size": 1,
    f"{ROLLOUT}.max_num_batched_tokens": 32768,
    f"{ROLLOUT}.name": "vllm",
    f"{ROLLOUT}.val_kwargs.do_sample": True,
    f"{ROLLOUT}.val_kwargs.n": 32,
    f"{ROLLOUT}.val_kwargs.temperature": 0.7,
    f"{ROLLOUT}.val_kwargs.top_p": 0.9,
    f"{ROLLOUT}.gpu_memory_utilization": 0.85,
    "reward.reward_manager.name": "dapo",
    "reward.reward_model.enable": False,
    "reward.reward_kwargs.overlong_buffer_cfg.len": 4096,
    "reward.reward_kwargs.overlong_buffer_cfg.penalty_factor": 1.0,
    "trainer.n_gpus_per_node": 8,
    # Not in the script: the defaults of the version that the authors vendored, which this project relies on.
    f"{ACTOR}.loss_agg_mode": "token-mean",
    f"{ACTOR}.ppo_epochs": 1,
    f"{ACTOR}.shuffle": False,
    f"{ACTOR}.optim.betas": [0.9, 0.999],
    f"{ACTOR}.fsdp_config.model_dtype": "fp32",
    f"{ROLLOUT}.dtype": "bfloat16",
    f"{ROLLOUT}.top_k": -1,
    "algorithm.norm_adv_by_std_in_grpo": True,
    "data.shuffle": True,
}
# Newer than the authors' version: has to stay off for the result to be theirs.
SWITCHED_OFF = {
    "algorithm.rollout_correction.rollout_is": None,
    "algorithm.rollout_correction.rollout_rs": None,
    "algorithm.rollout_correction.bypass_mode": False,
    "algorithm.filter_groups.enable": False,
    "algorithm.use_pf_ppo": False,
    f"{ACTOR}.policy_loss.loss_mode": "vanilla",
    f"{ACTOR}.calculate_sum_pi_squared": False,
    f"{MODEL}.lora_rank": 0,
    f"{MODEL}.use_liger": False,
    f"{ROLLOUT}.quantization": None,
    "trainer.v1.trainer_mode": "sync",
    "trainer.v1.sampler.sync_refill_failed_groups": False,
    "trainer.critic_warmup": 0,
}
# What differs between the runs, and nothing else may.
DIFFERENCES = {
    "deepseek": {"enable": False, "reward": "paper"},
    "nemotron": {"enable": False, "reward": "paper"},
    "deepseek_overlong": {"enable": True, "reward": "paper"},
    "deepseek_overlong_robust": {"enable": True, "reward": "robust"},
}


@pytest.fixture(scope="module")
def experiment_config():
    return experiment.load()


@pytest.fixture(scope="module")
def resolved(experiment_config):
    """The resolved configuration of each run, by name."""
    hardware = experiment_config["hardware"]
    return {
        run: translate.resolve(
            Request(recipe=experiment.recipe_of(experiment_config, run), seed=42, hardware=hardware, run=run)
        )
        for run in RUNS
    }


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    "expected", [PAPER_TABLE, AUTHORS_SCRIPT, SWITCHED_OFF], ids=["paper", "script", "switched off"]
)
def test_resolved_configuration_holds_the_recipe(resolved, run, expected):
    found = {key: OmegaConf.select(resolved[run], key, default="missing") for key in expected}
    assert {key: list(value) if OmegaConf.is_list(value) else value for key, value in found.items()} == expected


@pytest.mark.parametrize("run", RUNS)
def test_runs_differ_in_reward_and_penalty_only(resolved, run):
    reward = resolved[run].reward
    assert {
        "enable": reward.reward_kwargs.overlong_buffer_cfg.enable,
        "reward": reward.custom_reward_function.reward_kwargs.reward,
    } == DIFFERENCES[run]
    assert reward.custom_reward_function.path == "pkg://justrl.engines.verl.reward"
    assert reward.reward_kwargs.max_resp_len == 15360
    plain = OmegaConf.to_container(resolved[run])
    base = OmegaConf.to_container(resolved["deepseek"])
    for tree in (plain, base):
        tree["reward"].pop("reward_kwargs"), tree["reward"]["custom_reward_function"].pop("reward_kwargs")
        text = json.dumps(tree, sort_keys=True)
        assert text.count(f'"{run}"' if tree is plain else '"deepseek"') > 0
    same = json.dumps(plain, sort_keys=True).replace(f'"{run}"', '"deepseek"')
    assert same == json.dumps(base, sort_keys=True)


@pytest.mark.parametrize("run", RUNS)
def test_every_row_of_the_table_is_in_the_resolved_configuration(resolved, experiment_config, run):
    """The table in the README is made of these rows, so what it says is what verl gets."""
    request = Request(
        recipe=experiment.recipe_of(experiment_config, run), seed=42, hardware=experiment_config["hardware"], run=run
    )
    for row in settings.rows(request):
        value = OmegaConf.select(resolved[run], row.key, default="missing")
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        assert value == row.value_for(request), row.key


@pytest.mark.parametrize(
    "key", ["custom_reward_function.path", "reward_model.reward_manager", "reward_model.reward_kwargs.x"]
)
def test_older_names_that_verl_ignores_are_refused(key):
    configuration = translate.default_configuration()
    with pytest.raises(UserError, match="verl ignores"):
        translate.apply_row(configuration, Row("old", key, 1, "S", added=True), 1)


@pytest.mark.parametrize("run", RUNS)
def test_nothing_stands_under_the_older_names(resolved, run):
    for group in translate.IGNORED_GROUPS:
        tree = OmegaConf.to_container(resolved[run][group])
        assert not any(value is not None for value in leaves(tree)), group


def leaves(tree):
    if isinstance(tree, dict):
        for value in tree.values():
            yield from leaves(value)
    else:
        yield tree


def test_an_unknown_key_is_refused():
    configuration = translate.default_configuration()
    with pytest.raises(UserError, match=r"verl 0.9.1 has no setting actor_rollout_ref.actor.clip_ratio_hi"):
        translate.apply_row(configuration, Row("typo", f"{ACTOR}.clip_ratio_hi", 0.28, "P"), 0.28)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"advantage_epsilon": 1e-8}, "advantage_epsilon"),
        ({"mini_batch_prompts": 60}, "must divide prompts_per_step"),
        ({"loss_aggregation": "token-median"}, "token-median"),
        ({"dtype": "float64"}, "float64"),
        ({"algorithm": "reinforce"}, "reinforce"),
    ],
)
def test_what_verl_would_not_do_as_asked_is_refused(experiment_config, change, message):
    recipe = experiment.recipe_of(experiment_config, "deepseek") | change
    with pytest.raises(UserError, match=message):
        translate.resolve(Request(recipe=recipe, seed=42, hardware=experiment_config["hardware"]))


def test_segments_have_their_own_rollout_seeds_and_the_same_data_seed(experiment_config):
    recipe = experiment.recipe_of(experiment_config, "deepseek")
    first, second = (
        translate.resolve(
            Request(
                recipe=recipe, seed=42, hardware=experiment_config["hardware"], start_step=start, to_step=start + 60
            )
        )
        for start in (0, 60)
    )
    assert first.data.seed == second.data.seed == 42
    replicas = experiment_config["hardware"]["nodes"] * experiment_config["hardware"]["gpus_per_node"]
    seeds = [{c.actor_rollout_ref.rollout.seed + rank for rank in range(replicas)} for c in (first, second)]
    assert not seeds[0] & seeds[1]
    assert (first.trainer.total_training_steps, second.trainer.total_training_steps) == (60, 120)
    assert first.trainer.total_epochs > 1000


def test_speed_settings_are_on(resolved):
    """The paper ran eagerly; graphs, caches and packing must not be lost by a new default of verl."""
    config = resolved["deepseek"].actor_rollout_ref
    assert config.rollout.enforce_eager is False
    assert config.rollout.enable_prefix_caching
    assert config.rollout.enable_chunked_prefill
    assert config.actor.use_dynamic_bsz
    assert config.model.use_remove_padding
    assert config.rollout.max_model_len == 1024 + 15360
    # All 2,048 rollouts of a step fit on 8 replicas at once.
    assert config.rollout.max_num_seqs * 8 >= 2 * 256 * 8


def test_command_writes_a_file_that_loads_back(tmp_path, experiment_config, resolved):
    run = {"run": "deepseek", "seed": 42, "experiment": "paper", "engine": "verl"}
    run["recipe"] = experiment.recipe_of(experiment_config, "deepseek")
    (tmp_path / "run.json").write_text(json.dumps(run))
    output = tmp_path / "verl.yaml"
    command = [sys.executable, "-m", "justrl.engines.verl.translate", "--run", str(tmp_path / "run.json")]
    command += ["--hardware", json.dumps(experiment_config["hardware"]), "--output", str(output)]
    subprocess.run(command, check=True, timeout=300)
    assert OmegaConf.load(output) == resolved["deepseek"]
