"""Find finished files that no longer match the configuration and their sources, by their content.

Snakemake plans by modification times and by its own record of parameters. It misses a user's file that was edited after
it was copied, any edit once that record is gone (.snakemake/metadata), and a model swapped behind an ancient() input.
Each file, or the record of its source, contains what it was made from.
"""

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from justrl.config import LocalBenchmark, with_defaults
from justrl.config.files import differences, find, in_words
from justrl.config.layout import JUDGE, Layout
from justrl.data.sources import changed_since
from justrl.errors import UserError
from justrl.io import read_json_object
from justrl.workflow import config_snapshots, run_state

# Keys of a benchmark's entry that do not change its questions.
FREE = ("label", "samples", "newer")
# Keys on which the downloaded, copied or generated file depends.
SOURCE = ("source", "path", "hub_id", "hub_config", "revision", "digits", "task", "settings")


def to_make_again(layout: Layout, used: Container[str], accepted: bool) -> set[str]:
    """The files that this start must recompute, whether or not Snakemake has a reason to.

    `used` are the files that the start uses or makes. Answers and a judge's verdicts are included only if recomputing
    them is `accepted`.
    """
    found = set(_edited_copies(layout))
    for path, of in run_state.results_here(layout):
        if str(path) in used:
            found |= set(_of_another_configuration(layout, path, of))
    if accepted:
        found |= {path for path, _ in stale_answers(layout, {}, used, ())}
    return {path for path in found if path in used}


def _edited_copies(layout: Layout) -> Iterator[str]:
    """The copies of local benchmarks whose source was edited since, those that were deleted among them."""
    for name, entry in layout.experiment.benchmarks.items():
        if isinstance(entry, LocalBenchmark):
            raw = layout.raw_benchmark(name)
            if changed_since(find(entry.path), raw) or (
                not Path(raw).is_dir() and _has_other_rows(layout, name, entry)
            ):
                yield raw


def _has_other_rows(layout: Layout, name: str, entry: LocalBenchmark) -> bool:
    """True if the user's file of a benchmark has other questions or answers than the finished questions.parquet."""
    import pyarrow.parquet as pq

    source, finished = find(entry.path), Path(layout.questions(name))
    return source.exists() and finished.is_file() and _rows(name, entry) != pq.read_table(finished).to_pylist()


def _rows(name: str, entry: LocalBenchmark) -> list[dict[str, Any]]:
    """The questions and answers in the user's file of a benchmark; UserError names the entry if it is not valid."""
    from justrl.data.benchmarks import format_entry

    try:
        return format_entry(name, entry, find(entry.path)).to_pylist()
    except UserError as error:
        raise UserError(f"config: benchmarks.{name}: {error}") from None


def _of_another_configuration(layout: Layout, path: Path, of: tuple[str, str, str]) -> Iterator[str]:
    """A result made under settings that have changed, with the files behind it that depend on these settings."""
    config = (read_json_object(path).get("provenance") or {}).get("config")
    if not isinstance(config, dict):
        return
    name, benchmark, _ = of
    now = json.loads(json.dumps(layout.configuration(*of)))
    changed = [key for key, _, _ in differences(with_defaults(config), now)]
    if not changed:
        return
    yield str(path)
    parts = {key.partition(".")[0] for key in changed}
    if "questions" in parts:
        yield layout.questions(benchmark)
        generated = layout.experiment.benchmarks[benchmark].source == "arithmetic"
        if any(key in (f"questions.{part}" for part in (*SOURCE, *(["rows"] if generated else []))) for key in changed):
            yield layout.raw_benchmark(benchmark)
    if "model" in parts and (name.endswith("@base") or name in layout.experiment.external):
        yield layout.target_model(layout.target(name))
    rules, *judged = layout.grades(*of)
    if parts & {"graders", "custom_graders"}:
        yield rules
    if "model_grader" in parts:
        yield from judged
        if {"model_grader.model", "model_grader.revision"} & set(changed):
            yield layout.model(JUDGE)


def check_answers(
    layout: Layout, entries: Mapping[str, Any], used: Container[str], planned: Container[str], accept: str
) -> None:
    """Raise UserError if this start would use answers or verdicts that no longer match their inputs.

    Args:
        entries: the benchmarks' entries of the configuration as the user gave it.
        used: the files that the start uses or makes.
        planned: the files that it makes.
        accept: the command that accepts recomputing them.
    """
    reasons: dict[str, list[str]] = {}
    for path, reason in stale_answers(layout, entries, used, planned):
        reasons.setdefault(reason, []).append(path)
    for reason, (first, *others) in reasons.items():
        more = f" and {len(others)} more files" if others else ""
        raise UserError(
            f"{reason}, and {first}{more} would no longer match their names: undo the change, use a new "
            f"name for the changed entry, or recompute them with `{accept}`"
        )


def stale_answers(
    layout: Layout, entries: Mapping[str, Any], used: Container[str], planned: Container[str]
) -> Iterator[tuple[str, str]]:
    """Yield each file of answers or judge's verdicts that is outdated and not `planned`, with the reason."""
    checks = _Checks(layout, entries, planned)
    for path in sorted(Path(layout.root).glob("evaluations/*/*/*/completions/*.parquet")):
        if str(path) in used and str(path) not in planned and (reason := checks.of_answers(path)):
            yield str(path), reason
    for path in sorted(Path(layout.root).glob("evaluations/*/*/*/grades_model.parquet")):
        if str(path) in used and str(path) not in planned and (reason := checks.of_judge(path)):
            yield str(path), reason


class _Checks:
    """Compares what answers were made from with the current files; reads each model and benchmark once."""

    def __init__(self, layout: Layout, entries: Mapping[str, Any], planned: Container[str]):
        self.layout, self.entries, self.planned = layout, entries, planned
        last = config_snapshots.newest(Path(layout.root))
        self.before = (
            dict((config_snapshots.saved(last) or {}).get("config", {}).get("benchmarks") or {}) if last else {}
        )
        self.models: dict[str, str] = {}
        self.questions: dict[str, str | None] = {}

    def of_answers(self, path: Path) -> str | None:
        """The reason why answers do not match their model, settings and questions after this start; None if they do."""
        settings = _settings(path)
        target, benchmark, protocol = path.parts[-5:-2]
        if not settings or benchmark not in self.layout.experiment.benchmarks:
            return None
        try:
            model = self.layout.target_model(target)
            asked = self.layout.generation(target, benchmark, protocol)
        except (UserError, KeyError):
            return None
        if reason := self._of_model(path, model, settings.get("model_fingerprint"), "it answered"):
            return reason
        recorded = json.loads(json.dumps({key: asked[key] for key in asked if key in settings}))
        made = {key: settings[key] for key in recorded}
        if "protocol" in recorded:
            recorded["protocol"] = {k: v for k, v in recorded["protocol"].items() if k in made["protocol"]}
            made["protocol"] = {k: v for k, v in made["protocol"].items() if k in recorded["protocol"]}
        if changed := in_words(differences(made, recorded)):
            return f"the settings of these answers have changed ({changed})"
        return self._of_questions(benchmark, settings.get("benchmark_fingerprint"))

    def of_judge(self, path: Path) -> str | None:
        """The reason why a judge's verdicts are not from the current judge; None if they are."""
        judge = (_settings(path).get("judge") or {}).get("model_fingerprint")
        return self._of_model(path, self.layout.model(JUDGE), judge, "it judged")

    def _of_model(self, path: Path, model: str, fingerprint: str | None, did: str) -> str | None:
        """The reason why a file is not from the current model; None if it is.

        Model files that are older than the file are not read.
        """
        from justrl.evaluation.completions import model_fingerprint

        folder = Path(model)
        if fingerprint is None or not folder.is_dir():
            return None
        if model in self.planned and folder.parent == Path(self.layout.root) / "models":
            return f"{model} would be created again"
        if max(file.stat().st_ctime for file in [folder, *folder.iterdir()]) <= path.stat().st_mtime:
            return None
        if model not in self.models:
            self.models[model] = model_fingerprint(folder)
        return f"{model} is other than when {did}" if self.models[model] != fingerprint else None

    def _of_questions(self, name: str, fingerprint: str | None) -> str | None:
        if name not in self.questions:
            self.questions[name] = self._fingerprint_to_be(name)
        if fingerprint is None or self.questions[name] in (None, fingerprint):
            return None
        if self.layout.questions(name) not in self.planned:
            return f"{self.layout.questions(name)} is other than the questions of benchmark {name} that were asked"
        changed = differences(self.before.get(name, {}), self.entries.get(name, {})) if name in self.before else ()
        why = in_words(row for row in changed if row[0] not in FREE)
        return f"benchmarks.{name} has changed ({why})" if why else f"benchmark {name} has other questions now"

    def _fingerprint_to_be(self, name: str) -> str | None:
        """The fingerprint of a benchmark's questions after this start; None if there are no questions.

        Raises UserError if the user's file is not a valid benchmark.
        """
        from justrl.data import tasks
        from justrl.data.arithmetic import benchmark_rows
        from justrl.data.benchmarks import format_entry
        from justrl.evaluation.generating import Question, benchmark_fingerprint, read_benchmark

        layout, entry = self.layout, self.layout.experiment.benchmarks[name]
        raw, file = Path(layout.raw_benchmark(name)), Path(layout.questions(name))
        if str(file) not in self.planned:
            return benchmark_fingerprint(read_benchmark(file)[1]) if file.is_file() else None
        if entry.source == "arithmetic":
            rows: Iterable[Mapping[str, Any]] = benchmark_rows(entry.rows, entry.digits, layout.experiment.seed)
        elif entry.source == "reasoning_gym":
            rows = tasks.benchmark_rows(entry.task, entry.settings, entry.rows, layout.experiment.seed)
        elif entry.source == "local" and find(entry.path).exists():
            rows = _rows(name, entry)
        elif raw.is_dir() and (str(raw) not in self.planned or _is_of(raw, entry)):
            rows = format_entry(name, entry, raw).to_pylist()
        else:
            return "not known before the download"
        return benchmark_fingerprint([Question(row["id"], row["question"], row["answer"]) for row in rows])


def _is_of(raw: Path, entry: Any) -> bool:
    """True if a download matches the source in an entry."""
    record = read_json_object(raw / "source.json")
    revisions = (record.get("revision"), record.get("requested"))
    return (record.get("hub_id"), record.get("subset")) == (
        getattr(entry, "hub_id", None),
        getattr(entry, "hub_config", None),
    ) and (getattr(entry, "revision", None) or "main") in revisions


def _settings(path: Path) -> dict[str, Any]:
    """The settings of a Parquet file; empty for a damaged one, which its reader will report."""
    from justrl.evaluation.completions import table_settings

    try:
        return table_settings(path)
    except (OSError, ValueError):
        return {}
