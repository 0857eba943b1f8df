"""Provenance of a result: code, configuration, data, software, hardware and cost, without paths or host names."""

import csv
import os
import platform
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from justrl.config.layout import Layout
from justrl.errors import UserError
from justrl.evaluation.completions import comparable
from justrl.hardware import machine
from justrl.io import file_sha256, json_sha256, read_object, write_json
from justrl.report.html_tables import Section, text_table, write_tables
from justrl.report.metrics import read_metrics, series
from justrl.report.results import load_result
from justrl.training.segment import WorkDir

NOT_MEASURED = "not measured"
NO_COMMIT: dict[type[Exception], str] = {
    FileNotFoundError: "git is not installed",
    subprocess.TimeoutExpired: "git did not answer",
    subprocess.CalledProcessError: "the package does not run from a git checkout",
}

PACKAGES = (
    "torch", "transformers", "tokenizers", "vllm", "verl", "ray", "flash-attn", "math-verify", "sympy", "datasets",
    "pyarrow", "pandas", "numpy", "scipy", "matplotlib", "snakemake",
)  # fmt: skip


def collect_provenance(
    config: Mapping[str, Any] | None = None,
    seeds: Mapping[str, int | None] | None = None,
    sources: Iterable[str | Path] = (),
    results: Iterable[str | Path] = (),
    command: Sequence[str] | None = None,
    packages: Sequence[str] = PACKAGES,
) -> dict[str, Any]:
    """Describe how a result is made, as plain values ready for JSON.

    `sources` are the source.json files of the data sets and models used. `results` are the result files whose models,
    settings and machines are to be listed. `command` defaults to this process's own command line. Paths, host and user
    names are left out: every absolute path is reduced to its last part.
    """
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": describe_command(sys.argv if command is None else command),
        "code": code_version(Path(__file__).resolve().parent) | {"sha256": code_sha256()},
        "config_sha256": None if config is None else json_sha256(config),
        "seeds": dict(seeds or {}),
        "sources": [without_paths(_read(path, "--sources")) for path in sources],
        "evaluations": [_evaluation(path) for path in results],
        "packages": package_versions(packages),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "hardware": {"cpu": _cpu_model(), "cores": machine.usable_cores(), "memory_gib": _memory_gib(), "gpus": gpus()},
    }


def result_provenance(
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    grading: Sequence[Mapping[str, Any]],
    inputs: Mapping[str, Path | Sequence[Path]],
) -> dict[str, Any]:
    """Describe how a result was made from files; identical whenever and wherever the same files are scored.

    Args:
        config: the part of the configuration that determines the result (`Layout.configuration`).
        settings: the generation settings of the completions, from `read_completions`.
        grading: the settings of each grades file.
        inputs: the files by kind; they are hashed.
    """
    files = {key: [value] if isinstance(value, Path) else value for key, value in inputs.items()}
    return {
        "code": code_version(Path(__file__).resolve().parent) | {"sha256": code_sha256()},
        "config_sha256": json_sha256(config),
        "config": config,
        "inputs": {
            kind: [{"file": path.name, "sha256": file_sha256(path)} for path in paths] for kind, paths in files.items()
        },
        "generation": comparable(settings),
        "generated_with": settings.get("environments", []),
        "grading": list(grading),
        "packages": package_versions(),
        "python": platform.python_version(),
    }


def code_sha256() -> str:
    """One SHA-256 over the names and contents of all modules of this package, committed or not."""
    package = Path(__file__).resolve().parents[1]
    return json_sha256({path.relative_to(package).as_posix(): file_sha256(path) for path in package.rglob("*.py")})


def code_version(folder: Path) -> dict[str, Any]:
    """Commit of the repository that tracks this package and whether it has uncommitted changes.

    Without git, or for an installed copy, the commit is "unknown" and `reason` explains why.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(folder, "rev-parse", "HEAD").strip()
        dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no").strip())
    except tuple(NO_COMMIT) as error:
        return {"commit": "unknown", "dirty": None, "reason": NO_COMMIT[type(error)]}
    return {"commit": commit, "dirty": dirty}


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones of these packages, from their metadata; nothing is imported."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each NVIDIA GPU; empty without one."""
    with suppress(machine.NoDriver):
        return [
            {"name": gpu.name, "memory": f"{gpu.memory:.0f} MiB" if gpu.memory else "unknown", "driver": gpu.driver}
            for gpu in machine.gpus()
        ]
    return []


def without_paths(value: Any) -> Any:
    """A copy of plain values in which every absolute path is reduced to its last part."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and "\n" not in value and Path(value).is_absolute():
        return Path(value).name
    return value


def describe_command(arguments: Sequence[str]) -> str:
    """A command line as a user would type it: `python -m` for a module's path, absolute paths without their folders."""
    first, *rest = [str(argument) for argument in arguments]
    parts = Path(first).with_suffix("").parts
    if "justrl" in parts:
        module = parts[len(parts) - 1 - parts[::-1].index("justrl") :]
        head = ["python", "-m", ".".join(part for part in module if part != "__main__")]
    else:
        head = [Path(first).name]
    cut = []
    for argument in rest:
        option, equals, value = argument.partition("=")
        named = equals and option.startswith("--")
        cut.append(f"{option}={without_paths(value)}" if named else without_paths(argument))
    return shlex.join([*head, *cut])


def _read(path: str | Path, option: str) -> Any:
    try:
        return read_object(path)
    except (OSError, UserError) as error:
        raise UserError(f"{option}: {path} cannot be read as JSON: {error}") from None


def _evaluation(path: str | Path) -> dict[str, Any]:
    """The provenance in a result file: model, protocol, backend, seed, software and machines."""
    result = _read(path, "--results")
    made = result.get("provenance") or {}
    generation = made.get("generation") or {}
    kept = ("model", "model_revision", "model_fingerprint", "backend", "dtype", "seed", "benchmark_fingerprint")
    return without_paths(
        {
            "name": result.get("name"),
            "benchmark": result.get("benchmark"),
            "protocol": (result.get("protocol") or {}).get("name"),
            "questions": result.get("n_questions"),
            "samples": result.get("samples_per_question"),
            **{key: generation.get(key) for key in kept},
            "generated_with": made.get("generated_with") or [],
        }
    )


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError, AttributeError):
        return None


def experiment_cost(layout: Layout, timings: Path) -> dict[str, Any]:
    """The cost of each finished training and of the evaluations; `timings` has Snakemake's time of each job."""
    runs = [run for run in layout.experiment.enabled if Path(layout.metrics(run)).is_file()]
    results = [path for path in map(Path, layout.evaluation_results()) if path.is_file()]
    folders = {run: WorkDir(Path(layout.run(run)) / "work") for run in runs}
    trainings = {run: training_cost(layout, run, folder.read_attempts()) for run, folder in folders.items()}
    return {"trainings": trainings, "evaluations": evaluation_cost(layout, timings, results)}


def training_cost(layout: Layout, run: str, attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Duration, GPU hours and interruptions of a run; `attempts` are the records of the run's work folder.

    GPU hours are those of the steps in the metrics. They exclude start-ups and steps that an interruption lost.
    """
    rows = read_metrics(layout.metrics(run))
    _, seconds = series(rows, "step_seconds")
    gpus = sorted({attempt["gpus"] for attempt in attempts} or {layout.experiment.hardware.gpus})
    hours: Any = round(sum(seconds) / 3600, 4)
    cost: Any = round(sum(seconds) / 3600 * gpus[0], 4)
    if len(gpus) > 1:
        cost = f"not known: trained on {' and '.join(map(str, gpus))} GPUs"
    if len(seconds) < len(rows):
        hours, cost = NOT_MEASURED, f"not known: {len(rows) - len(seconds)} of {len(rows)} steps have no time"
    ends = {int(Path(path).parent.name) for path in layout.all_segments(run)}
    return {"steps": len(rows), "hours": hours, "gpu_hours": cost, **_interruptions(attempts, ends)}


def _interruptions(attempts: Sequence[Mapping[str, Any]], segments: set[int]) -> dict[str, Any]:
    """Number of attempts, and of those that did not finish, by outcome; notes if only some segments were recorded."""
    if not attempts:
        return {"attempts": "not recorded", "interruptions": "not recorded"}
    ways = Counter(attempt.get("how", "killed") for attempt in attempts)
    broken = ", ".join(f"{ways[way]} {way}" for way in ("stopped", "killed", "failed") if ways[way])
    recorded = segments & {attempt["to_step"] for attempt in attempts if attempt.get("how") == "finished"}
    part = "" if recorded == segments else f"; of {len(recorded)} of {len(segments)} segments"
    count = len(attempts) - ways["finished"]
    return {"attempts": len(attempts), "interruptions": f"{count} ({broken}){part}" if broken or part else 0}


def evaluation_cost(layout: Layout, timings: Path, results: Iterable[Path]) -> dict[str, Any]:
    """Time to generate answers and query the judge for these results; of each job, only the attempt that finished."""
    targets = tuple({f"{layout.target(load_result(path).data['name'])}_" for path in results})
    timed = (path for rule in ("generate", "grade_by_model") for path in (timings / rule).glob("*.tsv"))
    files = [path for path in timed if path.name.startswith(targets)]
    if not files:
        return {"jobs": NOT_MEASURED, "hours": NOT_MEASURED, "gpu_hours": NOT_MEASURED}
    seconds = []
    for path in files:
        lines = path.read_text(encoding="utf-8").splitlines()
        seconds += [float(row["s"]) for row in csv.DictReader(lines, delimiter="\t")]
    hours = sum(seconds) / 3600
    gpu_hours = round(hours * layout.experiment.hardware.gpus_per_evaluation, 4)
    return {"jobs": len(files), "hours": round(hours, 4), "gpu_hours": gpu_hours}


def write_provenance(record: Mapping[str, Any], experiment: str, outputs: Mapping[str, Path]) -> None:
    """Write a provenance record: `outputs` maps file endings, `.json` and `.html` (a page of the report), to files."""
    if ".json" in outputs:
        write_json(outputs[".json"], {"experiment": experiment, **record})
    write_tables(outputs, "Provenance", provenance_sections(record), experiment)


def provenance_sections(record: Mapping[str, Any]) -> list[Section]:
    """The report itself, the data sets and models, the evaluations, the cost, the packages."""
    code, computer = record["code"], record["hardware"]
    commit = code["commit"] + (" with uncommitted changes" if code.get("dirty") else "")
    names = [gpu["name"] for gpu in computer["gpus"]]
    values = {
        "Time (UTC)": record["time"],
        "Code": commit + (f" ({code['reason']})" if code.get("reason") else ""),
        "Configuration (SHA-256)": record["config_sha256"] or "–",
        "Seeds": ", ".join(f"{name} {seed}" for name, seed in record["seeds"].items()) or "–",
        "Python": record["python"],
        "System": record["system"],
        "Processor": f"{computer['cpu']}, {computer['cores']} cores",
        "Memory": "–" if computer["memory_gib"] is None else f"{computer['memory_gib']} GiB",
        "GPUs": ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) or "none",
    }
    sections = [text_table("This report", ["What", "Value"], values.items())]
    if record["sources"]:
        keys = (("hub_id", "name", "id"), ("kind",), ("revision",), ("origin", "source"))
        rows = [[_first(source, *each) for each in keys] for source in record["sources"]]
        sections.append(text_table("Data sets and models", ["Id", "Kind", "Revision", "From"], rows))
    if record["evaluations"]:
        sections.append(_evaluation_section(record["evaluations"]))
    if "cost" in record:
        kinds = {f"training of {run}": values for run, values in record["cost"]["trainings"].items()}
        kinds["evaluations"] = record["cost"]["evaluations"]
        facts = ("hours", "gpu_hours", "steps", "attempts", "interruptions")
        rows = [[what, *(values.get(key, "–") for key in facts)] for what, values in kinds.items()]
        columns = ["What", "Hours", "GPU hours", "Steps", "Attempts", "Interruptions"]
        sections.append(text_table("Cost", columns, rows))
    packages = record["packages"].items()
    return [*sections, text_table("Packages of the report's environment", ["Package", "Version"], packages)]


def _evaluation_section(evaluations) -> Section:
    """One row per model, protocol and backend, because its benchmarks differ only in their questions."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for entry in evaluations:
        model = _first(entry, "model_revision", "model_fingerprint")
        key = (entry["name"], model, entry["protocol"], entry["backend"], entry["seed"])
        groups.setdefault(key, []).append(entry)
    rows = []
    for (name, model, protocol, backend, seed), entries in groups.items():
        answers = sum((entry["questions"] or 0) * (entry["samples"] or 0) for entry in entries)
        values = (name, model, protocol, backend, seed, len(entries), f"{answers:,}")
        rows.append(["–" if value is None else value for value in values])
    columns = ["Model", "Revision or fingerprint", "Protocol", "Backend", "Seed", "Benchmarks", "Answers"]
    return text_table("Evaluations", columns, rows)


def _first(mapping: Mapping[str, Any], *keys: str) -> str:
    return next((str(mapping[key]) for key in keys if mapping.get(key) not in (None, "")), "–")
