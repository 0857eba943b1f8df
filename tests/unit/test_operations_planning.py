"""The plan: the paper's own figure comes out for its hardware, and what jobs ask for fits them."""

import json
import os
import re
import subprocess
import sys

import pytest

from justrl import config as experiment
from justrl.cli.main import main
from justrl.config import files as config_files
from justrl.config.hardware import GPUS, find_gpu
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.models.shape import DEEPSEEK, shape_of
from justrl.plan import costs
from justrl.plan import planning as plan
from justrl.plan.costs import LEAST, MOST, lengths_of, step_time
from justrl.plan.plan_tables import announce


@pytest.fixture(scope="module")
def config():
    return experiment.load()


def value(made, run, quantity):
    return made["runs"][run][quantity]["value"]


def time_of(hardware, recipe, longest, mean, engine="verl"):
    return step_time(costs.work_of(hardware, engine, recipe, DEEPSEEK, lengths_of(mean, longest)))


def test_the_papers_step_comes_out_for_its_hardware(config):
    """The paper's 15 days on 32 A800 are 296 s a step; the authors ran without CUDA graphs."""
    eager = experiment.load(overrides=["hardware.engine.cuda_graphs=false"])
    made = plan.make_plan(eager, gpu="A800", nodes=4)
    assert value(made, "deepseek", "seconds per step") == pytest.approx(296, rel=0.2)
    assert value(made, "deepseek", "training") == pytest.approx(15, rel=0.2)


def test_a_limit_cuts_the_tail_and_does_not_scale_the_mean():
    """Half of the limit is no half of the mean: a published run of this model at 8,192 has 5,500 tokens at first."""
    made = plan.make_plan(experiment.load(["one_gpu/experiment.yaml"]))
    row = made["runs"]["deepseek_8k"]["seconds per step"]
    assert row["value"] > 700 and "answers of 5,577 tokens" in row["how"]


def test_an_estimate_has_a_range_and_says_so_and_what_was_measured_has_none(config, tmp_path, capsys):
    rows = plan.make_plan(config)["runs"]["deepseek"]
    step = rows["seconds per step"]
    assert step["low"] == pytest.approx(LEAST * step["value"]) and step["high"] == pytest.approx(MOST * step["value"])
    assert step["high"] <= 1.6 * step["low"]
    assert rows["training GPU hours"]["low"] < rows["training GPU hours"]["value"] < rows["training GPU hours"]["high"]
    assert main(["plan"]) == 0
    (shown,) = [line for line in capsys.readouterr().out.splitlines() if "seconds per step" in line][:1]
    assert f"estimate, {step['low']:,.0f} to {step['high']:,.0f}: answers of" in shown
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "step_seconds": 100.0}\n')
    measured = plan.make_plan(config, measured=tmp_path / "metrics.jsonl")["runs"]["deepseek"]
    assert measured["seconds per step"]["low"] is None and measured["training"]["high"] is None


def test_a_job_asks_for_the_upper_end_of_the_first_steps_which_are_the_longest(config):
    first = plan.expected_step_seconds(config, "deepseek", steps=(0, 60))
    assert first.value > 1.1 * plan.expected_step_seconds(config, "deepseek").value
    assert plan.segment_runtime_minutes(config, "deepseek") * 60 > 60 * 1.15 * MOST * first.value


def test_days_count_start_ups_saves_and_merges(config):
    rows = plan.make_plan(config)["runs"]["deepseek"]
    alone = 4380 * rows["seconds per step"]["value"] / 86400
    started = (73 * 15 * 60 + 73 * 7 * rows["one full state"]["value"] / 0.5) / 86400
    assert rows["training"]["value"] == pytest.approx(alone + started)


def test_a_start_announces_the_cost_that_the_plan_prints(config):
    """Of a whole run: its days, its GPU hours and their range."""
    one = config.model_copy(update={"runs": {"deepseek": config.runs["deepseek"]}})
    said = announce(one, [("deepseek", end) for end in range(60, 4381, 60)], [], Layout(one))
    rows = plan.make_plan(one)["runs"]["deepseek"]
    hours = rows["training GPU hours"]
    assert f"73 jobs, about {rows['training']['value']:.1f} days, {hours['value']:,.0f} GPU hours" in said
    assert f"(an estimate: {hours['low']:,.0f} to {hours['high']:,.0f})" in said


def test_a_small_evaluation_is_not_announced_to_cost_nothing(config):
    layout = Layout(config)
    said = announce(config, [], [layout.completions("nemotron@base", "math500", "greedy")], layout)
    assert re.search(r"500 answers, about 0.\d+ GPU hours\nAbout 0.\d+ GPU hours in all \(an estimate: 0.1", said)


def test_on_a_cpu_the_mini_experiment_takes_minutes_and_a_real_model_an_unknown_time():
    said = {}
    for name in ("mini", "laptop"):
        config = experiment.load([config_files.ROOT / name / "experiment.yaml"])
        (run,) = config.enabled
        ends = [(run, end) for end in config.runs[run].segment_ends]
        said[name] = announce(config, ends, [], Layout(config))
    assert re.search(r"mini: 2 jobs, about [1-4](\.\d)? min$", said["mini"])
    assert "4 jobs, time unknown until the first one has ended" in said["laptop"]


def test_the_plan_derives_the_requested_time_and_gives_its_sums_units(capsys):
    assert main(["plan"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"start-up \+ 60 steps x [\d,]+ s \(upper end, first steps\) x 1.15 \+ saves", shown)
    assert re.search(r"all 2 runs training GPU hours [\d,]+ GPU h evaluation GPU hours [\d.]+ GPU h disk .* GB$", shown)


def test_the_longest_response_takes_as_long_on_any_number_of_gpus(config):
    recipe, seconds = config.runs["deepseek"].recipe, {}
    for gpus in (1, 8):
        hardware = config.hardware.model_copy(update={"gpus_per_node": gpus})
        seconds[gpus] = time_of(hardware, recipe, 15_360, 5_500)
    assert seconds[1].launches >= seconds[8].launches
    assert seconds[8].launches == pytest.approx(15_360 * 28 * 1.03e-4)
    assert seconds[1].cache / seconds[8].cache == pytest.approx(8)
    assert seconds[1].update / seconds[8].update == pytest.approx(8)


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
    assert costs.export_gb(shape_of(config.models["deepseek"]).parameters).value == pytest.approx(3.55, abs=0.01)
    assert costs.export_gb(shape_of(config.models["nemotron"]).parameters).value == pytest.approx(3.09, abs=0.01)
    assert DEEPSEEK.parameters == 1_777_088_000


def test_evaluations_are_counted_from_the_benchmarks(config):
    full = plan.evaluation_samples(config, config.evaluation.benchmarks, "paper")
    assert full == 32 * (30 + 30 + 40 + 30 + 30 + 40) + 4 * (500 + 272 + 674)
    greedy = plan.evaluation_samples(config, config.evaluation.benchmarks, "greedy")
    assert greedy == 1646


def test_a_job_asks_for_more_than_its_steps_take_and_fits_a_day(config):
    for run in ("deepseek", "nemotron"):
        minutes = plan.segment_runtime_minutes(config, run)
        net = config.runs[run].segment_steps * plan.expected_step_seconds(config, run).value / 60
        assert net < minutes <= 24 * 60
        assert minutes % 10 == 0


def test_the_warning_leaves_room_for_a_step_and_a_save(config):
    step = plan.expected_step_seconds(config, "nemotron").value
    assert step < plan.segment_warning_seconds(config, "nemotron") < 2 * step
    mini = experiment.load([config_files.ROOT / "mini" / "experiment.yaml"])
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


def phases_log(path, config, scale, rows=4):
    """A metrics file as the verl engine writes it, from terms multiplied by known constants."""
    recipe = config.runs["deepseek"].recipe
    with path.open("w") as log:
        for step in range(1, rows + 1):
            mean = 6_000 + 300 * step
            time = time_of(config.hardware, recipe, 15_000, mean)
            rollout, trained = scale[0] * time.generation, scale[1] * time.update
            rest = scale[2] + (500 if step == 1 else 0)
            row = {"step": step, "rollout_seconds": rollout, "old_log_prob_seconds": trained / 4}
            row |= {"update_seconds": trained * 3 / 4, "save_seconds": 40.0, "weight_sync_seconds": rest / 2}
            row |= {"response_length_mean": mean, "response_length_max": 15_000}
            log.write(json.dumps(row | {"step_seconds": rollout + trained + rest + 40.0}) + "\n")


def test_measured_phases_correct_the_terms(config, tmp_path):
    phases_log(tmp_path / "metrics.jsonl", config, (1.5, 0.8, 25.0))
    for kind in ("A800", "H100"):
        estimate = plan.make_plan(config, gpu=kind)["runs"]["deepseek"]["seconds per step"]["how"]
        terms = {name: float(value) for name, value in re.findall(r"(\w+) (\d+) s", estimate)}
        made = plan.make_plan(config, gpu=kind, measured=tmp_path / "metrics.jsonl")
        expected = 1.5 * (terms["launches"] + terms["weights"] + terms["cache"]) + 0.8 * terms["update"] + 25
        assert value(made, "deepseek", "seconds per step") == pytest.approx(expected, rel=0.01)
        row = made["runs"]["deepseek"]["seconds per step"]
        assert "generation x 1.50, update x 0.80, rest as in 3 measured steps in" in row["how"] and row["low"] is None


def test_the_canarys_timings_are_taken_where_they_are_there(tmp_path):
    config = experiment.load().model_copy(update={"pathvars": {"results": str(tmp_path)}})
    before = plan.expected_step_seconds(config, "deepseek")
    log = tmp_path / "runs/canary_deepseek/metrics.jsonl"
    log.parent.mkdir(parents=True)
    (tmp_path / "hardware.json").write_text(json.dumps(config.hardware.as_dict()))
    phases_log(log, config, (2.0, 2.0, 10.0), rows=2)
    after = plan.expected_step_seconds(config, "deepseek")
    assert after.value == pytest.approx(2 * (before.value - 15) + 10)
    assert "runs/canary_deepseek/metrics.jsonl" in after.how and "measured" not in before.how
    # Hardware that was written down later is not what the canary ran on.
    os.utime(tmp_path / "hardware.json", (2**31, 2**31))
    assert plan.expected_step_seconds(config, "deepseek") == before


def test_the_canary_takes_full_steps(config):
    recipe = config.with_canaries().runs["canary_deepseek"].recipe
    differs = {"learning_rate": config.canary.learning_rate, "warmup_steps": 0, "alarms": recipe.alarms}
    limits = (recipe.alarms.probs_difference, recipe.alarms.least_reward_steps, recipe.alarms.truncated)
    assert limits == (None, None, None), "a canary ends in its verdict"
    assert recipe == config.runs["deepseek"].recipe.model_copy(update=differs)
    short = experiment.load(overrides=["canary.max_response_length=1024"]).with_canaries()
    assert short.runs["canary_deepseek"].recipe.max_response_length == short.protocols["canary"].max_tokens == 1024


def test_the_hang_timeout_follows_the_longest_phase(config):
    recipe, minutes = config.runs["deepseek"].recipe, {}
    for gpus in (1, 8):
        hardware = config.hardware.model_copy(update={"gpus_per_node": gpus})
        minutes[gpus] = plan.hang_timeout_minutes(hardware, "verl", recipe, DEEPSEEK)
        time = time_of(hardware, recipe, 15_360, 15_360)
        assert 2 * max(time.generation, time.update) <= 60 * minutes[gpus]
    assert 30 <= minutes[8] < minutes[1]
    given = config.hardware.model_copy(update={"hang_timeout_minutes": 7})
    assert plan.hang_timeout_minutes(given, "verl", recipe, DEEPSEEK) == 7


@pytest.mark.parametrize(
    ("model", "parameters"),
    [("Qwen/Qwen2.5-32B", 32.764e9), ("Qwen/Qwen2.5-7B-Instruct", 7.616e9), ("Qwen/Qwen3-4B", 4.022e9)],
)
def test_a_known_base_has_its_own_size_before_it_is_downloaded(tmp_path, model, parameters):
    config = experiment.load(overrides=[f"models.deepseek.hub_id={model}", f"pathvars={{results: {tmp_path}}}"])
    made = plan.make_plan(config)
    assert value(made, "deepseek", "one full state") == pytest.approx(12 * parameters / 1e9, rel=0.001)
    assert value(made, "deepseek", "seconds per step") > value(made, "nemotron", "seconds per step")


SIZES = {"num_hidden_layers": 24, "hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True}


def test_an_unknown_models_size_is_refused_until_its_folder_or_the_key_gives_it(tmp_path):
    words = ["models.deepseek.hub_id=someone/else", f"pathvars={{results: {tmp_path}}}"]
    config = experiment.load(overrides=words)
    said = r"size of models.deepseek is not known.*`snakemake data`.*plan.shapes.deepseek"
    with pytest.raises(UserError, match=said):
        plan.make_plan(config)
    # A dry run before the download still plans its jobs.
    assert plan.segment_runtime_minutes(config, "deepseek") == 24 * 60
    assert plan.segment_warning_seconds(config, "deepseek") == 1800
    said = announce(config, [("deepseek", 60)], [], Layout(config))
    assert "deepseek: 1 job, time unknown until `snakemake data`" in said
    assert "parts that are not known yet are left out" in said
    # Qwen2.5-0.5B has 494,032,768 parameters.
    given = experiment.load(overrides=[*words, f"plan.shapes={json.dumps({'deepseek': SIZES})}"])
    assert value(plan.make_plan(given), "deepseek", "one full state") == pytest.approx(12 * 0.494032768)
    (tmp_path / "models/deepseek").mkdir(parents=True)
    (tmp_path / "models/deepseek/config.json").write_text(json.dumps(SIZES | {"num_hidden_layers": 12}))
    made, by_key = plan.make_plan(config), plan.make_plan(given)
    assert made["memory"]["deepseek"]["check"]["status"] == "ok"
    assert value(made, "deepseek", "one full state") == value(by_key, "deepseek", "one full state") < 12 * 0.4


def test_the_key_also_gives_the_size_of_a_folder_of_another_form(tmp_path):
    words = ["models.deepseek.hub_id=someone/else", f"pathvars={{results: {tmp_path}}}"]
    given = experiment.load(overrides=[*words, f"plan.shapes={json.dumps({'deepseek': SIZES})}"])
    (tmp_path / "models/deepseek").mkdir(parents=True)
    (tmp_path / "models/deepseek/config.json").write_text(json.dumps(SIZES | {"num_experts": 64}))
    assert value(plan.make_plan(given), "deepseek", "one full state") == pytest.approx(12 * 0.494032768)


def test_a_key_that_names_no_model_is_refused():
    with pytest.raises(UserError, match="plan: no such entry in models: depseek: did you mean deepseek"):
        experiment.load(overrides=["plan.answer_tokens={depseek: 500}"])


def test_a_published_model_of_unknown_size_gets_the_longest_time(config):
    assert plan.generation_minutes(config, "justrl_deepseek", ["aime"], "paper") < 720
    other = experiment.load(overrides=["external={mine: {model: someone/else}}"])
    assert plan.generation_minutes(other, "mine", ["aime"], "paper") == 720


def test_the_reference_engine_with_vllm_has_its_own_arithmetic():
    def made(overlay, rollouts, gpu=None):
        words = ["runs.deepseek_8k.engine=reference", f"hardware.rollouts={rollouts}"]
        return plan.make_plan(experiment.load([f"one_gpu/{overlay}.yaml"], words), gpu)

    slow, fast = (made("experiment", name, "H100") for name in ("transformers", "vllm"))
    assert value(fast, "deepseek_8k", "seconds per step") < value(slow, "deepseek_8k", "seconds per step")
    assert fast["memory"]["deepseek_8k"]["check"]["status"] == "ok"
    check = made("48gb", "vllm")["memory"]["deepseek_8k"]["check"]
    assert check["status"] == "failed" and "hardware.rollouts: transformers would fit" in check["remedy"]
    assert made("48gb", "transformers")["memory"]["deepseek_8k"]["check"]["status"] == "ok"


def test_one_job_for_all_benchmarks_of_a_checkpoint_is_counted_as_one():
    mini = experiment.load([config_files.ROOT / "mini" / "experiment.yaml"])
    assert plan._evaluations(mini, mini.runs["mini"])[1] == 3


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("A800", "A800-80GB"),
        ("nvidia_h100_80gb", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("h200", "H200"),
        ("L40S", "L40S"),
    ],
)
def test_gpus_are_found_by_the_names_people_use(name, found):
    assert find_gpu(name).name == found


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("RTX-3090", "known: A800-80GB"),
        ("H10O", "hardware.gpu_figures"),
        ("L40", "known:"),
        ("H100-94GB", "known:"),
        ("A100", "it is A100-80GB or A100-40GB"),
    ],
)
def test_no_gpu_is_taken_for_a_similar_one(name, way_out):
    with pytest.raises(UserError, match=f"no figures for the GPU {name}.*{way_out}"):
        find_gpu(name)
    with pytest.raises(UserError, match=f"hardware.gpu: no figures for the GPU {name}"):
        experiment.load(overrides=[f"hardware.gpu={name}"])


def test_figures_given_by_hand_stand_for_an_unknown_gpu():
    figures = "hardware.gpu_figures={memory: 23.6, bandwidth: 936, tflops: 71}"
    config = experiment.load(overrides=["hardware.gpu=RTX-3090", figures])
    assert config.hardware.kind.bandwidth == 936
    assert plan.make_plan(config)["memory"]["deepseek"]["card"] == 23.6


def test_the_command_prints_a_table_and_json(tmp_path):
    command = [sys.executable, "-m", "justrl", "plan", "--nodes", "4"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "4 nodes with 8 x A800-80GB" in table and "rollout, vLLM awake" in table
    kinds = subprocess.run([*command[:-2], "--kinds"], capture_output=True, text=True, check=True).stdout
    assert all(name in kinds for name in GPUS)
    made = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert made["hardware"]["nodes"] == 4
    unknown = subprocess.run([*command, "--gpu", "abacus"], capture_output=True, text=True)
    assert unknown.returncode == 2 and unknown.stderr.startswith("error: no figures for the GPU abacus")


def test_an_evaluation_asks_for_the_time_that_it_needs(config):
    of = config.evaluation.benchmarks
    few, all_of_them = (plan.generation_minutes(config, "deepseek", names, "paper") for names in (of[:1], of))
    assert 60 <= few <= all_of_them < 720
    assert plan.generation_minutes(config, "deepseek", of, "paper", shards=8) <= all_of_them
