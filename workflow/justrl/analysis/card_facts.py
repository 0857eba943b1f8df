"""What a reproduction card says in numbers: cost, hardware, verdicts, interruptions; or that nobody measured it."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from justrl.analysis.metrics import read_metrics, series
from justrl.analysis.results import load_result
from justrl.io import read_json, read_json_object
from justrl.layout import Layout
from justrl.train import alarms
from justrl.train.segment import WorkDir

NOT_MEASURED = "not measured"
ENERGY = {"energy in kWh": NOT_MEASURED}  # by no part of the workflow


def experiment(layout: Layout, made: Mapping[str, Any], results: Iterable[Path]) -> dict[str, Any]:
    """The configuration by its hash, hardware as configured and as found, and the verdicts beside published figures.

    `made` is provenance.json; what answered is taken from the results.
    """
    provenance = [load_result(path).data.get("provenance") or {} for path in results]
    devices = {one["device"] for record in provenance for one in record.get("generated_with", []) if "device" in one}
    codes = {(record.get("code") or {}).get("sha256") or "unknown" for record in provenance}
    report = made["hardware"]
    gpus = ", ".join(gpu["name"] for gpu in report["gpus"]) or "no GPU"
    found = {
        "configuration SHA-256": made["config_sha256"],
        "seed": layout.experiment.seed,
        "code SHA-256 of the results": ", ".join(sorted(codes)),
        "hardware as configured": json.dumps(read_json(f"{layout.root}/hardware.json"), sort_keys=True),
        "devices that answered": ", ".join(sorted(devices)) or "not recorded",
        "machine of the report": f"{report['cpu']}, {report['cores']} cores, {gpus}",
    }
    for family in layout.families():
        found[f"comparison {family}"] = _comparison(Path(f"{layout.root}/comparison/{family}.csv"))
    return found


def _comparison(path: Path) -> str:
    """How many figures of the headline grader agree with the paper's, are above or below, or cannot be compared."""
    with path.open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["headline"] == "True" and row["reference"] == "paper"]
    counts = Counter(row["verdict"] for row in rows)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in sorted(counts))


def training(layout: Layout, run: str, attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a run's steps took, on what, and what it survived; `attempts` as the run's work folder records them.

    GPU hours are those of the steps in the metrics; steps that an interruption lost and starts are not in them.
    """
    rows, described = read_metrics(layout.metrics(run)), layout.experiment.runs[run]
    _, seconds = series(rows, "step_seconds")
    gpus = sorted({attempt["gpus"] for attempt in attempts} or {layout.experiment.hardware.gpus})
    hours: Any = round(sum(seconds) / 3600, 4)
    cost: Any = round(sum(seconds) / 3600 * gpus[0], 4)
    if len(gpus) > 1:
        cost = f"not known: trained on {' and '.join(map(str, gpus))} GPUs"
    if len(seconds) < len(rows):
        hours, cost = (
            NOT_MEASURED,
            f"not known: {len(rows) - len(seconds)} of {len(rows)} steps have no time",
        )
    looked = [Path(layout.run(run)) / "preflight.json", WorkDir(Path(layout.run(run)) / "work").node]
    checks = {check["name"]: check["found"] for file in looked for check in read_json_object(file).get("checks", [])}
    return {
        "engine": described.engine,
        "steps": len(rows),
        "GPUs": gpus[0] if len(gpus) == 1 else " and ".join(map(str, gpus)),
        "hours of the steps": hours,
        "GPU hours of the steps": cost,
        **ENERGY,
        "GPUs as its first job found them": checks.get("gpus", "not recorded"),
        "packages as the preflight found them": checks.get("packages", "not recorded"),
        "accepted alarms": alarms.accepted_in_words(rows) or 0,
        **_interruptions(attempts, {int(Path(path).parent.name) for path in layout.all_segments(run)}),
    }


def _interruptions(attempts: Sequence[Mapping[str, Any]], segments: set[int]) -> dict[str, Any]:
    """The attempts that ended otherwise than with their segment, and how; of all segments, or it says of how many."""
    if not attempts:
        return {"attempts": "not recorded", "interruptions survived": "not recorded"}
    ways = Counter(attempt.get("how", "killed") for attempt in attempts)
    broken = ", ".join(f"{ways[way]} {way}" for way in ("stopped", "killed", "failed") if ways[way])
    recorded = segments & {attempt["to_step"] for attempt in attempts if attempt.get("how") == "finished"}
    part = "" if recorded == segments else f"; of {len(recorded)} of {len(segments)} segments"
    count = len(attempts) - ways["finished"]
    return {"attempts": len(attempts), "interruptions survived": f"{count} ({broken}){part}" if broken or part else 0}


def evaluation(layout: Layout, timings: Path, results: Iterable[Path]) -> dict[str, Any]:
    """What generating answers and asking the judge took, for these results: of each job, the attempt that finished."""
    targets = tuple({f"{layout.target(load_result(path).data['name'])}_" for path in results})
    timed = (path for rule in ("generate", "grade_by_model") for path in (timings / rule).glob("*.tsv"))
    files = [path for path in timed if path.name.startswith(targets)]
    gpus = layout.experiment.hardware.gpus_per_evaluation
    if not files:
        return {"jobs": NOT_MEASURED, "GPU hours of the jobs": NOT_MEASURED, **ENERGY}
    seconds = []
    for path in files:
        with path.open(encoding="utf-8", newline="") as handle:
            seconds += [float(row["s"]) for row in csv.DictReader(handle, delimiter="\t")]
    hours = sum(seconds) / 3600
    return {
        "jobs": len(files),
        "GPUs of a job": gpus,
        "hours of the jobs": round(hours, 4),
        "GPU hours of the jobs": round(hours * gpus, 4),
        **ENERGY,
    }
