"""`justrl verify` on the mini experiment as it was run, and on copies of it in which something was broken."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from justrl.cli.main import main as justrl
from justrl.config import Experiment
from justrl.config.files import ROOT
from justrl.errors import UserError
from justrl.workflow import config_snapshots
from justrl.workflow.records import write_checksums
from justrl.workflow.remaking import remade_files
from justrl.workflow.run_state import layout_of

RESULT = "sums_heldout_mini.json"
EVALUATION = "evaluations/mini@60/sums_heldout/paper"
COMPLETIONS = f"{EVALUATION}/completions/0-of-1.parquet"


@pytest.fixture
def results(mini, tmp_path) -> Path:
    """A copy of the mini experiment's results."""
    return Path(shutil.copytree(mini.folder / "results/mini", tmp_path / "mini"))


def verify(results: Path, *overrides: str) -> int:
    """Against what was started in the folder; or against that with overrides."""
    options = [word for override in overrides for word in ("--set", override)]
    return justrl(
        ["verify", str(results), *(["--config", str(ROOT / "mini/experiment.yaml"), *options] if options else [])]
    )


def test_what_was_run_is_what_it_says(results, capsys):
    assert verify(results) == 0
    *lines, counts = capsys.readouterr().out.splitlines()
    assert counts == f"{len(lines)} correct"
    assert all(line.startswith("ok") for line in lines)
    for name in ("runs/mini", RESULT, "sums_harder_mini@30.json", "sums_heldout_mini@base.json"):
        assert any(line.split()[1] == name for line in lines)


def test_a_key_that_came_later_changes_nothing_by_its_default(results):
    """Results outlive versions of this package, which add keys."""
    edit(results / "runs/mini/run.json", lambda run: run["recipe"].pop("data_seed"))
    # The version without the key made the card and the record, too.
    layout = layout_of(Experiment.from_mapping(config_snapshots.read(config_snapshots.newest(results))[0]), results)
    made = next(made for made in remade_files(layout) if results / "runs/mini/model_card.md" in made.files)
    justrl([*made.words, made.option, *map(str, made.here())])
    write_checksums(layout)
    assert verify(results) == 0


def test_what_a_start_was_asked_for_is_written_down(results):
    lines = [json.loads(line) for line in (results / "experiments/asked.jsonl").read_text().splitlines()]
    assert {"experiment": max((results / "experiments").glob("*.json")).name, "target": "all"} in lines


def test_results_of_nobody_knows_what_need_a_configuration(tmp_path):
    (tmp_path / RESULT).write_text("{}")
    with pytest.raises(
        UserError, match=r"no experiment has been started in .* yet: give its configuration with --config"
    ):
        verify(tmp_path)


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_answers(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), path)


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()  # others may be hard links to the same file
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


BROKEN = {
    "deleted": (lambda f: (f / RESULT).unlink(), f"{RESULT}: it is missing"),
    "truncated": (
        lambda f: (f / RESULT).write_bytes((f / RESULT).read_bytes()[:5000]),
        f"{RESULT}: it is not a complete result",
    ),
    "number edited": (
        lambda f: edit(f / RESULT, lambda r: r["graders"]["strict"]["avg_at_k"].update(value=0.5)),
        "its numbers are not those of its completions and verdicts: graders.strict.avg_at_k.value is 0.5 instead of",
    ),
    "score edited": (
        lambda f: edit(f / RESULT, lambda r: r["per_question"][7]["scores"]["symbolic"].__setitem__(2, 5)),
        "per_question[7].scores.symbolic[2] is 5 instead of",
    ),
    "configuration edited": (
        lambda f: edit(f / RESULT, lambda r: r["provenance"]["config"].update(headline_grader="symbolic")),
        "its configuration was edited",
    ),
    "completions deleted": (lambda f: (f / COMPLETIONS).unlink(), f"{COMPLETIONS} is missing"),
    "completions edited": (lambda f: edit_answers(f / COMPLETIONS), "has changed since it was computed"),
    "grades truncated": (
        lambda f: (f / EVALUATION / "grades_rules.parquet").write_bytes(b"PAR1"),
        "grades_rules.parquet has changed since it was computed",
    ),
    "of another checkpoint": (
        lambda f: shutil.copy(f / "sums_heldout_mini@30.json", f / RESULT),
        "it was computed with another configuration: generation.run is 'mini@30' instead of 'mini@60'",
    ),
    "model deleted": (lambda f: shutil.rmtree(f / "runs/mini/segments/60/model"), "segments/60/model is missing"),
    "segment between deleted": (
        lambda f: shutil.rmtree(f / "runs/mini/segments/30"),
        "runs/mini: {f}/runs/mini/segments/30/metrics.jsonl is missing",
    ),
    "weights changed": (
        lambda f: flip_last_byte(f / "runs/mini/segments/60/model/model.safetensors"),
        "segments/60/model is another than the one that answered",
    ),
    "metrics edited": (
        lambda f: flip_last_byte(f / "runs/mini/segments/60/metrics.jsonl"),
        "segments/60/metrics.jsonl differs from the end of the segment",
    ),
    "recipe edited": (
        lambda f: edit(f / "runs/mini/run.json", lambda r: r["recipe"].update(learning_rate=1.0)),
        "it was trained with another configuration: recipe.learning_rate is 1.0 instead of 5e-05",
    ),
    "training data replaced": (
        lambda f: shutil.copy(f / "data/sums/raw/train.parquet", f / "data/sums/tiny/prepared/train.parquet"),
        "is not the file that its data card describes",
    ),
    "started otherwise": (
        lambda f: edit(
            max((f / "experiments").glob("*.json")), lambda e: e["config"]["protocols"]["paper"].update(top_p=0.5)
        ),
        "generation.protocol.top_p is 0.9 instead of 0.5",
    ),
    "page deleted": (lambda f: (f / "figures/mini/training.svg").unlink(), "figures/mini/training.svg: it is missing"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_not_is_told_in_one_sentence(results, capsys, fault):
    spoil, sentence = BROKEN[fault]
    spoil(results)
    assert verify(results) == 1
    output = capsys.readouterr()
    assert sentence.replace("{f}", str(results)) in output.out.replace("\n        -> ", ": ") + output.err
    assert output.err.startswith("error: ") and output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("protocols.paper.temperature=0.9", "generation.protocol.temperature is 0.7 instead of 0.9"),
        ("recipe.learning_rate=1e-3", "recipe.learning_rate is 5e-05 instead of 0.001"),
        ("benchmarks.sums_heldout.samples=4", "generation.protocol.samples is 8 instead of 4"),
        ("seed=7", "seed is 42 instead of 7"),
        ("models.tiny.layers=2", "layers is 3 instead of 2"),
        ("evaluation.headline_grader=symbolic", "headline_grader is 'strict' instead of 'symbolic'"),
    ],
)
def test_results_of_another_configuration_are_told(results, capsys, override, sentence):
    assert verify(results, override) == 1
    assert sentence in " ".join(capsys.readouterr().out.split())
