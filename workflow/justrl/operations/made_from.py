"""What trained runs were made from, by content: their training data and base models.

Behind an ancient() input Snakemake does not notice that a file changed. What it was is on disk, in the identity of a
run's segments and states.
"""

from collections.abc import Container
from pathlib import Path
from typing import Any

from justrl.data.contamination import TRAINED
from justrl.errors import UserError
from justrl.io import file_sha256, link_file, read_json_object, weights_sha256
from justrl.layout import Layout


def identity(run: Path) -> dict[str, Any]:
    """What the newest finished segment or state of a run says that it was trained from; {} of a run without any."""
    work = run / "work"
    segments = sorted(work.glob("finished/step_*/segment.json"), reverse=True)
    found = [read_json_object(file).get("identity") for file in segments]
    states = sorted(work.glob("checkpoints/step_*/state.json"), reverse=True)
    found += [read_json_object(file).get("identity") for file in states]
    found.append(read_json_object(work / "checkpoints/identity.json"))
    return next((known for known in found if isinstance(known, dict) and known), {})


def check_trained_runs(layout: Layout, segments: Container[str], planned: Container[str]) -> None:
    """Raise UserError if a run of `segments` that has trained would go on with other data or another base model.

    Files that are `planned` are made again by this start: training data is put back as it was (`keep_training_data`),
    the base model of no run that has trained is.
    """
    for run in layout.experiment.runs:
        known = identity(Path(layout.run(run)))
        sources = [
            ("train_file_sha256", layout.training_data(run), file_sha256),
            ("base_model_sha256", layout.base_model(run), weights_sha256),
        ]
        for key, path, sha256 in sources if run in segments else ():
            if known.get(key) and path not in planned and Path(path).exists() and sha256(path) != known[key]:
                raise UserError(
                    f"{path} has changed since run {run} trained with it (SHA-256 {sha256(path):.12}..., it was "
                    f"{known[key]:.12}...): restore the file, or retrain the run after "
                    f"`justrl set-aside {run} --results {layout.root}`"
                )
        model = layout.base_model(run)
        if known and model in planned and Path(model).exists():
            raise UserError(
                f"{model} would be created again, but run {run} was trained from it: undo the change that "
                f"causes this, or retrain the run after `justrl set-aside {run} --results {layout.root}`"
            )


def keep_training_data(layout: Layout, planned: Container[str]) -> None:
    """Keep the training data of runs that have trained where the job that makes it again takes it from.

    Benchmarks decide which questions are removed only until the first step is trained; later ones are reported.
    """
    for run in layout.experiment.runs:
        data = Path(layout.training_data(run))
        if str(data) in planned and data.is_file():
            known = identity(Path(layout.run(run))).get("train_file_sha256")
            kept = data.with_name(TRAINED)
            if known == file_sha256(data) and not (kept.is_file() and file_sha256(kept) == known):
                kept.unlink(missing_ok=True)
                link_file(data, kept)
