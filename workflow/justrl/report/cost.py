"""Cost of trainings and evaluations: hours, GPU hours, attempts and interruptions, where they were recorded."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from justrl.config.layout import Layout
from justrl.report.metrics import read_metrics, series
from justrl.report.results import load_result
from justrl.training.segment import WorkDir

NOT_MEASURED = "not measured"


def experiment_cost(layout: Layout, timings: Path) -> dict[str, Any]:
    """The cost of each finished training and of the evaluations; `timings` has Snakemake's time of each job."""
    runs = [run for run in layout.experiment.enabled if Path(layout.metrics(run)).is_file()]
    results = [path for path in map(Path, layout.evaluation_results()) if path.is_file()]
    trainings = {run: training(layout, run, WorkDir(Path(layout.run(run)) / "work").read_attempts()) for run in runs}
    return {"trainings": trainings, "evaluations": evaluation(layout, timings, results)}


def training(layout: Layout, run: str, attempts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


def evaluation(layout: Layout, timings: Path, results: Iterable[Path]) -> dict[str, Any]:
    """Time to generate answers and query the judge for these results; of each job, only the attempt that finished."""
    targets = tuple({f"{layout.target(load_result(path).data['name'])}_" for path in results})
    timed = (path for rule in ("generate", "grade_by_model") for path in (timings / rule).glob("*.tsv"))
    files = [path for path in timed if path.name.startswith(targets)]
    if not files:
        return {"jobs": NOT_MEASURED, "hours": NOT_MEASURED, "gpu_hours": NOT_MEASURED}
    seconds = []
    for path in files:
        with path.open(encoding="utf-8", newline="") as handle:
            seconds += [float(row["s"]) for row in csv.DictReader(handle, delimiter="\t")]
    hours = sum(seconds) / 3600
    gpu_hours = round(hours * layout.experiment.hardware.gpus_per_evaluation, 4)
    return {"jobs": len(files), "hours": round(hours, 4), "gpu_hours": gpu_hours}
