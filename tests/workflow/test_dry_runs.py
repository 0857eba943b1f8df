"""The paper's DAG, job by job, and the mistakes that are caught before a job starts."""

import json
import os
import re
import shlex
import shutil

import pytest
import yaml

from justrl.config import load


def test_the_paper_asks_for_every_job(workspace):
    jobs = workspace.jobs()
    assert {
        "download_dataset": 1,
        "prepare_training_data": 2,
        "check_contamination": 2,
        "download_benchmark": 9,
        "format_benchmark": 9,
        # two base models and the model verifier
        "download_model": 3,
        "resolve_verl_config": 2,
        "preflight": 2,
        "write_hardware": 1,
        # 4,380 steps in segments of 60 and 3,440 in segments of 40
        "train_segment": 73 + 86,
        "merge_metrics": 2,
        "plot_training": 2,
        "plot_checkpoints": 2,
        "compare_with_published": 2,
        "plot_contamination": 2,
        "judge_claims": 1,
        "write_provenance": 1,
    }.items() <= jobs.items()
    # Base and last checkpoint on nine benchmarks; 14 and 17 checkpoints between on three.
    results = 2 * 2 * 9 + (14 + 17) * 3
    assert jobs["score"] == jobs["grade"] == jobs["grade_by_model"] == jobs["generate"] == results


def test_an_evaluation_is_spread_over_any_number_of_jobs(workspace):
    overlay = workspace.folder / "shards.yaml"
    overlay.write_text("evaluation: {shards: 5}\n")
    jobs = workspace.jobs("results/aime_deepseek@base.json", "--configfile", str(overlay))
    assert jobs["generate"] == 5 and jobs["grade"] == jobs["grade_by_model"] == 1


def test_one_result_needs_only_its_own_run(workspace):
    jobs = workspace.jobs("results/aime_deepseek.json")
    assert jobs["train_segment"] == 73 and jobs["score"] == 1 and jobs["grade"] == 1
    assert workspace.jobs("results/aime_deepseek@600.json")["train_segment"] == 10
    assert "train_segment" not in workspace.jobs("results/aime_deepseek@base.json")


def test_other_protocols_are_named_in_the_path(workspace):
    jobs = workspace.jobs("results/greedy/math500_nemotron@base.json")
    assert jobs["score_under"] == 1 and "train_segment" not in jobs


def test_an_external_model_is_evaluated_without_training(workspace):
    overlay = workspace.folder / "external.yaml"
    overlay.write_text("external: {justrl_deepseek: {model: hbx/JustRL-DeepSeek-1.5B, family: deepseek}}\n")
    jobs = workspace.jobs("results/aime_justrl_deepseek.json", "--configfile", str(overlay))
    assert "train_segment" not in jobs and jobs["download_model"] == 2 and jobs["generate"] == 1


def test_the_golden_rung_evaluates_released_weights_and_trains_nothing(workspace):
    jobs = workspace.jobs("golden")
    assert not {"train_segment", "preflight", "download_dataset"} & jobs.keys()
    # Two released and two base models on nine benchmarks; the judge is the fifth model.
    assert jobs["score"] == jobs["generate"] == 4 * 9 and jobs["download_model"] == 5
    assert jobs["compare_golden"] == 2 and jobs["judge_golden_claims"] == 1
    # A model of one's own is one line more, whatever it is compared with.
    mine = workspace.folder / "mine.yaml"
    mine.write_text("external: {mine: {model: someone/mine}}\n")
    assert workspace.jobs("golden", "--configfile", str(mine))["score"] == 5 * 9


def test_what_the_golden_rung_leaves_out_is_said(workspace):
    status, output = workspace.dry_run("golden", "--profile", "one_gpu")
    assert status == 0 and "golden leaves out justrl_nemotron: no enabled run has its base model " in output
    assert "golden leaves out" not in workspace.dry_run("golden")[1]


@pytest.mark.parametrize("folder", ["", "workflow", "~/x", "/etc"])
def test_results_in_a_folder_that_is_for_something_else_are_refused(workspace, folder):
    status, output = workspace.dry_run("--config", f"pathvars={{results: '{folder}'}}")
    assert status != 0 and f"pathvars.results: {folder!r}" in output and "Traceback" not in output


def test_the_first_thousand_steps_are_segments_of_the_whole_run(workspace):
    jobs = workspace.jobs("first_1000")
    # Up to step 1,020 in segments of 60, and 1,000 in segments of 40; base, 3 and 5 checkpoints on three benchmarks.
    assert jobs["train_segment"] == 17 + 25 and jobs["score"] == (4 + 6) * 3
    assert jobs["plot_first_thousand"] == 2 and jobs["judge_first_thousand"] == 1


@pytest.mark.parametrize(
    ("card", "segments", "results", "folder"),
    [("", 4, 9, "one_gpu"), ("48gb", 4, 9, "one_gpu"), ("24gb", 8, 7, "one_gpu_24gb")],
)
def test_the_one_gpu_rung_has_an_overlay_for_each_card(workspace, card, segments, results, folder):
    overlay = ("--configfile", f"one_gpu/{card}.yaml") if card else ()
    jobs = workspace.jobs("--profile", "one_gpu", *overlay)
    assert jobs["train_segment"] == segments and jobs["score"] == results
    status, output = workspace.dry_run("--profile", "one_gpu", "--quiet", "host", *overlay)
    assert status == 0 and f"results/{folder}/" in output and "results/runs" not in output


ON = ("--config", "runs={deepseek_overlong: {enabled: true}}")


@pytest.mark.parametrize(
    "target",
    ["results/aime_deepseek_overlong.json", "results/runs/deepseek_overlong/segments/60/model"],
)
def test_a_run_that_is_off_is_refused_by_name_until_it_is_switched_on(workspace, target):
    status, output = workspace.dry_run(target)
    assert status != 0 and "set runs.deepseek_overlong.enabled to true (`--config 'runs={deepseek_overlong: " in output
    assert "Traceback" not in output
    assert workspace.jobs(target, *ON)["train_segment"] in (1, 50)
    assert "train_segment" not in workspace.jobs("results/aime_deepseek_overlong@base.json")
    assert "train_segment" not in workspace.jobs("results/runs/deepseek_overlong/preflight.json")


def test_of_single_samples_no_pass_at_k_is_drawn(workspace):
    overlay = workspace.folder / "greedy.yaml"
    overlay.write_text("experiment: greedy\npathvars: {results: results/greedy}\nevaluation: {protocol: greedy}\n")
    jobs = workspace.jobs("--configfile", str(overlay))
    assert "plot_pass_at_k" not in jobs and jobs["plot_checkpoints"] == 2


def test_the_slurm_profile_plans_the_same_jobs(workspace):
    assert workspace.jobs("--profile", "slurm") == workspace.jobs()


def test_the_canary_tries_every_rule(workspace):
    every, canary = workspace.jobs(), workspace.jobs("canary")
    # The canary's results lie under its own protocol, and what is of whole experiments it does not make.
    whole = {"write_provenance", "plot_overlay", "judge_claims", "write_checksums", "write_model_card"}
    assert set(every) - set(canary) == {"all", "score", "show_samples", "summarise_results", *whole}
    assert canary["train_segment"] == canary["score_under"] == 4


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("recipe: {learnin_rate: 1.0e-6}", "unknown key learnin_rate in recipe: did you mean learning_rate?"),
        ("runs: {deepseek: {steps: 4390}}", "runs.deepseek.steps must be a multiple of segment_steps (60), got 4390"),
    ],
)
def test_a_mistake_in_the_configuration_stops_before_any_job(workspace, overlay, message):
    path = workspace.folder / "mistake.yaml"
    path.write_text(overlay + "\n")
    status, output = workspace.dry_run("--configfile", str(path))
    assert status != 0
    assert message in output
    assert "Traceback" not in output


def test_an_overlay_can_extend_another(workspace):
    path = workspace.folder / "longer.yaml"
    path.write_text(
        "extends: mini/experiment.yaml\npathvars: {results: results/longer}\n"
        "runs: {mini: {steps: 120}}\nevaluation: {benchmarks: [sums_heldout]}\n"
    )
    jobs = workspace.jobs("--profile", "mini", "--configfile", str(path))
    assert jobs["train_segment"] == 4


def test_braces_in_configured_text_are_text(workspace):
    """As wildcards they would be filled in, or be an error, while run.json and results record the text."""
    suffix, label = "What {model} {x} {{y}} $HOME is, in \\boxed{}.", "Sums {run} {family} {name} 'held' out"
    path = workspace.folder / "braces.yaml"
    changes = {
        "recipe": {"prompt_suffix": suffix, "prompt_separator": " {dataset}\n"},
        "protocols": {"paper": {"prompt_suffix": suffix}},
        "benchmarks": {"sums_heldout": {"label": label}},
        "hardware": {"gpu": "none"},
    }
    path.write_text(yaml.safe_dump({"extends": "mini/experiment.yaml", "pathvars": {"results": "results/b"}} | changes))
    how = ("--profile", "mini", "--configfile", str(path), "--quiet", "host", "--printshellcmds")
    status, output = workspace.dry_run(*how)
    assert status == 0, output[-3000:]
    for words in (f"--prompt-suffix {shlex.quote(suffix)}", shlex.quote(f"sums_heldout={label}")):
        assert words in output
    assert "--prompt-separator ' {dataset}\n" in output
    assert json.dumps(suffix) in output.partition("--protocol")[2]
    assert shlex.quote(f"sums_heldout={label}") in output.partition("report comparison")[2]


def test_120_runs_fit_on_every_command_line(workspace):
    """The kernel takes 128 KiB as one word and 2 MiB in all, the names of the environment among them."""
    runs = {f"mini_{number:03}": {"like": "mini", "enabled": True} for number in range(120)}
    path = workspace.folder / "many.yaml"
    path.write_text(
        yaml.safe_dump({"extends": "mini/experiment.yaml", "pathvars": {"results": "results/many"}, "runs": runs})
    )
    how = ("--profile", "mini", "--configfile", str(path), "--quiet", "host", "--printshellcmds")
    status, output = workspace.dry_run("results/many/checksums.json", *how)
    assert status == 0, output[-3000:]
    pattern = r"^ +python -m justrl (?:report|grade|score).*?(?=^\S|^\s*$)"
    commands = re.findall(pattern, output, re.MULTILINE | re.DOTALL)
    assert sum("report provenance" in command for command in commands) == 1 and len(commands) > 1000
    for command in commands:
        # What stands between brackets goes through a pipe.
        words = shlex.split(re.sub(r"@<\(listed .*?\)|> >\(log_to .*?\)", "", command, flags=re.DOTALL))
        assert max(map(len, words)) < 32_768, command[:200]
        assert sum(map(len, words)) < 65_536, command[:200]


@pytest.mark.parametrize("options", [("--configfile", "edited.yaml"), ("--config", "recipe={learning_rate: 1e-5}")])
def test_the_papers_name_with_another_recipe_starts_nothing(workspace, options):
    (workspace.folder / "edited.yaml").write_text("recipe: {learning_rate: 1.0e-5}\n")
    status, output = workspace.dry_run("results/aime_deepseek@base.json", *options)
    assert status != 0 and "recipe.learning_rate is 1e-05 here and 1e-06 in the paper" in output
    assert "give the experiment a name of its own" in output and "Traceback" not in output


def test_an_edit_of_config_yaml_itself_is_refused_and_a_run_of_its_own_name_is_not(own_workspace):
    file = own_workspace.folder / "config.yaml"
    before = file.read_text()
    try:
        assert "    rows: 272" in before
        file.write_text(before.replace("    rows: 272", "    rows: 27"))
        status, output = own_workspace.dry_run("data")
        assert status != 0 and "benchmarks.minerva.rows is 27 here and 272 in the paper" in output
    finally:
        file.write_text(before)
    (own_workspace.folder / "own.yaml").write_text("runs: {mine: {like: deepseek, recipe: {loss: gspo}}}\n")
    status, plan = own_workspace.dry_run("results/aime_mine@base.json", "--configfile", "own.yaml", "--printshellcmds")
    assert status == 0 and "--experiment paper/mine" in plan


def test_another_experiment_cannot_write_where_the_papers_results_are(workspace):
    status, output = workspace.dry_run("--config", "experiment=other")
    assert status != 0
    assert "experiment other would write to results/" in output


def test_a_changed_recipe_never_trains_over_a_run(workspace):
    run = workspace.folder / "results/runs/deepseek"
    (run / "segments/60").mkdir(parents=True)
    (run / "segments/60/metrics.jsonl").write_text("{}\n")
    (run / "run.json").write_text(json.dumps({"recipe": {}}))
    try:
        status, output = workspace.dry_run()
    finally:
        shutil.rmtree(workspace.folder / "results/runs")
    assert status != 0
    assert "run deepseek has trained 60 steps" in output


@pytest.fixture
def trained(workspace):
    """A run of which two segments of 60 steps are finished, as far as Snakemake looks."""
    results = workspace.folder / "results"
    run, segments = results / "runs/deepseek", results / "runs/deepseek/segments"
    for folder in ("models/deepseek", "data/dapo/deepseek", "runs/deepseek"):
        (results / folder).mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(load().described("deepseek").as_dict()))
    for file in ("data/dapo/deepseek/train.parquet", "hardware.json"):
        (results / file).touch()
    for file in ("verl.yaml", "preflight.json"):
        (run / file).touch()
    for step in (60, 120):
        (segments / f"{step}/model").mkdir(parents=True)
        (segments / f"{step}/metrics.jsonl").write_text(f'{{"step": {step}, "step_seconds": 300.0}}\n')
    yield segments
    shutil.rmtree(results)


def test_another_segment_length_trains_nothing_again(workspace, trained):
    """Today's 120 steps stay; the next segment goes from there to the next multiple of the new length."""
    overlay = workspace.folder / "length.yaml"
    overlay.write_text("runs: {deepseek: {segment_steps: 100, steps: 4400, evaluate_every: 200}}\n")
    status, output = workspace.dry_run("results/aime_deepseek@400.json", "--configfile", str(overlay))
    assert status == 0, output
    planned = re.findall(r"^ +output: results/runs/deepseek/segments/(\d+)/model", output, re.M)
    assert sorted(map(int, planned)) == [200, 300, 400]


def test_a_step_that_no_segment_ends_at_is_refused_with_the_nearest(workspace):
    status, output = workspace.dry_run("results/aime_deepseek@70.json")
    assert status != 0 and "train_segment" not in output
    assert "the nearest to ask for: deepseek@60 and deepseek@120" in output


def test_a_report_of_nothing_says_what_to_run(workspace):
    result = workspace.run("--report", "report.html", check=False)
    assert result.returncode != 0
    assert "the experiment paper has no results in results yet" in result.stdout + result.stderr


def requests(workspace, rule: str, *config: str) -> set[str]:
    """What the first job of a rule asks of Slurm, as a dry run of the profile prints it."""
    how = ("--profile", "slurm", "--quiet", "host", "--config", *config)
    status, output = workspace.dry_run("results/aime_deepseek@60.json", *how)
    assert status == 0, output[-3000:]
    described = output.partition(f"rule {rule}:")[2].splitlines()
    line = next(line for line in described if "resources:" in line)
    return set(line.partition(":")[2].strip().split(", "))


def test_a_job_on_one_node_says_so(workspace):
    """Without it Slurm may grant the GPUs of one job on several nodes."""
    for rule in ("train_segment", "preflight", "generate", "grade_by_model"):
        assert "nodes=1" in requests(workspace, rule), rule
    # Its job would queue for GPUs of its own before the training's.
    assert "gpu=0" in requests(workspace, "preflight")
    assert not [request for request in requests(workspace, "train_segment") if request.startswith(("mpi", "tasks"))]


def test_training_on_more_nodes_starts_its_own_steps_and_has_as_many_gpus_on_each(workspace):
    training = requests(workspace, "train_segment", "hardware={nodes: 4}")
    assert {"nodes=4", "gpu=32", "mpi=srun", "tasks=4", "tasks_per_gpu=0", "cpus_per_task=64"} <= training
    (extra,) = (request for request in training if request.startswith("slurm_extra="))
    assert extra.endswith(" --gpus-per-node=8") and "--signal=URG@" in extra
    assert "nodes=1" in requests(workspace, "generate", "hardware={nodes: 4}")


@pytest.mark.parametrize(("cores", "processes"), [("1", "1"), ("2", "1"), ("4", "2"), ("64", "4")])
def test_a_grading_job_has_as_many_processes_as_it_asks_cores_for(workspace, cores, processes):
    """Two of them go on side by side on every machine that has two cores."""
    result = "results/aime_deepseek@base.json"
    status, output = workspace.dry_run(result, "--cores", cores, "--printshellcmds")
    assert status == 0, output[-3000:]
    (block,) = re.findall(r"^rule grade:.*?(?=^rule |^\[)", output, re.MULTILINE | re.DOTALL)
    assert f"--processes {processes} " in block
    assert processes == "1" or f"threads: {processes}" in block


def _repeated(spelled):
    """Anchors of ten times each other, which are 10**9 values in the end."""
    lines = ["a: &a {x: 1}"]
    for above, name in zip("abcdefghi", "bcdefghij", strict=True):
        lines.append(f"{name}: &{name} " + spelled.format(", ".join(f"k{i}: *{above}" for i in range(10))))
    return "\n".join(lines)


@pytest.mark.parametrize("option", ["--configfile", "--configfiles"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_repeated("{{{}}}"), "what anchors repeat included"),
        ("recipe: &r {x: *r}", "line 1: .r is inside of what it names"),
        (None, "is not a file: give a YAML file as configuration"),
        ("x: " + "[" * 50_000, "nested deeper than 40 levels"),
        ("x: [" + "1, " * 10_000_000 + "1]", "larger than 1,048,576 bytes"),
        ("recipe:\n\tsteps: 3\n", "line 2: not valid YAML: found character"),
        ("x: \xe9", "line 1: not UTF-8"),
        ("recipe: {learning_rate: 1.0e-5}\nrecipe: {prompts_per_step: 16}", "line 2: the key recipe is given twice"),
        ("- a", "a configuration is a mapping"),
        ("seed: " + "9" * 5000, "a number of 5,000 digits"),
    ],
    ids=["anchors", "ring", "pipe", "brackets", "large", "tab", "latin", "twice", "list", "digits"],
)
def test_snakemake_reads_a_configuration_file_within_limits(workspace, content, said, option):
    """It parses the file before the Snakefile's first line runs."""
    path = workspace.folder / "given.yaml"
    path.unlink(missing_ok=True)
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content, encoding="latin-1")
    status, output = workspace.dry_run("--profile", "mini", option, str(path))
    path.unlink()
    assert status != 0 and re.search(said, output) and len(output.splitlines()) < 6, output[-3000:]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{" + _repeated("{{{}}}").replace("\n", ", ") + "}", "--config bomb, line 1: .*what anchors repeat included"),
        ("{a: 1, a: 2}", "--config bomb, line 1: the key a is given twice"),
        ("{a: &r [*r]}", "--config bomb, line 1: .r is inside of what it names"),
    ],
)
def test_so_it_does_with_config_on_the_command_line(workspace, value, said):
    status, output = workspace.dry_run("--profile", "mini", "--config", f"bomb={value}")
    assert status != 0 and re.search(said, output) and len(output.splitlines()) < 6, output[-3000:]


@pytest.mark.parametrize("content", [_repeated("{{{}}}"), None], ids=["anchors", "pipe"])
def test_so_it_does_with_config_yaml(own_workspace, content):
    path = own_workspace.folder / "config.yaml"
    path.unlink()
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content)
    status, output = own_workspace.dry_run()
    assert status != 0 and re.search("what anchors repeat included|is not a file", output), output[-3000:]
