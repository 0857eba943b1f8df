"""Grading of kept completions: ours and the authors' released ones."""

import json
import subprocess
import sys

import pandas
import pytest

from justrl.cli.main import main
from justrl.config import load
from justrl.errors import UserError
from justrl.evaluation import grading
from justrl.evaluation.completions import COLUMNS, make_table, read_completions
from justrl.evaluation.generating import Question
from justrl.io import write_parquet
from justrl.training.reward import RewardFunction
from justrl.training.verl.reward_function import compute_score
from justrl.verifiers import Grade, Grader, MathRuleVerifier, Outcome, get_reward

# What a model might write, and the verdict of the strict grader with the gold 12.
ANSWERS = [
    ("so \\boxed{12}", "correct"),
    ("so \\boxed{1 2}", "correct"),
    ("so \\boxed{12.0}", "wrong"),
    ("so 12", "unparsed"),
    ("so \\boxed{12", "unparsed"),
    ("", "unparsed"),
]


def write_completions(path, answers, gold="12", question_id="q", **settings):
    """As earlier versions did, with the right answers; without them where `gold` is None."""
    rows = []
    for index, text in enumerate(answers):
        row = dict.fromkeys(COLUMNS) | {"benchmark": "toy", "question_id": question_id, "sample_index": index}
        rows.append(row | {"question": "Twelve?", "completion": text, "token_count": 3, "seed": index})
    table = make_table(rows, settings)
    write_parquet(table if gold is None else table.append_column("answer", [[gold] * len(rows)]), path)
    return path


@pytest.fixture
def samples(tmp_path):
    return read_completions([write_completions(tmp_path / "c.parquet", [text for text, _ in ANSWERS])])[0]


def test_every_sample_gets_every_graders_verdict(samples):
    grades = grading.grade_samples(samples, ["strict", "paper"])
    assert list(grades.columns) == grading.COLUMNS
    assert list(grades["grader"]) == ["strict"] * 6 + ["paper"] * 6
    assert list(grades["outcome"][:6]) == [outcome for _, outcome in ANSWERS]
    assert list(grades["outcome"][6:]) == ["correct", "wrong", "wrong", "unparsed", "unparsed", "unparsed"]
    assert list(grades["extracted"][:3]) == ["12", "1 2", "12.0"] and grades["extracted"][3:6].isna().all()


def test_grades_come_back_from_their_file(samples, tmp_path):
    grades = grading.grade_samples(samples, ["strict"])
    grading.write_grades(grades, tmp_path / "g.parquet", samples, {"graders": ["strict"]})
    found, settings = grading.read_grades([tmp_path / "g.parquet"], samples)
    assert found.where(found.notna(), None).equals(grades.where(grades.notna(), None).astype({"sample_index": "int32"}))
    assert settings[0]["graders"] == ["strict"]


@pytest.mark.parametrize("column", ["completion", "answer"])
def test_grades_of_other_completions_or_golds_are_refused(samples, tmp_path, column):
    grades = grading.grade_samples(samples, ["strict"])
    grading.write_grades(grades, tmp_path / "g.parquet", samples, {})
    changed = samples.assign(**{column: samples[column] + "!"})
    with pytest.raises(UserError, match=r"grades of other completions or against other reference answers"):
        grading.read_grades([tmp_path / "g.parquet"], changed)


class _Crashing(Grader):
    def grade(self, completion, gold):
        if "\\boxed{12.0}" in completion:
            raise ZeroDivisionError("inside the grader")
        return Grade(Outcome.WRONG)


def test_a_grader_that_crashes_is_no_wrong_answer(samples, monkeypatch):
    monkeypatch.setitem(__import__("justrl.verifiers").verifiers.GRADERS, "crashing", (__name__, "_Crashing"))
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    with pytest.raises(ZeroDivisionError) as caught:
        grading.grade_samples(samples, ["crashing"])
    assert "while crashing graded 6 samples from toy question q sample 0 on" in caught.value.__notes__


@pytest.mark.parametrize(
    ("graders", "said"),
    [
        (["strict", "strict"], "strict is named twice"),
        ([], "name at least one"),
        (["lenient"], "unknown grader 'lenient'"),
    ],
)
def test_wrong_names_of_graders(samples, graders, said):
    with pytest.raises(UserError, match=said):
        grading.grade_samples(samples, graders)


def test_what_the_rules_rejected_is_all_but_the_correct(samples):
    grades = grading.grade_samples(samples, ["strict"])
    rejected = grading.rejected_samples(samples, grades, "strict")
    assert list(rejected["sample_index"]) == [2, 3, 4, 5]
    with pytest.raises(UserError, match="no verdicts of paper_rules"):
        grading.rejected_samples(samples, grades, "paper_rules")
    with pytest.raises(UserError, match="1 samples have no verdict of strict, the first being toy question q sample 5"):
        grading.rejected_samples(samples, grades[:-1], "strict")
    with pytest.raises(UserError, match="two verdicts of strict"):
        grading.rejected_samples(samples, pandas.concat([grades, grades[:1]]), "strict")


def test_golds_can_be_put_right_without_generating(samples):
    corrected = grading.with_golds(samples, {}, "toy", [Question("q", "Twelve?", "12.0")])
    outcomes = grading.grade_samples(corrected, ["strict"])["outcome"]
    assert list(outcomes[:3]) == ["wrong", "wrong", "correct"]
    with pytest.raises(UserError, match="no answer for toy question q sample 0"):
        grading.with_golds(samples, {}, "toy", [Question("other", "?", "1")])


def test_completions_without_golds_take_them_from_the_benchmark(tmp_path):
    """Also where a shard of an earlier version has them."""
    new = write_completions(tmp_path / "new.parquet", ["\\boxed{12}"], gold=None)
    with pytest.raises(UserError, match=r"have no reference answers: .*--golds"):
        main(["grade", "--completions", str(new), "--graders", "strict"])
    old = write_completions(tmp_path / "old.parquet", ["\\boxed{12}"], question_id="p")
    samples, _ = read_completions([new, old])
    assert "answer" not in samples
    both = grading.with_golds(samples, {}, "toy", [Question("q", "Twelve?", "12"), Question("p", "Twelve?", "13")])
    assert list(grading.grade_samples(both, ["strict"])["outcome"]) == ["wrong", "correct"]


def test_the_summary_counts_outcomes_and_weighs_questions_alike(tmp_path):
    paths = [
        write_completions(tmp_path / "a.parquet", [text for text, _ in ANSWERS]),
        write_completions(tmp_path / "b.parquet", ["\\boxed{12}"], question_id="r"),
    ]
    grades = grading.grade_samples(read_completions(paths)[0], ["strict"])
    row = grading.summarise(grades)["toy"]["strict"]
    assert row["outcomes"] == {"correct": 3, "wrong": 1, "unparsed": 3, "timeout": 0}
    assert row["accuracy"] == pytest.approx((2 / 6 + 1) / 2) and row["questions"] == 2 and row["samples"] == 7
    assert "66.67%" in grading.format_summary(grading.summarise(grades))


RELEASED = "aime24_t0.7_p0.9_n2-MNT31744.jsonl"
SUFFIX = " Please reason step by step, and put your final answer within \\boxed{}."


def write_released(folder, rows):
    folder.mkdir(exist_ok=True)
    path = folder / RELEASED
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def released_rows():
    # As `evals/gen_vllm.py` writes them: pass by pass, each with one seed for all questions, golds still boxed.
    return [
        {"example_id": q, "prompt": f"What is {q}?{SUFFIX}", "answer": f"{q}", "seed": seed, "response": text}
        for seed, texts in ((917, ["\\boxed{0}", "\\boxed{2}"]), (31, ["no", "\\boxed{1}"]))
        for q, text in enumerate(texts)
    ]


def test_the_authors_released_completions_are_read(tmp_path):
    samples, settings = read_completions([write_released(tmp_path / "JustRL-DeepSeek-1.5B", released_rows())])
    assert list(samples["question_id"] + samples["sample_index"].astype(str)) == ["00", "01", "10", "11"]
    assert list(samples["seed"]) == [917, 31, 917, 31]
    assert set(samples["benchmark"]) == {"aime"} and samples["question"][0] == "What is 0?"
    assert samples["token_count"].isna().all()
    assert settings["protocol"] == {
        "name": "released",
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 31744,
        "samples": 2,
    }


def test_completions_without_an_answer_are_named(tmp_path):
    path = write_completions(tmp_path / "c.parquet", ["\\boxed{12}", None])
    with pytest.raises(UserError, match="has no completion in 1 of 2 rows, the first of them row 2"):
        read_completions([path])


def test_two_columns_of_one_name_are_refused(tmp_path):
    import pyarrow.parquet as pq

    table = pq.read_table(write_completions(tmp_path / "c.parquet", ["\\boxed{12}"]))
    pq.write_table(table.append_column("answer", table.column("completion")), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"c\.parquet .*answer"):
        read_completions([tmp_path / "c.parquet"])


def test_the_command_line_grades_released_completions_alone(tmp_path, capsys):
    from justrl.cli.main import main as justrl

    path = write_released(tmp_path / "model", released_rows())
    summary, output = tmp_path / "s.json", tmp_path / "g.parquet"
    justrl(
        ["grade", "--completions", str(path), "--graders", "strict", "--summary", str(summary), "--output", str(output)]
    )
    row = json.loads(summary.read_text())["aime"]["strict"]
    assert row["accuracy"] == 0.5 and row["outcomes"] == {"correct": 2, "wrong": 1, "unparsed": 1, "timeout": 0}
    assert "50.00%" in capsys.readouterr().out
    found, _ = grading.read_grades([output], read_completions([path])[0])
    assert list(found["outcome"]) == ["correct", "unparsed", "wrong", "correct"]


def test_a_judge_model_grades_what_the_rules_rejected(samples, tmp_path):
    # An untrained judge says nothing that is a verdict; what matters is which samples it was asked about.
    from justrl.cli.main import main as justrl
    from justrl.evaluation.completions import model_fingerprint, table_settings
    from tiny_model import make_tiny_model

    judge = make_tiny_model(tmp_path / "judge")
    completions, rules, output = tmp_path / "c.parquet", tmp_path / "rules.parquet", tmp_path / "model.parquet"
    justrl(["grade", "--completions", str(completions), "--graders", "strict", "--output", str(rules)])
    arguments = ["--completions", completions, "--grader", "model", "--model", judge, "--rejected-by", rules]
    arguments += ["--rules", "strict", "--backend", "transformers", "--max-tokens", 8, "--output", output]
    arguments += ["--exact-verdict"]
    justrl(["grade", *map(str, arguments)])
    found, settings = grading.read_grades([output], samples)
    assert list(found["sample_index"]) == [2, 3, 4, 5] and set(found["grader"]) == {"model"}
    assert set(found["outcome"]) == {"wrong"}
    assert settings[0]["after"] == "strict" and settings[0]["options"]["model"]["fill_question"] is True
    assert table_settings(output) == settings[0]
    assert settings[0]["judge"] == {"model_fingerprint": model_fingerprint(judge), "revision": None}


def test_released_golds_lose_their_box(tmp_path):
    path = write_released(tmp_path / "model", [{**released_rows()[0], "answer": "\\boxed{204}"}])
    assert list(read_completions([path])[0]["answer"]) == ["204"]


def test_released_completions_are_matched_to_a_benchmark_by_their_questions(tmp_path):
    samples, settings = read_completions([write_released(tmp_path / "model", released_rows())])
    questions = [Question("id-one", "What is  1?", "one"), Question("id-zero", "What is 0?", "zero")]
    matched = grading.with_golds(samples, settings, "aime", questions)
    assert set(zip(matched["question_id"], matched["answer"], matched["question"], strict=True)) == {
        ("id-zero", "zero", "What is 0?"),
        ("id-one", "one", "What is 1?"),
    }
    with pytest.raises(UserError, match="no question like number 1 of aime"):
        grading.with_golds(samples, settings, "aime", questions[1:])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"example_id": 1}', "line 2 .*KeyError 'seed'"),
        (b"[1]", "line 2"),
        (b"no json", "line 2"),
        (json.dumps(released_rows()[1] | {"response": None}).encode(), "line 2 .*response must be text"),
        (json.dumps(released_rows()[1] | {"answer": 5}).encode(), "line 2 .*answer and response must be text"),
        (b'{"example_id": "\xe9"}', "line 2 .*UnicodeDecodeError"),
        (b"[" * 100_000, "line 2 .*RecursionError"),
    ],
    ids=["incomplete", "list", "no JSON", "no response", "number", "not UTF-8", "nested"],
)
def test_a_broken_line_of_a_released_file_is_named(tmp_path, line, said):
    path = write_released(tmp_path / "model", released_rows()[:1])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(UserError, match=said):
        read_completions([path])


def test_no_heavy_import_before_the_arguments_are_read():
    # A typo on the command line must not cost the seconds that torch takes.
    code = (
        "import sys, justrl.cli.grade, justrl.cli.score, justrl.cli.generate, justrl.cli.evaluate; "
        "print(sorted({'torch', 'transformers', 'pandas', 'pyarrow', 'numpy', 'sympy', 'vllm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_of_the_command_line_are_one_sentence(tmp_path):
    for arguments, said in (
        (
            ["--completions", "absent.parquet", "--graders", "strict"],
            "error: no such completions file: absent.parquet",
        ),
        (["--completions", "absent.parquet", "--grader", "model"], "error: --grader model needs --model"),
    ):
        done = subprocess.run([sys.executable, "-m", "justrl", "grade", *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith(said) and len(done.stderr.splitlines()) == 1


def released(folder, rows, name="AIME24_t0.7_p0.9_n2-MNT31744.jsonl"):
    """A file of the authors' form, of rows (question, seed, gold)."""
    lines = [
        {"example_id": q, "prompt": f"{q}+1?", "answer": gold, "seed": seed, "response": "\\boxed{1}"}
        for q, seed, gold in rows
    ]
    (folder / name).write_text("\n".join(map(json.dumps, lines)))
    return ["grade", "--completions", str(folder / name), "--graders", "strict"]


WHOLE = [(0, 11, "1"), (0, 12, "1"), (1, 11, "2"), (1, 12, "2")]


@pytest.mark.parametrize(
    ("rows", "name", "sentence"),
    [
        (WHOLE[:3], None, "1 of 4 samples of aime are missing; question 1, the first incomplete one, has 1 of 2"),
        # Every question lacks the same one.
        ([WHOLE[0], WHOLE[2]], None, "2 of 4 samples of aime are missing"),
        (WHOLE[:3], "mine.jsonl", "1 of 4 samples of mine are missing"),
        ([*WHOLE[:3], (1, 12, "3")], None, "question 1 of aime has 2 reference answers, '2' and '3'"),
        ([(0, 11, "\\boxed{1}"), *WHOLE[1:]], None, None),  # the same answer, boxed
        (WHOLE, None, None),
        (WHOLE, "mine.jsonl", None),
    ],
)
def test_completions_that_lack_samples_or_contradict_themselves_are_not_graded(tmp_path, rows, name, sentence):
    words = released(tmp_path, rows, **({"name": name} if name else {}))
    if sentence is None:
        main(words)
        return
    with pytest.raises(UserError) as refused:
        main(words)
    assert sentence in str(refused.value)


CUT = "First \\boxed{12}, and then the answer is \\boxed{3"


@pytest.mark.parametrize(
    ("completion", "reason", "outcome"),
    [
        (CUT, "length", "unparsed"),
        (CUT, "stop", "correct"),
        (CUT, None, "correct"),
        ("so \\boxed{", "length", "unparsed"),
        ("so \\boxed{12} and \\boxed{\\frac{1}{2}", "length", "unparsed"),
        # It ends somewhere else than in a box.
        ("so \\boxed{12}. Let me check: \\boxe", "length", "correct"),
        ("so \\boxed{12} and {", "length", "correct"),
    ],
)
@pytest.mark.parametrize("grader", ["strict", "symbolic"])
def test_an_answer_that_was_cut_off_in_its_last_box_is_not_known(completion, reason, outcome, grader):
    rows = [{"benchmark": "b", "question_id": "q", "sample_index": 0, "question": "?", "answer": "12"}]
    samples = pandas.DataFrame(rows).assign(completion=[completion], finish_reason=[reason])
    (found,) = grading.grade_samples(samples, [grader])["outcome"]
    assert found == outcome


def test_a_reward_is_not_earned_by_an_answer_that_was_cut_off_in_its_last_box():
    reward = get_reward("strict")
    assert [reward(text, "12") for text in (CUT, "\\boxed{12}", "\\boxed{12} \\boxe")] == [0.0, 1.0, 1.0]
    assert compute_score("math", CUT, "12", reward="strict") == {"score": 0.0, "acc": 0.0, "undecided": 0.0}
    recipe = load().described("deepseek").recipe.model_copy(update={"reward": "strict"})
    assert RewardFunction(recipe)([CUT, "\\boxed{12}"], ["12", "12"], [5, 5]).scores == [0.0, 1.0]
    # The verifier is not told why an answer ends.
    assert MathRuleVerifier().verify(CUT, "12") == 1.0
