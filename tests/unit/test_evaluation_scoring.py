"""The result JSON: hand-worked figures, and counts that must be exact."""

import json
from importlib import import_module

import pytest

from justrl.errors import UserError
from justrl.evaluation import grading
from justrl.evaluation.completions import COLUMNS, make_table, read_completions
from justrl.evaluation.generating import Question, benchmark_fingerprint
from justrl.evaluation.scoring import COMBINED, add_combined, published_figures, score
from justrl.io import file_sha256, json_sha256, write_parquet

QUESTIONS = [Question("b", "Two?", "2"), Question("a", "Three?", "3"), Question("c", "Four?", "4")]
ANSWERS = {
    "b": ["\\boxed{2}", "\\boxed{2}", "\\boxed{9}", "two, that is"],
    "a": ["\\boxed{8}", "\\boxed{8}", "three", "\\boxed{3}"],
    "c": ["four", "\\boxed{five}", "\\boxed{six}", "x y z x y z x y"],
}
MODEL_SAYS = {("b", 3): "correct", ("a", 2): "correct", ("c", 0): "correct", ("c", 1): "unparsed"}


def write(path, answers=ANSWERS, questions=QUESTIONS, **changes):
    asked = {question.id: question.question for question in QUESTIONS}
    rows = [
        dict.fromkeys(COLUMNS)
        | {"benchmark": "toy", "question_id": question, "sample_index": index, "seed": index, "completion": text}
        | {"question": asked[question], "token_count": 10 * (index + 1)}
        | {"finish_reason": "length" if index == 3 else "stop", "prompt": "p", "model": "tiny"}
        for question, texts in answers.items()
        for index, text in enumerate(texts)
    ]
    settings = {
        "protocol": {"name": "paper", "samples": 4},
        "model": "tiny",
        "benchmark_fingerprint": benchmark_fingerprint(questions),
    }
    write_parquet(make_table(rows, settings | changes), path)
    return path


@pytest.fixture
def kept(tmp_path):
    samples, settings = read_completions([write(tmp_path / "c.parquet")])
    return grading.with_golds(samples, settings, "toy", QUESTIONS), settings


@pytest.fixture
def grades(kept):
    return grading.grade_samples(kept[0], ["strict"])


def result(kept, grades, questions=QUESTIONS, **options):
    fixed = {"name": "run@10", "experiment": "mini", "headline": "strict"}
    return score(*kept, grades, "toy", questions, **{**fixed, **options})


def test_the_figures_are_those_worked_out_by_hand(kept, grades):
    found = result(kept, grades, step=10)
    strict = found["graders"]["strict"]
    # Correct answers of four: b 2, a 1, c 0.
    assert strict["avg_at_k"]["value"] == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    # pass@2: b 1 - 1/6, a 1 - 3/6, c 0.
    assert strict["pass_at_k"]["2"] == pytest.approx((5 / 6 + 3 / 6) / 3)
    assert strict["pass_at_k"]["4"] == pytest.approx(2 / 3) and list(strict["pass_at_k"]) == ["1", "2", "3", "4"]
    # The most frequent answer: 2 for b (right), 8 for a (wrong); c has a tie of two wrong ones.
    assert strict["maj_at_k"] == pytest.approx(1 / 3)
    assert strict["outcomes"] == {"correct": 3, "wrong": 5, "unparsed": 4, "timeout": 0}
    assert (strict["solve_none"], strict["solve_all"]) == (1, 0)
    assert (found["n_questions"], found["samples_per_question"]) == (3, 4)
    assert (found["length"]["mean"], found["length"]["max"]) == (25, 40)
    assert found["truncated_fraction"] == 0.25
    assert found["per_question"][0] == {"id": "b", "scores": {"strict": [1, 1, 0, 0]}}
    assert (found["name"], found["experiment"], found["step"], found["model"]) == ("run@10", "mini", 10, "tiny")


def with_model(kept, grades):
    """Add a model's verdicts on what strict rejected."""
    rejected = grading.rejected_samples(kept[0], grades, "strict")
    rows = grades.merge(rejected[["question_id", "sample_index"]], on=["question_id", "sample_index"])
    keys = zip(rows["question_id"], rows["sample_index"], strict=True)
    rows["outcome"] = [MODEL_SAYS.get(key, "wrong") for key in keys]
    rows["grader"], rows["extracted"] = "model", None
    return import_module("pandas").concat([grades, rows], ignore_index=True)


def test_the_papers_grading_is_correct_if_either_says_so(kept, grades):
    both = with_model(kept, grades)
    found = result(kept, both, headline="strict+model", model_after="strict")
    assert sorted(found["graders"]) == ["strict", "strict+model"]
    combined = found["graders"]["strict+model"]
    assert combined["avg_at_k"]["value"] == pytest.approx((3 / 4 + 2 / 4 + 1 / 4) / 3)
    # What the rules called correct stays; of the nine they rejected the model decides all.
    assert combined["outcomes"] == {"correct": 6, "wrong": 5, "unparsed": 1, "timeout": 0}
    assert found["graders"]["strict"]["avg_at_k"]["value"] == pytest.approx(1 / 4)


def test_a_model_that_had_nothing_to_judge_changes_nothing(kept, grades):
    assert add_combined(kept[0], grades).equals(grades)
    assert COMBINED == "paper_rules+model"


def test_a_rejected_sample_that_the_model_did_not_judge_is_named(kept, grades):
    with pytest.raises(UserError, match="1 samples have no verdict of model, the first being toy question c sample 3"):
        result(kept, with_model(kept, grades)[:-1], model_after="strict")


def test_a_missing_sample_is_named(kept, grades):
    samples, settings = kept
    with pytest.raises(UserError, match=r"2 of 12 samples of toy are missing .first: question b, sample 2"):
        result((samples.drop(index=[1, 6]), settings), grades)


def test_a_missing_question_is_named(kept, grades):
    with pytest.raises(UserError, match=r"4 of 16 samples of toy are missing .first: question d, sample 0"):
        result(kept, grades, [*QUESTIONS, Question("d", "Five?", "5")])


def test_samples_too_many_are_named(kept, grades):
    samples, settings = kept
    fewer = {**settings, "protocol": {"samples": 3}}
    with pytest.raises(UserError, match="3 samples of toy are not asked for, the first being question a sample 3"):
        result((samples, fewer), grades)


def test_completions_of_other_questions_are_refused(kept, grades):
    changed = [Question("b", "Two, really?", "2"), *QUESTIONS[1:]]
    with pytest.raises(UserError, match="belong to another version of toy with different questions"):
        result(kept, grades, changed)
    with pytest.raises(UserError, match="the completions are of toy, the questions of boy"):
        score(*kept, grades, "boy", QUESTIONS, name="n", experiment="mini", headline="strict")


def test_a_headline_without_verdicts_is_named(kept, grades):
    with pytest.raises(UserError, match=r"primary grader paper_rules\+model has no verdicts: choose one of strict"):
        result(kept, grades, headline=COMBINED)


def test_the_published_figures_stand_beside():
    figures = published_figures("deepseek", "run", "aime", 4380)["figures"]
    assert {entry["step"]: entry["accuracy"] for entry in figures if "re-eval" not in entry["source"]} == pytest.approx(
        {4380: 0.526, 4520: 0.5115, 4720: 0.5245, 4860: 0.5406}
    )
    base = published_figures("deepseek", "base", "aime", 0)["figures"]
    assert base[0]["accuracy"] == pytest.approx(0.299)
    assert published_figures(None, "run", "aime") is None
    assert published_figures("deepseek", "run", "toy") is None


def test_released_completions_are_scored_too(tmp_path):
    from justrl.cli.main import main as justrl

    suffix = " Please reason step by step, and put your final answer within \\boxed{}."
    path = tmp_path / "toy_t0.7_p0.9_n2-MNT31744.jsonl"
    path.write_text(
        "".join(
            json.dumps({"example_id": i, "prompt": q.question + suffix, "answer": q.answer, "seed": s, "response": r})
            + "\n"
            for s in (5, 3)
            for i, (q, r) in enumerate(zip(QUESTIONS, ["\\boxed{2}", "\\boxed{4}", "?"], strict=True))
        )
    )
    benchmark, grades, output = (str(tmp_path / name) for name in ("b.parquet", "g.parquet", "r.json"))
    write_benchmark(benchmark, QUESTIONS[::-1])
    justrl(["grade", "--completions", str(path), "--graders", "strict", "--golds", benchmark, "--output", grades])
    arguments = f"--headline strict --experiment paper --name x --completions {path} --grades {grades}"
    justrl(["score", *arguments.split(), "--benchmark", benchmark, "--output", output])
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["graders"]["strict"]["avg_at_k"]["value"] == pytest.approx(1 / 3)
    assert [row["id"] for row in found["per_question"]] == ["c", "a", "b"]
    assert found["length"] is None and found["truncated_fraction"] is None


def write_benchmark(path, questions):
    import pandas

    rows = [("toy", question.id, question.question, question.answer) for question in questions]
    pandas.DataFrame(rows, columns=["benchmark", "id", "question", "answer"]).to_parquet(path)


@pytest.fixture
def scored(tmp_path, grades, kept):
    """A function that scores, and one that grades, with a `--config`; and the files of the first."""
    from justrl.cli.main import main as justrl

    write_benchmark(tmp_path / "b.parquet", QUESTIONS)
    grading.write_grades(grades, tmp_path / "g.parquet", kept[0], {"graders": ["strict"]})
    files = f"--completions {tmp_path}/c.parquet --grades {tmp_path}/g.parquet --benchmark {tmp_path}/b.parquet"

    def call(command="score", output="r.json", **config):
        options = ["--config", json.dumps(config)] if config else []
        if command == "grade":
            golds = ["--golds", f"{tmp_path}/b.parquet"]
            justrl(["grade", "--completions", f"{tmp_path}/c.parquet", "--graders", "strict", *golds, *options])
            return None
        arguments = f"score {files} --headline strict --experiment mini --name run@10 --output {tmp_path / output}"
        justrl([*arguments.split(), *options])
        return json.loads((tmp_path / output).read_text())

    return call


def test_a_result_carries_the_hashes_of_configuration_and_inputs_and_nothing_of_the_moment(tmp_path, scored):
    config = {"generation": {"protocol": {"name": "paper", "samples": 4}}, "headline_grader": "strict"}
    made = scored(**config)["provenance"]
    assert made["config_sha256"] == json_sha256(config) and made["config"] == config
    assert made["inputs"] == {
        kind: [{"file": name, "sha256": file_sha256(tmp_path / name)}]
        for kind, name in (("completions", "c.parquet"), ("grades", "g.parquet"), ("benchmark", "b.parquet"))
    }
    assert len(made["code"]["sha256"]) == 64
    scored(output="again.json", **config)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "r.json").read_bytes()
    by_hand = scored()["provenance"]
    assert by_hand["config_sha256"] == json_sha256(by_hand["config"]) and by_hand["inputs"] == made["inputs"]


@pytest.mark.parametrize("command", ["score", "grade"])
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"protocol": {"name": "paper", "samples": 8}},
            "with protocol.samples 4, but --config requires protocol.samples 8",
        ),
        ({"protocol": {"name": "greedy"}}, "with protocol.name 'paper', but --config requires protocol.name 'greedy'"),
        (
            {"protocol": {"temperature": 0.7}},
            r"protocol.temperature None, but --config requires protocol.temperature 0\.7",
        ),
        ({"run": "mini@30", "seed": 1}, "with run None, seed None, but --config requires run 'mini@30', seed 1"),
    ],
)
def test_completions_of_another_protocol_than_the_one_asked_for_are_refused(scored, command, asked, message):
    with pytest.raises(UserError, match=message):
        scored(command, generation=asked)
    scored(command, generation={"protocol": {"samples": 4}})


def test_the_command_line_scores(tmp_path, grades, kept, capsys):
    from justrl.cli.main import main as justrl
    from justrl.report.results import load_result

    write_benchmark(tmp_path / "b.parquet", QUESTIONS)
    grading.write_grades(grades, tmp_path / "g.parquet", kept[0], {"graders": ["strict"]})
    arguments = f"--completions {tmp_path}/c.parquet --grades {tmp_path}/g.parquet --benchmark {tmp_path}/b.parquet"
    arguments += " --headline strict --experiment mini --name run@10 --family deepseek"
    justrl(["score", *arguments.split(), "--output", str(tmp_path / "r.json")])
    assert "toy run@10: avg@4 25.00%" in capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["published"] is None
    assert found["provenance"]["generation"]["model"] == "tiny" and found["provenance"]["packages"]
    loaded = load_result(tmp_path / "r.json")
    assert (loaded.run, loaded.step, loaded.scores()[0]) == ("run", 10, [1, 1, 0, 0])
