"""Every output path is made once: names that would share one are refused in a sentence."""

import re

import pytest

from justrl.cli.main import main
from justrl.config import Experiment
from justrl.config.files import merge, read
from justrl.config.layout import Layout
from justrl.config.outputs import FOLDERS, check_folder, check_paths, outputs
from justrl.errors import UserError

LOCAL = {"source": "local", "path": "x", "context_length": 4096}
SUMS = {"source": "arithmetic", "digits": 2, "rows": 4, "samples": 1}
LIKE = {"like": "deepseek"}
GREEDY = {"temperature": 0.0, "top_p": 1.0, "max_tokens": 8, "prompt_separator": " ", "prompt_suffix": "x"}
HUB = {"model": "owner/name"}


def check(changes: dict) -> None:
    experiment = Experiment.from_mapping(merge(read(), changes)).with_canaries()
    check_paths(Layout(experiment, "results/x"))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"benchmarks": {"sums": SUMS, "sums_hard": SUMS}, "runs": {"mini": LIKE, "hard_mini": LIKE}},
            ("benchmarks.sums of runs.hard_mini", "benchmarks.sums_hard of runs.mini", "results/x/sums_hard_mini.json"),
        ),
        (
            {"benchmarks": {"a": SUMS, "a_b": SUMS}, "runs": {"c": LIKE}, "external": {"b_c": HUB}},
            ("benchmarks.a of external.b_c", "benchmarks.a_b of runs.c"),
        ),
        (
            {"benchmarks": {"a": SUMS, "a_b": SUMS}, "external": {"c": HUB, "b_c": HUB}},
            ("benchmarks.a of external.b_c", "benchmarks.a_b of external.c"),
        ),
        # A seed's run.
        (
            {"benchmarks": {"a": SUMS, "a_b": SUMS}, "runs": {"c": {**LIKE, "seeds": [1]}, "b_c_s1": LIKE}},
            ("runs.b_c_s1", "runs.c_s1"),
        ),
        ({"runs": {"mini": {**LIKE, "seeds": [1]}, "mini_s1": LIKE}}, ("runs.mini.seeds", "mini_s1")),
        ({"runs": {"mini": {**LIKE, "seeds": [1, 2, 1]}}}, ("runs.mini.seeds: 1 is listed twice",)),
        ({"models": {"model_grader": LOCAL}}, ("models.model_grader", "evaluation.model_grader")),
        (
            {
                "models": {"model_grader": LOCAL},
                "evaluation": {"model_grader": {"enabled": False}, "headline_grader": "strict"},
            },
            ("models.model_grader", "evaluation.model_grader"),
        ),
        ({"external": {"model_grader": HUB}}, ("external.model_grader", "evaluation.model_grader")),
        ({"external": {"deepseek": HUB}}, ("external.deepseek",)),
        ({"models": {"raw": LOCAL}}, ("models.raw", "as it was downloaded", "results/x/data/dapo/raw")),
        ({"runs": {"overlays": LIKE}}, ("runs.overlays", "the figures of several runs")),
        ({"runs": {"canary_deepseek": LIKE}}, ("runs.canary_deepseek",)),
        ({"external": {"canary_deepseek": HUB}}, ("external.canary_deepseek", "runs.canary_deepseek")),
        ({"runs": {"mine": {**LIKE, "family": "canary"}}}, ("the family canary", "canaries")),
        ({"runs": {"mine": {**LIKE, "family": "claims"}}}, ("the family claims", "snakemake golden")),
        ({"external": {"mine": {**HUB, "family": "claims"}}}, ("the family claims", "snakemake golden")),
        ({"experiment": "canary"}, ("experiment: canary",)),
        *(({"protocols": {name: GREEDY}}, (f"protocols.{name}",)) for name in FOLDERS),
        (
            {"benchmarks": {"a": SUMS, "a_b": SUMS}, "protocols": {"b_p": GREEDY, "p": GREEDY}, "external": {"m": HUB}},
            ("benchmarks.a of", "under protocols.b_p", "benchmarks.a_b of", "under protocols.p"),
        ),
    ],
)
def test_two_things_at_one_path_are_refused_by_their_names(changes, names):
    with pytest.raises(UserError) as refused:
        check(changes)
    assert all(name in str(refused.value) for name in names), refused.value
    assert str(refused.value).startswith("config: ")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        # Names of the program where nothing else has them.
        {"runs": {"canary_birds": LIKE, "golden": LIKE, "samples": LIKE, "base": LIKE}},
        {"benchmarks": {"canary": SUMS, "golden": SUMS, "raw": SUMS, "models": SUMS}},
        {"models": {"prepared": LOCAL, "judge": LOCAL}, "external": {"samples": HUB, "first_1000": HUB}},
        {"compare": {"overlays": ["deepseek", "nemotron"]}, "figures": {"overlays": ["deepseek"]}},
        {"runs": {"a": {**LIKE, "seeds": [1, 2]}, "a_s3": LIKE}},
    ],
)
def test_names_that_share_nothing_are_taken(changes):
    check(changes)


def test_a_run_that_is_called_like_a_canary_is_none():
    experiment = Experiment.from_mapping(merge(read(), {"runs": {"canary_birds": LIKE}})).with_canaries()
    layout = Layout(experiment, "results/x")
    assert layout.results("canary_birds", ["aime"]) == ["results/x/aime_canary_birds.json"]
    assert layout.stamp("canary_birds") != "canary" and "canary_canary_birds" in layout.trainings("canary")


def test_every_folder_that_rules_write_to_is_listed(root):
    rules = [root / "Snakefile", *(root / "rules").glob("*.smk")]
    written = {name for path in rules for name in re.findall(r"<results>/(\w+)[/\"]", path.read_text())}
    assert written - {"protocol"} <= FOLDERS.keys()
    paths = dict(outputs(Layout(Experiment.from_mapping(read()).with_canaries(), "r")))
    assert {f"r/{name}" for name in FOLDERS} <= paths.keys() and "r/aime_deepseek@base.json" in paths


@pytest.mark.parametrize("command", ["plan", "preflight"])
def test_plan_and_preflight_refuse_it_too(command, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text(
        "protocols: {golden: {temperature: 0.0, top_p: 1.0, max_tokens: 8, prompt_separator: '', prompt_suffix: ''}}"
    )
    with pytest.raises(UserError, match=r"the results under protocols\.golden would both be"):
        main([command, "--config", str(overlay)])


ODD_FOLDERS = [
    "",
    " ",
    ".",
    "..",
    "/",
    "results/..",
    ".git",
    ".git/x",
    "workflow",
    "rules/mine",
    "~/x",
    "$HOME/x",
    "/etc",
]
ODD_FOLDERS += ["/etc", "/usr/share/x", "a_file", "a_file/x", "x\n", "mini", "docs/../docs"]


@pytest.mark.parametrize("given", ODD_FOLDERS)
def test_a_folder_that_is_not_for_results_is_refused(tmp_path, given):
    (tmp_path / "a_file").touch()
    with pytest.raises(UserError, match=rf"pathvars\.results: {re.escape(repr(given))} .*; name a folder that is for"):
        check_folder(given, tmp_path)


@pytest.mark.parametrize("given", ["results", "results/mini", "out", "../elsewhere", "/tmp/x", "results/.h", "etc"])
def test_any_other_folder_is_taken(tmp_path, given):
    check_folder(given, tmp_path / "clone")
