"""What is trained: `Layout.trainings` against the jobs that Snakemake plans."""

import re
import shutil

import pytest
import yaml

from justrl.config import Experiment
from justrl.config.files import merge, read
from justrl.config.layout import Layout

OFF, ON = {"enabled": False}, {"enabled": True}
SHORT = {"steps": 120, "evaluate_every": 60}
# A run of which three seeds are trained, and one like it.
SEEDS = {"a": {"like": "deepseek", **SHORT, "seeds": [1, 2]}, "b": {"like": "a", "seeds": [1]}}
MINE, EXAMPLES = "examples/mine.yaml", ("dataset", "model", "loss", "reward", "grader")
# Profile, overlays, changes over them, target: of each the runs that are trained.
CASES = {
    "paper": ((), {}, "all", {"deepseek", "nemotron"}),
    "one off": ((), {"runs": {"nemotron": OFF}}, "all", {"deepseek"}),
    "an ablation on": (
        (),
        {"runs": {"nemotron": OFF, "deepseek_overlong": ON}, "figures": {"a": ["deepseek", "deepseek_overlong"]}},
        "all",
        {"deepseek", "deepseek_overlong"},
    ),
    "drawn with a run that is off": ((), {"runs": {"nemotron": OFF}}, "overlays/models", {"deepseek"}),
    "drawn, all off but two": (
        (),
        {"figures": {"a": ["deepseek_async", "deepseek", "nemotron"]}},
        "overlays/a",
        {"deepseek", "nemotron"},
    ),
    "a pair with a side that is off": (
        (),
        {"compare": {"overlong": ["deepseek", "deepseek_overlong"]}},
        "all",
        {"deepseek", "nemotron"},
    ),
    "a pair": (
        (),
        {"runs": {"deepseek_overlong": ON}, "compare": {"overlong": ["deepseek", "deepseek_overlong"]}},
        "compared/overlong",
        {"deepseek", "deepseek_overlong"},
    ),
    "seeds": (
        (),
        {"runs": {"deepseek": OFF, "nemotron": OFF, **SEEDS}, "compare": {"ab": ["a", "b"]}},
        "all",
        {"a_s1", "a_s2", "b_s1"},
    ),
    "seeds that are off": (
        (),
        {"runs": {**SEEDS, "a": {**SEEDS["a"], **OFF}}, "compare": {"ab": ["a", "b"]}, "figures": {"s": ["a", "b"]}},
        "all",
        {"deepseek", "nemotron", "b_s1"},
    ),
    "seeds, drawn": (
        (),
        {"runs": {**SEEDS, "b": {**SEEDS["b"], **OFF}}, "figures": {"s": ["a", "b"]}},
        "overlays/s",
        {"a_s1", "a_s2"},
    ),
    "a run like one that is off": (
        (),
        {"runs": {"nemotron": OFF, "mine": {"like": "nemotron", **SHORT, "segment_steps": 60}}},
        "all",
        {"deepseek", "mine"},
    ),
    "canary": (
        (),
        {"runs": {"nemotron": OFF, "deepseek_async": ON}},
        "canary",
        {"canary_deepseek", "canary_deepseek_async"},
    ),
    "canary of seeds": (
        (),
        {"runs": {"deepseek": OFF, "nemotron": OFF, **SEEDS}},
        "canary",
        {"canary_a_s1", "canary_b_s1"},
    ),
    "the first steps": ((), {"runs": {"deepseek": OFF}}, "first_1000", {"nemotron"}),
    "golden": ((), {"runs": {"nemotron": OFF}}, "golden", set()),
    "data": ((), {}, "data", set()),
    "a checkpoint": ((), {}, "deepseek@600", {"deepseek"}),
    "a base model": ((), {}, "deepseek_overlong@base", set()),
    "trained and not evaluated": ((), {"runs": {"nemotron": {"evaluate": False}}}, "all", {"deepseek", "nemotron"}),
    "mini": (("--profile", "mini"), {}, "all", {"mini"}),
    "mini on verl": (("--profile", "mini", "mini/verl.yaml"), {}, "all", {"mini", "mini_verl"}),
    "mini, settings": (
        ("--profile", "mini", "mini/ab.yaml"),
        {},
        "all",
        {f"mini_{x}_s{n}" for x in "ab" for n in (1, 2, 3)},
    ),
    "one GPU": (("--profile", "one_gpu"), {}, "all", {"deepseek_8k"}),
    "one GPU of 24 GB": (("--profile", "one_gpu", "one_gpu/24gb.yaml"), {}, "all", {"qwen_half"}),
    **{
        f"the example {name}": (("--profile", "mini", MINE, f"examples/{name}.yaml"), {}, "all", trained)
        for name, trained in zip(
            EXAMPLES, ({"my_data"}, {"my_base"}, {"my_loss"}, {"mini", "my_reward"}, {"mini"}), strict=True
        )
    },
}
# The overlay that a profile brings.
PROFILES = {"mini": "mini/experiment.yaml", "one_gpu": "one_gpu/experiment.yaml"}


def file_of(layout: Layout, target: str) -> str:
    """The file that a target is for Snakemake."""
    if target.startswith("overlays/"):
        return f"{layout.root}/figures/{target}.svg"
    if target.startswith("compared/"):
        return f"{layout.root}/{target}.html"
    return layout.results(target, layout.experiment.evaluation.benchmarks)[0] if "@" in target else target


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
def test_what_a_target_trains_is_what_snakemake_plans(workspace, case):
    how, changes, target, runs = CASES[case]
    profile, files = how[:2], [*how[2:]]
    if any("model" in name for name in files):
        (workspace.folder / "my_model").mkdir(exist_ok=True)
    if changes:
        path = workspace.folder / "case.yaml"
        path.write_text(yaml.safe_dump(changes))
        files.append("case.yaml")
    given = merge(read([*(PROFILES[name] for name in profile[1:]), *how[2:]]), changes)
    experiment = Experiment.from_mapping(given).with_canaries()
    layout = Layout(experiment, str(experiment.results))
    expected = layout.trainings(target)
    assert expected.keys() == runs
    options = [*profile, "--quiet", "host", *(["--configfile", *files] if files else [])]
    status, output = workspace.dry_run(file_of(layout, target), *options)
    assert status == 0, output[-3000:]
    planned = re.findall(rf"^ +output: {layout.root}/runs/(\w+)/segments/(\d+)/model", output, re.M)
    assert sorted((run, int(end)) for run, end in planned) == sorted(
        (run, end) for run, ends in expected.items() for end in ends
    )
    announced = output.partition("To be trained:\n")[2].partition("To be evaluated")[0]
    assert set(re.findall(r"^  (\w+): \d+ jobs?,", announced, re.M)) == runs


GONE = "runs: {deepseek: {enabled: false}, nemotron: {enabled: false}}\n"


@pytest.mark.parametrize(
    ("options", "overlay", "target", "said"),
    [
        ((), GONE, "all", "all: no run is enabled, so there is nothing to do: set runs.deepseek.enabled to true"),
        ((), GONE, "canary", "canary: no run is enabled"),
        ((), GONE, "first_1000", "first_1000: no run is enabled"),
        (
            ("--profile", "mini"),
            None,
            "golden",
            "golden: no model under `external` (justrl_deepseek, justrl_nemotron)",
        ),
        (
            ("--profile", "one_gpu", "--configfile", "one_gpu/24gb.yaml"),
            None,
            "golden",
            "of this experiment (qwen_half)",
        ),
        ((), GONE, "results/figures/overlays/models.svg", "figures.models: none of its runs is on"),
        (
            (),
            "compare: {o: [deepseek, deepseek_overlong]}\n",
            "results/compared/o.html",
            "runs.deepseek_overlong.enabled to true",
        ),
        (
            (),
            "runs: {deepseek: {enabled: false, seeds: [1, 2]}}\n",
            "results/aime_deepseek_s1.json",
            "set runs.deepseek.enabled to true",
        ),
        (
            (),
            "runs: {deepseek: {evaluate: false}}\ncompare: {o: [deepseek, nemotron]}\n",
            "all",
            "compare.o: deepseek is not evaluated: set runs.deepseek.evaluate to true",
        ),
        (
            (),
            "external: {mine: {model: a/b, enabled: 1}}\n",
            "all",
            "external.mine.enabled: must be true or false, got 1",
        ),
    ],
)
def test_what_cannot_be_made_of_what_is_on_is_refused_in_a_sentence(workspace, options, overlay, target, said):
    if overlay:
        (workspace.folder / "case.yaml").write_text(overlay)
        options = (*options, "--configfile", "case.yaml")
    status, output = workspace.dry_run(target, *options)
    assert status != 0 and said in output, output[-2000:]
    assert "Traceback (most recent call last)" not in output


def test_golden_of_a_smaller_experiment_evaluates_the_models_of_its_base(workspace):
    jobs = workspace.jobs("golden", "--profile", "one_gpu")
    # The base model and the released one, on the three benchmarks of that experiment.
    assert jobs["generate"] == jobs["score"] == 2 * 3 and jobs["compare_golden"] == 1
    assert "train_segment" not in jobs
    (workspace.folder / "mine.yaml").write_text("external: {mine: {model: someone/mine, family: theirs}}\n")
    jobs = workspace.jobs("golden", "--profile", "mini", "--configfile", "mine.yaml")
    assert jobs["generate_together"] == 1 and jobs["compare_golden"] == 1 and "train_segment" not in jobs


def test_the_start_says_what_is_left_out(workspace):
    (workspace.folder / "left_out.yaml").write_text(
        "runs: {nemotron: {enabled: false}, deepseek_async: {enabled: true}}\n"
        "compare: {o: [deepseek, deepseek_overlong]}\n"
        "figures: {three: [deepseek, deepseek_async, nemotron]}\n"
    )
    status, output = workspace.dry_run("--configfile", "left_out.yaml", "--quiet", "rules")
    assert status == 0
    for line in (
        "figures.models is left out: nemotron is not enabled (runs.nemotron.enabled)",
        "figures.three shows only deepseek, deepseek_async: nemotron is not enabled (runs.nemotron.enabled)",
        "compare.o is left out: deepseek_overlong is not enabled (runs.deepseek_overlong.enabled)",
    ):
        assert output.splitlines().count(line) == 1, line
    assert workspace.jobs("--configfile", "left_out.yaml")["plot_overlay"] == 1


def test_a_run_that_is_not_evaluated_is_trained_and_its_training_drawn(workspace):
    (workspace.folder / "trained_only.yaml").write_text("runs: {nemotron: {evaluate: false}}\n")
    jobs, every = workspace.jobs("--configfile", "trained_only.yaml"), workspace.jobs()
    assert jobs["train_segment"] == every["train_segment"] and jobs["plot_training"] == jobs["summarise_health"] == 2
    assert jobs["score"] == 2 * 9 + 14 * 3 and jobs["write_model_card"] == jobs["compare_with_published"] == 1
    canary = workspace.jobs("canary", "--configfile", "trained_only.yaml")
    assert canary["train_segment"] == 4 and canary["score_under"] == 2
    # Its results are made when they are asked for.
    assert workspace.jobs("results/aime_nemotron.json", "--configfile", "trained_only.yaml")["score"] == 1


def test_the_base_model_of_several_seeds_is_evaluated_once(workspace):
    name = "seeds.yaml"
    runs = {"deepseek": OFF, "nemotron": OFF, "a": {"like": "deepseek", **SHORT, "seeds": [1, 2, 3]}}
    (workspace.folder / name).write_text(yaml.safe_dump({"runs": runs, "figures": {"models": []}}))
    jobs = workspace.jobs("--configfile", name)
    # The base on nine benchmarks; of each seed the last checkpoint on nine, the one before on three.
    assert jobs["generate"] == jobs["grade"] == jobs["grade_by_model"] == 9 + 3 * (9 + 3)
    assert jobs["score"] == 3 * (9 + 9 + 3)
    status, output = workspace.dry_run("results/aime_a_s2@base.json", "--configfile", name)
    assert status == 0 and "results/evaluations/a@base/aime/paper/completions/0-of-1.parquet" in output
    assert "results/models/deepseek" in output and "train_segment" not in output
    # What was evaluated for a seed before they shared it stays that seed's.
    own = workspace.folder / "results/evaluations/a_s2@base"
    own.mkdir(parents=True)
    try:
        status, output = workspace.dry_run("results/aime_a_s2@base.json", "--configfile", name)
    finally:
        shutil.rmtree(workspace.folder / "results")
    assert status == 0 and "results/evaluations/a_s2@base/aime/paper/completions" in output and "a@base" not in output
