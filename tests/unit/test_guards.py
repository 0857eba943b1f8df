"""What makes the project quick, counted and not timed: imports of light commands, and what is asked how often."""

import json
import subprocess
import sys

import pytest

from justrl.config import EvalProtocol
from justrl.evaluation.generating import GenerationJob, Question, generate
from justrl.models.sampling import Completed
from justrl.verifiers import get_grader
from tiny_model import make_tiny_model

HEAVY = ("torch", "transformers", "snakemake", "matplotlib", "pandas", "vllm", "ray", "verl")
LIGHT = [["plan"], ["plan", "--kinds"], ["plan", "--scales"], ["status"]]
# In this order: the second reads what the first writes; FOLDER is a temporary one.
LIGHT += [
    ["data", "arithmetic", "train", "--rows", "20", "--digits", "1", "--seed", "5", "--output", "FOLDER/sums.parquet"],
    ["data", "prepare", "--dataset_name", "FOLDER/sums.parquet", "--output_dir", "FOLDER/prepared"],
]
# One process for all of them; after each, what it has imported.
CODE = """
import contextlib, io, json, sys
from justrl.cli.main import main
seen = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        main(words)
    seen.append([len(shown.getvalue()), sorted(set(json.loads(sys.argv[2])) & set(sys.modules))])
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def imported(root, tmp_path_factory):
    """By command: the length of what it printed, and the heavy modules present after it."""
    given = json.dumps(LIGHT).replace("FOLDER", str(tmp_path_factory.mktemp("light")))
    command = [sys.executable, "-c", CODE, given, json.dumps(HEAVY)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(map(" ".join, LIGHT), json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("command", [" ".join(words) for words in LIGHT])
def test_a_light_command_runs_without_heavy_imports(imported, command):
    printed, heavy = imported[command]
    # pyarrow imports pandas by itself where it makes a table of Python's values.
    allowed = {"pandas"} if command.startswith("data") else set()
    assert printed and not set(heavy) - allowed, heavy


def test_the_symbolic_engine_is_asked_once_for_each_distinct_answer_that_is_no_plain_number(monkeypatch):
    grader, asked = get_grader("symbolic"), []

    def answered(items):
        asked.extend(items)
        return ["correct" for _ in items]

    monkeypatch.setattr(grader._pool, "map", answered)
    golds = ["17", "\\sqrt{8}", "\\sqrt{8}", "\\sqrt{12}"]
    boxes = ["17.0", "2\\sqrt{2}", "\\sqrt{8}", "2\\sqrt{2}"]
    samples = [
        (f"So {i} it is \\boxed{{{box}}}.", gold) for i in range(50) for box, gold in zip(boxes, golds, strict=True)
    ]
    assert len(grader.grade_many(samples)) == len(grader.grade_many(samples[::-1])) == 200
    assert sorted(asked) == [("2\\sqrt{2}", "\\sqrt{12}"), ("2\\sqrt{2}", "\\sqrt{8}")]


def test_a_generation_hands_the_samples_of_all_seeds_to_the_engine_in_one_call(tmp_path):
    calls = []

    class Backend:
        name, environment = "transformers", {"device": "cpu"}

        def generate(self, requests):
            calls.append([request.seed for request in requests])
            return (Completed(request.id, "5", 1, "stop", (7,)) for request in requests)

    job = GenerationJob(
        model=str(make_tiny_model(tmp_path / "model")),
        benchmark="toy",
        questions=[Question(f"q{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(5)],
        protocol=EvalProtocol(
            temperature=1.0, top_p=0.95, max_tokens=12, prompt_separator=" ", prompt_suffix="Box it."
        ),
        samples=8,
        output=tmp_path / "out.parquet",
        run="run",
        seed=0,
        backend="transformers",
    )
    generate(job, Backend())
    assert len(calls) == 1 and len(set(calls[0])) == 40
