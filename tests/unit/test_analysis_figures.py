"""Figures: what stands on them, that equal input gives equal bytes, and that captions render."""

import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from analysis_examples import metrics_rows, result

from justrl.cli.main import main
from justrl.errors import UserError
from justrl.io import write_json, write_jsonl
from justrl.report import figure_style as style
from justrl.report.accuracy_figures import plot_checkpoints, plot_comparison, plot_pass_at_k
from justrl.report.comparison import compare
from justrl.report.pages import PAGES
from justrl.report.results import load_results
from justrl.report.training_figures import moving_mean, plot_training, smoothing_window


@pytest.fixture(autouse=True)
def in_house_style():
    """Figures are drawn inside the style."""
    with style.house_style():
        yield


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three checkpoints of one run on two benchmarks."""
    folder = tmp_path_factory.mktemp("results")
    for name, accuracies in (("aime", (0.3, 0.45, 0.52)), ("amc23", (0.62, 0.8, 0.9))):
        for step, accuracy in zip((0, 2400, 4380), accuracies, strict=True):
            data = result(name, "deepseek", step, {"paper_rules+model": accuracy, "paper_rules": accuracy - 0.02})
            data["published"] = {"family": "deepseek", "kind": "run"}
            write_json(folder / f"{name}_{step}.json", data)
    return sorted(folder.iterdir())


def texts(figure):
    """Everything written on a figure outside its axes."""
    return " ".join(text.get_text() for text in figure.texts)


def luminance(color):
    """Relative luminance of a colour as WCAG 2 defines it."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_and_first_colours_stand_out_on_paper():
    contrast = {color: 1.05 / (luminance(color) + 0.05) for color in (*style.COLORS, style.MUTED, style.STAMP)}
    assert contrast[style.MUTED] > 4.5 and contrast[style.STAMP] > 4.5
    assert all(contrast[color] > 3 for color in style.COLORS[:3])


def test_series_differ_by_marker_and_dash_as_well_as_by_colour():
    for choices in (style.COLORS, style.MARKERS, style.DASHES):
        assert len(set(choices)) == len(choices) == 7


@pytest.mark.parametrize("experiment", ["paper", "mini"])
def test_only_the_papers_experiment_is_unstamped_and_has_its_bands(experiment):
    figure = plot_training({"deepseek": metrics_rows(2000)}, experiment)
    assert ("not a paper result" in texts(figure)) == (experiment != "paper")
    assert ("arXiv 2512.16649" in texts(figure)) == (experiment == "paper")
    notes = " ".join(text.get_text() for axis in figure.axes for text in axis.texts)
    assert ("1.0–1.6" in notes) == (experiment == "paper")
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "Mean reward",
        "Policy entropy (nats per token)",
        "Response length (tokens)",
    ]


def test_training_figure_draws_the_numbers_it_was_given():
    rows = metrics_rows(300)
    figure = plot_training({"a": rows}, "mini", ["entropy"])
    raw, smooth, as_published = figure.axes[0].get_lines()
    theirs = [row["entropy_as_published"] for row in rows]
    assert np.allclose(as_published.get_ydata(), moving_mean(theirs, smoothing_window({"a": rows})))
    assert "Dotted: entropy as the authors' code logs it" in texts(figure)
    assert np.allclose(raw.get_ydata(), [row["entropy"] for row in rows])
    window = smoothing_window({"a": rows})
    middle = 150
    expected = np.mean([row["entropy"] for row in rows[middle - window // 2 : middle + window // 2 + 1]])
    assert smooth.get_ydata()[middle] == pytest.approx(expected)


def test_the_dotted_line_is_drawn_and_told_of_where_it_is_seen_to_differ():
    rows = metrics_rows(300)
    spread = max(row["entropy"] for row in rows) - min(row["entropy"] for row in rows)
    for shift, seen in ((0.0, False), (0.005 * spread, False), (0.1 * spread, True)):
        shifted = [row | {"entropy_as_published": row["entropy"] + shift} for row in rows]
        figure = plot_training({"a": shifted}, "mini", ["reward", "entropy"])
        assert ("Dotted" in texts(figure), len(figure.axes[1].get_lines())) == (seen, 3 if seen else 2)


def test_only_rewards_have_an_axis_below_zero(results):
    rows = metrics_rows(200)
    panels = ["reward", "truncation", "clip_fraction", "grad_norm"]
    low = {axis.get_title(loc="left"): axis.get_ylim()[0] for axis in plot_training({"a": rows}, "mini", panels).axes}
    assert low.pop("Mean reward") < 0 and len(low) == 4 and min(low.values()) >= 0
    loaded = load_results(results)
    for one in loaded:
        for grader in one.data["graders"].values():
            grader["avg_at_k"] |= {"value": 0.0, "ci_low": 0.0, "ci_high": 0.05}
            grader["pass_at_k"] = dict.fromkeys(grader["pass_at_k"], 0.0)
    for figure in (plot_checkpoints(loaded, "mini"), plot_pass_at_k(loaded, "mini")):
        assert min(axis.get_ylim()[0] for axis in figure.axes if axis.get_title(loc="left")) >= 0


def test_moving_mean_by_hand():
    assert moving_mean([1, 2, 3, 4, 10], 3).tolist() == pytest.approx([1.5, 2, 3, 17 / 3, 7])
    assert moving_mean([1, 2, 3], 1).tolist() == pytest.approx([1, 2, 3])


def test_several_runs_have_a_legend_and_short_ones_are_not_smoothed():
    figure = plot_training({"reference": metrics_rows(8), "verl": metrics_rows(8, 1)}, "mini")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["reference", "verl"]
    assert "Each step" in texts(figure)


def test_unknown_panels_and_missing_metrics_are_refused():
    with pytest.raises(UserError, match="unknown panel 'loss': choose from reward"):
        plot_training({"a": metrics_rows(5)}, "mini", ["loss"])
    with pytest.raises(UserError, match="no run logged entropy"):
        plot_training({"a": [{"step": 1, "reward_mean": 0.0}]}, "mini", ["entropy"])


def test_checkpoint_figure_has_a_panel_per_benchmark_and_published_diamonds(results):
    figure = plot_checkpoints(load_results(results), "paper")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["AIME 2024, avg@32 (%)", "AMC 2023, avg@32 (%)"]
    diamonds = figure.axes[0].get_lines()[-1]
    assert list(diamonds.get_xdata()) == [0, 4380, 4520, 4720, 4860]
    assert diamonds.get_ydata()[1] == pytest.approx(52.6)
    stamped = plot_checkpoints(load_results(results), "mini")
    assert "not a paper result" in texts(stamped) and not stamped.legends


def test_checkpoint_figure_needs_a_step(results):
    external = load_results(results[:1])
    for each in external:
        object.__setattr__(each, "step", None)
    with pytest.raises(UserError, match="no result has a checkpoint step"):
        plot_checkpoints(external, "paper")


def test_comparison_figure_shows_headline_and_rules_of_the_trained_model(results):
    chosen = [r for r in load_results(results) if r.step != 2400]
    figure = plot_comparison(compare(chosen, "deepseek", "paper"), "deepseek", "paper")
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels[:3] == [
        "ours: deepseek, base",
        "ours: deepseek, step 4,380 (paper_rules+model)",
        "ours: deepseek, step 4,380 (paper_rules)",
    ]
    assert "JustRL paper" in labels
    mini = plot_comparison(compare(chosen, "mini", "mini"), "mini", "mini")
    assert "JustRL paper" not in [text.get_text() for legend in mini.legends for text in legend.get_texts()]
    assert "not a paper result" in texts(mini)


def test_pass_at_k_figure_draws_every_curve_and_needs_more_than_one_sample(results, tmp_path):
    loaded = load_results(results)
    figure = plot_pass_at_k(loaded, "mini")
    assert [len(axis.get_lines()) for axis in figure.axes] == [3, 3]
    line = figure.axes[0].get_lines()[0]
    assert list(line.get_xdata()) == pytest.approx(range(1, 33), rel=0.05)
    base = next(r for r in loaded if r.benchmark == "aime" and r.step == 0)
    average = base.average()
    assert line.get_ydata()[0] == pytest.approx(100 * average["value"])
    bars = figure.axes[0].collections[0].get_segments()
    assert [float(bar[0][0]) for bar in bars] == pytest.approx([1, 2, 4, 8, 16, 32], rel=0.05)
    # Of one answer, pass@k is avg@k.
    assert 100 * average["ci_low"] == pytest.approx(bars[0][0][1], abs=1.5)
    assert 100 * average["ci_high"] == pytest.approx(bars[0][1][1], abs=1.5)
    assert "95% interval" in texts(figure)
    write_json(tmp_path / "one.json", result("aime", "mini", 1, {"strict": 0.5}, questions=4, samples=1))
    with pytest.raises(UserError, match="more than one answer"):
        plot_pass_at_k(load_results([tmp_path / "one.json"]), "mini")


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("one", "two"):
        figure = plot_training({"mini": metrics_rows(50)}, "mini", ["entropy"])
        style.save_figure(figure, tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_command_line_draws_without_dates_or_paths(tmp_path):
    write_jsonl(tmp_path / "metrics.jsonl", metrics_rows(50))
    words = ["training", "--metrics", tmp_path / "metrics.jsonl", "--labels", "mini", "--experiment", "mini"]
    words += ["--panels", "reward", "--output", tmp_path / "one.svg"]
    subprocess.run([sys.executable, "-m", "justrl", "report", *map(str, words)], check=True)
    svg = (tmp_path / "one.svg").read_text()
    assert "<dc:date>" not in svg and str(tmp_path) not in svg


def test_command_line_says_what_it_cannot_write(tmp_path):
    write_jsonl(tmp_path / "metrics.jsonl", metrics_rows(5))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "justrl",
            "report",
            "training",
            "--metrics",
            str(tmp_path / "metrics.jsonl"),
            "--output",
            "none.pdf",
            "--experiment",
            "mini",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --output none.pdf: the name must end in .svg, .png\n"


@pytest.mark.parametrize("experiment", ["paper", "mini"])
@pytest.mark.parametrize("panels", [["reward", "entropy", "length"], ["accuracy", "truncation", "grad_norm"]])
def test_a_figure_for_a_phone_is_one_column_in_which_nothing_is_cut_off(tmp_path, experiment, panels):
    write_jsonl(tmp_path / "metrics.jsonl", metrics_rows(50))
    words = ["training", "--metrics", tmp_path / "metrics.jsonl", "--labels", "deepseek", "--experiment", experiment]
    words += ["--panels", *panels, "--output", tmp_path / "one.svg", tmp_path / "one.narrow.svg"]
    assert main(["report", *map(str, words)]) == 0
    wide, narrow = (size_of(tmp_path / name) for name in ("one.svg", "one.narrow.svg"))
    assert narrow[0] == pytest.approx(3.7 * 72) and narrow[1] > 2 * wide[1] and wide[0] > 2 * narrow[0]
    with style.house_style(), style.narrow():
        figure = plot_training({"deepseek": metrics_rows(50)}, experiment, panels, "A title that is longer than a line")
        figure.canvas.draw()
        box = figure.bbox
        texts = [text.get_window_extent() for text in figure.texts]
        boxes = texts + [axis.get_tightbbox() for axis in figure.axes]
    assert all(box.x0 <= each.x0 and each.x1 <= box.x1 and box.y0 <= each.y0 and each.y1 <= box.y1 for each in boxes)
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in texts[:n])


def size_of(path):
    """Width and height of an SVG in points."""
    svg = path.read_text()
    return tuple(float(re.search(rf'<svg[^>]*? {side}="([\d.]+)pt"', svg)[1]) for side in ("width", "height"))


@pytest.mark.parametrize("experiment", ["paper", "mini"])
def test_captions_render_without_a_warning(root, tmp_path, experiment):
    jinja2, docutils = pytest.importorskip("jinja2"), pytest.importorskip("docutils.core")

    class Wildcards(dict):
        __getattr__ = dict.__getitem__

    class Named(str):
        @property
        def name(self):
            return str(self)

    names = ("run", "family", "overlay", "benchmark", "name", "pair")
    wildcards = Wildcards(dict.fromkeys(names, "deepseek"))
    files = {
        "Accuracy": ["mini.html", "checkpoints.svg"],
        "Diagnostics": ["said/forecast.svg", "silent/forecast.svg"],
        "Provenance": ["provenance.html"],
        "Summary": ["summary.html"],
        "Training": ["training.svg"],
    }
    stamp = "" if experiment == "paper" else "mini experiment – not a paper result"
    if experiment == "paper":
        files["Claims"] = ["claims.html"]
    for path in (tmp_path / name for names in files.values() for name in names):
        path.parent.mkdir(exist_ok=True)
        path.write_text("<svg/>")
    (tmp_path / "summary.txt").write_text(
        (f"{stamp}\n" if stamp else "") + "one – AIME <b> 1%\n  health: good\ntwo – 2%\n  health: no rise\n"
    )
    (tmp_path / "said/forecast.json").write_text('{"verdict": "forecast"}')
    (tmp_path / "silent/forecast.json").write_text('{"verdict": "too_few"}')
    (tmp_path / "training.narrow.svg").write_text("<?xml?>\n<svg>\n\n<path/></svg>")
    config = {"experiment": experiment, "stamp": stamp, "answers": [("samples/a.html", "one: AIME")]}
    job = SimpleNamespace(wildcards=wildcards, config=config)
    categories = {
        Named(category): {
            Named("Other"): [
                SimpleNamespace(
                    path=tmp_path / name, labels={"run": "deepseek", "what": name}, category=Named(category)
                )
                for name in names
            ]
        }
        for category, names in files.items()
    }
    captions = sorted((root / "workflow" / "captions").glob("*.rst"))
    rules = [root / "Snakefile", *(root / "rules").glob("*.smk")]
    named = {name for path in rules for name in re.findall(r"captions/(\w+\.rst)", path.read_text())}
    named |= {f"{mark.caption}.rst" for page in PAGES for mark in page.marks.values()}
    assert {path.name for path in captions} == named
    for path in captions:
        text = (
            jinja2.Environment(undefined=jinja2.StrictUndefined)
            .from_string(path.read_text())
            .render(snakemake=job, categories=categories)
        )
        settings = {"halt_level": 2, "report_level": 2}
        body = docutils.publish_parts(text, writer="html", settings_overrides=settings)["html_body"]
        assert not re.search(r"\{\{|\{%", body), path
        if path.name == "workflow.rst":
            _check_start_page(body, experiment)


def _check_start_page(body, experiment):
    """Findings first, claims last and of the paper alone; no figure that says nothing; narrow ones where they are."""
    parts = ["one – AIME &lt;b&gt; 1%", "Health: good", "two – 2%", 'class="health look">Health: no rise']
    parts += [f"<h2>{name}</h2>" for name in ("Training", "Accuracy", "Diagnostics", "Tables", "Answers", "Provenance")]
    parts += ["<h2>Claims of the paper</h2>"] if experiment == "paper" else []
    places = [body.index(part) for part in parts]
    assert places == sorted(places)
    assert ("claims.html" in body) == (experiment == "paper") == ("not a paper result" not in body)
    assert "said/forecast.svg" in body and "silent/forecast.svg" not in body
    assert body.count("class='narrow'") == body.count('class="wide"') == 1 and "<?xml" not in body
    assert '<a href="samples/a.html" target="_blank">one: AIME</a>' in body


@pytest.mark.parametrize("experiment", ["mini-verl", "an-experiment-of-a-rather-long-name"])
def test_title_and_stamp_stand_side_by_side(experiment):
    figure = style.new_figure(5.6, 3)
    style.add_header(figure, "Accuracy of mini_verl over training", experiment, "grader: strict")
    title, stamp, _ = (text.get_window_extent() for text in figure.texts)
    assert title.x0 > 0 and title.x1 + 8 < stamp.x0 and stamp.x1 < figure.bbox.x1
