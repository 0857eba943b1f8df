"""Answers are compared with the model, the settings and the questions that they would be taken to be of."""

import json
import os

import pyarrow
import pytest
from pyarrow import parquet

from justrl.config import load
from justrl.config.files import ROOT
from justrl.config.layout import Layout
from justrl.data.arithmetic import benchmark_rows
from justrl.errors import UserError
from justrl.evaluation.completions import make_table, model_fingerprint
from justrl.evaluation.generating import Question, benchmark_fingerprint
from justrl.workflow import stale

ASKED = [("one", "1+1?", "2"), ("two", "2+2?", "4")]
AGAIN = "snakemake --config accept_changes=true"


@pytest.fixture
def layout(tmp_path):
    return Layout(load([ROOT / "mini/experiment.yaml"]), str(tmp_path))


@pytest.fixture
def answered(layout, tmp_path):
    questions = tmp_path / "benchmarks/sums_heldout/questions.parquet"
    questions.parent.mkdir(parents=True)
    write_questions(questions, ASKED)
    made = {"benchmark_fingerprint": benchmark_fingerprint([Question(*row) for row in ASKED])}
    file = tmp_path / "evaluations/mini@base/sums_heldout/paper/completions/0-of-1.parquet"
    file.parent.mkdir(parents=True)
    parquet.write_table(make_table([], made), file)
    return questions, file


def write_questions(path, rows):
    table = [{"benchmark": "sums_heldout", "id": a, "question": b, "answer": c} for a, b, c in rows]
    parquet.write_table(pyarrow.Table.from_pylist(table), path)


EDITS = {
    "as it was": (ASKED, False),
    "a corrected gold": ([ASKED[0], ("two", "2+2?", "5")], False),
    "another question": ([ASKED[0], ("two", "2+3?", "5")], True),
    "one more": ([*ASKED, ("three", "3+3?", "6")], True),
    "one fewer": (ASKED[:1], True),
    "another id": ([ASKED[0], ("2", "2+2?", "4")], True),
}


@pytest.mark.parametrize("edit", EDITS)
def test_completions_of_other_questions_are_refused_and_a_corrected_gold_is_not(layout, answered, tmp_path, edit):
    rows, refused = EDITS[edit]
    write_questions(answered[0], rows)
    if not refused:
        stale.check_answers(layout, {}, [str(answered[1])], (), AGAIN)
        return
    with pytest.raises(UserError, match=r"questions\.parquet is other than .*accept_changes=true"):
        stale.check_answers(layout, {}, [str(answered[1])], (), AGAIN)
    stale.check_answers(layout, {}, [str(answered[1])], {str(answered[1])}, AGAIN)  # sampled again


def answers_of(tmp_path, benchmark, rows):
    made = {"benchmark_fingerprint": benchmark_fingerprint([Question(*row.values()) for row in rows])}
    file = tmp_path / f"evaluations/mini@base/{benchmark}/paper/completions/0-of-1.parquet"
    file.parent.mkdir(parents=True)
    parquet.write_table(make_table([], made), file)
    return file


@pytest.mark.parametrize("frozen", [True, False])
def test_an_edited_entry_is_refused_by_its_key_also_after_a_start_that_was_cut_off(tmp_path, frozen):
    """Cut off after it had frozen its configuration: the key is in it already, and the questions are not."""
    file = answers_of(tmp_path, "sums_heldout", benchmark_rows(100, 2, 42))
    before = {"rows": 100 if frozen else 90, "digits": 2, "source": "arithmetic"}
    (tmp_path / "experiments").mkdir()
    content = {"config": {"benchmarks": {"sums_heldout": before}}, "segment_ends": {}}
    (tmp_path / "experiments/0001.json").write_text(json.dumps(content))

    def check(*overrides, **entry):
        layout = Layout(load([ROOT / "mini/experiment.yaml"], overrides), str(tmp_path))
        planned = {layout.questions("sums_heldout"), layout.raw_benchmark("sums_heldout")}
        stale.check_answers(layout, {"sums_heldout": before | entry}, [str(file)], planned, AGAIN)

    check(label="other")
    wanted = (
        r"benchmarks\.sums_heldout has changed \(rows: 100 -> 90\)" if frozen else r"sums_heldout has other questions"
    )
    with pytest.raises(UserError, match=rf"{wanted}.*`{AGAIN}`"):
        check("benchmarks.sums_heldout.rows=90", rows=90)


def test_a_download_of_another_revision_is_refused_before_it_is_begun(tmp_path):
    rows = [{"id": "aime-0", "question": "1+1?", "answer": "2"}]
    file = answers_of(tmp_path, "aime", rows)
    raw = tmp_path / "benchmarks/aime/raw"
    raw.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), raw / "train.parquet")

    def check(**entry):
        whole = {"source": "hub", "rows": 1, "revision": "main", **entry}
        overrides = [f"benchmarks.aime.{key}={value}" for key, value in whole.items()]
        layout = Layout(load([ROOT / "mini/experiment.yaml"], overrides), str(tmp_path))
        record = {"hub_id": "HuggingFaceH4/aime_2024", "requested": "main", "revision": "abc", "subset": None}
        (raw / "source.json").write_text(json.dumps(record | {"hub_id": layout.experiment.benchmarks["aime"].hub_id}))
        planned = {layout.questions("aime"), layout.raw_benchmark("aime")}
        stale.check_answers(layout, {}, [str(file)], planned, AGAIN)

    check()
    check(revision="abc")
    with pytest.raises(UserError, match="benchmark aime has other questions"):
        check(revision="def")


@pytest.mark.parametrize("which", ["model", "judge"])
def test_answers_of_another_model_at_its_place_are_refused(layout, tmp_path, which):
    model = tmp_path / "models" / ("tiny" if which == "model" else "model_grader")
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    file = tmp_path / "evaluations/mini@base/sums_heldout/paper/completions/0-of-1.parquet"
    settings = {"model_fingerprint": model_fingerprint(model)}
    if which == "judge":
        file, settings = file.parents[1] / "grades_model.parquet", {"judge": settings}
    file.parent.mkdir(parents=True)
    parquet.write_table(make_table([], settings), file)
    os.utime(model / "config.json")
    stale.check_answers(layout, {}, [str(file)], (), AGAIN)
    (model / "config.json").write_text('{"other": 1}')
    os.utime(model / "config.json", (1, 1))  # also where it looks older
    with pytest.raises(UserError, match=f"{model} is other than when it (answered|judged), and {file} would"):
        stale.check_answers(layout, {}, [str(file)], (), AGAIN)


@pytest.mark.parametrize("key", ["seed", "backend", "protocol"])
def test_answers_under_other_settings_are_refused_by_the_key(layout, tmp_path, key):
    asked = layout.generation("mini@base", "sums_heldout", "paper")
    made = asked | {"seed": 7} if key == "seed" else asked | {"backend": "vllm"}
    if key == "protocol":
        made = asked | {"protocol": {"name": "paper", "max_tokens": 40}}  # by a version with fewer keys
    file = tmp_path / "evaluations/mini@base/sums_heldout/paper/completions/0-of-1.parquet"
    file.parent.mkdir(parents=True)
    parquet.write_table(make_table([], made), file)
    wanted = {"seed": "seed: 7 -> 42", "backend": "backend: vllm -> transformers", "protocol": "max_tokens: 40 -> 48"}
    with pytest.raises(UserError, match=rf"have changed \([\w.]*{wanted[key]}\)"):
        stale.check_answers(layout, {}, [str(file)], (), AGAIN)
