"""The rungs between the mini experiment and the paper, each through its own target and profile, for real.

Models are tiny ones in the place of the hub's, and so is what they cannot bear: lengths, batch, questions, steps, GPUs.
Targets, profiles, rules and recipe are those of config.yaml and one_gpu/; the judge, a model, stays out. With other
values it is not the paper's experiment, and has a name of its own.
"""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import ModelCard

from justrl import config as experiment
from justrl.io import read_json, read_jsonl
from tiny_model import make_tiny_model

TINY = {
    "benchmarks": {"aime": {"rows": 3, "samples": 2}},
    "models": {"deepseek": {"context_length": 4096}},
    "recipe": {
        "prompts_per_step": 2,
        "rollouts_per_prompt": 2,
        "mini_batch_prompts": 2,
        "max_prompt_length": 256,
        "max_response_length": 4,
        "overlong_penalty": {"buffer": 2},
        "dtype": "float32",
        "gradient_checkpointing": False,
    },
    "protocols": {"paper": {"max_tokens": 8}},
    "evaluation": {
        "benchmarks": ["aime"],
        "validation_benchmarks": ["aime"],
        "backend": "transformers",
        "dtype": "float32",
        "together": True,
        "model_grader": {"enabled": False},
        "headline_grader": "paper_rules",
    },
    "hardware": {
        "gpu": "none",
        "gpus_per_node": 0,
        "cpus_per_node": 1,
        "memory_per_node_gb": 4,
        "gpus_per_evaluation": 0,
        "cpus_per_evaluation": 1,
        "memory_per_evaluation_gb": 2,
        "save_every": 2,
    },
}
FEW = {"engine": "reference", "steps": 4, "segment_steps": 4, "evaluate_every": 4}


def question(number: int) -> tuple[str, str]:
    """A question of some thirteen words that no other one shares, and its answer."""
    return f"In town {number} there are {number} red and {7 * number} blue boats; how many are there?", str(8 * number)


def write_rows(folder, rows) -> None:
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")


def make_mirror(folder, config) -> None:
    """The hub of the experiment: tiny models under the real names, a few questions in the columns of the real files."""
    for seed, hub_id in enumerate((config.models["deepseek"].hub_id, config.external["justrl_deepseek"].model)):
        (folder / hub_id).mkdir(parents=True)
        make_tiny_model(folder / hub_id, family="deepseek", seed=seed)
    aime = config.benchmarks["aime"]
    columns = (aime.question_column, aime.answer_column)
    write_rows(folder / aime.hub_id, [dict(zip(columns, question(100 + row), strict=True)) for row in range(3)])
    write_rows(
        folder / config.datasets["dapo"].hub_id,
        [
            {
                "data_source": "math_dapo",
                "prompt": [{"role": "user", "content": asked}],
                "ability": "MATH",
                "reward_model": {"ground_truth": answer, "style": "rule"},
                "extra_info": {"index": str(row)},
            }
            for row, (asked, answer) in enumerate(map(question, range(1, 41)))
        ],
    )


@pytest.fixture(scope="module")
def rungs(tmp_path_factory, make_workspace):
    """A copy of the repository beside a mirror of tiny models, with the overlays that make the rungs small."""
    copy = make_workspace(tmp_path_factory.mktemp("rungs"))
    make_mirror(copy.folder / "mirror", experiment.load())
    tiny = TINY | {"hub": {"mirror": str(copy.folder / "mirror"), "offline": True}}
    overlays = {"one_gpu": {**tiny, "runs": {"deepseek_8k": FEW}}}
    for name, steps in (("first", 4), ("whole", 8)):
        runs = {"nemotron": {"enabled": False}, "deepseek": {**FEW, "steps": steps}}
        named = {"experiment": "tiny", "pathvars": {"results": "results/tiny"}}
        overlays[name] = {**tiny, **named, "runs": runs, "figures": {"models": []}}
    for name, overlay in overlays.items():
        (copy.folder / f"tiny_{name}.yaml").write_text(yaml.safe_dump(overlay))
    return copy


@pytest.fixture(scope="module")
def results(rungs):
    """The results of the golden rung and of the first steps, in one start, since each start costs seconds."""
    rungs.run("golden", "first_1000", "--cores", "2", "--resources", "gpu=1", "--configfile", "tiny_first.yaml")
    return rungs.folder / "results/tiny"


def claims_of(folder) -> dict[str, dict]:
    return {claim["claim"]: claim for claim in read_json(folder / "claims.json")["claims"]}


def steps_of(path) -> list[int]:
    return [row["step"] for row in read_jsonl(path)]


def test_the_golden_rung_judges_released_weights_and_trains_nothing(rungs, results):
    # In an empty folder: here a run has been trained from the base model, which therefore cannot be downloaded again.
    (rungs.folder / "fresh.yaml").write_text("pathvars: {results: results/fresh}\n")
    jobs = rungs.jobs("golden", "--configfile", "tiny_first.yaml", "fresh.yaml")
    assert jobs["download_model"] == 2 and "train_segment" not in jobs
    for name in ("deepseek@base", "justrl_deepseek"):
        result = read_json(results / f"aime_{name}.json")
        assert result["experiment"] == "tiny" and result["n_questions"] == 3
        assert result["graders"].keys() == {"strict", "paper_rules", "symbolic"}
    page = (results / "golden/deepseek.md").read_text()
    assert (
        "tiny experiment – not a paper result" in page
        and "52.60" in page
        and "43.3 ± 5.4" in page
        and "justrl_deepseek" in page
    )
    claims = claims_of(results / "golden")
    assert claims["deepseek: above DeepScaleR-1.5B-Preview"]["published_verdict"] == "holds"
    # One benchmark is no average over nine.
    assert {claim["verdict"] for claim in claims.values()} == {"not run"}


def test_the_whole_run_goes_on_from_its_first_steps(rungs, results):
    """Which segments hold the first 1,000 steps of the paper's run, the dry runs say; here it is one of two."""
    assert steps_of(results / "first_1000/deepseek/metrics.jsonl") == [1, 2, 3, 4]
    claims = claims_of(results / "first_1000")
    judged = [claim for name, claim in claims.items() if claim["group"] == "Training" and name.startswith("deepseek")]
    # Its values are not the paper's, so nothing is judged.
    assert [claim["verdict"] for claim in judged] == 3 * ["not run"]
    forecast = read_json(results / "first_1000/deepseek/forecast.json")
    assert (forecast["experiment"], forecast["steps"]) == ("tiny", 4)
    assert all("no forecast" in found["sentence"] for found in forecast["forecasts"].values())
    whole = ("results/tiny/runs/deepseek/metrics.jsonl", "--configfile", "tiny_whole.yaml", "--printshellcmds")
    status, plan = rungs.dry_run(*whole)
    assert status == 0 and plan.count("rule train_segment:") == 1 and "--start-step 4" in plan, plan[-3000:]


def test_the_one_gpu_rung_is_stamped_and_has_its_cards(rungs):
    rungs.run("--profile", "one_gpu", "--configfile", "tiny_one_gpu.yaml")
    folder, stamp = rungs.folder / "results/one_gpu", "one-gpu experiment – not a paper result"
    assert read_json(folder / "aime_deepseek_8k.json")["experiment"] == "one-gpu"
    for page in ("comparison/deepseek_8k.md", "claims.md", "provenance.html", "figures/deepseek_8k/training.svg"):
        assert stamp in (folder / page).read_text(), page
    assert {claim["verdict"] for claim in claims_of(folder).values()} == {"not run"}
    assert read_json(folder / "figures/deepseek_8k/forecast.json")["experiment"] == "one-gpu"
    assert steps_of(folder / "runs/deepseek_8k/metrics.jsonl") == [1, 2, 3, 4]
    card = ModelCard.load(folder / "runs/deepseek_8k/model_card.md")
    assert stamp in card.text and card.data.base_model == "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
