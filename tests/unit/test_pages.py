"""The table of the report's pages: each row has its function, captions and files."""

from inspect import signature

import pytest

from justrl.cli.report import OPTIONS
from justrl.config import load
from justrl.config.files import ROOT
from justrl.config.layout import Layout
from justrl.report.pages import PAGES, files, wanted, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.rule)
def test_a_row_gives_its_function_what_it_takes(page):
    known = {name: each for name, each in signature(page.function()).parameters.items() if name != "outputs"}
    required = {name for name, each in known.items() if each.default is each.empty}
    assert required <= {*page.inputs, *page.options, *page.undeclared} <= known.keys() <= OPTIONS.keys()
    assert all((ROOT / f"workflow/captions/{mark.caption}.rst").is_file() for mark in page.marks.values())
    assert page.marks.keys() <= set(page.endings) and page.after.keys().isdisjoint(page.inputs)


def test_no_two_rows_make_the_same_files():
    assert len({page.rule for page in PAGES}) == len({page.path for page in PAGES}) == len(PAGES)


def test_every_target_has_its_own_pages():
    layout = Layout(load().with_canaries(), "r")
    each = {target: set(files(layout, target)) for target in ("all", "canary", "golden", "first_1000")}
    assert "r/figures/deepseek/pass_at_k.svg" in each["all"] and "r/provenance.html" in each["all"]
    assert "r/canary/samples/aime_canary_deepseek.html" in each["canary"] and "r/golden/claims.html" in each["golden"]
    assert each["first_1000"] >= {"r/first_1000/nemotron/forecast.svg", "r/first_1000/claims.html"}
    assert sum(map(len, each.values())) - len(set().union(*each.values())) == 2, "overlap with the benchmarks, twice"
    assert {"r/aime_deepseek.json", "r/checksums.json"} | each["all"] <= set(wanted(layout, "all"))


def test_existing_pages_are_found_by_their_wildcards(tmp_path):
    layout = Layout(load(["mini/experiment.yaml"]).with_canaries(), str(tmp_path))
    for name in ("sums_heldout_mini@base", "sums_heldout_other", "unknown"):
        path = tmp_path / f"samples/{name}.html"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (page,) = (page for page in PAGES if page.rule == "show_samples")
    ((names, found),) = page.existing(layout)
    assert names == {"benchmark": "sums_heldout", "name": "mini@base"}
    assert found == [tmp_path / "samples/sums_heldout_mini@base.html"]


def test_options_are_words():
    given = {"first": "a=b", "paired": True, "benchmark_labels": [], "steps": 3, "other": False}
    assert words(given) == ["--first", "a=b", "--paired", "--benchmark-labels", "--steps", "3"]
