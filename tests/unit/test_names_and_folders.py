"""A folder is never taken for a hub id, nor a name for a folder; what is missing is said to be missing."""

import json

import pytest

from justrl import config as experiment
from justrl.cli.main import main
from justrl.config import Experiment
from justrl.config.files import merge, read
from justrl.config.layout import Layout
from justrl.data.benchmarks import load_eval_dataset
from justrl.data.dapo import process_dapo_dataset
from justrl.errors import UserError
from justrl.io import is_hub_id
from justrl.models.sampling import load_tokenizer
from justrl.workflow.start_checks import check_local_files

ROWS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(3)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rows(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, ROWS)))


def layout(changes):
    return Layout(Experiment.from_mapping(merge(read(), changes)), "results")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("owner/name", True),
        ("Qwen/Qwen2.5-0.5B", True),
        ("models/nothere", False),
        ("checkpoints/step_100", False),
        ("nothere", False),
        ("./x", False),
        ("../x", False),
        ("/a/b", False),
        ("a/b/c", False),
        ("owner/name/", False),
        ("mine/nothere", False),
    ],
)
def test_what_can_be_a_hub_id(here, name, wanted):
    (here / "mine").mkdir()
    assert is_hub_id(name) is wanted


@pytest.mark.parametrize("name", ["models/nothere", "nothere", "./x", "mine/nothere", "a/b/c"])
def test_a_missing_model_folder_is_not_asked_of_the_hub(here, monkeypatch, name):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (here / "mine").mkdir()
    write_rows(here / "q.jsonl")
    with pytest.raises(UserError, match=f"no such model folder: {name}"):
        load_tokenizer(name)
    for command in (
        ["evaluate", "--model-path", name, "--dataset", "q.jsonl", "--output-file", "o.json"],
        ["train", "run", "deepseek", "--model", name, "--data", "q.jsonl", "--output", "o"],
    ):
        with pytest.raises(
            UserError, match=f"no (model folder|Hugging Face model in) {name.removeprefix('./')}|{name}"
        ):
            main(command)


@pytest.mark.parametrize("name", ["data/train.parquet", "train.jsonl", "./set"])
def test_a_missing_training_set_is_not_asked_of_the_hub(here, name):
    with pytest.raises(UserError, match=f"no such file or folder: {name}"):
        process_dapo_dataset(name, here / "out")


def test_a_benchmarks_name_goes_before_a_folder_of_that_name(here):
    write_rows(here / "aime24/rows.jsonl")
    write_rows(here / "sums/rows.jsonl")
    config = experiment.load(overrides=["hub.offline=true"])
    with pytest.raises(UserError, match="HuggingFaceH4/aime_2024 at revision main is not here"):
        load_eval_dataset("aime24", experiment=config, mirror=here / "mirror", lock=here / "lock.json")
    for path in ("./aime24", "aime24/rows.jsonl", here / "aime24", "sums"):
        assert len(load_eval_dataset(path, experiment=config)) == 3, path


@pytest.mark.parametrize("name", ["data/aime24", "no/math500", "./aime"])
def test_a_missing_benchmark_file_is_not_the_benchmark_of_its_name(here, name):
    with pytest.raises(UserError, match=f"no such dataset file: {name}"):
        load_eval_dataset(name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"external": {"mine": {"model": "own/model"}}},
            "external.mine: own/model is a folder here, and not asked of the hub",
        ),
        ({"external": {"mine": {"model": "own/nothere"}}}, "external.mine.model: no such folder: own/nothere"),
        ({"external": {"mine": {"model": "models/nothere"}}}, "external.mine.model: no such folder: models/nothere"),
        ({"external": {"mine": {"path": "nothere"}}}, "external.mine.path: no such file or folder: nothere"),
        (
            {"models": {"mine": {"source": "hub", "hub_id": "own/model", "context_length": 4096}}},
            "models.mine: own/model is a folder here, and not asked of the hub: write `source: local, path: own/model`",
        ),
        ({"benchmarks": {"aime": {"hub_id": "own/model"}}}, "benchmarks.aime: own/model is a folder here"),
        (
            {"datasets": {"dapo": {"hub_id": "own/model", "revision": None}}},
            "datasets.dapo: own/model is a folder here",
        ),
        (
            {"evaluation": {"model_grader": {"model": "own/model"}}},
            "evaluation.model_grader: own/model is a folder here",
        ),
    ],
)
def test_a_start_takes_no_folder_for_a_hub_id(here, changes, said):
    (here / "own/model").mkdir(parents=True)
    with pytest.raises(UserError) as refused:
        check_local_files(layout(changes))
    assert said in str(refused.value)


def test_a_mirror_in_the_working_folder_is_one_and_what_was_taken_stays(here):
    (here / "hbx/JustRL-DeepSeek-1.5B").mkdir(parents=True)
    check_local_files(layout({"hub": {"mirror": "."}}))
    (here / "results/models/justrl_deepseek").mkdir(parents=True)
    check_local_files(layout({}))


def test_a_local_model_is_evaluated_in_one_line(here):
    (here / "own").mkdir()
    files = layout({"external": {"mine": {"path": "own"}}})
    check_local_files(files)
    source = files.model_sources["mine"]
    assert (source.source, source.path) == ("local", "own")
    assert files.configuration("mine", "aime", "paper")["model"] == {"source": "local", "path": "own"}
    assert files.results("mine", ["aime"]) == ["results/aime_mine.json"] and files.family("mine") is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "external.mine has neither model nor path: set model"),
        ({"model": "a/b", "path": "c"}, "external.mine has both model and path"),
        ({"path": "c", "revision": "main"}, "external.mine.revision: main is set, but a folder"),
        ({"model": "own_model"}, "use `path` for a folder"),
    ],
)
def test_an_external_model_is_of_one_place(entry, said):
    with pytest.raises(UserError) as refused:
        layout({"external": {"mine": entry}})
    assert said in str(refused.value)
