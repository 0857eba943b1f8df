"""Edits of a finished experiment, each started for real: carried out, refused before anything is lost, or nothing.

Never is a start that made no difference to a result that is stale by then ended with status 0, and never is a start
refused for ever: each refusal says what to do, and that is tried too.
"""

import csv
import hashlib
import json
import os
import re
import shutil

import pandas
import pytest

PROFILE = ("--profile", "edits")
RESULTS = ["mine_mini@base", "mine_mini", "mine_rival", "sums_heldout_mini"]
TARGETS = [f"results/edits/{name}.json" for name in RESULTS]
EXPERIMENT = """
experiment: edits
extends: mini/experiment.yaml
pathvars: {results: results/edits}
hub: {mirror: mirror}
models:
  tiny: {steps: 30, hidden_size: 16, intermediate_size: 32, layers: 2, heads: 2, key_value_heads: 1}
datasets:
  sums: {rows: 200}
recipe: {prompts_per_step: 8, mini_batch_prompts: 4}
runs:
  mini: {steps: 4, segment_steps: 2, evaluate_every: 4}
external:
  rival: {model: somebody/rival}
benchmarks:
  sums_heldout: {rows: 4, samples: 2}
  mine: {source: local, path: mine.csv, samples: 8}
evaluation:
  together: false
  benchmarks: [sums_heldout, mine]
  validation_benchmarks: [sums_heldout, mine]
  graders: [strict, paper_rules]
  custom_graders: {anywhere: {file: examples/my_grader.py, function: grade}}
hardware: {save_every: 2}
"""


def write_rows(path, rows, names=("id", "question", "answer")):
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([names, *rows])


def rows_of(folder):
    with (folder / "mine.csv").open(newline="") as handle:
        return list(csv.reader(handle))[1:]


@pytest.fixture(scope="session")
def finished(tmp_path_factory, make_workspace):
    """A small experiment with results of a run, its base and a published model."""
    copy = make_workspace(tmp_path_factory.mktemp("edits"))
    (copy.folder / "edits").mkdir()
    profile = (copy.folder / "mini/config.yaml").read_text()
    (copy.folder / "edits/config.yaml").write_text(profile.replace("mini/experiment.yaml", "edits/experiment.yaml"))
    (copy.folder / "edits/experiment.yaml").write_text(EXPERIMENT)
    write_rows(copy.folder / "mine.csv", [(f"q{i}", f"What is {30 + i} + {41 + i}?", 71 + 2 * i) for i in range(4)])
    copy.run(*PROFILE, "results/edits/models/tiny")
    for name in ("rival", "other"):
        shutil.copytree(copy.folder / "results/edits/models/tiny", copy.folder / "mirror/somebody" / name)
    bend(copy.folder / "mirror/somebody/other")
    copy.run(*PROFILE, *TARGETS)
    return copy


def bend(model):
    """Change one weight of a model."""
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x3F
    weights.write_bytes(content)


@pytest.fixture
def copy(finished, tmp_path, make_workspace):
    """A copy of the finished experiment, with its times."""
    copy = object.__new__(make_workspace)
    copy.folder, copy.counted = tmp_path / "copy", {}
    shutil.copytree(finished.folder, copy.folder)
    return copy


def tree(copy):
    """What a refused start must leave as it was."""
    folder = copy.folder / "results"
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not {"logs", "experiments"} & set(path.relative_to(folder).parts)
    }


def weights(copy):
    return {path: sha for path, sha in tree(copy).items() if "/runs/" in path and path.endswith(".safetensors")}


def completions(copy):
    return {path: sha for path, sha in tree(copy).items() if "/completions/" in path}


def result(copy, name):
    return json.loads((copy.folder / f"results/edits/{name}.json").read_text())


def value(copy, name="mine_mini", grader="anywhere"):
    return result(copy, name)["graders"][grader]["avg_at_k"]["value"]


def configure(copy, old, new):
    path = copy.folder / "edits/experiment.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def start(copy, *more):
    done = copy.run(*PROFILE, *more, "--", *TARGETS, check=False)
    return done.returncode, done.stdout + done.stderr


def carried_out(copy, *more):
    """A start that succeeds, after which there is nothing more to do."""
    before = weights(copy)
    status, output = start(copy, *more)
    assert status == 0, output[-4000:]
    assert weights(copy) == before, "training is untouched"
    assert "Nothing to be done" not in output
    status, output = start(copy)
    assert status == 0 and "Nothing to be done" in output, output[-4000:]


def refused(copy, pattern, *more):
    """A start that is refused in one sentence and leaves everything as it was."""
    before = tree(copy)
    status, output = start(copy, *more)
    assert status != 0, output[-4000:]
    assert tree(copy) == before, "something was made or deleted"
    assert re.search(pattern, output), output[-4000:]
    assert "Error in rule" not in output and "Traceback" not in output
    return output


def nothing(copy, *more):
    before = tree(copy)
    status, output = start(copy, *more)
    assert status == 0 and "Nothing to be done" in output, output[-4000:]
    assert tree(copy) == before
    return output


def said(copy):
    """The id of a question and the last number of an answer to it, which is what the own grader reads."""
    frame = pandas.read_parquet(copy.folder / "results/edits/evaluations/mini@4/mine/paper/completions")
    for row in frame.itertuples():
        if numbers := re.findall(r"-?\d+", row.completion):
            return row.question_id, numbers[-1]
    raise AssertionError("the model said no number")


def correct_gold(copy):
    """Make what the model said to one question the right answer; the share of its answers that are right by then."""
    identifier, gold = said(copy)
    rows = [(a, b, gold if a == identifier else c) for a, b, c in rows_of(copy.folder)]
    write_rows(copy.folder / "mine.csv", rows)


def test_nothing_is_edited(copy):
    nothing(copy)


def test_a_corrected_gold_is_graded_again_and_nothing_is_sampled(copy):
    before, made = value(copy), completions(copy)
    correct_gold(copy)
    carried_out(copy)
    assert value(copy) > before and completions(copy) == made
    assert "answer" not in pandas.read_parquet(next(iter(made))).columns, "golds have one place"


def test_a_corrected_gold_of_a_file_that_only_looks_as_before(copy):
    """Same size and time: nothing tells but the content, which nobody reads for that. A new time does."""
    correct_gold(copy)
    os.utime(copy.folder / "mine.csv", (2e9, 2e9))
    carried_out(copy)


def test_a_touched_file_is_nothing(copy):
    os.utime(copy.folder / "mine.csv", (2e9, 2e9))
    nothing(copy)


def test_more_rows_are_refused(copy):
    write_rows(copy.folder / "mine.csv", [*rows_of(copy.folder), ("q9", "What is 11 + 12?", 23)])
    refused(copy, r"benchmarks?[. ]mine .*accept_changes=true")


def test_another_file_is_refused(copy):
    write_rows(copy.folder / "other.csv", [("q0", "What is 11 + 12?", 23), ("q1", "What is 11 + 13?", 24)])
    configure(copy, "path: mine.csv", "path: other.csv")
    refused(copy, r"benchmarks?[. ]mine .*accept_changes=true")


def test_another_file_with_the_same_questions_is_carried_out(copy):
    made = completions(copy)
    lines = [{"id": a, "question": b, "answer": c} for a, b, c in rows_of(copy.folder)]
    (copy.folder / "mine.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    configure(copy, "path: mine.csv", "path: mine.jsonl")
    carried_out(copy)
    assert completions(copy) == made


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_renamed_column(copy, column):
    names, key = ["id", "question", "answer"], ["id_column", "question_column", "answer_column"][column]
    names[column] = "renamed"
    made, before = completions(copy), value(copy)
    write_rows(copy.folder / "mine.csv", rows_of(copy.folder), names)
    # Ids of no known name are no ids; the others are missed.
    refused(copy, r"benchmark mine " if column == 0 else r"benchmarks\.mine: .*renamed")
    configure(copy, "path: mine.csv,", f"path: mine.csv, {key}: renamed,")
    carried_out(copy)
    assert completions(copy) == made and value(copy) == before


def test_another_number_of_rows_is_refused_by_its_key(copy):
    configure(copy, "rows: 4, samples: 2", "rows: 6, samples: 2")
    refused(copy, r"benchmarks\.sums_heldout has changed \(rows: 4 -> 6\).*accept_changes=true")


def test_rows_that_the_file_has_are_carried_out(copy):
    made = completions(copy)
    configure(copy, "path: mine.csv,", "path: mine.csv, rows: 4,")
    carried_out(copy)
    assert completions(copy) == made


def test_rows_that_the_file_has_not_are_refused(copy):
    configure(copy, "path: mine.csv,", "path: mine.csv, rows: 5,")
    refused(copy, r"4 questions, but 5 are expected")


@pytest.mark.parametrize("cut", ["frozen", "formatted"])
def test_an_accepted_start_that_was_cut_off_hides_nothing_from_the_next(copy, cut):
    configure(copy, "rows: 4, samples: 2", "rows: 3, samples: 2")
    until = {"frozen": "hardware.json", "formatted": "benchmarks/sums_heldout/questions.parquet"}[cut]
    (copy.folder / "results/edits/hardware.json").unlink()
    copy.run(*PROFILE, "--config", "accept_changes=true", "--", f"results/edits/{until}")
    refused(copy, r"sums_heldout .*accept_changes=true")
    carried_out(copy, "--config", "accept_changes=true")
    assert result(copy, "sums_heldout_mini")["n_questions"] == 3


def test_one_more_sample_is_refused(copy):
    configure(copy, "rows: 4, samples: 2", "rows: 4, samples: 3")
    refused(copy, r"samples: 2 -> 3(.|\n)*would be generated again and replaced(.|\n)*accept_changes=true")


def test_longer_answers_are_refused(copy):
    configure(copy, "experiment: edits", "experiment: edits\nprotocols: {paper: {max_tokens: 50}}")
    refused(copy, r"max_tokens: 48 -> 50(.|\n)*would be generated again and replaced(.|\n)*accept_changes=true")


def test_another_seed_is_refused(copy):
    configure(copy, "experiment: edits", "experiment: edits\nseed: 7")
    refused(copy, r"run mini has trained 4 steps .*seed: 42 -> 7")


def test_more_shards_are_refused(copy):
    configure(copy, "together: false", "together: false\n  shards: 2")
    refused(copy, r"would be generated again and replaced \(evaluation\.shards was another\)")


def fingerprint(model):
    from justrl.evaluation.completions import model_fingerprint

    return model_fingerprint(model)


def test_another_published_model_under_its_answers(copy):
    configure(copy, "rival: {model: somebody/rival}", "rival: {model: somebody/other}")
    refused(copy, r"results/edits/models/rival .*accept_changes=true")
    carried_out(copy, "--config", "accept_changes=true")
    made, model = result(copy, "mine_rival")["provenance"]["generation"], copy.folder / "results/edits/models/rival"
    # The record of the download, which the mirror's folder has not, is part of the fingerprint.
    assert made["model_fingerprint"] == fingerprint(model)
    weights = [folder / "model.safetensors" for folder in (model, copy.folder / "mirror/somebody/other")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("which", ["models/rival", "models/tiny", "runs/mini/segments/4/model"])
def test_an_edited_model_under_its_answers(copy, which):
    bend(copy.folder / "results/edits" / which)
    refused(copy, rf"results/edits/{which} is other than")


@pytest.mark.parametrize("which", ["models/rival", "models/tiny"])
def test_a_deleted_model_is_no_loss(copy, which):
    shutil.rmtree(copy.folder / "results/edits" / which)
    nothing(copy)


def test_a_model_that_came_back_as_another_is_refused(copy):
    """It was deleted for its size and is asked for again, and meanwhile the mirror has another one."""
    shutil.rmtree(copy.folder / "results/edits/models/rival")
    bend(copy.folder / "mirror/somebody/rival")
    refused(copy, "would be generated again and replaced", "results/edits/models/rival")
    copy.run(*PROFILE, "results/edits/models/rival")
    refused(copy, r"results/edits/models/rival is other than")


def test_a_deleted_shard_is_said(copy):
    shutil.rmtree(copy.folder / "results/edits/evaluations/mini@4/mine/paper/completions")
    assert "Inputs of finished results are missing" in nothing_but_said(copy)


def nothing_but_said(copy):
    status, output = start(copy)
    assert status == 0 and "Nothing to be done" in output, output[-3000:]
    return output


INTERMEDIATE = [
    "benchmarks/mine/raw",
    "benchmarks/mine/questions.parquet",
    "evaluations/mini@4/mine/paper/grades_rules.parquet",
    "data/sums/tiny/prepared/train.parquet",
    "data/sums/tiny/train.parquet",
    "runs/mini/segments/2/metrics.jsonl",
    "runs/mini/segments/2/model",
    "hardware.json",
]


@pytest.mark.parametrize("which", INTERMEDIATE)
def test_a_deleted_intermediate_file_is_no_loss(copy, which):
    path, made = copy.folder / "results/edits" / which, result(copy, "mine_mini")
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert start(copy)[0] == 0 and result(copy, "mine_mini") == made


@pytest.mark.parametrize("which", ["benchmarks/mine/raw", "data/sums/tiny/train.parquet", "runs/mini/segments/2/model"])
def test_what_is_needed_for_a_corrected_gold_is_made_again(copy, which):
    path, before, made = copy.folder / "results/edits" / which, value(copy), completions(copy)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    correct_gold(copy)
    carried_out(copy)
    assert value(copy) > before and completions(copy) == made


FORGOTTEN = {
    "rows": ("rows: 4, samples: 2", "rows: 3, samples: 2"),
    "column": ("path: mine.csv,", "path: mine.csv, id_column: question,"),
    "file": ("path: mine.csv,", "path: other.csv,"),
    "samples": ("samples: 8", "samples: 9"),
    "graders": ("graders: [strict, paper_rules]", "graders: [strict, paper_rules, symbolic]"),
    "model": ("model: somebody/rival", "model: somebody/other"),
    "protocol": ("experiment: edits", "experiment: edits\nprotocols: {paper: {max_tokens: 50}}"),
    "headline": ("graders: [strict, paper_rules]", "graders: [strict, paper_rules]\n  headline_grader: paper_rules"),
}


@pytest.mark.parametrize("edit", FORGOTTEN)
def test_an_edit_is_not_overlooked_where_snakemake_has_forgotten(copy, edit):
    """Without its records Snakemake sees no changed parameter: it would say that there is nothing to do."""
    shutil.rmtree(copy.folder / ".snakemake/metadata")
    write_rows(copy.folder / "other.csv", [("q0", "What is 11 + 12?", 23), ("q1", "What is 11 + 13?", 24)])
    configure(copy, *FORGOTTEN[edit])
    before = weights(copy)
    status, output = start(copy)
    if status:
        assert "Error in rule" not in output and "accept_changes=true" in output, output[-3000:]
        if edit not in ("rows", "protocol"):
            return
        status, output = start(copy, "--config", "accept_changes=true")
        assert status == 0, output[-3000:]
    assert "Nothing to be done" not in output and weights(copy) == before
    nothing(copy)


def test_nothing_is_planned_because_snakemake_has_forgotten(copy):
    shutil.rmtree(copy.folder / ".snakemake/metadata")
    nothing(copy)
