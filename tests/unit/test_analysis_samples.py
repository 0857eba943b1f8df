"""Answers to read: marks, alarms, what a page keeps, and that no text of a model becomes markup."""

import json
import re
import shutil
import subprocess

import pyarrow
import pytest

from justrl.cli.main import main
from justrl.errors import UserError
from justrl.evaluation.completions import COLUMNS, make_table, read_completions
from justrl.evaluation.generating import Question
from justrl.evaluation.grading import grade_samples, with_golds, write_grades
from justrl.io import write_parquet
from justrl.report.samples import Answer, Samples, alarms, is_repeated, mark, read_evaluation, read_rollouts, write_page
from justrl.training import rollout_samples

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> & @@STAMP@@ \u2028 \\boxed{7}"
ANSWERS = {
    "a": ["so it is \\boxed{12}", "the answer is 12", "12 or so and then 99", "no idea"],
    "b": [HOSTILE, "", "again and again " * 30, "\\boxed{8}"],
}


@pytest.fixture
def evaluation(tmp_path):
    """The files of an evaluation: completions, grades by two graders, questions."""
    golds = {"a": "12", "b": "9"}
    questions = [Question(name, f"What is <b>{name}</b>?", gold) for name, gold in golds.items()]
    rows = [
        dict.fromkeys(COLUMNS)
        | {"benchmark": "toy", "question_id": name, "sample_index": place, "seed": place, "completion": text}
        | {"question": f"What is <b>{name}</b>?", "token_count": len(text), "prompt": "p"}
        | {"finish_reason": "length" if text.startswith("again") else "stop", "model": "tiny"}
        for name, texts in ANSWERS.items()
        for place, text in enumerate(texts)
    ]
    settings = {"protocol": {"name": "paper", "samples": 4}, "model": "tiny", "run": "mini@60", "seed": 1}
    files = {name: tmp_path / f"{name}.parquet" for name in ("completions", "grades", "benchmark")}
    write_parquet(make_table(rows, settings), files["completions"])
    asked = [
        {"benchmark": "toy", "id": each.id, "question": each.question, "answer": each.answer} for each in questions
    ]
    write_parquet(pyarrow.Table.from_pylist(asked), files["benchmark"])
    samples = with_golds(*read_completions([files["completions"]]), "toy", questions)
    write_grades(grade_samples(samples, ["strict", "paper_rules"]), files["grades"], samples, {})
    return {"completions": [files["completions"]], "grades": [files["grades"]], "benchmark": files["benchmark"]}


def words(evaluation):
    """The files as options of a command."""
    listed = {name: value if isinstance(value, list) else [value] for name, value in evaluation.items()}
    return [str(word) for name, value in listed.items() for word in (f"--{name}", *value)]


def content(path):
    """What the page's script reads."""
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', path.read_text(), re.S)
    return json.loads(data)


def marks_of(samples, question, place):
    return samples.answers[4 * question + place].marks


def test_marks_say_what_is_wrong_with_an_answer(evaluation):
    found = read_evaluation(**evaluation, headline="strict")
    assert found.graders[0] == "strict" and marks_of(found, 0, 0) == []
    assert {"wrong", "unread", "unparsed"} <= set(marks_of(found, 0, 1)) and "solve_none" not in marks_of(found, 0, 1)
    assert "unread" not in marks_of(found, 0, 3)
    assert {"truncated", "repeated", "solve_none"} <= set(marks_of(found, 1, 2))
    assert {"empty", "unparsed"} <= set(marks_of(found, 1, 1))
    assert "unparsed" not in marks_of(found, 1, 3) and "wrong" in marks_of(found, 1, 3)


def test_alarms_stand_for_what_many_answers_share(evaluation):
    sentences = [sentence for _, sentence in alarms(read_evaluation(**evaluation, headline="strict"))]
    assert "62% unparsed by strict (5 of 8): the answers are not in a box." in sentences
    right = [Answer(0, f"sample {n}", "\\boxed{1}", 3, "stop", [("correct", "1")]) for n in range(4)]
    assert alarms(mark(Samples([("q", "One?", "1")], right, ["strict"]))) == []


def test_graders_that_disagree_are_marked():
    answer = Answer(0, "sample 0", "\\boxed{1/2}", 3, "stop", [("wrong", "1/2"), ("correct", "1/2")])
    mark(Samples([("q", "Half?", "0.5")], [answer], ["strict", "paper_rules"]))
    assert "disagree" in answer.marks and "unread" not in answer.marks


@pytest.mark.parametrize(
    ("gold", "text", "there"),
    [
        ("12", "it is 12.", True),
        ("12", "it is 123", False),
        ("12", "it is 12.5", False),
        ("12", "it is 3.12", False),
        ("\\frac{1}{2}", "is \\frac {1}{2}", True),
        ("12", "12" + " no" * 400, False),
        ("9", "2 + 7 + 0 = 9, and so on to 41", False),
        ("9", "so it is 9.", True),
        ("9", "so it is $9$", True),
        ("9", "so it is 1.9", False),
        ("B", "A or B? C", False),
        ("B", "the answer: (B)", True),
    ],
)
def test_the_gold_counts_as_present_if_it_stands_whole_near_the_end(gold, text, there):
    answer = Answer(0, "sample 0", text, 3, "stop", [("unparsed", None)])
    mark(Samples([("q", "?", gold)], [answer], ["strict"]))
    assert ("unread" in answer.marks) is there


def test_repeated_text_is_told_from_long_text():
    assert is_repeated("First we add. " + "wait, " * 20) and is_repeated("lorem ipsum dolor " * 300 + "so 12")
    assert not is_repeated("12 + 30 = 42, 42 + 5 = 47, so the sum is 47 and that is the answer") and not is_repeated(
        "aaaa"
    )


def test_hostile_text_stays_text(evaluation, tmp_path):
    page = tmp_path / "page.html"
    title = "<i>Answers</i>"
    options = ["--headline", "strict", "--experiment", "mini", "--title", title, "--output", str(page)]
    assert not main(["report", "samples", *words(evaluation), *options])
    text = page.read_text()
    assert "alert(1)</script>" not in text and "<img" not in text and title not in text and "<b>a</b>" not in text
    assert text.count("<script") == text.count("</script>") == 2 and "mini experiment – not a paper result" in text
    assert content(page)["answers"][4][2] == [HOSTILE]
    assert "http" not in text.replace("http-equiv", "") and "innerHTML" not in text


SCROLL = """<script>
// The bar's shadow, which hides what scrolls by below the stamp, hides nothing before that.
const above = document.getElementById("alarms").getBoundingClientRect(), bar = document.getElementById("bar");
const shadow = Number(getComputedStyle(bar).boxShadow.match(/(-?\\d+(\\.\\d+)?)px 0px 0px$/)[1]);
const apart = bar.getBoundingClientRect().top - above.bottom > -shadow - 1 && shadow < 0;
scrollTo(0, 600);
const seen = document.querySelector("p.stamp"), box = seen.getBoundingClientRect();
const top_most = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
document.title = `apart ${apart}, scrolled ${scrollY > 400}, stamp on top ${top_most === seen}`;
</script>"""


def test_a_browser_shows_the_answers_as_text(evaluation, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed here to open the page in (apt-get install chromium)")
    write_page(tmp_path / "page.html", read_evaluation(**evaluation, headline="strict"), "Answers", "mini")
    (tmp_path / "page.html").write_text((tmp_path / "page.html").read_text().replace("</body>", SCROLL + "</body>"))
    quiet = ("--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        *quiet,
        "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    command += ["--virtual-time-budget=5000", "--dump-dom", (tmp_path / "page.html").as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shown = page[page.index("<main") : page.index("</main>")]
    assert shown.count("<article>") == 8 and "1–8 of 8" in page
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in shown and "<script" not in shown and "<img" not in shown
    assert "What is &lt;b&gt;a&lt;/b&gt;?" in shown and "so it is \\boxed{12}" in shown
    assert "<title>apart true, scrolled true, stamp on top true</title>" in page
    assert "⟦" not in page and re.search(r"Correct of 8 answers: [\d.]+% by strict", page)
    assert page.count('class="alarm"') >= 2 and "the answers are not in a box" in page


def test_a_page_says_what_it_leaves_out(tmp_path):
    answers = [
        Answer(n % 2, f"sample {n // 2}", f"{n:03d}" + "x" * 997, 9, "stop", [("wrong", None)]) for n in range(100)
    ]
    samples = mark(Samples([("a", "A?", "1"), ("b", "B?", "2")], answers, ["strict"]))
    write_page(tmp_path / "page.html", samples, "Answers", "paper", answers=10, characters=3000)
    found = content(tmp_path / "page.html")
    assert len(found["answers"]) == 10 and found["total"] == found["counts"]["wrong"] == 100
    assert {label for _, label, *_ in found["answers"]} == {f"sample {n}" for n in range(5)}
    assert found["answers"][0][2] == ["000" + "x" * 97, "x" * 200] and found["answers"][0][3] == 700
    notes = " ".join(found["notes"])
    assert "90 of 100 answers are left out" in notes and "10 of 10 answers are longer than 300 characters" in notes
    assert "not a paper result" not in (tmp_path / "page.html").read_text()


def test_a_grader_without_verdicts_is_refused(evaluation):
    with pytest.raises(UserError, match="symbolic has no verdicts: choose one of strict, paper_rules"):
        read_evaluation(**evaluation, headline="symbolic")


def kept(step, reward=1.0):
    row = {
        "step": step,
        "sample_index": 3,
        "prompt": "1+1?",
        "gold": "2",
        "response": f"of {step}",
        "length": 4,
        "reward": reward,
    }
    return [row | {"correct": reward > 0, "finish_reason": "stop"}]


def test_kept_rollouts_become_a_page_of_the_training(tmp_path):
    for step in (1, 2, 3):
        rollout_samples.write(tmp_path / "rollouts", step, kept(step))
    rollout_samples.write(tmp_path / "rollouts", 2, kept(2, -1.0))  # made again
    rollout_samples.join(tmp_path / "rollouts", [1, 2], tmp_path / "a.parquet")
    rollout_samples.remove(tmp_path / "rollouts", 2)
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["step_000003.parquet"]
    found = read_rollouts([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert [(answer.label, answer.verdicts[0]) for answer in found.answers] == [
        ("step 1, sample 3", ("correct", "+1")),
        ("step 2, sample 3", ("wrong", "-1")),
    ]
    assert "No rollouts were saved for 1 of 2 segments" in found.notes[-1]
    # Of a question that was answered wrongly once, other answers may have been right.
    assert "wrong" in found.answers[1].marks and "solve_none" not in found.answers[1].marks


def test_the_places_of_kept_rollouts_are_spread_and_move_with_the_step():
    assert rollout_samples.places(1, 2048, 8) == [1 + 256 * place for place in range(8)]
    assert rollout_samples.places(2, 2048, 8) != rollout_samples.places(1, 2048, 8)
    assert rollout_samples.places(5, 4, 8) == [0, 1, 2, 3] and rollout_samples.places(5, 4, 0) == []
