"""The files of an experiment, as rules, plan, preflight and status ask for them."""

import pytest

from justrl.config import Experiment, load
from justrl.config import files as config_files
from justrl.config.layout import Layout


@pytest.fixture(scope="module")
def paper():
    return Layout(load().with_canaries())


def test_a_root_of_ones_own(paper):
    elsewhere = Layout(paper.experiment, "results/mine")
    assert elsewhere.training_data("deepseek") == "results/mine/data/dapo/deepseek/train.parquet"
    assert elsewhere.metrics("nemotron") == "results/mine/runs/nemotron/metrics.jsonl"


def test_segments_follow_one_another(paper):
    assert paper.previous_segment("deepseek", "60") == []
    assert paper.previous_segment("deepseek", 120) == ["<results>/runs/deepseek/segments/60/metrics.jsonl"]
    assert len(paper.all_segments("deepseek")) == 73


@pytest.mark.parametrize(
    ("target", "folder"),
    [
        ("deepseek@600", "<results>/runs/deepseek/segments/600/model"),
        ("deepseek@base", "<results>/models/deepseek"),
        ("justrl_deepseek", "<results>/models/justrl_deepseek"),
    ],
)
def test_what_a_target_is_made_of(paper, target, folder):
    assert paper.target_model(target) == folder


def test_a_run_without_a_step_is_its_last_checkpoint(paper):
    assert paper.target("deepseek") == "deepseek@4380" and paper.target("deepseek@base") == "deepseek@base"
    assert paper.completions("deepseek", "aime", "paper") == [
        "<results>/evaluations/deepseek@4380/aime/paper/completions/0-of-1.parquet"
    ]


def test_the_canary_is_told_by_its_run_and_not_by_a_name(paper):
    experiment = load()
    runs = {**experiment.runs, "canary_bird": experiment.runs["deepseek"]}
    named = Layout(experiment.model_copy(update={"runs": runs}))
    assert not named.is_canary("canary_bird") and named.stamp("canary_bird@60") == "paper/canary_bird"
    assert paper.is_canary("canary_deepseek") and paper.is_canary("canary_deepseek@base") and paper.is_canary("canary")
    assert paper.results("canary_deepseek", ["math500"]) == ["<results>/canary/aime_canary_deepseek.json"]


def test_what_has_a_name_of_its_own_is_stamped_with_it():
    added = {
        "runs": {
            "mine": {"like": "nemotron", "dataset": "dapo_as_released"},
            "deepseek": {"seeds": [1, 2]},
            "deepseek_async": {"enabled": True},
        },
        "external": {
            "other": {"model": "me/other", "family": "deepseek"},
            "again": {"model": "hbx/JustRL-DeepSeek-1.5B", "family": "deepseek", "enabled": False},
        },
    }
    experiment = Experiment.from_mapping(config_files.merge(config_files.read(), added))
    layout = Layout(experiment.with_canaries())
    stamps = {name: layout.stamp(name) for name in ("mine", "mine@60", "mine@base", "other", "deepseek_async@base")}
    assert set(stamps.values()) == {"paper/mine", "paper/other", "paper/deepseek_async"}
    for name in (
        "deepseek_s1",
        "nemotron@3400",
        "deepseek_literal",
        "justrl_nemotron",
        "again",
        "deepseek_overlong@base",
    ):
        assert layout.stamp(name) == "paper"
    assert layout.configuration("mine@60", "aime", "paper")["experiment"] == "paper/mine"
    assert layout.common_stamp == "paper/deepseek_async, mine, other"
    assert layout.data_stamp("dapo", "deepseek") == "paper"
    assert layout.data_stamp("dapo_as_released", "nemotron") == "paper/mine"
    # What trains is described as before, so that what has begun goes on.
    assert experiment.described("mine").experiment == "paper"
    mini = Layout(load(["mini/experiment.yaml"]))
    assert mini.common_stamp == mini.stamp("mini") == mini.data_stamp("sums", "tiny") == "mini"


def test_results_of_the_paper(paper):
    # Base and last checkpoint on nine benchmarks; 14 and 17 checkpoints between on three.
    assert len(paper.evaluation_results()) == len(set(paper.evaluation_results())) == 2 * 2 * 9 + (14 + 17) * 3
    assert len(paper.progress_results("deepseek")) == 3 * 16


def test_families_are_those_of_enabled_runs_and_published_models(paper):
    assert paper.families() == ["deepseek", "nemotron"]
    assert paper.family_results("canary") == [
        f"<results>/canary/aime_canary_{run}{end}.json" for run in ("deepseek", "nemotron") for end in ("@base", "")
    ]


def test_what_comes_from_the_hub(paper):
    folders = paper.hub_folders(["deepseek"])
    assert "<results>/models/deepseek" in folders and "<results>/models/nemotron" not in folders
    assert "<results>/models/model_grader" in folders and "<results>/data/dapo/raw" in folders
    assert sum("/benchmarks/" in folder for folder in folders) == 9
