"""The reproduction card: an RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) that describes a results folder to machines.

Inputs and results by their SHA-256, the configuration, code and packages, what it cost and on which hardware, the
verdicts, and the interruptions that the trainings survived. What nobody measured is said to be not measured.
"""

from collections.abc import Iterable, Mapping
from mimetypes import guess_type
from pathlib import Path
from typing import Any
from urllib.parse import quote

from justrl.analysis import card_facts as facts
from justrl.analysis.results import load_result
from justrl.config import HubModel, LocalModel
from justrl.generation.downloads import check_download, read_record
from justrl.io import file_sha256, read_json, write_json
from justrl.layout import JUDGE, Layout
from justrl.paper import mark
from justrl.train.segment import WorkDir

NAME = "ro-crate-metadata.json"
TYPES = {
    ".md": "text/markdown",
    ".jinja": "text/plain",
    ".jsonl": "application/jsonl",
    ".parquet": "application/vnd.apache.parquet",
}
LICENSE = "The workflow gives these results no licence; models, data sets and benchmarks have those of their sources."
Ref = dict[str, str]


class Crate:
    """The entities of a crate whose root is a folder, by their @id; files are data entities with size and SHA-256."""

    def __init__(self, root: Path, known: Mapping[str, str] | None = None):
        """`known` has hashes by @id that need not be taken again."""
        self.root, self.known = root, known or {}
        self.entities: dict[str, dict[str, Any]] = {}

    def add(self, name: str, kind: str, /, **properties: Any) -> Ref:
        """Add an entity and return a reference to it; what is empty is left out, a list of one is its one value."""
        kept = {key: value for key, value in properties.items() if value not in (None, "", [])}
        kept |= {key: value[0] for key, value in kept.items() if isinstance(value, list) and len(value) == 1}
        self.entities[name] = {"@id": name, "@type": kind, **kept}
        return {"@id": name}

    def file(self, path: str | Path, sha256: str | None = None) -> Ref:
        """A file of the folder, hashed once unless its hash is known."""
        path = Path(path)
        name = quote(path.relative_to(self.root).as_posix(), safe="/@=+,")
        if name in self.entities:
            return {"@id": name}
        return self.add(
            name,
            "File",
            name=path.name,
            contentSize=str(path.stat().st_size),
            encodingFormat=TYPES.get(path.suffix) or guess_type(path.name)[0] or "application/octet-stream",
            sha256=sha256 or self.known.get(name) or file_sha256(path),
        )

    def folder(self, path: str | Path, name: str, description: str | None = None) -> Ref:
        """A folder and its files; those of a download by the hashes of its source.json, which are held against them."""
        path, known, source = Path(path), {}, {}
        if (path / "source.json").is_file():
            check_download(path)
            record = read_record(path / "source.json")
            place = "datasets/" if record.get("kind") == "dataset" else ""
            if record.get("origin") != "local":
                url = f"https://huggingface.co/{place}{record.get('hub_id')}"
                source = {"version": record.get("revision"), "url": url}
            known = record["files"]
        inside = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
        shown = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
        parts = [self.file(path / file, known.get(file.as_posix())) for file in shown]
        place = quote(path.relative_to(self.root).as_posix(), safe="/@=+,") + "/"
        return self.add(place, "Dataset", name=name, description=description, hasPart=parts, **source)

    def values(self, of: str, values: Mapping[str, Any]) -> list[Ref]:
        """Named values, such as what an action cost."""
        return [
            self.add(f"#{quote(of)}-{quote(name.lower().replace(' ', '-'))}", "PropertyValue", name=name, value=value)
            for name, value in values.items()
        ]


def write_card(layout: Layout, timings: Path) -> None:
    """Describe the finished experiment of `layout`, whose root is a folder, in its ro-crate-metadata.json."""
    write_json(Path(layout.root) / NAME, describe(layout, timings))


def describe(layout: Layout, timings: Path, known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The card of a finished experiment; the same files give the same card.

    `timings` is the folder in which Snakemake keeps each job's time, `known` has hashes that need not be taken again.
    """
    root, experiment = Path(layout.root), layout.experiment
    crate, made = Crate(root, known), read_json(root / "provenance.json")
    results = list(dict.fromkeys(map(Path, layout.evaluation_results())))
    code, inputs = _code(crate, made, results), _inputs(crate, layout)
    answers = [crate.file(path) for path in results]
    pages = [crate.file(path) for page in layout.pages() for path in _same_stem(Path(page))]
    frozen = [crate.file(path) for path in (*sorted(root.glob("experiments/*.json")), root / "hardware.json")]
    runs = {run: _run_files(crate, layout, run) for run in experiment.enabled}
    evaluation = crate.add(
        "#evaluation",
        "CreateAction",
        name="Evaluation",
        instrument=code,
        object=[ref for path, ref in inputs.items() if not path.startswith(f"{root}/data/")],
        result=answers,
        additionalProperty=crate.values("evaluation", facts.evaluation(layout, timings, results)),
    )
    actions = [*(_training(crate, layout, run, code, inputs, files) for run, files in runs.items()), evaluation]
    stamp = f" {marked}." if (marked := mark(layout.common_stamp)) else ""
    parts = [*frozen, *answers, *pages, *(ref for files in runs.values() for ref in files), *inputs.values()]
    crate.add(
        "./",
        "Dataset",
        name=f"JustRL (arXiv 2512.16649), reproduced: {experiment.experiment} experiment",
        description=f"Inputs, configuration, results and how they were made.{stamp}",
        datePublished=made["time"],
        license=crate.add("#license", "CreativeWork", name="No licence given", description=LICENSE),
        hasPart=[*{ref["@id"]: ref for ref in parts}.values()],
        mentions=[*actions, *_verdicts(crate, read_json(root / "claims.json")["claims"])],
        variableMeasured=crate.values("experiment", facts.experiment(layout, made, results)),
    )
    crate.add(NAME, "CreativeWork", about={"@id": "./"}, conformsTo={"@id": "https://w3id.org/ro/crate/1.1"})
    graph = sorted(crate.entities.values(), key=lambda entity: (entity["@id"] != NAME, entity["@id"] != "./"))
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph}


def _same_stem(page: Path) -> list[Path]:
    """A page and its other forms: the .md and .json of an .html, the .png and the .narrow.svg of an .svg."""
    stems = (page.stem, f"{page.stem}.narrow")
    return sorted(path for path in page.parent.iterdir() if path.stem in stems and path.is_file())


def _code(crate: Crate, made: Mapping[str, Any], results: Iterable[Path]) -> Ref:
    """The code by commit and hash, and the packages of the environments that answered, graded and reported."""
    versions = {*made["packages"].items()}
    for path in results:
        provenance = load_result(path).data.get("provenance") or {}
        environments = [provenance.get("packages") or {}, *provenance.get("generated_with", [])]
        versions |= {item for environment in environments for item in environment.items() if item[0] != "device"}
    packages = [
        crate.add(f"#package-{quote(f'{name}-{version}')}", "SoftwareApplication", name=name, softwareVersion=version)
        for name, version in sorted((name, str(version)) for name, version in versions)
    ]
    code = made["code"]
    return crate.add(
        "#code",
        "SoftwareSourceCode",
        name="justrl",
        version=code["commit"] + (" with uncommitted changes" if code.get("dirty") else ""),
        sha256=code.get("sha256"),
        description=code.get("reason"),
        programmingLanguage=f"Python {made['python']}",
        softwareRequirements=packages,
    )


def _inputs(crate: Crate, layout: Layout) -> dict[str, Ref]:
    """Models, data sets and benchmarks, by the path of the file or folder."""
    experiment, found = layout.experiment, {}
    runs = [experiment.runs[run] for run in experiment.enabled]
    judge = [JUDGE] if experiment.evaluation.model_grader.enabled else []
    for name in dict.fromkeys([*(run.model for run in runs), *experiment.enabled_external, *judge]):
        source, folder = layout.model_sources[name], layout.model(name)
        made = "made and taught by the workflow"
        if isinstance(source, HubModel | LocalModel):
            made = source.hub_id if isinstance(source, HubModel) else f"copied from {source.path}"
        found[folder] = crate.folder(folder, f"model {name}", made)
    for run in experiment.enabled:
        raw, data = layout.raw_data(experiment.runs[run].dataset), Path(layout.training_data(run))
        found[raw] = crate.folder(raw, f"data set {experiment.runs[run].dataset}")
        for path in (data, data.parent / "prepared/data_card.json", data.parent / "contamination.json"):
            found[str(path)] = crate.file(path)
    for name in experiment.evaluation.benchmarks:
        raw, questions = layout.raw_benchmark(name), layout.questions(name)
        found |= {raw: crate.folder(raw, f"benchmark {experiment.benchmarks[name].label}")}
        found |= {questions: crate.file(questions)}
    return found


def _run_files(crate: Crate, layout: Layout, run: str) -> list[Ref]:
    """What a run is and leaves: its description and metrics, and its last model where that is kept."""
    files = [layout.run_file(run), f"{layout.run(run)}/preflight.json", *layout.engine_config(run), layout.metrics(run)]
    model = Path(layout.segment_model(run, layout.experiment.runs[run].steps))
    return [crate.file(path) for path in files] + ([crate.folder(model, f"{run}, trained")] if model.is_dir() else [])


def _training(crate: Crate, layout: Layout, run: str, code: Ref, inputs: Mapping[str, Ref], files: list[Ref]) -> Ref:
    attempts = WorkDir(Path(layout.run(run)) / "work").read_attempts()
    return crate.add(
        f"#training-{quote(run)}",
        "CreateAction",
        name=f"Training of {run}",
        instrument=code,
        object=[files[0], inputs[layout.base_model(run)], inputs[layout.training_data(run)]],
        result=files[files.index(crate.file(layout.metrics(run))) :],
        startTime=attempts[0]["began"] if attempts else None,
        endTime=attempts[-1].get("ended") if attempts else None,
        additionalProperty=crate.values(f"training-{run}", facts.training(layout, run, attempts)),
    )


def _verdicts(crate: Crate, claims: Iterable[Mapping[str, Any]]) -> list[Ref]:
    """Each claim of the paper with our evidence and the verdict on it, which claims.json judges."""
    return [
        crate.add(
            f"#claim-{number}",
            "ClaimReview",
            name=one["verdict"],
            claimReviewed=one["claim"],
            reviewBody=one["evidence"],
        )
        for number, one in enumerate(claims, 1)
    ]
