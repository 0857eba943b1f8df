"""Recompute everything in an experiment that follows from other files, with the commands of its rules.

If a recomputed file differs, somebody edited the file or its inputs. A page of an earlier version of this package may
be worded differently: it must have the same numbers, and match its recorded hash.
"""

import contextlib
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.io import file_sha256, read_json, read_json_object
from justrl.report.pages import PAGES, words

# Numbers from other versions of the same libraries may differ in the last digits.
CLOSE = 1e-9
# The overlap of larger training sets with the benchmarks is not recomputed, since that takes minutes.
SMALL_TRAINING_SET = 2**23
# The data of a page of answers.
ANSWERS = re.compile(r'<script id="data" type="application/json">(.*?)</script>', re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
# Pages compute intervals of differences themselves, and these have become wider; an earlier version's may be narrower.
INTERVAL = re.compile(r"(?<=[+−])[0-9.]+(?: |<small>)\[([+−-]?[0-9.]+), ([+−-]?[0-9.]+)\]")
# Values that are computed differently now; distinct_4, which nothing used, is no longer computed.
CHANGED = ("ci_low", "ci_high", "maj_at_k", "distinct_4")
# Grader names on pages of earlier versions.
EARLIER_NAMES = {
    "exact match": "strict",
    "training reward": "paper",
    "rules": "paper_rules",
    "rules, then model": "paper_rules+model",
    "symbolic, then model": "symbolic+model",
    "exact match, then model": "strict+model",
}
# Keys of JSON files whose sentences earlier versions may word differently.
SENTENCES = ("sentence", "reason", "evidence", "question", "action")
# Health findings that earlier versions did not have.
LATER_FINDINGS = ("no_difference", "zero_gradient", "least_reward", "non_finite")


@dataclass(frozen=True)
class Remade:
    """Files that one `justrl` command writes, the command's words up to the outputs, and its inputs."""

    files: tuple[Path, ...]
    words: tuple[str, ...]
    inputs: tuple[Path, ...]
    option: str = "--output"

    def here(self) -> list[Path]:
        """Its files that exist."""
        return [path for path in self.files if path.is_file()]


def remade_files(layout: Layout) -> Iterator[Remade]:
    """Every command with existing outputs, with the options that its rule gives it (rules/report.smk, data.smk)."""
    everything = (*_metrics(layout), *_overlaps(layout), *_pages(layout))
    return (made for made in everything if made.here())


def _metrics(layout: Layout) -> Iterator[Remade]:
    """Metrics of each run and of its first 1,000 steps, and verdicts of canaries."""
    for run, entry in layout.experiment.runs.items():
        for metrics, segments in (
            (layout.metrics(run), layout.all_segments(run)),
            (layout.first_thousand_metrics(run), layout.first_thousand_segments(run)),
        ):
            yield Remade((Path(metrics),), ("report", "metrics", *segments), tuple(map(Path, segments)))
        if entry.canary:
            yield _verdict(layout.run(run), layout.metrics(run), layout.run_file(run), layout.canary_result(run))


def _verdict(folder: str, metrics: str, run_file: str, result: Sequence[str]) -> Remade:
    """A canary's verdict and its page, judged with the settings (`asked`) recorded in the verdict."""
    asked = read_json_object(f"{folder}/verdict.json").get("asked")
    words = ["canary", "judge", "--metrics", metrics, "--run-file", run_file, "--asked", json.dumps(asked or {})]
    words += [word for file in result for word in ("--result", file)]
    inputs = tuple(map(Path, [metrics, run_file, *result]))
    return Remade((Path(f"{folder}/verdict.json"), Path(f"{folder}/verdict.html")), tuple(words), inputs)


def _overlaps(layout: Layout) -> Iterator[Remade]:
    """The overlap of each small training set with the benchmarks."""
    experiment = layout.experiment
    for run in {layout.training_data(run): run for run in experiment.runs}.values():
        folder = Path(layout.training_data(run)).parent
        prepared = folder / "prepared/train.parquet"
        if not prepared.is_file() or prepared.stat().st_size > SMALL_TRAINING_SET:
            continue
        benchmarks = [layout.questions(name) for name in experiment.evaluation.benchmarks]
        remove = ["--remove"] if experiment.datasets[experiment.runs[run].dataset].remove_contaminated else []
        yield Remade(
            (folder / "contamination.json", folder / "contamination.csv"),
            ("data", "contamination", "--train", str(prepared), "--benchmarks", *benchmarks, *remove),
            (prepared, *map(Path, benchmarks)),
            "--output-dir",
        )


def _pages(layout: Layout) -> Iterator[Remade]:
    """The existing pages of every kind."""
    for page in PAGES:
        for names, files in page.existing(layout):
            given = {name: function(layout, **names) for name, function in {**page.inputs, **page.undeclared}.items()}
            after = [function(layout, **names) for function in page.after.values()]
            options = {name: function(layout, **names) for name, function in page.options.items()}
            inputs = [
                file for each in (*given.values(), *after) for file in (each if isinstance(each, list) else [each])
            ]
            yield Remade(tuple(files), ("report", page.command, *words(given | options)), tuple(map(Path, inputs)))


def problems_of(
    made: Remade, folder: Path, run: Callable[[list[str]], Any], earlier: Callable[[Path], str | None]
) -> Iterator[tuple[Path, str | None]]:
    """Recompute files in an empty folder and yield each with its problem, or None.

    `run` runs a command of `justrl`. `earlier` gives the recorded SHA-256 of a file that an earlier version of the
    package made, whose wording may differ; None for files of this version.
    """
    here = made.here()
    names = [str(folder)] if made.option == "--output-dir" else [str(folder / path.name) for path in here]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run([*made.words, made.option, *names])
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        yield from ((path, f"it cannot be recomputed from its inputs: {reason:.300}") for path in here)
        return
    for path in here:
        yield path, difference(path, folder / path.name, earlier(path))


def difference(there: Path, here: Path, recorded: str | None) -> str | None:
    """How a file differs from the one recomputed from its inputs; None if it does not."""
    if there.read_bytes() == here.read_bytes():
        return None
    if there.suffix == ".json":
        try:
            old_values, new_values = _of_one_version(read_json(there), read_json(here))
            if recorded == file_sha256(there):
                old_values, new_values = _without_sentences(old_values), _without_sentences(new_values)
            return _in_words(differences(old_values, new_values))
        except UserError as error:
            return str(error)
    try:
        old, new = there.read_text(encoding="utf-8"), here.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return f"it is not text: {error}"
    if worded := there.suffix in (".html", ".md") and recorded == file_sha256(there):
        if (answers := _answers(old)) and answers == _answers(new):
            return None
        old, new = _without_widened(html.unescape(old), html.unescape(new))
    same_numbers = _close(NUMBER.findall(old), NUMBER.findall(new))
    if same_numbers and (worded or NUMBER.sub("", old) == NUMBER.sub("", new)):
        return None
    lines = old.splitlines(), new.splitlines()
    pairs = enumerate(zip(*lines, strict=False), 1)
    number, pair = next(((n, p) for n, p in pairs if p[0] != p[1]), (min(map(len, lines)) + 1, None))
    if pair is None:
        return f"it has {len(lines[0])} lines, and its inputs give {len(lines[1])}"
    return f"line {number} differs from the recomputed one: {_around(*pair)}"


def _answers(page: str) -> list[Any] | None:
    """Graders, questions and answers of a page of answers, without marks; None for other pages."""
    if (data := ANSWERS.search(page)) is None:
        return None
    try:
        content = json.loads(data[1])
        graders = [EARLIER_NAMES.get(name, name) for name in content["graders"]]
        return [graders, content["questions"], [answer[:-1] for answer in content["answers"]]]
    except (ValueError, KeyError, TypeError):
        return None


def _without_widened(there: str, here: str) -> tuple[str, str]:
    """Two texts, without their intervals if each interval in `here` contains the one in `there`."""
    old, new = ([tuple(float(end.replace("−", "-")) for end in pair) for pair in INTERVAL.findall(text)]
                for text in (there, here))  # fmt: skip
    wider = len(old) == len(new) and all(b[0] <= a[0] <= a[1] <= b[1] for a, b in zip(old, new, strict=True))
    return (INTERVAL.sub("", there), INTERVAL.sub("", here)) if wider else (there, here)


def _around(there: str, here: str) -> str:
    """The place where two lines begin to differ."""
    start = next((i for i, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), min(len(there), len(here)))
    start = max(0, start - 20)
    return f"{there[start : start + 50]!r} instead of {here[start : start + 50]!r}"


def _close(there: Sequence[str], here: Sequence[str]) -> bool:
    pairs = zip(there, here, strict=False)
    return len(there) == len(here) and all(a == b or math.isclose(float(a), float(b), rel_tol=CLOSE) for a, b in pairs)


def _of_one_version(there: Any, here: Any) -> tuple[Any, Any]:
    """Make two values of a JSON file comparable: a health.json without its summary line is from an earlier version."""
    if isinstance(there, dict) and isinstance(here, dict) and "health" in here and "health" not in there:
        later = [one for one in here["findings"] if one["name"] not in LATER_FINDINGS]
        here = {key: value for key, value in here.items() if key != "health"} | {"findings": later}
    return there, here


def _without_sentences(value: Any) -> Any:
    """A copy of a JSON value in which each sentence is replaced by its numbers."""
    if isinstance(value, dict):
        return {key: NUMBER.findall(item) if key in SENTENCES and isinstance(item, str) else _without_sentences(item)
                for key, item in value.items()}  # fmt: skip
    return [_without_sentences(item) for item in value] if isinstance(value, list) else value


def without_changed(value: Any) -> Any:
    """A copy of the values of a result without those that earlier versions computed differently."""
    if isinstance(value, dict):
        return {key: without_changed(item) for key, item in value.items() if key not in CHANGED}
    return [without_changed(item) for item in value] if isinstance(value, list) else value


def _in_words(found: str) -> str | None:
    return f"it differs from the recomputed one: {found}" if found else None


def differences(there: Any, here: Any) -> str:
    """Describe the first few keys in which two values differ: `recipe.temperature is 0.7 instead of 1.0`."""
    found = list(_different(there, here, ""))
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return "; ".join(f"{key} is {_short(a)} instead of {_short(b)}" for key, a, b in found[:3]) + more


def _short(value: Any) -> str:
    return f"{value!r:.60}" if not isinstance(value, dict | list) else f"{json.dumps(value):.60}"


def _different(there: Any, here: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in dict.fromkeys([*here, *there]):
            yield from _different(there.get(name), here.get(name), f"{key}.{name}" if key else str(name))
    elif isinstance(there, list | tuple) and isinstance(here, list | tuple) and len(there) == len(here):
        for number, (a, b) in enumerate(zip(there, here, strict=True)):
            yield from _different(a, b, f"{key}[{number}]")
    elif isinstance(there, bool) or isinstance(here, bool):
        if there is not here:
            yield key, there, here
    elif isinstance(there, int | float) and isinstance(here, int | float):
        if not math.isclose(there, here, rel_tol=CLOSE, abs_tol=CLOSE):
            yield key, there, here
    elif there != here:
        yield key, there, here
