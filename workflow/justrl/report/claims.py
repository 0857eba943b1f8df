"""Judge each claim of the JustRL paper by the published numbers and by our own data.

A claim holds if the interval of its evidence lies on the claimed side, is within noise if the interval covers both
sides, and does not hold if it lies on the other side. Margins between published averages are judged too: the binomial
bound of their finitely many questions and samples limits their error. A claim about a training is undecided if there
are too few steps, and not run if nobody trained or evaluated the model. A setting with several seeds is judged by the
mean over all its trainings and Student's t interval of that mean. Only the primary claim, the published average, is
compared with the prediction interval of one more training, because the published figure comes from one training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from justrl import io
from justrl.config import paper
from justrl.config.published import FAMILIES, final_step, select_published
from justrl.errors import UserError
from justrl.report.comparison import AVERAGE, Cell, Z, compare, not_the_papers
from justrl.report.html_tables import Section, Text, model_label, percent, points, table_row, write_tables
from justrl.report.metrics import Rows, read_metrics, run_of, series
from justrl.report.results import Result, benchmark_label, experiment_of, load_results, read_seeds

HOLDS, NOISE, FAILS = "holds", "within noise", "does not hold"
UNDECIDED, NOT_RUN = "undecided", "not run"

# Questions times samples of the paper's nine benchmarks: avg@32 of the six contests, avg@4 of the three larger sets.
ANSWERS = {name: entry["rows"] * entry["samples"] for name, entry in paper.values()["benchmarks"].items()}
NAMED = {"deepseek": ("ProRL-V2", "DeepScaleR-1.5B-Preview"), "nemotron": ("QuestA-Nemotron-1.5B",)}
# Expected by this step: length between 4,000 and 5,000 tokens, entropy neither collapsed nor exploded, reward risen.
BY_STEP, WINDOW = 1000, 50
LENGTHS, ENTROPIES, COLLAPSED, EXPLODED = (4000, 5000), (1.0, 1.6), 0.6, 3.0
# On AIME 2024 after 3,000 steps or more: about 55, 50 and 45.
ABLATIONS = (
    ("deepseek_overlong", "deepseek", "the overlong penalty makes it worse", "about 50 after 55"),
    ("deepseek_overlong_robust", "deepseek_overlong", "a lenient verifier makes it worse still", "about 45 after 50"),
)


@dataclass(frozen=True)
class Claim:
    """One claim, with the evidence and verdict from the paper's numbers and from ours.

    `low` and `high` bound our evidence, in its units (points, tokens, nats); None without an interval.
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
    """A run's metrics, one row per step, and its run.json."""

    rows: Sequence[Mapping[str, Any]]
    described: Mapping[str, Any]


def judge_claims(
    results: Sequence[Result],
    trainings: Mapping[str, Training],
    experiment: str,
    released: Mapping[str, str],
    seeds: Mapping[str, Sequence[str]] | None = None,
) -> list[Claim]:
    """Judge every claim of the paper by the results and trainings that are available; there may be none.

    `released` maps a family to our name for the weights that the authors released. They are used only where no
    checkpoint of the family's own runs is evaluated. `seeds` names the trainings of each run that has several. If the
    experiment is not the paper's, all claims are "not run", because its numbers are not evidence about them. Results
    and trainings of a `paper` experiment with values other than the paper's are left out as well, and the claim gives
    the reason.
    """
    if paper.experiment_of(experiment) != paper.PAPER:
        results, trainings = (), {}
    names = (*FAMILIES, *(run for pair in ABLATIONS for run in pair[:2]))
    each = {name: list((seeds or {}).get(name, [name])) for name in names}
    claims = []
    for family in FAMILIES:
        runs = [*each[family], *([released[family]] if family in released else [])]
        own = _of_family(results, each[family], released.get(family))
        cells = [cell for cell in compare(own, family, experiment, runs) if cell.headline]
        ours = _our_averages(cells, each[family])
        usable, reason = _usable(own, family, runs)
        claims += [_headline(ours, family), _gain(usable, family, each[family], ours.missing or reason)]
        claims += _margins(ours, family)
    for family in FAMILIES:
        of_family = {run: trainings[run] for run in each[family] if run in trainings}
        claims += _dynamics(family, of_family, len(each[family]))
    for worse, better, what, published in ABLATIONS:
        usable, reason = _usable(results, FAMILIES[0], [*each[worse], *each[better]])
        claims.append(_ablation(usable, each, worse, better, what, published, reason))
    return [*claims, _one_recipe({family: trainings.get(each[family][0]) for family in FAMILIES})]


def _of_family(results: Sequence[Result], runs: Sequence[str], released: str | None) -> list[Result]:
    """The family's base model and its runs' checkpoints or, without any, the weights that its authors released."""
    own = [result for result in results if result.run in runs]
    if any(not result.is_base for result in own):
        return own
    return own + [result for result in results if result.run == released]


def _usable(results: Sequence[Result], family: str, runs: Sequence[str]) -> tuple[list[Result], str]:
    """The runs' results whose settings are the paper's, and why the first of the others is not comparable."""
    asked = [result for result in results if result.run in runs]
    reasons = [not_the_papers(each, family, str(each.data.get("experiment") or paper.PAPER), runs) for each in asked]
    left_out = [f"{benchmark_label(each)}: {why}" for each, why in zip(asked, reasons, strict=True) if why]
    usable = [each for each, why in zip(asked, reasons, strict=True) if not why]
    return usable, f"not comparable: {left_out[0]}" if left_out else ""


def _by_interval(low: float, high: float) -> str:
    return HOLDS if low > 0 else FAILS if high < 0 else NOISE


def _measured(claim: Claim, evidence: str, low: float, high: float, unit: int = 100) -> Claim:
    """The claim with the verdict that the interval of its evidence gives; fractions become points."""
    return replace(claim, evidence=evidence, low=unit * low, high=unit * high, verdict=_by_interval(low, high))


def _binomial(accuracies: Mapping[str, float]) -> float:
    """Upper bound of the standard error of a mean over benchmarks."""
    return sqrt(sum(p * (1 - p) / ANSWERS[name] for name, p in accuracies.items())) / len(accuracies)


def _published_difference(more: Mapping[str, float], less: Mapping[str, float], digits: int) -> tuple[str, str]:
    """The difference of two published averages with its distance from 0, for readers; and the verdict on it."""
    value = fmean(more.values()) - fmean(less.values())
    error = sqrt(_binomial(more) ** 2 + _binomial(less) ** 2)
    text = f"{points(value, 2)} points, z = {value / error:.{digits}f}"
    return text, _by_interval(value - Z * error, value + Z * error)


def _published(family: str, **which: Any) -> dict[str, float]:
    """Published accuracies of one model by benchmark."""
    model = which.pop("model", None)
    figures = select_published(family, reevaluation=False, **which)
    return {f.benchmark: f.accuracy for f in figures if f.benchmark in ANSWERS and model in (None, f.model)}


@dataclass(frozen=True)
class _Averages:
    """Our averages over the nine benchmarks, one per training; or the reason why there are none."""

    cells: Sequence[Cell] = ()
    missing: str = ""

    @property
    def mean(self) -> float:
        return fmean(cell.value for cell in self.cells)

    @property
    def words(self) -> str:
        return _trainings(len(self.cells), self.cells[0].step) or model_label(self.cells[0].run, self.cells[0].step)

    def half(self, one_more: bool = False) -> float | None:
        """Half width of the interval of their mean or, with `one_more`, of another training; None: not comparable."""
        if any(cell.tolerance is None or cell.seed_error is None for cell in self.cells):
            return None
        if len(self.cells) > 1:
            return _student([cell.value for cell in self.cells]) * (sqrt(len(self.cells) + 1) if one_more else 1)
        (cell,) = self.cells
        return cell.tolerance if one_more else Z * (cell.seed_error or 0.0)


def _our_averages(cells: Sequence[Cell], runs: Sequence[str]) -> _Averages:
    """The averages of our last checkpoint with all nine benchmarks, one per training if there are several."""
    ours = [cell for cell in cells if cell.benchmark == AVERAGE and cell.reference == "paper" and cell.step != 0]
    if not any(cell.run in runs for cell in ours):
        last = max(ours, key=lambda cell: cell.step or 0, default=None)
        there = len({cell.benchmark for cell in cells if cell.step != 0} & ANSWERS.keys())
        return _Averages([last]) if last else _Averages(missing=f"{there} of nine benchmarks" if there else "")
    steps = set.intersection(*({cell.step for cell in ours if cell.run == run} for run in runs))
    if not steps:
        without = [run for run in runs if run not in {cell.run for cell in ours}]
        why = f"{without[0]} is not evaluated on all nine" if without else "the seeds have no evaluated step in common"
        return _Averages(missing=why)
    last_step = max(step or 0 for step in steps)
    return _Averages([cell for run in runs for cell in ours if cell.run == run and (cell.step or 0) == last_step])


def _trainings(count: int, step: int | None) -> str:
    """Describe several trainings for readers; an empty string for one."""
    from justrl.evaluation.seeds import TWO_SEEDS

    note = f" ({TWO_SEEDS})" if count == 2 else ""
    return f"mean of {count} seeds at step {step:,}{note}" if count > 1 else ""


def _student(values: Sequence[float]) -> float:
    """Half width of the 95% interval of the mean of a few independent values, by Student's t."""
    from justrl.evaluation.resampling import LEVEL, t_quantile

    return t_quantile(LEVEL, len(values) - 1) * stdev(values) / sqrt(len(values))


def _headline(ours: _Averages, family: str) -> Claim:
    theirs = fmean(_published(family, kind="justrl", step=final_step(family)).values())
    claim = Claim("Results", f"{family}: {percent(theirs, 2)}% on average over the nine benchmarks")
    if not ours.cells:
        return replace(claim, evidence=ours.missing)
    evidence, half = f"{ours.words}: {percent(ours.mean, 2)}%", ours.half(one_more=True)
    if half is None:
        reason = next(cell.note for cell in ours.cells if cell.tolerance is None or cell.seed_error is None)
        return replace(claim, evidence=f"{evidence}; not comparable: {reason}")
    low, high = ours.mean - half, ours.mean + half
    verdict, found = (FAILS, "below") if high < theirs else (HOLDS, "above" if low > theirs else "agrees")
    return replace(claim, evidence=f"{evidence} ({found})", low=100 * low, high=100 * high, verdict=verdict)


def _gain(results: Sequence[Result], family: str, runs: Sequence[str], missing: str) -> Claim:
    """Judge the gain, trained minus base on the same questions, averaged over the nine benchmarks.

    `missing` is the reason why our gain is not available.
    """
    before, after = _published(family, kind="base"), _published(family, kind="justrl", step=final_step(family))
    claim = Claim(
        "Results", f"{family}: training raises the average", *_published_difference(after, before, 1), missing
    )
    gains = _gains_over_seeds(results, runs) if len(runs) > 1 else _gains(results)
    if gains is None:
        return claim
    words, mean, low, high = gains
    return _measured(claim, f"{points(mean, 2)} points on the same questions{words}", low, high)


def _gains(results: Sequence[Result]) -> tuple[str, float, float, float] | None:
    """Label, mean over the nine benchmarks, and interval for one trained model; None if a benchmark is missing."""
    from justrl.evaluation.statistics import compare_paired

    bases = {r.benchmark: r for r in results if r.is_base}
    trained = {r.benchmark: r for r in sorted(results, key=lambda r: r.step or 0) if not r.is_base}
    pairs = [(bases[name].scores(), trained[name].scores()) for name in ANSWERS if name in bases and name in trained]
    known = [(a, b) for a, b in pairs if a and b]
    if len(known) < len(ANSWERS):
        return None
    found = [compare_paired(a, b) for a, b in known]
    mean = fmean(pair.difference for pair in found)
    half = sqrt(sum(((pair.ci_high - pair.ci_low) / 2) ** 2 for pair in found)) / len(found)
    return "", mean, mean - half, mean + half


def _gains_over_seeds(results: Sequence[Result], runs: Sequence[str]) -> tuple[str, float, float, float] | None:
    """Label, mean over seeds and benchmarks, interval over seeds and questions; None if a result is missing."""
    from justrl.evaluation.seeds import average_over_seeds, seed_table

    by_run = {(r.run, r.benchmark, r.step): r for r in results}
    steps = [
        step
        for step in sorted({r.step for r in results if r.step})
        if all((run, name, step) in by_run and (run, name, 0) in by_run for run in runs for name in ANSWERS)
    ]
    if not steps:
        return _gains(results) if not any(r.run in runs and not r.is_base for r in results) else None
    kept = [(name, step) for name in ANSWERS for step in (0, steps[-1])]
    scores = {each: [table for run in runs if (table := by_run[run, *each].scores())] for each in kept}
    if any(len(tables) < len(runs) for tables in scores.values()):
        return None
    gains = [seed_table(scores[name, steps[-1]]) - seed_table(scores[name, 0]) for name in ANSWERS]
    found = average_over_seeds(gains, lowest=-1.0)
    return f", {_trainings(len(runs), steps[-1])}", found.value, found.ci_low, found.ci_high


def _margins(ours: _Averages, family: str) -> Iterator[Claim]:
    """JustRL's average minus that of each system that the paper names, if it has all nine benchmarks."""
    theirs = _published(family, kind="justrl", step=final_step(family))
    for system in NAMED[family]:
        other = _published(family, kind="other", model=system)
        published = _published_difference(theirs, other, 2)
        claim = Claim("Margins", f"{family}: above {system}", *published, ours.missing)
        half = ours.half() if ours.cells else None
        if half is not None:
            mine = ours.mean - fmean(other.values())
            half = sqrt(half**2 + (Z * _binomial(other)) ** 2)
            evidence = f"{points(mine, 2)} points: {ours.words} against their published average"
            claim = _measured(claim, evidence, mine - half, mine + half)
        yield claim


def _dynamics(family: str, trainings: Mapping[str, Training], wanted: int) -> list[Claim]:
    """Judge what must happen within the first thousand steps, over the `wanted` number of trainings."""
    claims = [
        Claim("Training", f"{family}: the reward rises", "−0.6 at the start, about +0.4 late"),
        Claim("Training", f"{family}: responses shorten to 4,000-5,000 tokens by step 1,000", "7,000-8,000 at first"),
        Claim(
            "Training",
            f"{family}: entropy neither collapses nor explodes",
            "1.0-1.6 nats as their code logs it; 0.5-0.6 in both ablations",
        ),
    ]
    differ = [paper.in_words(paper.run_differences({**each.described, "run": run})) for run, each in trainings.items()]
    if reason := next(filter(None, differ), ""):
        return [replace(claim, evidence=f"not comparable: {reason}") for claim in claims]
    runs = [training.rows for training in trainings.values() if training.rows]
    if not runs:
        return claims
    last = min(rows[-1]["step"] for rows in runs)
    if last < BY_STEP or len(runs) < wanted:
        text = f"step {last:,} of {BY_STEP:,}" if last < BY_STEP else f"{len(runs)} of {wanted} seeds"
        return [replace(claim, evidence=text, verdict=UNDECIDED) for claim in claims]
    judges = (_reward_rises, _length_falls, _entropy_keeps)
    return [judge(claim, runs) for judge, claim in zip(judges, claims, strict=True)]


def _around(rows: Rows, name: str, last: int) -> tuple[float, float]:
    """Mean of a metric over the window that ends at step `last`, with its standard error."""
    values = [value for step, value in zip(*series(rows, name), strict=True) if last - WINDOW < step <= last]
    if len(values) < 2:
        return float("nan"), float("nan")
    return fmean(values), stdev(values) / sqrt(len(values))


def _interval(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float, float]:
    """Mean and interval over trainings: from their spread or, for one training, from its own standard error."""
    mean, half = fmean(values), _student(values) if len(values) > 1 else Z * errors[0]
    return mean, mean - half, mean + half


def _of_seeds(runs: Sequence[Rows]) -> str:
    return f", mean of {len(runs)} seeds" if len(runs) > 1 else ""


def _reward_rises(claim: Claim, runs: Sequence[Rows]) -> Claim:
    last = min(rows[-1]["step"] for rows in runs)
    first = [_around(rows, "reward_mean", WINDOW) for rows in runs]
    end = [_around(rows, "reward_mean", last) for rows in runs]
    gains = [after - before for (before, _), (after, _) in zip(first, end, strict=True)]
    errors = [sqrt(error**2 + other**2) for (_, error), (_, other) in zip(first, end, strict=True)]
    _, low, high = _interval(gains, errors)
    before, after = (fmean(mean for mean, _ in part) for part in (first, end))
    evidence = f"{before:+.2f} over the first {WINDOW} steps, {after:+.2f} over the last of {last:,}".replace("-", "−")
    return _measured(claim, evidence + _of_seeds(runs), low, high, unit=1)


def _length_falls(claim: Claim, runs: Sequence[Rows]) -> Claim:
    name = "response_length_mean"
    first = fmean(_around(rows, name, WINDOW)[0] for rows in runs)
    mean, low, high = _interval(*zip(*(_around(rows, name, BY_STEP) for rows in runs), strict=True))
    inside = LENGTHS[0] <= mean <= LENGTHS[1]
    near = low <= LENGTHS[1] and high >= LENGTHS[0]
    evidence = f"{first:,.0f} tokens over the first {WINDOW} steps, {mean:,.0f} up to step {BY_STEP:,}"
    verdict = HOLDS if inside else NOISE if near else FAILS
    return replace(claim, evidence=evidence + _of_seeds(runs), low=low, high=high, verdict=verdict)


def _entropy_keeps(claim: Claim, runs: Sequence[Rows]) -> Claim:
    """Fail if the entropy of any training collapses or explodes."""
    name, means, sick = "entropy_as_published", [], False
    for rows in runs:
        ends = range(WINDOW, rows[-1]["step"] + 1, WINDOW)
        own = [mean for mean, _ in (_around(rows, name, end) for end in ends) if mean == mean]
        if not own:
            return replace(claim, evidence=f"{name} was not logged", verdict=UNDECIDED)
        sick = sick or min(own) <= COLLAPSED or max(own) > EXPLODED * own[0]
        means += own
    within = fmean(ENTROPIES[0] <= mean <= ENTROPIES[1] for mean in means)
    evidence = (
        f"means over {WINDOW} steps between {min(means):.2f} and {max(means):.2f}, {within:.0%} of them in 1.0-1.6"
    )
    evidence += f", of {len(runs)} seeds" if len(runs) > 1 else ""
    return replace(claim, evidence=evidence, low=min(means), high=max(means), verdict=FAILS if sick else HOLDS)


def _ablation(
    results: Sequence[Result],
    each: Mapping[str, Sequence[str]],
    worse: str,
    better: str,
    what: str,
    published: str,
    missing: str,
) -> Claim:
    """Compare two settings on AIME 2024, at the last step at which all their trainings are evaluated."""
    from justrl.evaluation.seeds import TWO_SEEDS

    claim = Claim("Ablations", what, f"{published} on AIME 2024", evidence=missing)
    found: dict[str, dict[int, Result]] = {run: {} for run in (*each[worse], *each[better])}
    for result in results:
        if result.benchmark == "aime" and result.run in found and result.step:
            found[result.run][result.step] = result
    steps = sorted(set.intersection(*(set(of_run) for of_run in found.values())))
    scores = {run: of_run[steps[-1]].scores() for run, of_run in found.items()} if steps else {}
    if not steps or not all(scores.values()):
        return claim
    value, low, high = _difference([scores[run] for run in each[worse]], [scores[run] for run in each[better]])
    counts = [len(each[better]), len(each[worse])]
    seeds = f" ({counts[0]} and {counts[1]} seeds)" if max(counts) > 1 else ""
    seeds += f" ({TWO_SEEDS})" if min(counts) == 2 else ""
    evidence = f"{better} {points(value, 2)} points above {worse} at step {steps[-1]:,}{seeds}"
    return _measured(claim, evidence, low, high)


def _difference(first: Sequence[Any], second: Sequence[Any]) -> tuple[float, float, float]:
    """Second minus first on the same questions, with its interval, which includes seed variance if there are seeds."""
    from justrl.evaluation.seeds import difference_over_seeds, seed_table
    from justrl.evaluation.statistics import compare_paired

    if len(first) == len(second) == 1:
        pair = compare_paired(first[0], second[0])
        return pair.difference, pair.ci_low, pair.ci_high
    found = difference_over_seeds(seed_table(first), seed_table(second), paired=False)
    return found.value, found.ci_low, found.ci_high


def _one_recipe(trainings: Mapping[str, Training | None]) -> Claim:
    """Judge whether both models are trained with the same hyperparameters."""
    claim = Claim("Recipe", "the same hyperparameters serve both models", "one table of values (Table 2)")
    known = [training for training in trainings.values() if training]
    if len(known) < len(FAMILIES):
        return claim
    first, second = (dict(training.described.get("recipe") or {}) for training in known)
    differ = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    if differ:
        return replace(claim, evidence=f"the runs differ in {', '.join(differ)}", verdict=FAILS)
    return replace(claim, evidence=f"{len(first)} values of run.json are equal", verdict=HOLDS)


def claims_section(claims: Sequence[Claim], experiment: str) -> Section:
    """The table of claims."""
    rows = []
    for claim in claims:
        interval = "" if claim.low is None or claim.high is None else f"[{claim.low:,.2f}, {claim.high:,.2f}]"
        published = ((claim.published_verdict, claim.published_verdict),) if claim.published_verdict else ()
        evidence, verdict = Text(claim.evidence or "–", interval.replace("-", "−")), (claim.verdict, claim.verdict)
        rows.append(
            table_row(
                Text(claim.claim, claim.group),
                Text(claim.published or "–", "", published),
                evidence,
                Text("", "", (verdict,)),
            )
        )
    lead = (
        "The claims of the paper (arXiv 2512.16649), with the published numbers, our numbers and a verdict "
        "on ours. Intervals are 95% confidence intervals; z is a difference divided by its standard error. "
        "Published differences smaller than sampling noise (binomial bound) are marked as within noise."
    )
    name, _, own = experiment.partition("/")
    notes = (
        () if name == paper.PAPER else (f"The {name} experiment is not the paper's, so its results are not judged.",)
    )
    if name == paper.PAPER and own:
        notes = (f"Not judged, because it is not part of the paper: {own}.",)
    return Section("Claims", ["Claim", "As published", "Here", "Verdict"], rows, lead, notes, numeric=False)


def write_claims(
    outputs: Mapping[str, Path],
    results: Sequence[Path] = (),
    metrics: Sequence[Path] = (),
    released: Sequence[str] = (),
    seeds: Sequence[str] = (),
    experiment: str | None = None,
) -> list[str]:
    """Check the claims of the paper against results and trainings; return a line for each."""
    loaded = load_results(results)
    if not loaded and not metrics:
        raise UserError("no results and no metrics given to check the claims: give --results or --metrics")
    trainings = {
        str(run_of(path)["run"]): Training(read_metrics(path), io.read_json_object(path.with_name("run.json")))
        for path in metrics
    }
    stamp = str(experiment or (experiment_of(loaded) if loaded else run_of(metrics[0])["experiment"]))
    weights = dict(entry.split("=", 1) for entry in released)
    claims = judge_claims(loaded, trainings, stamp, weights, read_seeds(seeds))
    if ".json" in outputs:
        io.write_json(outputs[".json"], {"experiment": stamp, "claims": [asdict(claim) for claim in claims]})
    write_tables(outputs, "Claims of the paper", [claims_section(claims, stamp)], stamp)
    return [f"{claim.verdict:>13}  {claim.claim}{f' ({claim.evidence})' if claim.evidence else ''}" for claim in claims]
