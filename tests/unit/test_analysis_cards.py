"""Cards for machines and for the hub. The whole crate of an experiment is checked in tests/workflow/test_mini.py."""

import pytest
from analysis_examples import metrics_rows, result
from huggingface_hub import ModelCard

import ro_crate
from justrl.analysis import card_facts
from justrl.analysis.crate import NAME, Crate
from justrl.commands.main import main
from justrl.config import load
from justrl.config_files import ROOT
from justrl.errors import UserError
from justrl.io import file_sha256, write_json, write_jsonl
from justrl.layout import Layout

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
    taught = {"source": "taught"}
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
    write_json(tmp_path / "runs/mini/preflight.json", {"checks": [{"name": "packages", "found": "verl 0.9.1"}]})
    write_json(tmp_path / "runs/mini/work/node.json", {"checks": [{"name": "gpus", "found": "8 x a card"}]})
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
    assert card_facts.training(layout, "mini", attempts)["interruptions survived"] == survived


def test_an_accepted_alarm_is_on_both_cards(layout, tmp_path):
    assert card_facts.training(layout, "mini", [attempt(60)])["accepted alarms"] == 0
    rows = [row | ({"accepted_alarms": "truncated"} if row["step"] > 40 else {}) for row in metrics_rows(60)]
    write_jsonl(layout.metrics("mini"), rows)
    assert card_facts.training(layout, "mini", [attempt(60)])["accepted alarms"] == "truncated (from step 41)"
    options = write_run(tmp_path / "card")
    write_jsonl(tmp_path / "card/metrics.jsonl", rows)
    assert "truncated (from step 41)" in model_card(tmp_path, *options).text


def test_gpu_hours_are_those_of_the_steps_or_not_known(layout):
    facts = card_facts.training(layout, "mini", [attempt(30), attempt(60)])
    seconds = [row["step_seconds"] for row in metrics_rows(60)]
    assert facts["GPU hours of the steps"] == pytest.approx(8 * sum(seconds) / 3600, abs=1e-4)
    assert facts["energy in kWh"] == "not measured" and facts["GPUs as its first job found them"] == "8 x a card"
    moved = card_facts.training(layout, "mini", [attempt(30), attempt(60, gpus=4)])
    assert moved["GPU hours of the steps"] == "not known: trained on 4 and 8 GPUs"
    rows = [row | {"step_seconds": None if row["step"] == 7 else 1.0} for row in metrics_rows(60)]
    write_jsonl(layout.metrics("mini"), rows)
    untimed = card_facts.training(layout, "mini", [attempt(60)])
    assert untimed["GPU hours of the steps"].startswith("not known: 1 of 60 steps")
    assert untimed["hours of the steps"] == "not measured"


def test_evaluation_without_timings_is_not_measured(layout, tmp_path):
    assert card_facts.evaluation(layout, tmp_path / "timings", [])["GPU hours of the jobs"] == "not measured"


def test_a_download_stands_in_a_crate_by_its_revision_if_it_is_what_was_downloaded(tmp_path):
    folder = tmp_path / "models/base"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("w")
    record = {"kind": "model", **HUB, "files": {"weights": file_sha256(folder / "weights")}}
    write_json(folder / "source.json", record)
    crate = Crate(tmp_path)
    crate.folder(folder, "base")
    entity = crate.entities["models/base/"]
    assert (entity["url"], entity["version"]) == ("https://huggingface.co/someone/base", "c" * 40)
    assert crate.entities["models/base/weights"]["sha256"] == record["files"]["weights"]
    (folder / "weights").write_text("another")
    with pytest.raises(UserError, match="weights is not the file that was downloaded"):
        Crate(tmp_path).folder(folder, "base")


def test_the_check_of_crates_finds_what_is_wrong_with_one(tmp_path):
    crate = Crate(tmp_path)
    (tmp_path / "a @ b.txt").write_text("as it was")
    (tmp_path / "kept.txt").write_text("as it was")
    files = [crate.file(tmp_path / name) for name in ("a @ b.txt", "kept.txt")]
    crate.add(
        "./", "Dataset", name="n", description="d", datePublished="2026-01-01", hasPart=files, license={"@id": "#l"}
    )
    crate.add("#l", "CreativeWork", name="none")
    crate.add(NAME, "CreativeWork", about={"@id": "./"}, conformsTo={"@id": "https://w3id.org/ro/crate/1.1"})
    whole = {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": list(crate.entities.values())}
    write_json(tmp_path / NAME, whole)
    assert ro_crate.problems(tmp_path) == []
    (tmp_path / "a @ b.txt").write_text("edited...")
    (tmp_path / "kept.txt").unlink()
    assert ro_crate.problems(tmp_path) == ["a%20@%20b.txt is another file", "kept.txt is not there"]
    crate.add("lost.txt", "File", size="3", isPartOf={"@id": "#nowhere"})
    write_json(tmp_path / NAME, whole | {"@graph": list(crate.entities.values())})
    found = " ".join(ro_crate.problems(tmp_path))
    for sentence in (
        "size is no term",
        "#nowhere is nowhere",
        "lost.txt is not there",
        "lost.txt is no part of the root",
    ):
        assert sentence in found
