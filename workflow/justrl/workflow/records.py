"""For files that cannot be recomputed: compare them with the records that were made when they were written.

The experiment's checksums.json has size and hash of its inputs, figures and pages. A training state has a manifest. A
training state of verl has sizes and checksums inside its files.
"""

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from justrl.config.layout import JUDGE, Layout
from justrl.errors import UserError
from justrl.io import file_sha256, read_json, read_object, read_whole_lines, write_json
from justrl.models.folder import check_download, read_record
from justrl.report import pages
from justrl.report.provenance import code_sha256
from justrl.training.reference.checkpoint import MANIFEST, list_states
from justrl.training.segment import WorkDir
from justrl.workflow import config_snapshots
from justrl.workflow.remaking import differences

# Larger files are hashed only on request; otherwise only their sizes are compared.
SMALL = 2**26
NAME = "checksums.json"
# Earlier versions kept the same records as an RO-Crate.
EARLIER = "ro-crate-metadata.json"


def write_checksums(layout: Layout) -> None:
    """Record size and SHA-256 of the files of a finished experiment in its checksums.json, by relative path.

    `code` is the SHA-256 of the package version that first recorded the file with this content; empty if that version
    did not record its code.
    """
    root, version = Path(layout.root), code_sha256()
    before = _listed(root)
    files = {}
    for path, known in sorted(_finished_files(layout)):
        entry = {"bytes": path.stat().st_size, "sha256": known or file_sha256(path)}
        same = path in before and before[path]["sha256"] == entry["sha256"]
        files[path.relative_to(root).as_posix()] = entry | {"code": before[path].get("code", "") if same else version}
    write_json(root / NAME, {"files": files})


def _finished_files(layout: Layout) -> set[tuple[Path, str]]:
    """Configurations, inputs, runs, last models, results and pages; downloads with the hashes of their source.json."""
    root, experiment = Path(layout.root), layout.experiment
    files = {
        *root.glob(f"{config_snapshots.FOLDER}/*.json"),
        root / "hardware.json",
        *map(Path, layout.evaluation_results()),
    }
    for page in map(Path, pages.files(layout, "all")):
        # Includes the .md and .json of an .html, and the .png and .narrow.svg of an .svg.
        files |= {path for path in page.parent.iterdir() if path.stem in (page.stem, f"{page.stem}.narrow")}
    folders = {layout.model(name) for name in experiment.enabled_external}
    folders |= {layout.model(JUDGE)} if experiment.evaluation.model_grader.enabled else set()
    for run in experiment.enabled:
        data = Path(layout.training_data(run))
        files |= {data, data.parent / "prepared/data_card.json", data.parent / "contamination.json"}
        files |= {Path(layout.run_file(run)), Path(layout.run(run)) / "preflight.json", Path(layout.metrics(run))}
        files |= set(map(Path, layout.engine_config(run)))
        folders |= {layout.base_model(run), layout.raw_data(experiment.runs[run].dataset)}
        folders.add(layout.segment_model(run, experiment.runs[run].steps))
    for name in experiment.evaluation.benchmarks:
        files.add(Path(layout.questions(name)))
        folders.add(layout.raw_benchmark(name))
    return {(path, "") for path in files} | {found for folder in folders for found in _folder_files(Path(folder))}


def _folder_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """The files of a folder that are not hidden, with the hashes of a download; a model folder may not exist."""
    known = {}
    if (folder / "source.json").is_file():
        check_download(folder)
        known = read_record(folder / "source.json")["files"]
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield path, known.get(name.as_posix(), "")


def recorded(results: Path) -> dict[Path, Mapping[str, Any]]:
    """The record of each file, by path; empty if there are no records or they are from an earlier start."""
    files = _listed(results)
    last = config_snapshots.newest(results)
    return files if last is None or last in files else {}


def _listed(results: Path) -> dict[Path, Mapping[str, Any]]:
    try:
        if (results / NAME).is_file():
            return {results / name: entry for name, entry in read_object(results / NAME)["files"].items()}
        graph = read_object(results / EARLIER)["@graph"]
        return {results / unquote(entity["@id"]): entity for entity in graph if entity["@type"] == "File"}
    except (OSError, UserError, KeyError, TypeError, AttributeError):
        return {}


def file_problem(path: Path, entity: Mapping[str, Any], hashed: bool = False) -> str | None:
    """How a file differs from its record, or None; large files are hashed only if `hashed`."""
    if not path.is_file():
        return "it is missing"
    size = path.stat().st_size
    if str(size) != str(before := entity.get("bytes", entity.get("contentSize"))):
        return f"it has {size} bytes, and had {before} when it was written"
    if (hashed or size <= SMALL) and file_sha256(path) != entity["sha256"]:
        return "its SHA-256 differs from the recorded one"
    return None


def list_problems(path: Path) -> list[str]:
    """The error if a list of hashes cannot be read."""
    try:
        read_object(path)
    except (OSError, UserError) as error:
        return [f"it cannot be read: {error!s:.200}"]
    return []


def state_problems(layout: Layout, run: str, hashed: bool) -> Iterator[tuple[Path, list[str], str]]:
    """Each training state of a run, its problems, and what was checked."""
    work = WorkDir(Path(layout.run(run)) / "work")
    for folder in list_states(work.checkpoints):
        yield folder, list(_manifest_problems(folder, hashed)), "sizes" + (" and hashes" if hashed else "")
    for folder in sorted(work.checkpoints.glob("global_step_*")):
        problems = [problem for path in sorted(folder.rglob("*.pt")) if (problem := _torch_problem(path, hashed))]
        looked = "checksums of its tensors" if hashed else "readable; sizes are not recorded"
        yield folder, problems, looked


def _manifest_problems(folder: Path, hashed: bool) -> Iterator[str]:
    try:
        files = read_object(folder / MANIFEST)["files"]
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
        for name in sorted(there - files.keys()):
            yield f"{folder / name} is not in its {MANIFEST}"
        for name, entry in files.items():
            if problem := file_problem(folder / name, entry, hashed):
                yield f"{folder / name}: {problem}"
    except (OSError, UserError, KeyError, TypeError, AttributeError) as error:
        yield f"{folder / MANIFEST} cannot be read: {error!s:.200}"
        return
    for path in [folder / "tensors.pt"] if "tensors.pt" in files else []:
        if problem := _torch_problem(path, hashed):
            yield problem


def _torch_problem(path: Path, hashed: bool) -> str | None:
    """The damage of a `torch.save` file, or None: it must be a zip archive whose records match their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip() if hashed else None
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        return f"{path} is cut short or no file of torch: {error!s:.100}"
    return f"{path}: the checksum of {bad} is another" if bad else None


def work_problems(layout: Layout, run: str) -> Iterator[str]:
    """Problems in the rest of a run's work folder: live metrics, record of attempts, and unpublished rollouts."""
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    work = WorkDir(Path(layout.run(run)) / "work")
    published: dict[Any, Any] = {}
    for path in map(Path, layout.all_segments(run)):
        published |= {row.get("step"): row for row in read_whole_lines(path)} if path.is_file() else {}
    for path in [path for path in (work.live_metrics, work.attempts) if path.is_file()]:
        try:
            rows = _lines(path, torn=path == work.live_metrics and (work.path / "LOCK").exists())
        except (ValueError, KeyError, TypeError) as error:
            yield f"{path} cannot be read: {error!s:.100}"
            continue
        if path == work.live_metrics and max(published, default=0) > max((row["step"] for row in rows), default=0):
            yield f"{path} ends before step {max(published)}, which its segments have"
        for row in rows if path == work.live_metrics else []:
            if found := differences(row, published.get(row["step"], row)):
                yield f"{path}, step {row['step']}: it differs from the segment: {found}"
                break
    for path in sorted(work.rollouts.glob("*.parquet")):
        try:
            pq.read_table(path, page_checksum_verification=True)
        except (OSError, ArrowException) as error:
            yield f"{path} cannot be read: {error!s:.100}"


def _lines(path: Path, torn: bool = False) -> list[dict[str, Any]]:
    """The rows of a JSON lines file; `torn` allows an incomplete last line, which a trainer may be writing."""
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines[:-1] if line.strip()]
    if lines[-1].strip() and not torn:
        raise ValueError("its last line is cut short")
    return rows


def finished_problems(folder: Path, kept: Mapping[str, Any]) -> Iterator[str]:
    """Compare a finished segment's archived files, links or copies of the published ones, with its own hashes."""
    for name, expected in kept.get("sha256", {}).items():
        path = folder / name
        if path.is_file() and path.stat().st_size <= SMALL and file_sha256(path) != expected:
            yield f"{path} differs from the record in {folder / 'segment.json'}"


def read_segment(folder: Path) -> dict[str, Any]:
    """A finished segment's segment.json; empty if the folder does not exist.

    Raises UserError if it exists and cannot be read.
    """
    path = folder / "segment.json"
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not content.get("sha256"):
        raise UserError(f"{path} has no hashes")
    return content
