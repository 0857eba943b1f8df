"""Ours against the published figures: every verdict and its reason, the average of nine, the pages."""

import csv
import math
import subprocess
import sys
from html.parser import HTMLParser
from statistics import fmean

import pytest
from analysis_examples import NINE, PROTOCOL, result

from justrl.config import load, published
from justrl.errors import UserError
from justrl.io import write_json
from justrl.report.comparison import compare, comparison_sections
from justrl.report.html_tables import write_html, write_markdown
from justrl.report.results import Result, experiment_of, load_result, load_results


def as_result(data):
    """A result as it is after reading."""
    step = data["step"]
    return Result(data["name"].partition("@")[0], step, data["benchmark"], data)


def exact(benchmark, run, step, values, protocol=(), error=0.01, questions=None, samples=None, kind=None, **made):
    """A result with given accuracies, each with the same seed standard error; `made` is its configuration."""
    questions, samples = (
        own or of for own, of in zip((questions, samples), NINE.get(benchmark, (30, 32)), strict=True)
    )
    graders = {
        grader: {"avg_at_k": {"value": v, "ci_low": v - 0.1, "ci_high": v + 0.1, "seed_standard_error": error}}
        for grader, v in values.items()
    }
    data = {
        "name": run,
        "benchmark": benchmark,
        "step": step,
        "protocol": {**PROTOCOL, **dict(protocol)},
        "headline_grader": next(iter(values)),
        "graders": graders,
        "n_questions": questions,
        "samples_per_question": samples,
        "published": {"kind": kind} if kind else None,
        "provenance": {"config": {"questions": made.pop("asked", {}), **made}},
    }
    return Result(run, step, benchmark, data)


def cell(result_, family="deepseek", experiment="paper", grader="paper_rules+model", reference="paper"):
    """The cell of one result under one grader against one reference."""
    found = compare([result_], family, experiment)
    return next(c for c in found if c.grader == grader and c.reference == reference)


def test_published_file_is_whole():
    figures = published.load_published()
    assert len(figures) == 135
    assert {figure.family for figure in figures} == set(published.FAMILIES)
    assert {figure.benchmark for figure in figures} == {*published.BENCHMARKS, "average"}
    assert all(0 < figure.accuracy < 1 for figure in figures)
    assert all((figure.std is not None) == figure.is_reevaluation for figure in figures)


def test_published_averages_are_the_unweighted_mean_of_nine():
    off = {}
    for figure in published.load_published():
        if figure.benchmark != "average":
            continue
        same = (figure.family, figure.model, figure.step)
        nine = [
            other.accuracy
            for other in published.load_published()
            if (other.family, other.model, other.step) == same
            and other.benchmark != "average"
            and not other.is_reevaluation
        ]
        assert len(nine) == 9
        if abs(fmean(nine) - figure.accuracy) > 0.000051:
            off[figure.model, figure.step] = round(100 * fmean(nine), 2)
    # The paper prints 44.88 for this one; its nine figures give 44.90.
    assert off == {("DeepScaleR-1.5B-Preview", None): 44.9}


def published_figure(family, kind, benchmark, step=None):
    """The paper's own accuracy as a fraction, or None where it gives none."""
    found = published.select_published(family, benchmark, kind, step, reevaluation=False)
    return found[0].accuracy if found else None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("deepseek", "justrl", "aime"), 0.526),
        (("deepseek", "justrl", "aime", 4860), 0.5406),
        (("deepseek", "justrl", "aime", 1000), None),
        (("deepseek", "base", "minerva"), 0.3465),
        (("nemotron", "justrl", "minerva", 3440), 0.3024),
        (("mini", "justrl", "aime"), None),
        (("deepseek", "justrl", "sums_heldout"), None),
    ],
)
def test_published_figure(arguments, expected):
    assert published_figure(*arguments) == expected


RELEASED = {"source": "hub", "hub_id": "hbx/JustRL-DeepSeek-1.5B"}
BASE = {"source": "hub", "hub_id": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"}
RUN = load().described("deepseek").as_dict()
QUESTIONS = {"source": "hub", "hub_id": "HuggingFaceH4/aime_2024", "hub_config": None, "split": "train"}


def of_deepseek(step=4380, **changes):
    """A result of the run `deepseek` that would agree with the paper, were it not for the changes."""
    return exact("aime", "deepseek", step, {"paper_rules+model": 0.526}, **changes)


@pytest.mark.parametrize("step", [0, 4380])
def test_a_result_with_the_papers_values_gets_a_verdict(step):
    found = cell(of_deepseek(step, model=RUN if step else BASE, asked=QUESTIONS))
    assert found.verdict == ("agrees" if step else "above")
    seed = exact("aime", "deepseek_s2", 4380, {"strict": 0.4}, model={**RUN, "run": "deepseek_s2", "seed": 2})
    seeds = compare([seed], "deepseek", "paper", ["deepseek_s1", "deepseek_s2"])
    assert seeds[0].verdict == "below"


@pytest.mark.parametrize(
    ("ours", "note"),
    [
        (of_deepseek(protocol={"temperature": 0}), "protocol.temperature is 0 here and 0.7 in the paper"),
        (of_deepseek(protocol={"max_tokens": 48}), "protocol.max_tokens is 48 here and 31744"),
        (of_deepseek(protocol={"top_p": 1.0}), "protocol.top_p is 1.0 here and 0.9"),
        (of_deepseek(protocol={"top_k": 20}), "protocol.top_k is 20 here and -1"),
        (of_deepseek(protocol={"prompt_suffix": "Box it."}), "protocol.prompt_suffix is 'Box it.' here"),
        (of_deepseek(protocol={"prompt_separator": "\n\n"}), "protocol.prompt_separator is '\\n\\n' here and ' '"),
        (of_deepseek(questions=100), "rows is 100 here and 30 in the paper"),
        (of_deepseek(samples=8), "samples is 8 here and 32 in the paper"),
        (of_deepseek(asked={**QUESTIONS, "hub_id": "me/sums"}), "questions.hub_id is me/sums here"),
        (of_deepseek(0, model={**BASE, "hub_id": "me/other"}), "has another base model"),
        (of_deepseek(0, model={"source": "tiny"}), "has another base model"),
        (
            of_deepseek(model={**RUN, "recipe": {**RUN["recipe"], "loss": "gspo"}}),
            "recipe.loss is gspo here and vanilla",
        ),
        (of_deepseek(model={**RUN, "model": {**RUN["model"], "hub_id": "me/other"}}), "model.hub_id is me/other here"),
        (of_deepseek(model={**RUN, "engine": "reference"}), "engine is reference here and verl"),
        (
            exact("aime", "mine", None, {"paper_rules+model": 0.5}, model={**RELEASED, "hub_id": "me/m"}),
            "mine is not the p",
        ),
        (exact("aime", "mine", None, {"paper_rules+model": 0.5}), "mine is not the published model"),
        (exact("aime", "mine", 0, {"paper_rules+model": 0.5}), "mine has another base model"),
    ],
)
def test_a_result_named_the_papers_with_other_values_gets_none(ours, note):
    """A protocol named paper, a run named deepseek, an experiment named paper: values count."""
    ours.data["experiment"] = "paper"
    for reference in ("paper", "reevaluation"):
        found = cell(ours, reference=reference)
        assert (found.verdict, found.tolerance, found.within_interval) == ("not comparable", None, None)
        assert note in found.note


def test_a_run_of_its_own_name_is_marked_and_gets_no_verdict(tmp_path):
    own = exact("aime", "mine", 4380, {"paper_rules+model": 0.526})
    own.data["experiment"], theirs = "paper/mine", of_deepseek()
    theirs.data["experiment"] = "paper"
    assert experiment_of([own, theirs]) == "paper/mine"
    cells = compare([own, theirs], "deepseek", "paper/mine")
    found = {c.run: c for c in cells if c.reference == "paper"}
    assert (found["mine"].verdict, found["mine"].note) == ("not comparable", "mine is not the paper's")
    assert found["deepseek"].verdict == "agrees"
    write_markdown(
        tmp_path / "page.md", "t", comparison_sections(cells, [own, theirs], "deepseek", "paper"), "paper/mine"
    )
    page = (tmp_path / "page.md").read_text()
    assert "**mine: not the paper's run – not a paper result.**" in page
    assert "1 of the paper's nine benchmarks" in page


# Binomial bound of 52.6% on 30 x 32 is 1.61 points; with 1 point of ours the tolerance is 1.96 * 1.897 = 3.72 points.
@pytest.mark.parametrize(
    ("value", "verdict"), [(0.526, "agrees"), (0.563, "agrees"), (0.564, "above"), (0.489, "agrees"), (0.488, "below")]
)
def test_verdict_against_the_paper_by_hand(value, verdict):
    found = cell(exact("aime", "deepseek", 4380, {"paper_rules+model": value}))
    assert found.tolerance == pytest.approx(1.959964 * math.hypot(0.01, math.sqrt(0.526 * 0.474 / 960)), abs=1e-6)
    assert (found.verdict, found.note) == (verdict, "")


def test_verdict_against_the_reevaluation_uses_its_standard_deviation():
    found = cell(exact("aime", "deepseek", 4380, {"paper_rules+model": 0.5}), reference="reevaluation")
    assert (found.published, found.published_error) == (0.433, 0.054)
    assert found.tolerance == pytest.approx(1.959964 * math.hypot(0.01, 0.054), abs=1e-6)
    assert found.verdict == "agrees" and "temperature 0.8" in found.note


@pytest.mark.parametrize(
    ("ours", "options", "note"),
    [
        (exact("aime", "deepseek", 4380, {"paper_rules+model": 0.5}), {"experiment": "mini"}, "the mini experiment"),
        (
            exact("aime", "deepseek", 4380, {"paper_rules+model": 0.5}, protocol={"temperature": 0.0}),
            {},
            "protocol.temperature is 0.0 here and 0.7 in the paper",
        ),
        (
            exact("aime", "deepseek", 3000, {"paper_rules+model": 0.5}),
            {},
            "ours is step 3,000, published is step 4,380",
        ),
        (exact("aime", "deepseek_overlong", 4380, {"paper_rules+model": 0.5}), {}, "not the recipe"),
        (exact("aime", "deepseek", 4380, {"paper_rules+model": 0.5}, error=None), {}, "one sample per question"),
        (exact("sums", "deepseek", 4380, {"paper_rules+model": 0.5}), {}, "no published figure"),
        (exact("aime", "mini", 80, {"paper_rules+model": 0.5}), {"family": "mini"}, "no published figure"),
    ],
    ids=["experiment", "protocol", "step", "recipe", "one sample", "benchmark", "family"],
)
def test_what_is_not_comparable_says_why(ours, options, note):
    found = cell(ours, **options)
    assert found.verdict == "not comparable"
    assert note in found.note


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (exact("aime", "deepseek", 0, {"strict": 0.3}), 0.299),
        (exact("aime", "deepseek", 4380, {"strict": 0.3}), 0.526),
        (exact("aime", "justrl_deepseek", None, {"strict": 0.3}, kind="external"), 0.526),
        (exact("aime", "theirs", None, {"strict": 0.3}, kind="external", model=RELEASED), 0.526),
        (exact("aime", "r1_distill", None, {"strict": 0.3}, kind="base", model=BASE), 0.299),
    ],
    ids=["base", "trained", "external", "external by another name", "external base"],
)
def test_each_model_stands_beside_its_counterpart(ours, expected):
    found = cell(ours, grader="strict")
    assert found.published == expected
    assert "the paper used paper_rules+model" in found.note


@pytest.mark.parametrize(("step", "verdict"), [(4380, "agrees"), (4720, "agrees"), (3000, "not comparable")])
def test_ours_stands_beside_the_papers_late_checkpoints(step, verdict):
    ours = exact("minerva", "deepseek", step, {"paper_rules+model": 0.49}, questions=272, samples=4)
    found = cell(ours, reference="paper@4720")
    assert (found.published, found.verdict) == (0.4862, verdict)
    nemotron = compare([exact("aime", "nemotron", 3440, {"strict": 0.7})], "nemotron", "paper")
    assert {c.reference for c in nemotron} == {"paper", "reevaluation"}


def nine(run="deepseek", step=4380, shift=0.0):
    """Results on all nine benchmarks, `shift` away from the paper's final figures."""
    return [
        exact(
            name,
            run,
            step,
            {"paper_rules+model": published_figure("deepseek", "justrl", name) + shift},
            questions=NINE[name][0],
            samples=NINE[name][1],
        )
        for name in published.BENCHMARKS
    ]


def averages(cells):
    """The average rows against the paper."""
    return [c for c in cells if c.benchmark == "average" and c.reference == "paper"]


def test_average_of_nine_is_the_papers():
    (average,) = averages(compare(nine(), "deepseek", "paper"))
    assert average.value == pytest.approx(0.5487, abs=0.0001)
    assert average.published == pytest.approx(0.5487, abs=0.0001)
    assert average.seed_error == pytest.approx(0.01 / 3)
    assert average.value - average.ci_low == pytest.approx(0.1 / 3)
    assert average.verdict == "agrees"
    (average,) = averages(compare(nine(shift=0.02), "deepseek", "paper"))
    assert average.verdict == "above"


def test_no_average_of_eight_and_none_of_what_is_not_comparable():
    assert averages(compare(nine()[:8], "deepseek", "paper")) == []
    (average,) = averages(compare(nine(step=3000), "deepseek", "paper"))
    assert average.verdict == "not comparable" and "step 3,000" in average.note


def test_the_criterion_takes_the_papers_late_checkpoints_for_alike():
    """Checkpoints 140 to 480 steps apart of one run should hardly ever be told apart by it: here, never."""
    verdicts = []
    for step in (4520, 4720, 4860):
        for name, (questions, samples) in NINE.items():
            value = published_figure("deepseek", "justrl", name, step)
            error = math.sqrt(value * (1 - value) / (questions * samples))
            ours = exact(
                name, "justrl_deepseek", None, {"m+model": value}, error=error, questions=questions, samples=samples
            )
            verdicts.append(cell(ours, grader="m+model").verdict)
    assert verdicts == ["agrees"] * 27


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Result files of a base and a trained model on two benchmarks of the paper and one of the mini."""
    folder = tmp_path_factory.mktemp("results")
    for name, base, trained in (("aime", 0.30, 0.52), ("minerva", 0.34, 0.50)):
        for step, value in ((0, base), (4380, trained)):
            means = {"paper_rules+model": value, "paper_rules": value - 0.1, "strict": value - 0.12}
            write_json(folder / f"{name}_{step}.json", result(name, "deepseek", step, means))
    for step, value in ((0, 0.3), (80, 0.8)):
        data = result("sums_heldout", "mini", step, {"strict": value}, experiment="mini", questions=50, samples=8)
        write_json(folder / f"mini_{step}.json", data)
    return folder


def test_load_refuses_what_is_no_result_and_repeats(tmp_path, files):
    write_json(tmp_path / "other.json", {"step": 1})
    with pytest.raises(UserError, match=r"other.json is not a result file: it has no name, benchmark"):
        load_result(tmp_path / "other.json")
    with pytest.raises(UserError, match="are both aime"):
        load_results([files / "aime_0.json", files / "aime_0.json"])
    with pytest.raises(UserError, match="NAME=TEXT"):
        load_results([files / "aime_0.json"], ["AIME"])


def test_stored_and_computed_seed_errors_agree(files):
    data = load_result(files / "aime_4380.json").data
    stored = cell(as_result(data)).seed_error
    for grader in data["graders"].values():
        del grader["avg_at_k"]["seed_standard_error"]
    assert cell(as_result(data)).seed_error == pytest.approx(stored)
    del data["per_question"]
    # The spread over seeds estimates the same quantity from the samples' means instead of the questions' variances.
    assert cell(as_result(data)).seed_error == pytest.approx(stored, rel=0.5)


class Tags(HTMLParser):
    """Checks that tags close in order and counts them."""

    def __init__(self):
        super().__init__()
        self.open, self.counts = [], {}

    def handle_starttag(self, tag, attrs):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        assert not [value for name, value in attrs if name in ("src", "href")], (
            "the page must need nothing from elsewhere"
        )
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def command(folder, files, family, experiment, kinds, *more):
    """Run the comparison as a user would, writing these kinds of files into a folder."""
    outputs = ["--output", *(folder / f"c.{kind}" for kind in kinds)]
    words = ["--results", *files, "--family", family, "--experiment", experiment, *outputs, *more]
    done = subprocess.run(
        [sys.executable, "-m", "justrl", "report", "comparison", *map(str, words)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_command_line_writes_every_form(tmp_path, files):
    results = sorted(files.glob("[am]i[mn]e*.json"))
    assert len(results) == 4
    command(tmp_path, results, "deepseek", "paper", ["csv", "md", "html", "png", "svg"])
    with (tmp_path / "c.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert sum(row["reference"] in ("paper", "reevaluation") for row in rows) == 4 * 3 * 2
    # The trained model stands beside three more checkpoints of the paper's, the base does not.
    assert [(row["run"], row["step"]) for row in rows if row["reference"] == "paper@4720"] == [("deepseek", "4380")] * 6
    text = (tmp_path / "c.md").read_text()
    for expected in ("Ours: paper_rules+model", "Paper, step 4,860", "Without and with the judge model"):
        assert expected in text
    assert "not a paper result" not in text
    page = Tags()
    page.feed((tmp_path / "c.html").read_text())
    assert page.open == [] and page.counts["table"] == text.count("\n## ")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (tmp_path / "c.svg").read_text()


def test_mini_results_make_a_sensible_page(tmp_path, files):
    label = ["--benchmark-labels", "sums_heldout=Sums, held out"]
    command(tmp_path, sorted(files.glob("mini_*.json")), "mini", "mini", ["md", "html"], *label)
    text = (tmp_path / "c.md").read_text()
    assert "mini experiment – not a paper result" in text
    assert "No scores of this model" in text and "Sums, held out" in text and "Gain over the base model" in text
    assert "JustRL paper" not in text
    assert "not a paper result" in (tmp_path / "c.html").read_text()


def test_gain_is_paired_and_needs_the_same_questions(files):
    results = load_results(sorted(files.glob("mini_*.json")))
    titles = [s.title for s in comparison_sections(compare(results, "mini", "mini"), results, "mini", "mini")]
    assert "Gain over the base model" in titles
    results[1].data["per_question"][0]["id"] = "another"
    titles = [s.title for s in comparison_sections(compare(results, "mini", "mini"), results, "mini", "mini")]
    assert "Gain over the base model" not in titles


def test_pages_escape_what_they_are_given(tmp_path, files):
    results = load_results(sorted(files.glob("mini_*.json")), ["sums_heldout=<b>a|b</b> & c"])
    sections = comparison_sections(compare(results, "mini", "mini"), results, "mini", "mini")
    write_html(tmp_path / "page.html", "a < b", sections, "mini")
    write_markdown(tmp_path / "page.md", "a < b", sections, "mini")
    assert "<b>" not in (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;a|b" in (tmp_path / "page.html").read_text()
    text = (tmp_path / "page.md").read_text()
    assert "&lt;b>a\\|b" in text and "<" not in text
