"""The paper's claims: what its own numbers say of them, and the verdict on made-up data of each kind."""

import functools
import json
from dataclasses import replace

import pytest
from analysis_examples import NINE, metrics_rows, result
from test_analysis_comparison import as_result

from justrl.cli.main import main
from justrl.config.published import select_published
from justrl.io import write_json, write_jsonl
from justrl.report.claims import Training, judge_claims

GRADER = "paper_rules+model"


@functools.cache
def nine(family, run, step, shift=0.0, kind="justrl"):
    """Results of a model on the nine benchmarks, each a shift away from the published accuracy."""
    found = {f.benchmark: f.accuracy for f in reversed(select_published(family, kind=kind, reevaluation=False))}
    means = {name: min(0.99, max(0.01, found[name] + shift)) for name in NINE}
    return [as_result(result(name, run, step, {GRADER: mean}, seed=7)) for name, mean in means.items()]


def verdicts(results=(), trainings=None, experiment="paper", released=None):
    """Verdict by claim, and the claims themselves."""
    claims = judge_claims(list(results), trainings or {}, experiment, released or {})
    return {claim.claim: claim.verdict for claim in claims}, {claim.claim: claim for claim in claims}


def training(rows, **recipe):
    return Training(rows, {"experiment": "paper", "recipe": {"learning_rate": 1e-6, **recipe}})


def test_published_margins_within_noise_are_said_to_be():
    verdict, claims = verdicts()
    assert set(verdict.values()) == {"not run"}
    questa = claims["nemotron: above QuestA-Nemotron-1.5B"]
    assert questa.published_verdict == "within noise" and "+0.50 points, z = 0.84" in questa.published
    prorl = claims["deepseek: above ProRL-V2"]
    assert prorl.published_verdict == "holds" and "+1.78 points, z = 2.9" in prorl.published


def test_released_weights_reproduce_the_headline_or_do_not():
    base = nine("deepseek", "deepseek", 0, kind="base")
    released = {"deepseek": "theirs"}
    good, claims = verdicts([*base, *nine("deepseek", "theirs", None)], released=released)
    headline = next(name for name in good if name.startswith("deepseek: 54.87%"))
    assert good[headline] == "holds" and claims[headline].low < 54.87 < claims[headline].high
    assert good["deepseek: training raises the average"] == "holds"
    assert good["deepseek: above DeepScaleR-1.5B-Preview"] == "holds"
    bad, _ = verdicts([*base, *nine("deepseek", "theirs", None, shift=-0.1)], released=released)
    assert bad[headline] == "does not hold" and bad["deepseek: above ProRL-V2"] == "does not hold"
    # Eight of nine benchmarks have no average, and some other model of the family is not theirs.
    assert verdicts([*base, *nine("deepseek", "theirs", None)[:8]], released=released)[0][headline] == "not run"
    assert verdicts([*base, *nine("deepseek", "another", None)], released=released)[0][headline] == "not run"


def test_a_run_of_ones_own_counts_before_the_released_weights():
    both = [*nine("deepseek", "theirs", None), *nine("deepseek", "deepseek", 4380, shift=-0.1)]
    verdict, claims = verdicts(both, released={"deepseek": "theirs"})
    headline = next(name for name in verdict if name.startswith("deepseek: 54.87%"))
    assert verdict[headline] == "does not hold" and "step 4,380" in claims[headline].evidence


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ["holds", "holds", "holds"]),
        ({"reward_mean": lambda step: -0.6 + (step % 7) * 0.01}, ["within noise", "holds", "holds"]),
        ({"response_length_mean": lambda step: 7500.0 + step % 5}, ["holds", "does not hold", "holds"]),
        ({"entropy_as_published": lambda step: max(0.5, 1.3 - step / 500)}, ["holds", "holds", "does not hold"]),
        ({"entropy_as_published": lambda step: 1.3 + step / 100}, ["holds", "holds", "does not hold"]),
        ({"entropy_as_published": lambda step: None}, ["holds", "holds", "undecided"]),
    ],
)
def test_dynamics_of_the_first_thousand_steps(change, expected):
    rows = [
        row | {"response_length_mean": max(4500.0, 7600 - 4 * row["step"])} for row in metrics_rows(1020, scale="paper")
    ]
    rows = [row | {name: value(row["step"]) for name, value in change.items()} for row in rows]
    verdict, _ = verdicts(trainings={"deepseek": training(rows)})
    assert [v for name, v in verdict.items() if name.startswith("deepseek:")][-3:] == expected
    assert [v for name, v in verdict.items() if name.startswith("nemotron:")][-3:] == ["not run"] * 3


def test_too_few_steps_leave_it_undecided():
    verdict, claims = verdicts(trainings={"deepseek": training(metrics_rows(999))})
    assert verdict["deepseek: the reward rises"] == "undecided"
    assert claims["deepseek: the reward rises"].evidence == "step 999 of 1,000"


def test_ablations_are_paired_on_the_same_questions():
    def aime(run, mean):
        return as_result(result("aime", run, 3000, {GRADER: mean}, seed=3))

    results = [aime("deepseek", 0.6), aime("deepseek_overlong", 0.4), aime("deepseek_overlong_robust", 0.4)]
    verdict, claims = verdicts(results)
    assert verdict["the overlong penalty makes it worse"] == "holds"
    assert "at step 3,000" in claims["the overlong penalty makes it worse"].evidence
    assert verdict["a lenient verifier makes it worse still"] == "within noise"


def test_one_recipe_for_both_models():
    rows = metrics_rows(5)
    same = "the same hyperparameters serve both models"
    assert verdicts(trainings={name: training(rows) for name in ("deepseek", "nemotron")})[0][same] == "holds"
    other = {"deepseek": training(rows), "nemotron": training(rows, clip_ratio_high=0.2)}
    verdict, claims = verdicts(trainings=other)
    assert verdict[same] == "does not hold" and "clip_ratio_high" in claims[same].evidence


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"temperature": 0.0}, "protocol.temperature is 0.0 here and 0.7 in the paper"),
        ({"max_tokens": 48}, "protocol.max_tokens is 48 here and 31744 in the paper"),
    ],
)
def test_results_under_another_protocol_count_for_no_claim(change, reason):
    def under(each):
        return replace(each, data={**each.data, "protocol": {**each.data["protocol"], **change}})

    results = [*nine("deepseek", "deepseek", 0, kind="base"), *nine("deepseek", "deepseek", 4380)]
    aime = [as_result(result("aime", run, 3000, {GRADER: 0.5})) for run in ("deepseek", "deepseek_overlong")]
    verdict, claims = verdicts(map(under, [*results, *aime]))
    assert set(verdict.values()) == {"not run"}
    told = [claims["deepseek: training raises the average"], claims["the overlong penalty makes it worse"]]
    told.append(next(claim for name, claim in claims.items() if name.startswith("deepseek: 54.87%")))
    assert all(reason in claim.evidence for claim in told)


def test_a_run_of_the_papers_name_with_another_recipe_counts_for_no_claim():
    verdict, claims = verdicts(trainings={"deepseek": training(metrics_rows(1020), learning_rate=1e-5)})
    assert verdict["deepseek: the reward rises"] == "not run"
    assert "learning_rate is 1e-05 here and 1e-06 in the paper" in claims["deepseek: the reward rises"].evidence


def test_too_few_benchmarks_are_counted():
    _, claims = verdicts(nine("deepseek", "deepseek", 4380)[:3])
    assert (
        next(c.evidence for name, c in claims.items() if name.startswith("deepseek: 54.87%")) == "3 of nine benchmarks"
    )


def test_another_experiment_judges_nothing():
    rows = metrics_rows(2000)
    assert set(verdicts(nine("deepseek", "deepseek", 4380), {"deepseek": training(rows)}, "mini")[0].values()) == {
        "not run"
    }


def test_the_command_writes_and_says_each_claim(tmp_path, capsys):
    write_jsonl(tmp_path / "deepseek/metrics.jsonl", metrics_rows(1200))
    write_json(tmp_path / "deepseek/run.json", {"experiment": "paper", "recipe": {}})
    outputs = [tmp_path / f"claims.{ending}" for ending in ("json", "md", "html")]
    words = ["--metrics", str(tmp_path / "deepseek/metrics.jsonl"), "--output", *map(str, outputs)]
    assert main(["report", "claims", *words]) == 0
    printed = capsys.readouterr().out
    assert "holds  deepseek: the reward rises" in printed
    written = json.loads(outputs[0].read_text())
    # A long one takes two lines.
    begun = [line for line in printed.splitlines() if line[:13].strip()]
    assert written["experiment"] == "paper" and len(written["claims"]) == len(begun)
    for page in outputs[1:]:
        assert "within noise" in page.read_text() and "not a paper result" not in page.read_text()


SEEDS = {"deepseek": ["deepseek_s1", "deepseek_s2", "deepseek_s3"]}


def of_seeds(shifts, step=4380):
    """Results of a base and of trainings whose accuracies lie apart by their shifts."""
    base = nine("deepseek", "deepseek", 0, kind="base")
    trained = zip(SEEDS["deepseek"], (nine("deepseek", "deepseek", 4380, shift) for shift in shifts), strict=True)
    return [replace(each, run=run, step=step if each.step else 0) for run, own in trained for each in (*base, *own)]


def with_seeds(results, trainings=None):
    return {claim.claim: claim for claim in judge_claims(results, trainings or {}, "paper", {}, SEEDS)}


def test_seeds_of_a_run_are_judged_by_their_mean():
    claims = with_seeds(of_seeds([0.01, 0.0, -0.01]))
    headline = next(claim for name, claim in claims.items() if name.startswith("deepseek: 54.87%"))
    assert headline.verdict == "holds" and headline.evidence.startswith("mean of 3 seeds at step 4,380: 54.")
    # One more training of three that lie a point apart: 4.30 standard deviations of 1.0, times the root of 4/3.
    assert (headline.high - headline.low) / 2 == pytest.approx(4.303 * 1.0 * (4 / 3) ** 0.5, rel=0.1)
    margin = claims["deepseek: above DeepScaleR-1.5B-Preview"]
    assert margin.verdict == "holds" and "mean of 3 seeds" in margin.evidence
    gain = claims["deepseek: training raises the average"]
    assert gain.verdict == "holds" and gain.evidence.endswith("on the same questions, mean of 3 seeds at step 4,380")
    bad = with_seeds(of_seeds([-0.1, -0.09, -0.1]))
    assert bad[headline.claim].verdict == bad["deepseek: above ProRL-V2"].verdict == "does not hold"
    # Seeds that differ by more than a margin leave it open.
    assert with_seeds(of_seeds([0.08, 0.0, -0.1]))["deepseek: above ProRL-V2"].verdict == "within noise"


def test_an_interval_over_two_seeds_is_said_to_be_one(monkeypatch):
    monkeypatch.setitem(SEEDS, "deepseek", SEEDS["deepseek"][:2])
    claims = with_seeds(of_seeds([0.01, -0.01]))
    named = ["deepseek: above DeepScaleR-1.5B-Preview", "deepseek: training raises the average"]
    assert all("two seeds: t interval with one degree of freedom" in claims[name].evidence for name in named)
    headline = next(claim for name, claim in claims.items() if name.startswith("deepseek: 54.87%"))
    assert "two seeds: t interval" in headline.evidence


def test_a_seed_that_is_missing_is_named():
    results = [each for each in of_seeds([0.0, 0.0, 0.0]) if (each.run, each.benchmark) != ("deepseek_s2", "aime")]
    for name, claim in with_seeds(results).items():
        if name.startswith("deepseek: ") and claim.group in ("Results", "Margins"):
            assert (claim.verdict, claim.evidence) == ("not run", "deepseek_s2 is not evaluated on all nine"), name
    early = with_seeds(of_seeds([0.0, 0.0, 0.0], step=300))
    assert "ours is step 300, published is step 4,380" in next(
        c.evidence for n, c in early.items() if n.startswith("deepseek: 54")
    )


def test_dynamics_are_judged_over_seeds():
    runs = {name: training(metrics_rows(1020, seed=place)) for place, name in enumerate(SEEDS["deepseek"])}
    claims = with_seeds([], runs)
    rises = claims["deepseek: the reward rises"]
    assert rises.verdict == "holds" and rises.evidence.endswith("mean of 3 seeds")
    sick = [row | {"entropy_as_published": 0.3 if row["step"] > 900 else 1.3} for row in metrics_rows(1020)]
    claims = with_seeds([], runs | {"deepseek_s3": training(sick)})
    assert claims["deepseek: entropy neither collapses nor explodes"].verdict == "does not hold"
    claims = with_seeds([], runs | {"deepseek_s3": training(metrics_rows(600))})
    assert claims["deepseek: the reward rises"].evidence == "step 600 of 1,000"
    del runs["deepseek_s3"]
    claims = with_seeds([], runs)
    assert (claims["deepseek: the reward rises"].verdict, claims["deepseek: the reward rises"].evidence) == (
        "undecided",
        "2 of 3 seeds",
    )


def test_an_ablation_with_seeds_on_one_side():
    def aime(run, mean, seed):
        return as_result(result("aime", run, 3000, {GRADER: mean}, seed=seed))

    results = [aime(run, 0.55, place) for place, run in enumerate(SEEDS["deepseek"])]
    claims = with_seeds([*results, aime("deepseek_overlong", 0.2, 3)])
    penalty = claims["the overlong penalty makes it worse"]
    assert penalty.verdict == "holds" and "(3 and 1 seeds)" in penalty.evidence
    assert claims["a lenient verifier makes it worse still"].verdict == "not run"
