"""Check an experiment's files against each other, their recorded hashes, and the configuration.

Files that follow from other files are recomputed: scores from completions and verdicts, metrics from segments, and
tables, claims and pages from those (`remaking`). Other files are compared with the records made when they were written
(`records`). Files that the configuration does not know are listed (`run_state`).
"""

import functools
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from justrl.config import Experiment, with_defaults
from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.evaluation.completions import model_fingerprint
from justrl.evaluation.scoring import score_files
from justrl.io import file_sha256, json_sha256, read_json, read_object, weights_sha256
from justrl.models.folder import check_download, read_record
from justrl.report import pages
from justrl.report.provenance import code_sha256, collect_provenance, experiment_cost
from justrl.report.results import load_result
from justrl.training.segment import NOT_KEPT, WorkDir, step_name
from justrl.workflow import config_snapshots, records, remaking, run_state
from justrl.workflow.records import SMALL
from justrl.workflow.remaking import differences

WIDTH = 100
COLLECTED = ("all", "canary", "golden", "first_1000")

# Pages that an earlier version did not make.
LATER_PAGES = ("summary.html", records.NAME)


@dataclass(frozen=True)
class Verified:
    """The check of one file or folder: its path relative to the results, its content in short, and its problems.

    `absent` is set if it does not exist. `problems` is then non-empty only if the file was requested.
    """

    what: str
    found: str
    problems: list[str] = field(default_factory=list)
    absent: bool = False

    @property
    def word(self) -> str:
        """Its status in the table: ok, WRONG, MISSING (though requested), or not made."""
        if self.absent:
            return "MISSING" if self.problems else "not made"
        return "WRONG" if self.problems else "ok"


def verify(
    experiment: Experiment, results: Path, run: Callable[[list[str]], Any], states: bool = False
) -> list[Verified]:
    """Check everything that an experiment has or should have: sources, runs, results, pages, records, foreign files.

    `run` runs a command of `justrl`; `states` also hashes the training states.
    """
    whole = experiment.with_canaries()
    layout = run_state.layout_of(whole, results)
    recorded, due = records.recorded(results), _asked(layout, results)
    # A finished experiment is complete if it has the pages of the version that made it.
    due -= {str(results / name) for name in LATER_PAGES if recorded and results / name not in recorded}
    checked = [_source(Path(folder), results, due) for folder in layout.hub_folders()]
    begun = [name for name, run_ in whole.runs.items() if run_.enabled or Path(layout.run_file(name)).is_file()]
    checked += [_run(layout, name, results, due) for name in begun]
    fingerprint = functools.lru_cache(maxsize=None)(model_fingerprint)
    here = [path for path, _ in run_state.results_here(layout)]
    paths = dict.fromkeys([*map(Path, layout.evaluation_results()), *here])
    checked += [_result(layout, path, results, fingerprint, due) for path in paths]
    checked += _pages(layout, results, run, recorded, due, {row.what for row in checked})
    for name in whole.runs:
        for folder, problems, looked in records.state_problems(layout, name, states):
            checked.append(Verified(_below(folder, results), looked, problems))
    for path, earlier in run_state.unknown_files(layout, results):
        if earlier:
            checked.append(Verified(_below(path, results), f"of an earlier configuration, {earlier}"))
        else:
            checked.append(Verified(_below(path, results), "", ["it is not known to the configuration"]))
    return checked


def _asked(layout: Layout, results: Path) -> set[str]:
    """The files requested by the last starts; without a record of them, all files if the experiment was finished."""
    targets = config_snapshots.asked(results)
    if targets is None:
        whole = any((results / name).is_file() for name in (records.NAME, records.EARLIER))
        targets = ["all"] if whole else []
    files: set[str] = set()
    for target in targets:
        if target not in COLLECTED:
            files |= set(layout.downloads()) if target == "data" else {str(results / target)}
            continue
        try:
            files |= {*pages.wanted(layout, target), *layout.hub_folders()}
        except UserError:
            continue
        files |= {layout.metrics(run) for run in layout.trainings(target)} if target in ("all", "canary") else set()
    return files


def _absent(path: Path, results: Path, due: set[str]) -> Verified:
    return Verified(_below(path, results), "", ["it is missing"] if str(path) in due else [], absent=True)


def _pages(
    layout: Layout,
    results: Path,
    run: Callable[[list[str]], Any],
    recorded: Mapping[Path, Mapping[str, Any]],
    due: set[str],
    checked: set[str],
) -> Iterator[Verified]:
    """Check tables, pages and figures: recompute them if that is quick, else compare them with their records."""
    of_this_version = _of_this_version(results)

    def earlier(path: Path) -> str | None:
        """The SHA-256 of a page that an earlier version made, if known; None if this version made it."""
        if path not in recorded:
            return None if of_this_version else file_sha256(path)
        return None if recorded[path].get("code") == _code() else recorded[path]["sha256"]

    problems: dict[Path, list[str]] = {}
    stale = set()
    for made in remaking.remade_files(layout):
        if gone := [path for path in made.inputs if not path.exists() and str(path) not in due]:
            stale |= {(path, gone[0]) for path in made.here()}
            continue
        with tempfile.TemporaryDirectory() as folder:
            for path, problem in remaking.problems_of(made, Path(folder), run, earlier):
                problems[path] = [problem] if problem else []
    if (found := _provenance(layout, results)) is not None:
        problems[results / "provenance.json"] = found
    # A run's file is compared by content: that of an earlier version lacks keys that were added later.
    same = {
        Path(layout.run_file(run))
        for run in layout.experiment.runs
        if not list(_run_file_problems(Path(layout.run_file(run)), layout.experiment.described(run).as_dict()))
    }
    for path, entity in recorded.items():
        # Models and results are checked already; the health.json of an earlier version may have been recomputed since.
        if path not in same and (problem := records.file_problem(path, entity)) and not problems.get(path):
            problems[path] = [problem]
    for path in (results / records.NAME, results / records.EARLIER):
        if path.is_file():
            problems[path] = records.list_problems(path)
    for path, wrong in problems.items():
        if wrong or _below(path, results) not in checked:
            yield Verified(_below(path, results), "", wrong, absent=not path.is_file())
    for path, missing in sorted(stale - {(path, gone) for path, gone in stale if path in problems}):
        yield Verified(_below(path, results), f"not compared: {_below(missing, results)} does not exist")
    for path in map(Path, dict.fromkeys([*pages.files(layout, "all"), f"{results}/{records.NAME}", *sorted(due)])):
        if not path.exists() and path not in problems and _below(path, results) not in checked:
            yield _absent(path, results, due)


@functools.lru_cache(maxsize=1)
def _code() -> str:
    return code_sha256()


def _of_this_version(results: Path) -> bool:
    """True if exactly this version of the package made the pages, so that their wording must match."""
    try:
        return read_object(results / "provenance.json")["code"]["sha256"] == _code()
    except (OSError, UserError, KeyError, TypeError):
        return False


def _provenance(layout: Layout, results: Path) -> list[str] | None:
    """Problems of provenance.json: recompute seeds, sources, evaluations and cost, and compare its page."""
    path = results / "provenance.json"
    if not path.is_file():
        return None
    try:
        there = read_object(path)
        inputs = [f"{folder}/source.json" for folder in layout.hub_folders()]
        made = layout.evaluation_results()
        if not all(Path(file).is_file() for file in (*inputs, *made)):
            return None
        seeds = {"experiment": layout.experiment.seed}
        here = collect_provenance(None, seeds, inputs, made, ["verify"], ())
        here["cost"] = experiment_cost(layout, results / "timings") if "cost" in there else None
    except (OSError, UserError, KeyError, TypeError, ValueError) as error:
        return [f"it cannot be read: {error!s:.200}"]
    kept = ("seeds", "sources", "evaluations", "cost")
    found = differences({key: there.get(key) for key in kept}, {key: here[key] for key in kept})
    problems = [f"it differs from the recomputed one: {found}"] if found else []
    if there.get("experiment") != layout.experiment.experiment:
        problems.append(f"it is of the experiment {there.get('experiment')}")
    return problems + [problem for problem in [_provenance_page(there, path)] if problem]


def _provenance_page(record: Mapping[str, Any], path: Path) -> str | None:
    """How provenance.html differs from provenance.json, or None."""
    from justrl.report.provenance import write_provenance

    page = path.with_suffix(".html")
    if not page.is_file():
        return None
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / page.name
        body = {key: value for key, value in record.items() if key != "experiment"}
        try:
            write_provenance(body, str(record.get("experiment")), {".html": here})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return f"it lacks data for its page: {type(error).__name__}: {error!s:.100}"
        found = remaking.difference(page, here, None)
    return f"{page.name} shows something else: {found}" if found else None


def table(checked: Iterable[Verified]) -> str:
    """One line for each existing or requested file, with its problems below it; the last line has the counts."""
    rows = list(checked)
    shown = [row for row in rows if row.word != "not made"]
    width = min(max((len(row.what) for row in shown), default=0), WIDTH - 40)
    lines = []
    for row in shown:
        lines.append(f"{row.word:<8}{row.what:<{width}}  {row.found}".rstrip())
        for problem in row.problems:
            lines += textwrap.wrap(
                problem, WIDTH, initial_indent=f"{'':<8}-> ", subsequent_indent=" " * 11, break_on_hyphens=False
            )
    counts = {word: sum(row.word == word for row in rows) for word in ("ok", "WRONG", "MISSING", "not made")}
    said = {"ok": "correct", "WRONG": "wrong", "MISSING": "requested but missing"}
    said["not made"] = "not requested, not computed"
    total = ", ".join(f"{count:,} {said[word]}" for word, count in counts.items() if count)
    cut = [line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in lines]
    return "\n".join([*cut, total or "nothing found"])


def _source(folder: Path, results: Path, due: set[str]) -> Verified:
    if not folder.is_dir():
        return _absent(folder, results, due)
    try:
        check_download(folder, required=True)
    except UserError as error:
        return Verified(_below(folder, results), "", [str(error)])
    revision = read_record(folder / "source.json").get("revision")
    return Verified(_below(folder, results), f"as downloaded, revision {revision or 'unknown'}", [])


def _run(layout: Layout, run: str, results: Path, due: set[str]) -> Verified:
    """Check a run's configuration, training data and segments; later segments than its last one are not due yet."""
    folder = Path(layout.run(run))
    if not folder.is_dir():
        missing = ["it is missing"] if layout.metrics(run) in due else []
        return Verified(_below(folder, results), "", missing, absent=True)
    entry = layout.experiment.runs[run]
    described = layout.experiment.described(run).as_dict()
    problems = [*_run_file_problems(Path(layout.run_file(run)), described), *_data_problems(layout, run)]
    ends = layout.segment_ends(run)
    kept = [end for end in ends if Path(layout.segment_metrics(run, end)).is_file()]
    for end in ends[: ends.index(kept[-1]) + 1 if kept else 0]:
        problems += _segment_problems(layout, run, end, described)
    if kept and kept[-1] >= entry.steps and layout.metrics(run) in due and not Path(layout.metrics(run)).is_file():
        problems.append(f"{layout.metrics(run)} is missing")
    problems += records.work_problems(layout, run)
    done = f"{kept[-1] if kept else 0} of {entry.steps} steps"
    return Verified(_below(folder, results), done, problems)


def _run_file_problems(path: Path, described: Mapping[str, Any]) -> Iterator[str]:
    try:
        written = with_defaults(read_object(path))
    except FileNotFoundError:
        yield f"{path.name} is missing"
        return
    except UserError as error:
        yield str(error)
        return
    if changed := differences(written, described):
        yield f"it was trained with another configuration: {changed}"


def _segment_problems(layout: Layout, run: str, end: int, described: Mapping[str, Any]) -> Iterator[str]:
    """Compare a segment with the record made at its end: its metrics, its data, the small files of its model."""
    metrics, model = Path(layout.segment_metrics(run, end)), Path(layout.segment_model(run, end))
    for path in (metrics, model / "config.json"):
        if not path.is_file() and not (path.parent / NOT_KEPT).is_file():
            yield f"{path} is missing"
    folder = WorkDir(Path(layout.run(run)) / "work").finished / step_name(end)
    try:
        kept = records.read_segment(folder)
    except UserError as error:
        yield str(error)
        return
    published = {"metrics.jsonl": metrics} | {f"model/{path.name}": path for path in model.glob("*")}
    for name, expected in kept.get("sha256", {}).items():
        path = published.get(name, model.parent / name)
        if not path.is_file() or (path.stat().st_size <= SMALL and file_sha256(path) != expected):
            yield f"{path} differs from the end of the segment"
    yield from records.finished_problems(folder, kept)
    identity = kept.get("identity", {})
    data, trained_on = Path(layout.training_data(run)), identity.get("train_file_sha256")
    if trained_on and data.is_file() and file_sha256(data) != trained_on:
        yield f"{data} is not the file that the segment to step {end} was trained on"
    there = {key: identity[key] for key in ("engine", "seed") if key in identity} | identity.get("recipe", {})
    here = {key: described[key] for key in ("engine", "seed") if key in described} | described["recipe"]
    if changed := differences(there, {key: here.get(key) for key in there}):
        yield f"{folder}/segment.json is of another training: {changed}"
    base = Path(layout.base_model(run))
    sizes = [path.stat().st_size for path in base.glob("*.safetensors")]
    began = identity.get("base_model_sha256")
    if began and sizes and max(sizes) <= SMALL and weights_sha256(base) != began:
        yield f"{folder}/segment.json is of a training from other weights than those of {base}"
    if kept.get("start_step", layout.start_step(run, end)) != layout.start_step(run, end):
        yield f"{folder}/segment.json records start step {kept['start_step']}"


def _data_problems(layout: Layout, run: str) -> Iterator[str]:
    """Compare a run's prepared questions with the hash in their data card."""
    if not Path(layout.training_data(run)).is_file():
        yield f"{layout.training_data(run)} is missing"
    folder = Path(layout.training_data(run)).parent / "prepared"
    try:
        card = read_json(folder / "data_card.json")
        if file_sha256(folder / "train.parquet") != card["output"]["sha256"]:
            yield f"{folder}/train.parquet is not the file that its data card describes"
    except (OSError, UserError, KeyError, TypeError) as error:
        yield f"the training data cannot be checked: {error}"


def _result(layout: Layout, path: Path, results: Path, fingerprint, due: set[str]) -> Verified:
    what = _below(path, results)
    if not path.is_file():
        return _absent(path, results, due)
    try:
        result = load_result(path)
        average = result.average()["value"]
        samples = result.data["samples_per_question"]
    except (UserError, KeyError, TypeError) as error:
        return Verified(what, "", [f"it is not a complete result: {error!s:.200}"])
    name, benchmark, protocol = run_state.result_of(layout, path) or ("", "", "")
    found = f"avg@{samples} {average:.2%} by {result.headline}"
    problems = [
        *_configuration_problems(layout.configuration(name, benchmark, protocol), result.data),
        *_input_problems(layout, (name, benchmark, protocol), result.data),
        *_model_problems(layout, name, result.data, fingerprint),
    ]
    # If the inputs or the configuration differ, the numbers may differ as well.
    if not problems:
        problems = list(_number_problems(layout, (name, benchmark, protocol), result.data))
    return Verified(what, found, problems)


def _configuration_problems(now: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[str]:
    made = result.get("provenance") or {}
    config = made.get("config")
    if not isinstance(config, dict) or not made.get("inputs"):
        yield "it does not record its configuration and inputs: delete and recompute it"
    elif made.get("config_sha256") != json_sha256(config):
        yield "its configuration was edited: the hash is of another"
    elif changed := differences(with_defaults(config), now):
        yield f"it was computed with another configuration: {changed}"


def _input_problems(layout: Layout, of: tuple[str, str, str], result: Mapping[str, Any]) -> Iterator[str]:
    recorded = (result.get("provenance") or {}).get("inputs") or {}
    for kind, paths in _inputs(layout, of).items():
        known = {entry["file"]: entry["sha256"] for entry in recorded.get(kind, [])}
        for path in map(Path, paths):
            made_from = known.pop(path.name, None)
            if not path.is_file():
                yield f"{path} is missing"
            elif recorded and file_sha256(path) != made_from:
                yield f"{path} has changed since it was computed"
        if known:
            yield f"it was also computed from {', '.join(sorted(known))}"


def _inputs(layout: Layout, of: tuple[str, str, str]) -> dict[str, list[str]]:
    return {
        "completions": layout.completions(*of),
        "grades": layout.grades(*of),
        "benchmark": [layout.questions(of[1])],
    }


def _model_problems(layout: Layout, name: str, result: Mapping[str, Any], fingerprint) -> Iterator[str]:
    try:
        folder = Path(layout.target_model(layout.target(name)))
    except UserError as error:
        yield str(error)
        return
    made = ((result.get("provenance") or {}).get("generation") or {}).get("model_fingerprint")
    if not (folder / "config.json").is_file():
        yield f"the model {folder} is missing"
    elif made is not None and fingerprint(folder) != made:
        yield f"the model {folder} is another than the one that answered"


def _number_problems(layout: Layout, of: tuple[str, str, str], result: Mapping[str, Any]) -> Iterator[str]:
    """Recompute every number from completions and verdicts."""
    name, benchmark, protocol = of
    files = _inputs(layout, of)
    try:
        again, _, _ = score_files(
            files["completions"],
            files["grades"],
            files["benchmark"][0],
            name=name,
            experiment=layout.stamp(name),
            headline=layout.experiment.evaluation.headline_grader,
            asked=layout.generation(name, benchmark, protocol),
            family=layout.family(name),
        )
    except UserError as error:
        yield str(error)
        return
    there = {key: value for key, value in result.items() if key != "provenance"}
    if (result["provenance"].get("code") or {}).get("sha256") != _code():
        there, again = remaking.without_changed(there), remaking.without_changed(again)
    if changed := differences(there, again):
        yield f"its numbers are not those of its completions and verdicts: {changed}"


def _below(path: Path, results: Path) -> str:
    return path.relative_to(results).as_posix()
