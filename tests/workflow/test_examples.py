"""The examples of docs/change.md, run: benchmark, training set, base model, reward and grader of one's own."""

import json
import re
import shutil

import pytest

from justrl.io import file_sha256

EXAMPLES = ("mine", "benchmark", "dataset", "model", "reward", "grader", "loss", "engine")
# Smaller than the page's, which differ from the mini experiment in as little as can be.
SMALL = ["recipe={prompts_per_step: 8, mini_batch_prompts: 8, rollouts_per_prompt: 2, max_response_length: 24}"]
SMALL += ["runs={mini: {steps: 2, segment_steps: 1, evaluate_every: 2}}", "protocols={paper: {max_tokens: 24}}"]
OPTIONS = ["--profile", "mini", "--configfile", *(f"examples/{name}.yaml" for name in EXAMPLES)]
OPTIONS += ["--config", "keep_checkpoints=evaluated", *SMALL]
RESULT = "results/mine/my_sums_my_reward.json"


@pytest.fixture(scope="module")
def mine(mini, make_workspace, tmp_path_factory):
    """A copy in which the examples have been run at once, on the mini experiment's base model."""
    copy = make_workspace(tmp_path_factory.mktemp("examples"))
    for place in ("my_model", "results/mine/models/tiny"):
        shutil.copytree(mini.folder / "results/mini/models/tiny", copy.folder / place)
    copy.run(RESULT, "results/mine/data/my_questions/tiny/train.parquet", "results/mine/models/my_model", *OPTIONS)
    return copy


def test_a_reward_of_ones_own_trains_and_is_in_the_result(mine):
    run = json.loads((mine.folder / "results/mine/runs/my_reward/run.json").read_text())
    sha256 = file_sha256(mine.folder / "examples/my_reward.py")
    assert run["recipe"]["reward"] == {"file": "examples/my_reward.py", "function": "score", "sha256": sha256}
    result = json.loads((mine.folder / RESULT).read_text())
    assert result["provenance"]["config"]["model"]["recipe"]["reward"]["sha256"] == sha256
    assert result["experiment"] == "mine"


def test_a_benchmark_and_a_grader_of_ones_own_are_in_the_result(mine):
    result = json.loads((mine.folder / RESULT).read_text())
    assert result["samples_per_question"] == 4
    assert set(result["graders"]) == {"strict", "paper_rules", "symbolic", "anywhere"}
    grader = result["provenance"]["config"]["custom_graders"]["anywhere"]
    assert grader["sha256"] == file_sha256(mine.folder / "examples/my_grader.py")
    source = json.loads((mine.folder / "results/mine/benchmarks/my_sums/raw/source.json").read_text())
    assert source["files"] == {"my_sums.jsonl": file_sha256(mine.folder / "examples/my_sums.jsonl")}


def test_a_training_set_and_a_model_of_ones_own_are_taken_with_their_hashes(mine):
    results = mine.folder / "results/mine"
    card = json.loads((results / "data/my_questions/tiny/prepared/data_card.json").read_text())
    assert card["rows"]["out"] == 64
    assert card["dataset"]["files"] == {"my_questions.csv": file_sha256(mine.folder / "examples/my_questions.csv")}
    source = json.loads((results / "models/my_model/source.json").read_text())
    weights = "model.safetensors"
    assert source["files"][weights] == file_sha256(mine.folder / "my_model" / weights)


def test_a_model_that_nobody_evaluates_is_a_note_and_asking_for_it_is_refused(mine):
    segments = mine.folder / "results/mine/runs/my_reward/segments"
    assert [path.name for path in (segments / "1/model").glob("*.json")] == ["not_kept.json"]
    assert (segments / "2/model/model.safetensors").is_file()
    assert mine.jobs(RESULT, *OPTIONS) == {}
    status, output = mine.dry_run("results/mine/my_sums_my_reward@1.json", *OPTIONS)
    assert status and "my_reward@1: its model was not kept" in output


def test_an_edited_reward_is_refused_and_an_edited_answer_of_a_benchmark_graded_again(mine):
    reward, questions = (mine.folder / "examples" / name for name in ("my_reward.py", "my_sums.jsonl"))
    before = {path: path.read_text() for path in (reward, questions)}
    try:
        reward.write_text(before[reward].replace("0.5", "0.75"))
        status, output = mine.dry_run(RESULT, *OPTIONS)
        assert status and "run my_reward has trained 2 steps" in output and "recipe.reward.sha256" in output
        reward.write_text(before[reward])
        questions.write_text(before[questions].replace("42", "43"))
        status, output = mine.dry_run(RESULT, *OPTIONS, "--quiet", "rules")
        assert status == 0 and re.search(r"^grade +1$", output, re.M), output
        assert not re.search(r"^(generate|train_segment) ", output, re.M), output
    finally:
        for path, text in before.items():
            path.write_text(text)
