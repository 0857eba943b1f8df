"""Check by content what trained runs were made from: their training data and base models.

Snakemake does not notice a changed file behind an ancient() input. The identity in a run's segments and states records
the hashes of the files that it was trained from.
"""

from collections.abc import Container
from pathlib import Path
from typing import Any

from justrl.config.layout import Layout
from justrl.data.contamination import TRAINED
from justrl.errors import UserError
from justrl.io import file_sha256, link_file, read_json_object, weights_sha256


def identity(run: Path) -> dict[str, Any]:
    """The identity recorded in the run's newest finished segment or state; {} if it has none."""
    work = run / "work"
    segments = sorted(work.glob("finished/step_*/segment.json"), reverse=True)
    found = [read_json_object(file).get("identity") for file in segments]
    states = sorted(work.glob("checkpoints/step_*/state.json"), reverse=True)
    found += [read_json_object(file).get("identity") for file in states]
    found.append(read_json_object(work / "checkpoints/identity.json"))
    return next((known for known in found if isinstance(known, dict) and known), {})


def check_trained_runs(layout: Layout, segments: Container[str], planned: Container[str]) -> None:
    """Raise UserError if a trained run of `segments` would continue with other data or another base model.

    Files that are `planned` will be recomputed by this start. Training data is then restored as it was
    (`keep_training_data`). A base model from which a run has trained may not be recomputed.
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
    """Keep the training data of trained runs where the job that recomputes it will find it.

    Benchmarks decide which questions are removed only until the first step is trained. Overlaps with benchmarks that
    are added later are only reported.
    """
    for run in layout.experiment.runs:
        data = Path(layout.training_data(run))
        if str(data) in planned and data.is_file():
            known = identity(Path(layout.run(run))).get("train_file_sha256")
            kept = data.with_name(TRAINED)
            if known == file_sha256(data) and not (kept.is_file() and file_sha256(kept) == known):
                kept.unlink(missing_ok=True)
                link_file(data, kept)
