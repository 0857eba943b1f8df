"""Result files (`results/{benchmark}_{run}.json` and similar) as plain values for tables and figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from justrl.config import paper
from justrl.config.published import BENCHMARKS, LABELS
from justrl.errors import UserError
from justrl.io import read_object


@dataclass(frozen=True)
class Result:
    """The result of one model on one benchmark.

    `run` is the model's name without its step. `step` is 0 for the base model and None for a model trained elsewhere.
    """

    run: str
    step: int | None
    benchmark: str
    data: dict[str, Any]

    @property
    def is_base(self) -> bool:
        """True for a base model, before any training."""
        return self.step == 0 or (self.data.get("published") or {}).get("kind") == "base"

    @property
    def headline(self) -> str:
        """The primary grader: its figure is the one reported for the result."""
        return self.data["headline_grader"]

    @property
    def graders(self) -> list[str]:
        """The graders of the result, the primary one first."""
        return sorted(self.data["graders"], key=lambda name: name != self.headline)

    def average(self, grader: str | None = None) -> dict[str, Any]:
        """avg@k of a grader (default: the primary one): value, ci_low, ci_high, seed_std; fractions."""
        return self.data["graders"][grader or self.headline]["avg_at_k"]

    def scores(self, grader: str | None = None) -> list[list[float]] | None:
        """Scores [questions][samples] of a grader, or None if the file leaves them out."""
        name = grader or self.headline
        rows = self.data.get("per_question") or []
        if not rows or any(name not in row["scores"] for row in rows):
            return None
        return [row["scores"][name] for row in rows]

    def question_ids(self) -> list[str]:
        """Ids of the questions in the order of `scores`."""
        return [row["id"] for row in self.data.get("per_question") or []]


def load_results(paths: Iterable[str | Path], labels: Sequence[str] = ()) -> list[Result]:
    """Read result files; `labels` are NAME=TEXT, the benchmarks' names for readers.

    Raises UserError naming the file that is not a result, or that repeats another.
    """
    names = read_labels(labels)
    results: dict[tuple, tuple[Result, str | Path]] = {}
    for path in paths:
        result = load_result(path)
        if result.benchmark in names:
            result.data["benchmark_label"] = names[result.benchmark]
        key = (result.run, result.step, result.benchmark)
        if key in results:
            raise UserError(f"{path} and {results[key][1]} are both {result.benchmark} of {result.data['name']}")
        results[key] = (result, path)
    return [result for result, _ in results.values()]


def experiment_of(results: Sequence[Result]) -> str:
    """The experiment that the result files name, in the form of `paper.together`.

    Raises UserError if they name none, or different ones.
    """
    found = sorted({str(result.data.get("experiment")) for result in results})
    common = paper.together(found)
    if common in (None, "None"):
        raise UserError(f"the results are of the experiments {', '.join(found)}: name one with --experiment")
    return str(common)


def graded_by_model(grader: str) -> bool:
    """True if a judge model decides, alone or after rules as in the paper (`paper_rules+model`)."""
    return grader == "model" or grader.endswith("+model")


def read_labels(labels: Iterable[str]) -> dict[str, str]:
    """Parse NAME=TEXT into names of benchmarks for readers; a UserError shows text of another form."""
    found = {}
    for text in labels:
        name, _, found[name] = text.partition("=")
        if not (name and found[name]):
            raise UserError(f"--benchmark-labels takes NAME=TEXT, got {text!r}")
    return found


def read_seeds(words: Iterable[str]) -> dict[str, list[str]]:
    """Parse RUN=NAME,NAME into the trainings of each run with several seeds."""
    found = {}
    for word in words:
        run, equals, names = word.partition("=")
        if not (run and equals and names):
            raise UserError(f"--seeds takes RUN=NAME,NAME, got {word!r}")
        found[run] = names.split(",")
    return found


def load_result(path: str | Path) -> Result:
    """Read one result file."""
    data = read_object(path)
    missing = [key for key in ("name", "benchmark", "headline_grader", "graders") if key not in data]
    if missing:
        raise UserError(f"{path} is not a result file: it has no {', '.join(missing)}")
    if data["headline_grader"] not in data["graders"]:
        raise UserError(
            f"{path}: the primary grader {data['headline_grader']!r} is not one of its graders; score it again"
        )
    run, _, suffix = str(data["name"]).partition("@")
    step = data.get("step")
    if step is None and suffix:
        step = suffix
    try:
        step = None if step is None else 0 if "base" in (suffix, step) else int(step)
    except ValueError:
        raise UserError(f"{path}: step {step!r} is neither a number nor 'base'") from None
    return Result(run=run, step=step, benchmark=data["benchmark"], data=data)


def ordered_benchmarks(results: Sequence[Result]) -> list[str]:
    """The benchmarks that occur: the paper's nine in its order, then the others in order of appearance."""
    met = list(dict.fromkeys(result.benchmark for result in results))
    return [name for name in BENCHMARKS if name in met] + [name for name in met if name not in BENCHMARKS]


def benchmark_label(result: Result) -> str:
    """The benchmark's name for readers: the result's own label, the paper's name, or the identifier."""
    plain = result.benchmark.replace("_", " ")
    return result.data.get("benchmark_label") or LABELS.get(result.benchmark) or plain[:1].upper() + plain[1:]
