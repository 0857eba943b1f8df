"""The plan: the paper's own figure comes out for its hardware, and what jobs ask for fits them."""

import json
import subprocess
import sys

import pytest

from justrl import config as experiment
from justrl.errors import UserError
from justrl.operations import costs, plan
from justrl.operations.hardware import GPUS, find_gpu


@pytest.fixture(scope="module")
def config():
    return experiment.load()


def value(made, run, quantity):
    return made["runs"][run][quantity]["value"]


@pytest.mark.parametrize("run", ["deepseek", "nemotron"])
def test_the_papers_gpu_hours_come_out_for_its_hardware(config, run):
    made = plan.make_plan(config, gpu="A800", nodes=4)
    assert value(made, run, "training GPU hours") == pytest.approx(11_520)
    assert value(made, run, "training") == pytest.approx(15)


def test_one_node_takes_sixty_days(config):
    made = plan.make_plan(config, nodes=1)
    assert value(made, "deepseek", "training") == pytest.approx(60)
    assert value(made, "deepseek", "seconds per step") == pytest.approx(1184, abs=1)
    assert value(made, "deepseek", "training jobs") == 73


def test_every_figure_says_how_it_was_derived(config):
    for rows in plan.make_plan(config)["runs"].values():
        assert all(row["how"] and row["unit"] and row["value"] > 0 for row in rows.values())


def test_a_faster_gpu_takes_less_time_and_generation_does_not_scale_with_flops(config):
    seconds = {name: value(plan.make_plan(config, gpu=name), "deepseek", "seconds per step") for name in GPUS}
    assert seconds["B200"] < seconds["H200"] < seconds["H100"] < seconds["A800-80GB"] < seconds["A100-40GB"]
    assert seconds["A800-80GB"] / seconds["H100"] < GPUS["H100"].tflops / GPUS["A800-80GB"].tflops


def test_states_and_exports_have_the_known_sizes(config):
    made = plan.make_plan(config)
    assert value(made, "deepseek", "one full state") == pytest.approx(21.3, abs=0.1)
    assert value(made, "deepseek", "full states") == pytest.approx(3 * 21.3, abs=0.2)
    assert "at most 3 at a time" in made["runs"]["deepseek"]["full states"]["how"]
    # The published folders hold 3.55 GB and 3.09 GB of safetensors.
    assert costs.export_gb(costs.parameters_of(config["models"]["deepseek"])).value == pytest.approx(3.55, abs=0.01)
    assert costs.export_gb(costs.parameters_of(config["models"]["nemotron"])).value == pytest.approx(3.09, abs=0.01)


def test_evaluations_are_counted_from_the_benchmarks(config):
    full = costs.evaluation_samples(
        config["benchmarks"], config["evaluation"]["benchmarks"], config["protocols"]["paper"]
    )
    assert full == 32 * (30 + 30 + 40 + 30 + 30 + 40) + 4 * (500 + 272 + 674)
    greedy = costs.evaluation_samples(
        config["benchmarks"], config["evaluation"]["benchmarks"], config["protocols"]["greedy"]
    )
    assert greedy == 1646


def test_a_job_asks_for_more_than_its_steps_take_and_fits_a_day(config):
    for run in ("deepseek", "nemotron"):
        minutes = plan.segment_runtime_minutes(config, run)
        net = config["runs"][run]["segment_steps"] * plan.expected_step_seconds(config, run).value / 60
        assert net < minutes <= 24 * 60
        assert minutes % 10 == 0


def test_the_warning_leaves_room_for_a_step_and_a_save(config):
    step = plan.expected_step_seconds(config, "nemotron").value
    assert step < plan.segment_warning_seconds(config, "nemotron") < 2 * step
    mini = experiment.load([experiment.ROOT / "mini" / "experiment.yaml"])
    assert plan.segment_warning_seconds(mini, "mini") == 120


def test_measured_steps_replace_the_estimate(config, tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    rows = [{"step": 1, "step_seconds": 5000.0}] + [{"step": s, "step_seconds": 100.0 + s} for s in range(2, 11)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = plan.make_plan(config, measured=metrics)
    assert value(measured, "deepseek", "seconds per step") == 106
    assert plan.segment_runtime_minutes(config, "deepseek", metrics) < plan.segment_runtime_minutes(config, "deepseek")
    assert plan.segment_runtime_minutes(config, "deepseek", tmp_path / "none") == plan.segment_runtime_minutes(
        config, "deepseek"
    )
    metrics.write_text('{"step": 1}\n')
    with pytest.raises(UserError, match="no line has step_seconds"):
        plan.make_plan(config, measured=metrics)


@pytest.mark.parametrize(
    ("name", "found"), [("A800", "A800-80GB"), ("nvidia_h100_80gb", "H100"), ("h200", "H200"), ("L40S", "L40S")]
)
def test_gpus_are_found_by_the_names_people_use(name, found):
    assert find_gpu(name).name == found


def test_an_unknown_gpu_is_refused_with_a_guess():
    with pytest.raises(UserError, match=r"H10O.*did you mean H100"):
        find_gpu("H10O")


def test_the_command_prints_a_table_and_json(tmp_path):
    command = [sys.executable, "-m", "justrl.plan", "--nodes", "4"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "4 x 8 A800-80GB" in table and "11,520 GPU h" in table
    made = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert made["hardware"]["nodes"] == 4
    unknown = subprocess.run([*command, "--gpu", "abacus"], capture_output=True, text=True)
    assert unknown.returncode == 2 and unknown.stderr.startswith("error: no figures for the GPU abacus")
