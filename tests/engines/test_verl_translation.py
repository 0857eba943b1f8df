"""Every row of the paper's table, and every row known from the authors' script, read out of verl's resolved config."""

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from justrl import config as experiment
from justrl.errors import UserError
from justrl.io import write_json
from justrl.training.verl.settings import Row, VerlRequest

pytest.importorskip("verl")
from omegaconf import OmegaConf

from justrl.training.verl import environment, launch, plugin, settings, translate
from justrl.training.verl.progress import ATTEMPT_VARIABLE, Progress

pytestmark = pytest.mark.verl

RUNS = ("deepseek", "nemotron", "deepseek_overlong", "deepseek_overlong_robust", "deepseek_literal")
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
    "deepseek_literal": {"enable": False, "reward": "paper"},
}


@pytest.fixture(scope="module")
def experiment_config():
    return experiment.load()


def request_for(config, run: str) -> VerlRequest:
    """What a run asks of verl."""
    return VerlRequest(recipe=config.runs[run].recipe, seed=42, hardware=config.hardware, run=run)


@pytest.fixture(scope="module")
def resolved(experiment_config):
    """The resolved configuration of each run, by name."""
    return {run: translate.resolve(request_for(experiment_config, run)) for run in RUNS}


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
    assert reward.custom_reward_function.path == "pkg://justrl.training.verl.reward_function"
    assert reward.reward_kwargs.max_resp_len == 15360
    plain = OmegaConf.to_container(resolved[run])
    base = OmegaConf.to_container(resolved["deepseek"])
    for tree in (plain, base):
        tree["reward"].pop("reward_kwargs"), tree["reward"]["custom_reward_function"].pop("reward_kwargs")
        # The letter of the authors' run: the order that their data loader draws by default.
        assert tree["data"].pop("seed") == (1 if tree is plain and run == "deepseek_literal" else 42)
        text = json.dumps(tree, sort_keys=True)
        assert text.count(f'"{run}"' if tree is plain else '"deepseek"') > 0
    same = json.dumps(plain, sort_keys=True).replace(f'"{run}"', '"deepseek"')
    assert same == json.dumps(base, sort_keys=True)


@pytest.mark.parametrize("run", RUNS)
def test_every_row_of_the_table_is_in_the_resolved_configuration(resolved, experiment_config, run):
    """The tables of docs/verl.md are made of these rows, so what it says is what verl gets."""
    request = request_for(experiment_config, run)
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
    ("loss", "mode", "aggregation", "constant", "by_deviation"),
    [
        ("vanilla", "vanilla", "token-mean", None, True),
        ("dr_grpo", "vanilla", "seq-mean-token-sum-norm", 15360, False),
        ("gspo", "gspo", "seq-mean-token-mean", None, True),
    ],
)
def test_each_loss_is_one_of_verls(experiment_config, loss, mode, aggregation, constant, by_deviation):
    request = request_for(experiment_config, "deepseek")
    asked = translate.resolve(replace(request, recipe=request.recipe.model_copy(update={"loss": loss})))
    actor = asked.actor_rollout_ref.actor
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode, actor.loss_scale_factor) == (mode, aggregation, constant)
    assert asked.algorithm.norm_adv_by_std_in_grpo is by_deviation


def test_a_step_ahead_is_verls_colocate_async_and_nothing_else(resolved, experiment_config):
    ahead = translate.resolve(request_for(experiment_config, "deepseek_async"))
    assert ahead.trainer.v1.trainer_mode == "colocate_async"
    assert ahead.trainer.v1.colocate_async.num_warmup_batches == 1
    # The span of a rollout: the step of its prompt and the next one, in which it is waited for, not dropped.
    sampler = ahead.trainer.v1.sampler
    assert (sampler.max_off_policy_threshold, sampler.max_off_policy_strategy) == (2, "wait")
    assert ahead.algorithm.rollout_correction.bypass_mode is False
    plain = json.dumps(OmegaConf.to_container(ahead), sort_keys=True)
    same = plain.replace('colocate_async"', 'sync"').replace("deepseek_async", "deepseek")
    paper = json.dumps(OmegaConf.to_container(resolved["deepseek"]), sort_keys=True)
    assert same == paper.replace('colocate_async"', 'sync"')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"advantage_epsilon": 1e-8}, "advantage_epsilon"),
        ({"mini_batch_prompts": 60}, "must divide prompts_per_step"),
    ],
)
def test_what_verl_would_not_do_as_asked_is_refused(experiment_config, change, message):
    request = request_for(experiment_config, "deepseek")
    with pytest.raises(UserError, match=message):
        translate.resolve(replace(request, recipe=request.recipe.model_copy(update=change)))


def test_a_segments_trainer_resolves_what_is_asked_for_to_the_same(resolved, experiment_config, monkeypatch, tmp_path):
    """The supervisor, which is ready while GPUs wait, loads no verl for it."""
    settings_file = tmp_path / "settings.json"
    asked = translate.asked(request_for(experiment_config, "deepseek"))
    write_json(settings_file, [asdict(row) for row in asked])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert launch.load(settings_file) == resolved["deepseek"]
    assert OmegaConf.load(tmp_path / "config.yaml") == resolved["deepseek"]
    # What verl refuses becomes the supervisor's own sentence.
    write_json(settings_file, [asdict(row) for row in [*asked, Row("none", "trainer.none", 1, "D")]])
    monkeypatch.setenv(ATTEMPT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["launch", str(settings_file)])
    with pytest.raises(UserError):
        launch.main()
    assert Progress(tmp_path).problem() == "verl 0.9.1 has no setting trainer.none"


@pytest.mark.parametrize("gpus", [0, 1, 4, 8])
def test_ray_has_the_cpus_that_verl_asks_for_before_its_first_step(resolved, experiment_config, monkeypatch, gpus):
    from transfer_queue.controller import TransferQueueController
    from transfer_queue.storage.simple_storage import SimpleStorageUnit
    from verl.single_controller.ray.base import ResourcePoolManager

    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    units = resolved["deepseek"].transfer_queue.backend.SimpleStorage.num_data_storage_units
    of_actor = lambda actor: actor._default_options["num_cpus"]  # noqa: E731
    held = of_actor(launch.task_runner()) + of_actor(TransferQueueController) + units * of_actor(SimpleStorageUnit)
    held += max(1, gpus) * ResourcePoolManager.max_colocate_count
    # One more, or actors that take none find no place.
    hardware = experiment_config.hardware.model_copy(update={"gpus_per_node": gpus})
    assert environment.cpus(hardware) >= held + 1


def test_segments_have_their_own_rollout_seeds_and_the_same_data_seed(experiment_config):
    request = request_for(experiment_config, "deepseek")
    first, second = (translate.resolve(replace(request, start_step=start, to_step=start + 60)) for start in (0, 60))
    assert first.data.seed == second.data.seed == 42
    replicas = experiment_config.hardware.gpus
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
    # Compiled, the entropy in chunks costs 8 programs at each start, and is run without them afterwards.
    assert config.actor.entropy_from_logits_with_chunking and not config.actor.fsdp_config.use_torch_compile
    # Filtered when they are prepared (tests/unit/test_data_dapo.py) and looked at by the preflight.
    assert not resolved["deepseek"].data.filter_overlong_prompts
    # All 2,048 rollouts of a step fit on 8 replicas at once.
    assert config.rollout.max_num_seqs * 8 >= 2 * 256 * 8


def test_attention_without_flash_attn_stays_packed(experiment_config):
    """transformers masks the packed sequences from each other; padded ones would hold far more logits."""
    request = request_for(experiment_config, "deepseek")
    for attention in ("flash_attention_2", "sdpa"):
        hardware = request.hardware.model_copy(update={"attention": attention})
        model = translate.resolve(replace(request, hardware=hardware)).actor_rollout_ref.model
        assert model.override_config.attn_implementation == attention and model.use_remove_padding


def test_log_probabilities_that_verl_takes_without_flash_attn(monkeypatch):
    import torch
    from verl.utils import torch_functional

    monkeypatch.setattr(torch_functional, "FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE", False)
    monkeypatch.setattr(torch_functional, "logprobs_from_logits_v2", torch_functional.logprobs_from_logits_v2)
    logits, labels = torch.randn(40, 50), torch.randint(50, (40,))
    before = torch_functional.logprobs_from_logits(logits, labels)
    half = torch_functional.logprobs_from_logits(logits.bfloat16(), labels)
    plugin.compute_logprobs_in_chunks()
    assert torch.equal(torch_functional.logprobs_from_logits(logits, labels), before)
    ours = torch_functional.logprobs_from_logits(logits.bfloat16(), labels)
    assert ours.dtype == torch.float32
    # Two neighbours among bfloat16's numbers below 8 are 0.03 apart.
    torch.testing.assert_close(ours, half.float(), atol=0.04, rtol=0)


def test_command_writes_a_file_that_loads_back(tmp_path, experiment_config, resolved):
    (tmp_path / "run.json").write_text(experiment_config.described("deepseek").model_dump_json())
    output = tmp_path / "verl.yaml"
    command = [sys.executable, "-m", "justrl", "verl", "config", "--run", str(tmp_path / "run.json")]
    (tmp_path / "hardware.json").write_text(experiment_config.hardware.model_dump_json())
    command += ["--hardware", str(tmp_path / "hardware.json"), "--output", str(output)]
    subprocess.run(command, check=True, timeout=300)
    assert OmegaConf.load(output) == resolved["deepseek"]
