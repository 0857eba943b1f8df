"""What finished files were made from, by content: training data and models of trained runs, questions of completions.

Behind an ancient() input Snakemake does not notice that a file changed. What it was is on disk: in the identity of a
run's segments and states, and in the settings that completions carry.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from justrl.config_files import differences, in_words
from justrl.data.contamination import TRAINED
from justrl.errors import UserError
from justrl.io import file_sha256, link_file, read_json_object, weights_sha256
from justrl.layout import Layout
from justrl.operations import frozen

# What of a benchmark's entry changes none of its questions.
FREE = ("label", "samples", "newer")
ACCEPT = "or accept it by `--config accept_changes=true`, which samples all these answers again"


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

    Files that are `planned` are made again by this start: training data is put back as it was (`keep_training_data`).
    """
    for run in layout.experiment.runs:
        known = identity(Path(layout.run(run))) if run in segments else {}
        sources = [
            ("train_file_sha256", layout.training_data(run), file_sha256),
            ("base_model_sha256", layout.base_model(run), weights_sha256),
        ]
        for key, path, sha256 in sources:
            if known.get(key) and path not in planned and Path(path).exists() and sha256(path) != known[key]:
                raise UserError(
                    f"{path} is other than when run {run} trained with it (SHA-256 {sha256(path):.12}..., it was "
                    f"{known[key]:.12}...): bring it back as it was, or train the run anew after "
                    f"`justrl set-aside {run} --results {layout.root}`"
                )
        model = layout.base_model(run)
        if known and model in planned and Path(model).exists():
            raise UserError(
                f"{model} would be made again, and run {run} has trained from it: undo the change that asks for it, or "
                f"train the run anew after `justrl set-aside {run} --results {layout.root}`"
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


def check_questions(layout: Layout, now: Mapping[str, Any], asked: Iterable[str], planned: Container[str]) -> None:
    """Raise UserError if completions that this start would use answer other questions than those of today.

    `now` are the benchmarks' entries, `asked` the files that the start uses or makes, `planned` those that it makes.

    A benchmark whose questions will be made again is compared by its entry with that of the last start, the others by
    their questions with what the completions say.
    """
    before = _frozen_benchmarks(Path(layout.root))
    used = sorted(path for path in asked if "/completions/" in path and path not in planned and Path(path).is_file())
    for name in layout.experiment.benchmarks:
        stale = [path for path in used if Path(path).parts[-4] == name]
        if not stale:
            continue
        questions = Path(layout.questions(name))
        changed = list(differences(before.get(name, {}), now.get(name, {}))) if name in before else []
        why = in_words(row for row in changed if row[0] not in FREE)
        if str(questions) in planned and questions.is_file() and why:
            raise UserError(_refusal(name, f"benchmarks.{name} has changed ({why})", stale))
        if str(questions) not in planned and questions.is_file():
            other = list(_of_other_questions(stale, questions))
            if other:
                raise UserError(_refusal(name, f"{questions} is other than the questions that were asked", other))


def _refusal(name: str, why: str, files: list[str]) -> str:
    more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
    return (
        f"{why}, and {files[0]}{more} answer what benchmark {name} asked before: undo the change, give the changed "
        f"benchmark a name of its own, {ACCEPT}"
    )


def _frozen_benchmarks(results: Path) -> dict[str, Any]:
    last = frozen.newest(results)
    return dict((frozen.saved(last) or {}).get("config", {}).get("benchmarks") or {}) if last else {}


def _of_other_questions(files: list[str], questions: Path) -> Iterator[str]:
    from justrl.evaluation.completions import table_settings
    from justrl.evaluation.generating import benchmark_fingerprint, read_benchmark

    today = benchmark_fingerprint(read_benchmark(questions)[1])
    for file in files:
        try:
            asked = table_settings(file).get("benchmark_fingerprint")
        except (OSError, ValueError):
            continue  # torn: whoever reads it says so
        if asked not in (None, today):
            yield file
