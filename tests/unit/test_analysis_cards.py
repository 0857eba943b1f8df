"""The model card, and what trainings and evaluations cost."""

import pytest
from analysis_examples import metrics_rows, result
from huggingface_hub import ModelCard

from justrl.cli.main import main
from justrl.config import load
from justrl.config.files import ROOT
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.io import read_json, write_json, write_jsonl
from justrl.report import provenance

HUB = {"source": "hub", "hub_id": "someone/base", "revision": "c" * 40}
BENCHMARKS = ("aime", "math500")


def write_run(folder, experiment="paper", model=HUB, dataset=HUB | {"hub_id": "someone/questions"}):
    """A run's folder and the results of its base and last checkpoint, as options of `justrl report model-card`."""
    described = {"run": "deepseek", "experiment": experiment, "model": model, "dataset": dataset}
    described |= {"engine": "verl", "seed": 42, "recipe": {"learning_rate": 1e-6, "reward": "paper"}}
    write_json(folder / "run.json", described)
    write_jsonl(folder / "metrics.jsonl", metrics_rows(20))
    files = []
    for benchmark in BENCHMARKS:
        for step in (0, 4380):
            made = result(benchmark, "deepseek", step, {"paper_rules": 0.3, "strict": 0.25}, experiment, 10, 4)
            made["provenance"] = {"config": {"questions": {"hub_id": f"someone/{benchmark}", "split": "test"}}}
            files.append(folder / f"{benchmark}_{step}.json")
            write_json(files[-1], made)
    return ["--run", folder / "run.json", "--family", "deepseek", "--results", *files]


def model_card(folder, *options):
    assert main(["report", "model-card", *map(str, options), "--output", str(folder / "card.md")]) == 0
    return ModelCard.load(folder / "card.md")


def test_a_model_card_says_to_the_hub_what_it_is_of_and_how_it_scored(tmp_path):
    sources = [tmp_path / "base", tmp_path / "questions"]
    for folder, terms in zip(sources, ("mit", "apache-2.0"), strict=True):
        folder.mkdir()
        (folder / "README.md").write_text(f"---\nlicense: {terms}\n---\nA card.\n")
    card = model_card(tmp_path, *write_run(tmp_path), "--sources", *sources)
    data = card.data
    assert (data.base_model, data.datasets, data.license) == ("someone/base", ["someone/questions"], "mit")
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    found = {(one.dataset_type, one.metric_args["grader"]): one for one in data.eval_results}
    assert set(found) == {(f"someone/{name}", grader) for name in BENCHMARKS for grader in ("paper_rules", "strict")}
    aime = found["someone/aime", "paper_rules"]
    assert (
        aime.dataset_split == "test"
        and aime.metric_name == "avg@4, paper_rules"
        and aime.metric_args["temperature"] == 0.7
    )
    low, high = aime.metric_args["interval_95"]
    assert low < aime.metric_value < high and 15 < aime.metric_value < 45, "percent, of the trained model"
    assert "not a paper result" not in card.content and "licence by its own card: apache-2.0" in card.text
    for part in ("learning_rate | 1e-06", "deepseek, step 4,380", "deepseek, base", "## Gain"):
        assert part in card.text


def test_what_a_model_card_does_not_know_it_leaves_out_and_says_so(tmp_path):
    taught = {"source": "tiny"}
    card = model_card(tmp_path, *write_run(tmp_path, "mini", taught, {"source": "arithmetic"}))
    # Of a file of the user's no more is known than that it is not the hub's.
    head = card.content.partition("\n---")[0]
    assert "created" not in head and "generated" not in head
    assert not {"base_model", "datasets", "license"} & card.data.to_dict().keys()
    for key in ("base_model", "datasets", "license"):
        assert f"\n# {key}: left out" in (tmp_path / "card.md").read_text()
    assert "**mini experiment – not a paper result.**" in card.text and "not-a-paper-result" in card.data.tags


def test_a_model_card_without_a_trained_checkpoint_is_refused(tmp_path):
    options = [str(option) for option in write_run(tmp_path) if "4380" not in str(option)]
    with pytest.raises(UserError, match="needs the results of a trained checkpoint of deepseek"):
        main(["report", "model-card", *options, "--output", str(tmp_path / "card.md")])


@pytest.fixture
def layout(tmp_path):
    """A mini run of 60 steps in two segments, finished; each step took 300 s or so."""
    found = Layout(
        load([ROOT / "mini/experiment.yaml"], ["hardware.gpus_per_node=8", "hardware.gpu=H100"]), str(tmp_path)
    )
    write_jsonl(tmp_path / "runs/mini/metrics.jsonl", metrics_rows(60))
    return found


def attempt(step, how="finished", gpus=8):
    return {"began": "2026-01-01T00:00:00+00:00", "to_step": step, "gpus": gpus} | ({"how": how} if how else {})


@pytest.mark.parametrize(
    ("attempts", "survived"),
    [
        ([], "not recorded"),
        ([attempt(30), attempt(60)], 0),
        ([attempt(30, None), attempt(30, "stopped"), attempt(30), attempt(60)], "2 (1 stopped, 1 killed)"),
        ([attempt(60, "failed"), attempt(60)], "1 (1 failed); of 1 of 2 segments"),
    ],
)
def test_interruptions_are_those_that_the_work_folder_tells(layout, attempts, survived):
    assert provenance.training_cost(layout, "mini", attempts)["interruptions"] == survived


def test_an_accepted_alarm_is_on_the_model_card(tmp_path):
    rows = [row | ({"accepted_alarms": "truncated"} if row["step"] > 40 else {}) for row in metrics_rows(60)]
    options = write_run(tmp_path / "card")
    write_jsonl(tmp_path / "card/metrics.jsonl", rows)
    assert "truncated (from step 41)" in model_card(tmp_path, *options).text


def test_gpu_hours_are_those_of_the_steps_or_not_known(layout):
    facts = provenance.training_cost(layout, "mini", [attempt(30), attempt(60)])
    seconds = [row["step_seconds"] for row in metrics_rows(60)]
    assert facts["gpu_hours"] == pytest.approx(8 * sum(seconds) / 3600, abs=1e-4)
    moved = provenance.training_cost(layout, "mini", [attempt(30), attempt(60, gpus=4)])
    assert moved["gpu_hours"] == "not known: trained on 4 and 8 GPUs"
    rows = [row | {"step_seconds": None if row["step"] == 7 else 1.0} for row in metrics_rows(60)]
    write_jsonl(layout.metrics("mini"), rows)
    untimed = provenance.training_cost(layout, "mini", [attempt(60)])
    assert untimed["gpu_hours"].startswith("not known: 1 of 60 steps")
    assert untimed["hours"] == "not measured"


def test_evaluation_without_timings_is_not_measured(layout, tmp_path):
    assert provenance.evaluation_cost(layout, tmp_path / "timings", [])["gpu_hours"] == "not measured"


def test_the_provenance_has_the_cost_of_its_experiment(layout, tmp_path):
    found = provenance.experiment_cost(layout, tmp_path / "timings")
    assert found["trainings"]["mini"]["steps"] == 60 and found["evaluations"]["jobs"] == "not measured"
    config = tmp_path / "config.json"
    write_json(config, layout.experiment.as_dict())
    output = ["--output", str(tmp_path / "made.json"), str(tmp_path / "made.html")]
    assert main(["report", "provenance", "--config", str(config), "--cost-of", str(tmp_path), *output]) == 0
    assert read_json(tmp_path / "made.json")["cost"] == found
    assert "training of mini" in (tmp_path / "made.html").read_text()
    with pytest.raises(UserError, match="--cost-of needs --config"):
        main(["report", "provenance", "--experiment", "mini", "--cost-of", str(tmp_path), *output])
