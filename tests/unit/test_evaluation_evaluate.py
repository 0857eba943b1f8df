"""The one-command evaluation: its arguments, its data sets, its results."""

import json

import pandas
import pytest

from justrl.cli.evaluate import read_questions
from justrl.cli.main import main as justrl
from justrl.cli.main import parse
from justrl.errors import UserError
from tiny_model import make_tiny_model

pytest.importorskip("torch")


def test_the_defaults_are_the_seed_designs():
    arguments = parse(["evaluate", "--model_path", "m", "--dataset", "aime2024", "--output_file", "out.json"])
    assert (arguments.temperature, arguments.max_tokens, arguments.samples) == (0.0, 15360, 1)
    assert (arguments.tensor_parallel_size, arguments.graders, arguments.prompt_separator) == (1, "strict", "\n\n")


def test_a_model_is_evaluated_greedily(tmp_path, capsys):
    model = make_tiny_model(tmp_path / "tiny")
    dataset = tmp_path / "sums.jsonl"
    rows = [{"problem": f"What is {i} + {i}?", "answer": f"${2 * i}$"} for i in range(5)]
    dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--model_path", str(model), "--dataset", str(dataset), "--tensor_parallel_size", "1"]
    arguments += ["--max_tokens", "8", "--temperature", "0.0", "--output_file", str(tmp_path / "out.json")]
    justrl(["evaluate", *arguments, "--backend", "transformers", "--limit", "4"])
    result = json.loads((tmp_path / "out.json").read_text())
    assert (result["benchmark"], result["n_questions"], result["samples_per_question"]) == ("sums", 4, 1)
    assert result["protocol"]["name"] == "greedy" and result["headline_grader"] == "strict"
    assert list(result["graders"]["strict"]["pass_at_k"]) == ["1"]
    kept = pandas.read_parquet(tmp_path / "out.completions.parquet")
    assert list(kept["question"]) == [f"What is {i} + {i}?" for i in range(4)]
    assert kept["prompt"].str.contains("?\n\nPlease reason step by step", regex=False).all()
    assert "sums" in capsys.readouterr().out


def test_json_lines_hold_every_answer(tmp_path):
    model = make_tiny_model(tmp_path / "tiny")
    dataset, output = tmp_path / "sums.jsonl", tmp_path / "out.jsonl"
    dataset.write_text(json.dumps({"problem": "What is 1 + 1?", "answer": "2"}) + "\n")
    arguments = ["--model-path", str(model), "--dataset", str(dataset), "--max_tokens", "8", "--samples", "2"]
    arguments += ["--temperature", "1.0", "--graders", "strict,paper", "--backend", "transformers"]
    justrl(["evaluate", *arguments, "--output_file", str(output)])
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["sample"] for line in lines] == [0, 1]
    for line in lines:
        assert (line["question"], line["ground_truth"]) == ("What is 1 + 1?", "2")
        assert isinstance(line["completion"], str) and line["outcome"].keys() == {"strict", "paper"}
        assert line["extracted"] is None


def test_the_authors_benchmark_files_are_read_as_they_are(real_benchmarks):
    name, questions = read_questions(str(real_benchmarks / "AIME24.parquet"))
    assert (name, len(questions)) == ("AIME24", 30)
    assert questions[0].answer == "204" and questions[0].question.startswith("Every morning Aya")


@pytest.mark.parametrize(
    ("dataset", "said"),
    [("no/such.parquet", "no/such.parquet: no such file"), ("aime1900", "no benchmark 'aime1900'")],
)
def test_what_is_no_dataset_is_named(dataset, said):
    with pytest.raises(UserError, match=said):
        read_questions(dataset)
