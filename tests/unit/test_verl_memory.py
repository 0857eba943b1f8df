"""GPU memory on verl: what fits is said before a job starts, what does not is refused with the setting that would."""

import re
import stat

import pytest
import torch
from safetensors.torch import save_file

from justrl import config as experiment
from justrl.config import EngineSettings
from justrl.errors import UserError
from justrl.hardware import checks, memory
from justrl.hardware.checks import FAILED, OK, WARNING
from justrl.models.shape import DEEPSEEK, ModelShape
from justrl.training.verl import settings
from justrl.training.verl.settings import VerlRequest
from tiny_model import make_tiny_model

KINDS = {24: "RTX-4090", 40: "A100-40GB", 48: "L40S", 80: "A800-80GB", 141: "H200"}


@pytest.fixture(scope="module")
def paper():
    return experiment.load()


def hardware(paper, gigabytes, gpus, **engine):
    changes = {"gpu": KINDS[gigabytes], "gpus_per_node": gpus, "engine": EngineSettings(**engine)}
    return paper.hardware.model_copy(update=changes)


def job(paper, gigabytes, gpus, **engine):
    return memory.job_of(hardware(paper, gigabytes, gpus, **engine), paper.runs["deepseek"].recipe, DEEPSEEK)


# (GB, GPUs): vLLM's share, tokens of a micro-batch, moments in main memory; None does not fit.
@pytest.mark.parametrize(
    ("gigabytes", "gpus", "expected"),
    [
        (24, 1, None),
        (24, 2, (0.55, 16_384, True)),
        (24, 4, (0.55, 16_384, False)),
        (24, 8, (0.7, 16_384, False)),
        (40, 1, (0.55, 32_768, True)),
        (40, 2, (0.55, 32_768, False)),
        (40, 4, (0.7, 32_768, False)),
        (40, 8, (0.8, 32_768, False)),
        (48, 1, (0.3, 16_384, False)),
        (48, 2, (0.6, 32_768, False)),
        (48, 4, (0.75, 32_768, False)),
        (48, 8, (0.8, 32_768, False)),
        (80, 1, (0.6, 32_768, False)),
        (80, 2, (0.75, 32_768, False)),
        (80, 4, (0.85, 32_768, False)),
        (80, 8, (0.85, 32_768, False)),
        (141, 1, (0.75, 32_768, False)),
        (141, 2, (0.85, 32_768, False)),
        (141, 4, (0.85, 32_768, False)),
        (141, 8, (0.85, 32_768, False)),
    ],
)
def test_what_fits_and_with_which_settings(paper, gigabytes, gpus, expected):
    wanted = job(paper, gigabytes, gpus)
    found = wanted.settings
    if expected is None:
        assert wanted.problem(found) and wanted.remedy() == "2 such GPUs would hold it"
    else:
        assert wanted.problem(found) is None
        assert (found.gpu_memory_utilization, found.max_tokens_per_gpu, found.offload_optimizer) == expected
        assert wanted.fullest(found)[1] < memory.TIGHT * wanted.card


# The authors' share of memory, worked out by hand: 67 + 6.6 + 13.2 + 1.5 GiB on one GPU of 80 GB.
@pytest.mark.parametrize(("gpus", "gib", "status"), [(1, 88.3, FAILED), (2, 79, WARNING), (4, 74, OK), (8, 71.3, OK)])
def test_the_authors_share_of_memory_on_fewer_gpus(paper, gpus, gib, status):
    wanted = job(paper, 80, gpus, gpu_memory_utilization=0.85)
    phase, most = wanted.fullest(wanted.settings)
    assert phase.endswith("vLLM awake") and most == pytest.approx(gib, abs=0.6)
    recipe = paper.runs["deepseek"].recipe
    check = checks.check_memory(hardware(paper, 80, gpus, gpu_memory_utilization=0.85), "verl", recipe, DEEPSEEK)
    assert check.status == status
    if status == FAILED:
        assert check.remedy == "hardware.engine.gpu_memory_utilization: 0.6 would fit"


def test_no_more_sequences_at_once_than_the_cache_holds(paper):
    """Twice a GPU's share of 2,048 rollouts where it fits, fewer where they would push each other out."""
    seqs = {gpus: job(paper, 80, gpus).settings.max_num_seqs for gpus in (1, 2, 4, 8)}
    assert seqs[8] == 512 and seqs[1] < seqs[2] < seqs[4] < 600
    assert job(paper, 80, 1, max_num_seqs=4096).settings.max_num_seqs == 4096


def test_phases_hold_what_is_known_by_arithmetic(paper):
    wanted = job(paper, 80, 1)
    phases = wanted.phases(wanted.settings)
    assert phases["update"]["weights"] == phases["update"]["gradients"] == pytest.approx(6.62, abs=0.01)
    assert phases["update"]["moments"] == pytest.approx(13.24, abs=0.01)
    assert phases["update"]["logits"] == pytest.approx(9.27, abs=0.01)
    # Eight GPUs: about 22 GiB beside a sleeping vLLM.
    eight = job(paper, 80, 8)
    assert sum(eight.phases(eight.settings)["update"].values()) == pytest.approx(22, abs=3)


@pytest.mark.parametrize(
    ("wish", "gigabytes", "gpus", "sentence"),
    [
        ({"max_tokens_per_gpu": 8192}, 80, 8, "less than one sequence.*max_tokens_per_gpu: 32768 would fit"),
        ({"max_tokens_per_gpu": 262_144}, 80, 8, "update: .*max_tokens_per_gpu: 32768 would fit"),
        ({"gpu_memory_utilization": 0.07}, 80, 8, "cache holds .*gpu_memory_utilization: 0.85 would fit"),
        ({"offload_optimizer": False}, 40, 1, "offload_optimizer: true would fit"),
        ({}, 24, 1, "optimizer step: .*2 such GPUs would hold it"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(paper, wish, gigabytes, gpus, sentence):
    wanted = job(paper, gigabytes, gpus, **wish)
    assert re.search(sentence, f"{wanted.problem(wanted.settings)}; {wanted.remedy()}")


def test_training_does_not_start_on_smaller_gpus_than_configured(paper, tmp_path, monkeypatch):
    config = (
        '{"num_hidden_layers": 28, "hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, '
        '"num_key_value_heads": 2, "vocab_size": 151936}'
    )
    (tmp_path / "config.json").write_text(config)
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    recipe = paper.runs["deepseek"].recipe
    for mebibytes, fits in ((81_559, True), (40_960, False)):
        program.write_text(f"#!/bin/sh\necho '0, NVIDIA A800, 580.1, {mebibytes}, 0, 0'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        if fits:
            memory.check_start(hardware(paper, 80, 1), recipe, tmp_path)
        else:
            with pytest.raises(UserError, match=r"this training: .* on one GPU of 40.0 GiB; hardware.gpu is A800-80GB"):
                memory.check_start(hardware(paper, 80, 1), recipe, tmp_path)


def test_what_is_set_or_derived_reaches_verl(paper):
    recipe = paper.runs["deepseek"].recipe
    request = VerlRequest(recipe, 42, hardware(paper, 40, 1, max_num_seqs=64, cuda_graphs=False), shape=DEEPSEEK)
    values = {row.key: row.value_for(request) for row in settings.rows(request)}
    assert values[f"{settings.ROLLOUT}.gpu_memory_utilization"] == 0.55
    assert values[f"{settings.ROLLOUT}.max_num_seqs"] == 64
    assert values[f"{settings.ROLLOUT}.enforce_eager"] is True
    assert values[f"{settings.ROLLOUT}.dtype"] == "bfloat16"
    assert values[f"{settings.ACTOR}.ppo_max_token_len_per_gpu"] == 32_768
    assert values[f"{settings.ACTOR}.fsdp_config.optimizer_offload"] is True
    assert values[f"{settings.ACTOR}.fsdp_config.param_offload"] is False
    assert values[f"{settings.MODEL}.use_fused_kernels"] is False


@pytest.mark.parametrize(
    ("shape", "mib"),
    [
        # One embedding of SmolLM2 takes 108 MiB in float32, more than the 64 that a toy needs.
        (ModelShape(30, 576, 1536, 9, 3, 64, 49_152, True), 108),
        (DEEPSEEK, 891),
        (ModelShape(2, 64, 128, 2, 1, 32, 512, False), 64),
        (None, 891),
    ],
)
def test_on_a_cpu_what_weights_are_handed_over_in_holds_the_largest(paper, shape, mib):
    cpu = paper.hardware.model_copy(update={"gpus_per_node": 0, "gpu": "none"})
    request = VerlRequest(paper.runs["deepseek"].recipe, 1, cpu, shape=shape)
    key = "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
    (row,) = [row for row in settings.rows(request) if row.key == key]
    assert row.value_for(request) == mib


def test_the_preflight_says_whether_weights_can_be_handed_over(paper, tmp_path):
    folder = make_tiny_model(tmp_path / "model")
    cpu = paper.hardware.model_copy(update={"gpus_per_node": 0, "gpu": "none"})
    check = checks.check_weight_transfer(folder, cpu, "verl")
    assert check.status == OK and check.found.startswith("64 MiB for each rank (1); model.embed_tokens.weight takes 0")
    # Weights of another form than config.json tells.
    save_file({"experts": torch.zeros(3 * 2**23)}, folder / "model.safetensors")
    check = checks.check_weight_transfer(folder, cpu, "verl")
    assert check.status == FAILED and "experts takes 96" in check.found
    assert checks.check_weight_transfer(folder, paper.hardware, "verl").status == OK
    assert checks.check_weight_transfer(folder, cpu, "reference").status == OK
