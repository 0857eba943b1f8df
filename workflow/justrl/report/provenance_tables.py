"""The provenance record as tables for the report."""

from collections.abc import Mapping
from typing import Any

from justrl.report.html_tables import Section, Text


def provenance_sections(record: Mapping[str, Any]) -> list[Section]:
    """The report itself, the data sets and models, the evaluations, the cost, the packages."""
    sections = [_report_section(record)]
    if record["sources"]:
        sections.append(_source_section(record["sources"]))
    if record["evaluations"]:
        sections.append(_evaluation_section(record["evaluations"]))
    if "cost" in record:
        sections.append(_cost_section(record["cost"]))
    rows = [[Text(name), Text(version)] for name, version in record["packages"].items()]
    sections.append(Section("Packages of the report's environment", ["Package", "Version"], rows, numeric=False))
    return sections


def _report_section(record: Mapping[str, Any]) -> Section:
    code, machine = record["code"], record["hardware"]
    commit = code["commit"] + (" with uncommitted changes" if code.get("dirty") else "")
    names = [gpu["name"] for gpu in machine["gpus"]]
    memory = "–" if machine["memory_gib"] is None else f"{machine['memory_gib']} GiB"
    values = {
        "Time (UTC)": record["time"],
        "Code": commit + (f" ({code['reason']})" if code.get("reason") else ""),
        "Configuration (SHA-256)": record["config_sha256"] or "–",
        "Seeds": ", ".join(f"{name} {seed}" for name, seed in record["seeds"].items()) or "–",
        "Python": record["python"],
        "System": record["system"],
        "Processor": f"{machine['cpu']}, {machine['cores']} cores",
        "Memory": memory,
        "GPUs": ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names)) or "none",
    }
    rows = [[Text(name), Text(value)] for name, value in values.items()]
    return Section("This report", ["What", "Value"], rows, numeric=False)


def _source_section(sources) -> Section:
    rows = [
        [
            Text(_first(source, "hub_id", "name", "id")),
            Text(_first(source, "kind")),
            Text(_first(source, "revision")),
            Text(_first(source, "origin", "source")),
        ]
        for source in sources
    ]
    return Section("Data sets and models", ["Id", "Kind", "Revision", "From"], rows, numeric=False)


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
        cells = [name, model, protocol, backend, seed, f"{len(entries)}", f"{answers:,}"]
        rows.append([Text("–" if cell is None else str(cell)) for cell in cells])
    columns = ["Model", "Revision or fingerprint", "Protocol", "Backend", "Seed", "Benchmarks", "Answers"]
    return Section("Evaluations", columns, rows, numeric=False)


def _cost_section(cost: Mapping[str, Any]) -> Section:
    """Hours and interruptions of each training, and of all evaluations together."""
    kinds = {f"training of {run}": values for run, values in cost["trainings"].items()}
    keys = ("hours", "gpu_hours", "steps", "attempts", "interruptions")
    rows = [
        [Text(what), *(Text(str(values.get(key, "–"))) for key in keys)]
        for what, values in (kinds | {"evaluations": cost["evaluations"]}).items()
    ]
    return Section("Cost", ["What", "Hours", "GPU hours", "Steps", "Attempts", "Interruptions"], rows, numeric=False)


def _first(mapping: Mapping[str, Any], *keys: str) -> str:
    return next((str(mapping[key]) for key in keys if mapping.get(key) not in (None, "")), "–")
