"""verl's settings: one row per setting, with the recipe's name, verl's key, the value and its source.

A row's value is a constant or a function of the segment's request. The rows are used for the translation, for the
tables in docs/verl.md, and by the tests, which compare them with the resolved configuration. All other keys keep verl's
defaults. Sources: P the paper (Table 2 and text), S the authors' script (thunlp/JustRL, train/examples/justrl), D a
departure from both, with its reason in `note`.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from justrl.config import AGGREGATION, Hardware, Recipe
from justrl.hardware import memory
from justrl.models.shape import ModelShape

# Both the step limit and the epoch limit apply; a run ends by its number of steps, never by the size of its data.
UNLIMITED_EPOCHS = 1_000_000
# Rollout replicas add their rank to the seed; with this distance per step, segments never share a seed.
SEEDS_PER_STEP = 1000

ACTOR = "actor_rollout_ref.actor"
ROLLOUT = "actor_rollout_ref.rollout"
MODEL = "actor_rollout_ref.model"

Value = Callable[["VerlRequest"], Any]


@dataclass(frozen=True)
class VerlRequest:
    """A segment's request to verl.

    Paths are text, as in the resolved configuration. The defaults are placeholders for values that are filled in when a
    segment starts, so that a run's configuration can be written without the paths of a machine.
    """

    recipe: Recipe
    seed: int
    hardware: Hardware
    run: str = "run"
    experiment: str = "paper"
    start_step: int = 0
    to_step: int | None = None
    model: str = "<model>"
    shape: ModelShape | None = None
    train_file: str = "<train_file>"
    checkpoints: str = "<work>/checkpoints"
    rollouts: str | None = None
    cpus: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def engine(self) -> memory.Settings:
        """The engine's settings; those not configured are derived from the GPUs and the model."""
        return memory.settings_of(self.hardware, self.recipe, self.shape)

    @property
    def ranks_per_node(self) -> int:
        """Data-parallel workers on each node: one per GPU, at least one on a CPU."""
        return max(1, self.hardware.gpus_per_node)

    @property
    def ranks(self) -> int:
        """Data-parallel workers on all nodes."""
        return self.ranks_per_node * self.hardware.nodes


@dataclass(frozen=True)
class Row:
    """One setting: its name in the recipe, verl's key, its value, the source of the value, and a note.

    `added` marks a key that verl reads but that is missing from its default configuration.
    """

    name: str
    key: str
    value: Value | Any
    source: str
    note: str = ""
    added: bool = False

    def value_for(self, request: VerlRequest) -> Any:
        """Return the value for one request."""
        return self.value(request) if callable(self.value) else self.value


def of(*keys: str) -> Value:
    """Return a function that gives the recipe's value at the path `keys`."""

    def value(request: VerlRequest) -> Any:
        value = functools.reduce(getattr, keys, request.recipe)
        return list(value) if isinstance(value, tuple) else value

    return value


def reward_rule(request: VerlRequest) -> str:
    """Return the recipe's reward: its name, or a custom function as JSON."""
    reward = request.recipe.reward
    return reward if isinstance(reward, str) else json.dumps(reward.as_dict(), sort_keys=True)


def mixed_precision(dtype: str) -> dict[str, str]:
    """Return FSDP's precisions for a compute type: it for parameters, float32 for gradient sums and buffers."""
    return {
        "param_dtype": {"bfloat16": "bf16", "float32": "fp32"}[dtype],
        "reduce_dtype": "fp32",
        "buffer_dtype": "fp32",
    }


# The recipe. Together with RUN, these rows contain every number of the paper's table.
# fmt: off
RECIPE = (
    Row("advantage", "algorithm.adv_estimator", of("algorithm"), "P"),
    Row("advantage divided by the group's deviation", "algorithm.norm_adv_by_std_in_grpo",
        lambda r: r.recipe.loss != "dr_grpo", "P", "plus 1e-6, a constant in verl; `loss: dr_grpo` only centres"),
    Row("no critic", "critic.enable", False, "P"),
    Row("no KL in the reward", "algorithm.use_kl_in_reward", False, "P"),
    Row("KL coefficient of the reward", "algorithm.kl_ctrl.kl_coef", 0.0, "S"),
    Row("no KL loss", f"{ACTOR}.use_kl_loss", False, "P"),
    Row("KL coefficient of the loss", f"{ACTOR}.kl_loss_coef", of("kl_coefficient"), "P"),
    Row("no entropy bonus", f"{ACTOR}.entropy_coeff", of("entropy_coefficient"), "P",
        "entropy is measured nevertheless, together with the old log-probabilities"),
    Row("no dynamic sampling", "algorithm.filter_groups.enable", False, "P"),
    Row("prompts per step", "data.train_batch_size", of("prompts_per_step"), "P"),
    Row("group size", f"{ROLLOUT}.n", of("rollouts_per_prompt"), "P"),
    Row("PPO mini-batch", f"{ACTOR}.ppo_mini_batch_size", of("mini_batch_prompts"), "P", "in prompts"),
    Row("PPO epochs", f"{ACTOR}.ppo_epochs", 1, "S", "verl's default"),
    Row("micro-batch per GPU", f"{ACTOR}.ppo_micro_batch_size_per_gpu", of("micro_batch_per_gpu"), "P",
        "unused under dynamic batches, as in the authors' run"),
    Row("clip, low", f"{ACTOR}.clip_ratio_low", of("clip_ratio_low"), "P"),
    Row("clip, high", f"{ACTOR}.clip_ratio_high", of("clip_ratio_high"), "P"),
    Row("dual clip", f"{ACTOR}.clip_ratio_c", of("clip_ratio_c"), "S"),
    Row("loss", f"{ACTOR}.policy_loss.loss_mode",
        lambda r: "gspo" if r.recipe.loss == "gspo" else "vanilla", "S", "clipped PPO, verl's default"),
    Row("loss aggregation", f"{ACTOR}.loss_agg_mode", lambda r: AGGREGATION[r.recipe.loss], "S",
        "over the mini-batch; the authors' verl averaged each micro-batch by itself and weighted it by its sequences, "
        "which this version no longer offers"),
    Row("loss, constant length", f"{ACTOR}.loss_scale_factor",
        lambda r: r.recipe.max_response_length if r.recipe.loss == "dr_grpo" else None, "S",
        "only for `loss: dr_grpo`"),
    Row("optimizer", f"{ACTOR}.optim.optimizer", "AdamW", "S", "verl's default"),
    Row("learning rate", f"{ACTOR}.optim.lr", of("learning_rate"), "P"),
    Row("schedule", f"{ACTOR}.optim.lr_scheduler_type", "constant", "P"),
    Row("warm-up steps", f"{ACTOR}.optim.lr_warmup_steps", of("warmup_steps"), "S",
        "linear; the first step has learning rate 0, as in the authors' version"),
    Row("weight decay", f"{ACTOR}.optim.weight_decay", of("weight_decay"), "S"),
    Row("Adam betas", f"{ACTOR}.optim.betas", of("adam_betas"), "S", "verl's default"),
    Row("gradient clip", f"{ACTOR}.optim.clip_grad", of("gradient_clip"), "S", "the key that FSDP reads"),
    Row("gradient clip, older key", f"{ACTOR}.grad_clip", of("gradient_clip"), "S",
        "the authors' key; read by other back ends only"),
    Row("longest prompt", "data.max_prompt_length", of("max_prompt_length"), "P"),
    Row("longer prompts filtered out", "data.filter_overlong_prompts", False, "D",
        "already filtered when the data is prepared; verl would repeat it at each start while the GPUs wait"),
    Row("truncation", "data.truncation", "error", "S"),
    Row("longest response", "data.max_response_length", of("max_response_length"), "P"),
    Row("rollout temperature", f"{ROLLOUT}.temperature", of("temperature"), "P"),
    Row("rollout top-p", f"{ROLLOUT}.top_p", of("top_p"), "P"),
    Row("rollout top-k", f"{ROLLOUT}.top_k", of("top_k"), "S", "off"),
    Row("sampling", f"{ROLLOUT}.do_sample", True, "S"),
    Row("reward", "reward.custom_reward_function.path", "pkg://justrl.training.verl.reward_function", "P",
        "verl's own math_dapo has changed since"),
    Row("reward function", "reward.custom_reward_function.name", "compute_score", "P"),
    Row("reward rule", "reward.custom_reward_function.reward_kwargs.reward", reward_rule, "P", added=True),
    Row("reward manager", "reward.reward_manager.name", "dapo", "S"),
    Row("reward manager, where from", "reward.reward_manager.source", "register", "S"),
    Row("no reward model", "reward.reward_model.enable", False, "S"),
    Row("overlong penalty", "reward.reward_kwargs.overlong_buffer_cfg.enable", of("overlong_penalty", "enabled"), "P",
        added=True),
    Row("overlong buffer", "reward.reward_kwargs.overlong_buffer_cfg.len", of("overlong_penalty", "buffer"), "P",
        added=True),
    Row("overlong factor", "reward.reward_kwargs.overlong_buffer_cfg.penalty_factor",
        of("overlong_penalty", "factor"), "S", added=True),
    Row("overlong log", "reward.reward_kwargs.overlong_buffer_cfg.log", False, "S", "required by verl", added=True),
    Row("overlong limit", "reward.reward_kwargs.max_resp_len", of("max_response_length"), "S", added=True),
    Row("rollout correction", "algorithm.rollout_correction.rollout_is", None, "P",
        "none; newer than the authors' version"),
    Row("old log-probabilities", "algorithm.rollout_correction.bypass_mode", False, "S",
        "recomputed by the trainer, not read from vLLM"),
    Row("rollout precision", f"{ROLLOUT}.dtype", lambda r: r.engine.rollout_dtype, "S"),
    Row("compute precision", f"{ACTOR}.fsdp_config.mixed_precision", lambda r: mixed_precision(r.recipe.dtype),
        "S", "verl's default for bfloat16", added=True),
    Row("compute precision, other back ends", f"{ACTOR}.fsdp_config.dtype", of("dtype"), "S"),
    Row("master weights", f"{ACTOR}.fsdp_config.model_dtype", "fp32", "S", "the optimizer's moments too"),
    Row("gradient checkpointing", f"{MODEL}.enable_gradient_checkpointing", of("gradient_checkpointing"), "S"),
    Row("shuffle", "data.shuffle", True, "S"),
    Row("validation samples", f"{ROLLOUT}.val_kwargs.n", 32, "S",
        "not used: separate jobs evaluate checkpoints"),
    Row("validation sampling", f"{ROLLOUT}.val_kwargs.do_sample", True, "S", "not used"),
    Row("validation temperature", f"{ROLLOUT}.val_kwargs.temperature", 0.7, "S", "not used"),
    Row("validation top-p", f"{ROLLOUT}.val_kwargs.top_p", 0.9, "S", "not used"),
    Row("no validation inside the trainer", "trainer.test_freq", -1, "D",
        "the authors validate every 50 steps while 8 GPUs wait; here separate jobs run in parallel to the training"),
    Row("no validation before training", "trainer.val_before_train", False, "D",
        "a separate job evaluates the base model"),
)

# How the engine runs: components chosen by the authors, and how a run is divided into segments.
RUN = (
    Row("rollout engine", f"{ROLLOUT}.name", "vllm", "S"),
    Row("prompt builder", f"{ROLLOUT}.agent.agent_loop_manager_class",
        "justrl.training.verl.agent_loop.AgentLoopManager", "D",
        "chosen by the tokenizer's tokens: verl chooses by model type and finds no `<|im_end|>` in "
        "DeepSeek's tokenizer", added=True),
    Row("weights to vLLM", f"{ROLLOUT}.engine_kwargs.vllm.worker_extension_cls",
        "justrl.training.verl.weights.Receiver", "D",
        "through sockets of this attempt: in verl, two trainings on one node would share the names of sockets",
        added=True),
    Row("tensor parallel", f"{ROLLOUT}.tensor_model_parallel_size", 1, "S"),
    Row("sequence parallel", f"{ACTOR}.ulysses_sequence_parallel_size", 1, "S"),
    Row("sharding", f"{ACTOR}.strategy", "fsdp2", "D",
        "the authors used FSDP1, verl's default; the arithmetic is the same"),
    Row("base model", f"{MODEL}.path", lambda r: r.model, "P"),
    Row("no code of the base model's own", f"{MODEL}.trust_remote_code", False, "S", "verl's default"),
    Row("training data", "data.train_files", lambda r: r.train_file, "P"),
    Row("validation data", "data.val_files", lambda r: r.train_file, "D",
        "verl opens it even if it never validates"),
    Row("validation rows", "data.val_max_samples", 1, "D", "one row is enough to open the file"),
    Row("seed of the data order", "data.seed",
        lambda r: r.seed if r.recipe.data_seed is None else r.recipe.data_seed, "D",
        "the authors set none; their verl used 1"),
    Row("seed of the rollouts", f"{ROLLOUT}.seed", lambda r: r.seed + SEEDS_PER_STEP * r.start_step, "D",
        "verl adds the rank of the replica; each segment has its own seed, so that segments draw different numbers"),
    Row("seed of the mini-batches", f"{ACTOR}.data_loader_seed", lambda r: r.seed, "D",
        "unused: no shuffling inside a step"),
    Row("nodes", "trainer.nnodes", lambda r: r.hardware.nodes, "D", "the paper: 4"),
    Row("GPUs per node", "trainer.n_gpus_per_node", lambda r: r.ranks_per_node, "P"),
    Row("last step", "trainer.total_training_steps", lambda r: r.to_step, "P", "of the segment"),
    Row("epochs", "trainer.total_epochs", UNLIMITED_EPOCHS, "D",
        "the authors' 1 covers 100 copies of the data; without copies an epoch is 67 steps"),
    Row("full save", "trainer.save_freq", lambda r: r.hardware.save_every, "D",
        "the authors: 50, all kept; here two are kept, so a shorter interval needs no more disk"),
    Row("resume", "trainer.resume_mode", "auto", "D"),
    Row("checkpoints", "trainer.default_local_dir", lambda r: r.checkpoints, "D"),
    Row("rollout dumps", "trainer.rollout_data_dir", lambda r: r.rollouts, "D"),
    Row("loggers", "trainer.logger", ["console", "file"], "D",
        "the supervisor logs to TensorBoard and other trackers, with the names of the reference engine"),
    Row("project", "trainer.project_name", lambda r: r.experiment, "D"),
    Row("run", "trainer.experiment_name", lambda r: r.run, "D"),
    Row("trainer", "trainer.use_v1", True, "D", "the older one is deprecated"),
    Row("trainer mode", "trainer.v1.trainer_mode", lambda r: "colocate_async" if r.recipe.staleness else "sync", "P",
        "on-policy, as in the paper; `staleness: 1` generates one step ahead"),
    Row("steps ahead", "trainer.v1.colocate_async.num_warmup_batches", 1, "D",
        "only for `staleness: 1`; verl's default"),
    Row("oldest rollout", "trainer.v1.sampler.max_off_policy_threshold", 2, "D",
        "only for `staleness: 1`: steps from prompt to update; verl's default is 8"),
    Row("older rollouts", "trainer.v1.sampler.max_off_policy_strategy", "wait", "D",
        "only for `staleness: 1`: none is dropped, because the long ones would be; verl's default drops them"),
    Row("no dashboard", "ray_kwargs.ray_init.include_dashboard", False, "D", "not reachable inside a job",
        added=True),
    Row("data loader workers", "data.dataloader_num_workers", 0, "D", "no read-ahead, so resuming is exact"),
)

# Settings that affect speed or memory, but not the result (except for the order of floating-point sums).
SPEED = (
    Row("CUDA graphs", f"{ROLLOUT}.enforce_eager", lambda r: r.hardware.engine.cuda_graphs is False, "D",
        "the authors did not use them; graphs replay the same kernels without launching each one"),
    Row("dynamic batches", f"{ACTOR}.use_dynamic_bsz", True, "S",
        "sequences are packed by tokens; the loss is normalised over the mini-batch, however it is split"),
    Row("tokens per GPU", f"{ACTOR}.ppo_max_token_len_per_gpu", lambda r: r.engine.max_tokens_per_gpu, "S",
        "size of a micro-batch, also for log-probabilities; smaller if memory requires it"),
    Row("attention", f"{MODEL}.override_config.attn_implementation", lambda r: r.hardware.attention, "S",
        "verl's default; `hardware.attention: sdpa` does not need flash-attn and is slower", added=True),
    Row("packing", f"{MODEL}.use_remove_padding", True, "S", "no padding tokens are computed"),
    Row("balanced ranks", "trainer.balance_batch", True, "S",
        "moves sequences between ranks; the average over all ranks stays the same"),
    Row("parameters in main memory", f"{ACTOR}.fsdp_config.param_offload", lambda r: r.engine.offload_parameters, "S",
        "does not lower the peak memory"),
    Row("optimizer in main memory", f"{ACTOR}.fsdp_config.optimizer_offload", lambda r: r.engine.offload_optimizer, "S",
        "only if it does not fit: one GPU of 40 GB, two of 24 GB"),
    Row("fused kernels", f"{MODEL}.use_fused_kernels", lambda r: r.engine.fused_kernels, "S",
        "would avoid storing the logits; off because of verl#2656 and #1720"),
    Row("chunked entropy", f"{ACTOR}.entropy_from_logits_with_chunking", True, "D",
        "computes the entropy of 32,768 rows of 151,936 logits in slices: same values, 20 GB less"),
    Row("compiled entropy", f"{ACTOR}.fsdp_config.use_torch_compile", False, "D",
        "each number of tokens would need its own compiled program: 8 compiled at each start, the rest run uncompiled"),
    Row("vLLM memory", f"{ROLLOUT}.gpu_memory_utilization", lambda r: r.engine.gpu_memory_utilization, "S",
        "memory for concurrent sequences, next to the trainer's; less on fewer or smaller GPUs"),
    Row("vLLM frees its memory for the update", f"{ROLLOUT}.free_cache_engine", True, "S", "verl's default"),
    Row("prefill tokens", f"{ROLLOUT}.max_num_batched_tokens", 32768, "S", "per vLLM step"),
    Row("sequences at once", f"{ROLLOUT}.max_num_seqs", lambda r: r.engine.max_num_seqs, "D",
        "all rollouts of a step start at once, even with uneven replicas, if the cache can hold a quarter of the "
        "maximum length of each"),
    Row("longest sequence", f"{ROLLOUT}.max_model_len", lambda r: r.recipe.longest, "D",
        "prompt and response, not the model's 131,072: smaller tables"),
    Row("chunked prefill", f"{ROLLOUT}.enable_chunked_prefill", True, "S", "verl's default"),
    Row("prefix cache", f"{ROLLOUT}.enable_prefix_caching", True, "D",
        "the 8 rollouts of a prompt share its keys and values; verl empties the cache when weights change"),
)

# Settings for parts of verl that support only GPUs. The plugin makes the rest work; none of these is used on a GPU.
CPU = (
    Row("device", "trainer.device", "cpu", "D"),
    Row("logical GPUs", "ray_kwargs.ray_init.num_gpus", lambda r: r.ranks_per_node, "D", "Ray counts ranks with them",
        added=True),
    Row("attention", f"{MODEL}.override_config.attn_implementation", "sdpa", "D", "flash attention needs a GPU",
        added=True),
    Row("CUDA graphs", f"{ROLLOUT}.enforce_eager", True, "D", "not available"),
    Row("vLLM frees its memory", f"{ROLLOUT}.free_cache_engine", False, "D", "no GPU memory"),
    Row("vLLM sleeps", f"{ROLLOUT}.enable_sleep_mode", False, "D", added=True),
    Row("vLLM memory", f"{ROLLOUT}.gpu_memory_utilization", 0.1, "D"),
    Row("prefill tokens", f"{ROLLOUT}.max_num_batched_tokens", lambda r: max(2048, r.recipe.longest),
        "D"),
    Row("vLLM keeps weights for updates", f"{ROLLOUT}.engine_kwargs.vllm.worker_extension_cls",
        "justrl.training.verl.weights.WeightKeepingExtension", "D", added=True),
    Row("weight transfer", f"{ROLLOUT}.checkpoint_engine.update_weights_bucket_megabytes",
        lambda r: memory.transfer_mib(r.shape), "D", "on a CPU, each tensor must fit into it"),
    Row("agent workers", f"{ROLLOUT}.agent.num_workers", 1, "D"),
    Row("reward workers", "reward.num_workers", 1, "D"),
    Row("storage units", "transfer_queue.backend.SimpleStorage.num_data_storage_units", 1, "D"),
)

# fmt: on


def rows(request: VerlRequest) -> Iterator[Row]:
    """Yield all settings of a request; a later row overrides an earlier one with the same key."""
    yield from RECIPE
    yield from RUN
    yield from SPEED
    if request.cpus is not None:
        yield Row("CPUs", "ray_kwargs.ray_init.num_cpus", request.cpus, "D", "from the allocation: Ray hangs without")
    if request.hardware.on_cpu:
        yield from CPU
    for key, value in request.extra.items():
        yield Row("extra", key, value, "D")
