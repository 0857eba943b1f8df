"""The claims of the JustRL paper, each with the evidence that published numbers and our own data give, and a verdict.

A claim holds where the interval of its evidence lies on the claimed side, is within noise where the interval covers
both, and does not hold where it lies on the other side. Margins between published averages are judged too: they are
made of finitely many questions and samples, which bound their error from above (binomial). Too few steps leave a claim
about a training undecided; what nobody trained or evaluated is not run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from justrl import io
from justrl.analysis import html_tables as tables
from justrl.analysis.comparison import AVERAGE, Cell, Z, compare
from justrl.analysis.html_tables import Section, Text, model_label, percent
from justrl.analysis.metrics import series
from justrl.analysis.results import Result
from justrl.published import FAMILIES, final_step, select_published

HOLDS, NOISE, FAILS = "holds", "within noise", "does not hold"
UNDECIDED, NOT_RUN = "undecided", "not run"

# Questions and samples of the paper's nine benchmarks: avg@32 of the six contests, avg@4 of the three larger sets.
ANSWERS = {"aime": 30 * 32, "aime25": 30 * 32, "amc23": 40 * 32, "math500": 500 * 4, "minerva": 272 * 4,
           "olympiad": 674 * 4, "hmmt25": 30 * 32, "brumo25": 30 * 32, "cmimc25": 40 * 32}  # fmt: skip
NAMED = {"deepseek": ("ProRL-V2", "DeepScaleR-1.5B-Preview"), "nemotron": ("QuestA-Nemotron-1.5B",)}
# What shows by then: length between 4,000 and 5,000 tokens, entropy neither collapsed nor exploded, reward risen.
BY_STEP, WINDOW = 1000, 50
LENGTHS, ENTROPIES, COLLAPSED, EXPLODED = (4000, 5000), (1.0, 1.6), 0.6, 3.0
# On AIME 2024 after 3,000 steps and more: about 55, 50 and 45.
ABLATIONS = (
    ("deepseek_overlong", "deepseek", "the overlong penalty makes it worse", "about 50 after 55"),
    ("deepseek_overlong_robust", "deepseek_overlong", "a lenient verifier makes it worse still", "about 45 after 50"),
)


@dataclass(frozen=True)
class Claim:
    """One claim: what the paper's own numbers say of it, what ours say, and the verdict on either.

    `low` and `high` bound what ours say, in the units of the evidence (points, tokens, nats); None where it has none.
    """

    group: str
    claim: str
    published: str = ""
    published_verdict: str = ""
    evidence: str = ""
    low: float | None = None
    high: float | None = None
    verdict: str = NOT_RUN


@dataclass(frozen=True)
class Training:
    """A run's metrics, one row a step, and its run.json."""

    rows: Sequence[Mapping[str, Any]]
    described: Mapping[str, Any]


def judge_claims(
    results: Sequence[Result], trainings: Mapping[str, Training], experiment: str, released: Mapping[str, str]
) -> list[Claim]:
    """Every claim of the paper, judged by the results and trainings at hand, of which there may be none.

    `released` is, by family, our name for the weights that the authors released; where a family's own run is there,
    too, that counts. Of an experiment that is not the paper's, all are not run: its numbers say nothing about them.
    """
    if experiment != "paper":
        results, trainings = (), {}
    claims = []
    for family in FAMILIES:
        own = _of_family(results, family, released.get(family))
        cells = [cell for cell in compare(own, family, experiment) if cell.headline]
        claims += [_headline(cells, family), _gain(own, family), *_margins(cells, family)]
    for family in FAMILIES:
        claims += _dynamics(family, trainings.get(family))
    claims += [_ablation(results, *ablation) for ablation in ABLATIONS]
    return [*claims, _one_recipe(trainings)]


def _of_family(results: Sequence[Result], family: str, released: str | None) -> list[Result]:
    """A family's base, and its run's checkpoints or, where it has none, the weights that its authors released."""
    own = [result for result in results if result.run == family]
    if any(not result.is_base for result in own):
        return own
    return own + [result for result in results if result.run == released]


def _by_interval(low: float, high: float) -> str:
    return HOLDS if low > 0 else FAILS if high < 0 else NOISE


def _points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "−")


def _binomial(accuracies: Mapping[str, float]) -> float:
    """Bound of the standard error of a mean over benchmarks."""
    return sqrt(sum(p * (1 - p) / ANSWERS[name] for name, p in accuracies.items())) / len(accuracies)


def _published(family: str, **which: Any) -> dict[str, float]:
    """Published accuracies of one model by benchmark."""
    model = which.pop("model", None)
    figures = select_published(family, reevaluation=False, **which)
    return {f.benchmark: f.accuracy for f in figures if f.benchmark in ANSWERS and model in (None, f.model)}


def _headline(cells: Sequence[Cell], family: str) -> Claim:
    theirs = fmean(_published(family, kind="justrl", step=final_step(family)).values())
    claim = Claim("Results", f"{family}: {percent(theirs, 2)}% on average over the nine benchmarks")
    cell = _our_average(cells)
    if cell is None:
        return claim
    evidence = f"{model_label(cell.run, cell.step)}: {percent(cell.value, 2)}%"
    if cell.verdict == "not comparable" or cell.tolerance is None:
        return _with(claim, evidence=f"{evidence}; not comparable: {cell.note}")
    verdict = FAILS if cell.verdict == "below" else HOLDS
    low, high = cell.value - cell.tolerance, cell.value + cell.tolerance
    return _with(claim, evidence=f"{evidence} ({cell.verdict})", low=100 * low, high=100 * high, verdict=verdict)


def _our_average(cells: Sequence[Cell]) -> Cell | None:
    """The average of our last checkpoint that has all nine benchmarks, beside the paper's."""
    ours = [cell for cell in cells if cell.benchmark == AVERAGE and cell.reference == "paper" and cell.step != 0]
    return max(ours, key=lambda cell: cell.step or 0, default=None)


def _gain(results: Sequence[Result], family: str) -> Claim:
    """Trained minus base on the same questions, averaged over the nine."""
    from justrl.evaluation.statistics import compare_paired

    before, after = (
        _published(family, kind="base"),
        _published(family, kind="justrl", step=final_step(family)),
    )
    gain, error = fmean(after.values()) - fmean(before.values()), sqrt(_binomial(before) ** 2 + _binomial(after) ** 2)
    claim = Claim(
        "Results",
        f"{family}: training raises the average",
        f"{_points(gain)} points, z = {gain / error:.1f}",
        _by_interval(gain - Z * error, gain + Z * error),
    )
    bases = {r.benchmark: r for r in results if r.is_base}
    trained = {r.benchmark: r for r in sorted(results, key=lambda r: r.step or 0) if not r.is_base}
    pairs = [(bases[name].scores(), trained[name].scores()) for name in ANSWERS if name in bases and name in trained]
    known = [(a, b) for a, b in pairs if a and b]
    if len(known) < len(ANSWERS):
        return claim
    found = [compare_paired(a, b) for a, b in known]
    mean = fmean(pair.difference for pair in found)
    half = sqrt(sum(((pair.ci_high - pair.ci_low) / 2) ** 2 for pair in found)) / len(found)
    evidence = f"{_points(mean)} points on the same questions"
    return _with(
        claim,
        evidence=evidence,
        low=100 * (mean - half),
        high=100 * (mean + half),
        verdict=_by_interval(mean - half, mean + half),
    )


def _margins(cells: Sequence[Cell], family: str) -> Iterator[Claim]:
    """JustRL's average above that of each system that the paper names and that has all nine benchmarks."""
    theirs = _published(family, kind="justrl", step=final_step(family))
    ours = _our_average(cells)
    for system in NAMED[family]:
        other = _published(family, kind="other", model=system)
        margin = fmean(theirs.values()) - fmean(other.values())
        error = sqrt(_binomial(theirs) ** 2 + _binomial(other) ** 2)
        claim = Claim(
            "Margins",
            f"{family}: above {system}",
            f"{_points(margin)} points, z = {margin / error:.2f}",
            _by_interval(margin - Z * error, margin + Z * error),
        )
        if ours is not None and ours.tolerance is not None and ours.seed_error is not None:
            mine = ours.value - fmean(other.values())
            half = Z * sqrt(ours.seed_error**2 + _binomial(other) ** 2)
            claim = _with(
                claim,
                evidence=f"{_points(mine)} points: {model_label(ours.run, ours.step)} against their published average",
                low=100 * (mine - half),
                high=100 * (mine + half),
                verdict=_by_interval(mine - half, mine + half),
            )
        yield claim


def _dynamics(family: str, training: Training | None) -> list[Claim]:
    """What must show within the first thousand steps."""
    claims = [
        Claim("Training", f"{family}: the reward rises", "−0.6 at the start, about +0.4 late"),
        Claim("Training", f"{family}: responses shorten to 4,000-5,000 tokens by step 1,000", "7,000-8,000 at first"),
        Claim(
            "Training",
            f"{family}: entropy neither collapses nor explodes",
            "1.0-1.6 nats as their code logs it; 0.5-0.6 in both ablations",
        ),
    ]
    if training is None or not training.rows:
        return claims
    last = training.rows[-1]["step"]
    if last < BY_STEP:
        text = f"step {last:,} of {BY_STEP:,}"
        return [_with(claim, evidence=text, verdict=UNDECIDED) for claim in claims]
    judges = (_reward_rises, _length_falls, _entropy_keeps)
    return [judge(claim, training.rows) for judge, claim in zip(judges, claims, strict=True)]


def _around(rows: Sequence[Mapping[str, Any]], name: str, last: int) -> tuple[float, float]:
    """Mean of a metric over the window that ends at a step, with its standard error."""
    values = [value for step, value in zip(*series(rows, name), strict=True) if last - WINDOW < step <= last]
    if len(values) < 2:
        return float("nan"), float("nan")
    return fmean(values), stdev(values) / sqrt(len(values))


def _reward_rises(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> Claim:
    last = rows[-1]["step"]
    (before, error), (after, other) = _around(rows, "reward_mean", WINDOW), _around(rows, "reward_mean", last)
    gain, half = after - before, Z * sqrt(error**2 + other**2)
    evidence = f"{before:+.2f} over the first {WINDOW} steps, {after:+.2f} over the last of {last:,}".replace("-", "−")
    return _with(
        claim, evidence=evidence, low=gain - half, high=gain + half, verdict=_by_interval(gain - half, gain + half)
    )


def _length_falls(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> Claim:
    first, _ = _around(rows, "response_length_mean", WINDOW)
    mean, error = _around(rows, "response_length_mean", BY_STEP)
    low, high = mean - Z * error, mean + Z * error
    inside = LENGTHS[0] <= mean <= LENGTHS[1]
    near = low <= LENGTHS[1] and high >= LENGTHS[0]
    evidence = f"{first:,.0f} tokens over the first {WINDOW} steps, {mean:,.0f} up to step {BY_STEP:,}"
    return _with(claim, evidence=evidence, low=low, high=high, verdict=HOLDS if inside else NOISE if near else FAILS)


def _entropy_keeps(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> Claim:
    name = "entropy_as_published"
    ends = range(WINDOW, rows[-1]["step"] + 1, WINDOW)
    means = [mean for mean, _ in (_around(rows, name, end) for end in ends) if mean == mean]
    if not means:
        return _with(claim, evidence=f"{name} was not logged", verdict=UNDECIDED)
    within = fmean(ENTROPIES[0] <= mean <= ENTROPIES[1] for mean in means)
    sick = min(means) <= COLLAPSED or max(means) > EXPLODED * means[0]
    evidence = (
        f"means over {WINDOW} steps between {min(means):.2f} and {max(means):.2f}, {within:.0%} of them in 1.0-1.6"
    )
    return _with(claim, evidence=evidence, low=min(means), high=max(means), verdict=FAILS if sick else HOLDS)


def _ablation(results: Sequence[Result], worse: str, better: str, what: str, published: str) -> Claim:
    """The two runs of an ablation on AIME 2024, at the last step at which both are evaluated."""
    from justrl.evaluation.statistics import compare_paired

    claim = Claim("Ablations", what, f"{published} on AIME 2024")
    found: dict[str, dict[int, Result]] = {worse: {}, better: {}}
    for result in results:
        if result.benchmark == "aime" and result.run in found and result.step:
            found[result.run][result.step] = result
    steps = sorted(found[worse].keys() & found[better].keys())
    if not steps:
        return claim
    first, second = found[worse][steps[-1]].scores(), found[better][steps[-1]].scores()
    if not first or not second:
        return claim
    pair = compare_paired(first, second)
    return _with(
        claim,
        evidence=f"{better} {_points(pair.difference)} points above {worse} at step {steps[-1]:,}",
        low=100 * pair.ci_low,
        high=100 * pair.ci_high,
        verdict=_by_interval(pair.ci_low, pair.ci_high),
    )


def _one_recipe(trainings: Mapping[str, Training]) -> Claim:
    """Both models are trained with the same hyperparameters."""
    claim = Claim("Recipe", "the same hyperparameters serve both models", "one table of values (Table 2)")
    if any(family not in trainings for family in FAMILIES):
        return claim
    first, second = (dict(trainings[family].described.get("recipe") or {}) for family in FAMILIES)
    differ = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    if differ:
        return _with(claim, evidence=f"the runs differ in {', '.join(differ)}", verdict=FAILS)
    return _with(claim, evidence=f"{len(first)} values of run.json are equal", verdict=HOLDS)


def _with(claim: Claim, **changes: Any) -> Claim:
    return Claim(**(asdict(claim) | changes))


def claims_section(claims: Sequence[Claim], experiment: str) -> Section:
    """The table of claims."""
    rows = []
    for claim in claims:
        interval = "" if claim.low is None or claim.high is None else f"[{claim.low:,.2f}, {claim.high:,.2f}]"
        published = ((claim.published_verdict, claim.published_verdict),) if claim.published_verdict else ()
        rows.append(
            [
                Text(claim.claim, claim.group),
                Text(claim.published or "–", "", published),
                Text(claim.evidence or "–", interval.replace("-", "−")),
                Text("", "", ((claim.verdict, claim.verdict),)),
            ]
        )
    lead = (
        "Each claim of the paper (arXiv 2512.16649), what its own numbers say of it, what ours say, and the verdict "
        "on ours. Intervals are of 95%; margins of published averages are held against the binomial bound of their "
        "questions and samples, so that a margin within noise is said to be one."
    )
    notes = () if experiment == "paper" else (f"The {experiment} experiment is not the paper's, so nothing is judged.",)
    return Section("Claims", ["Claim", "As published", "Here", "Verdict"], rows, lead, notes, numeric=False)


def write_claims(claims: Sequence[Claim], experiment: str, outputs: Mapping[str, Path]) -> None:
    """Write the claims as .json, .md and .html, whichever `outputs` asks for."""
    if ".json" in outputs:
        io.write_json(outputs[".json"], {"experiment": experiment, "claims": [asdict(claim) for claim in claims]})
    for ending, write in ((".md", tables.write_markdown), (".html", tables.write_html)):
        if ending in outputs:
            write(outputs[ending], "Claims of the paper", [claims_section(claims, experiment)], experiment)
