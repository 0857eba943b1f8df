"""Grade saved completions: one row per sample and grader.

A grader that crashes is an error with the sample's name, never a `wrong`. A sample on which a grader gives up is
`timeout`. An answer cut off inside its last box is `unparsed` for `strict` and `symbolic`.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from justrl.config import OwnFunction
from justrl.errors import UserError
from justrl.evaluation.completions import GOLD, KEY, METADATA_KEY, digest, read_table, table_settings
from justrl.evaluation.released import match_questions
from justrl.io import write_parquet

if TYPE_CHECKING:
    import pandas

    from justrl.verifiers.outcome import Grader

OUTCOMES = ("correct", "wrong", "unparsed", "timeout")
COLUMNS = [*KEY, "grader", "outcome", "extracted"]
MODEL = "model"
CHUNK = 512
# For a user's grader: the number of undecided samples to name, and the share of undecided samples that ends the job. A
# single one never does.
NAMED = 3
UNDECIDED_SHARE = 0.01
# Graders that would read an earlier box if the last one is cut off. The paper's graders read no earlier box, or do as
# the authors' code does.
WHOLE_BOX = ("strict", "symbolic")


def grade_samples(
    samples: "pandas.DataFrame",
    graders: Sequence[str],
    options: dict[str, dict] | None = None,
    own: Mapping[str, OwnFunction] | None = None,
):
    """Grade every sample with every named grader.

    Args:
        samples: completions from `read_completions`.
        graders: names for `justrl.verifiers.get_grader`.
        options: constructor options by grader.
        own: the user's functions by name, applied after the named graders.

    Returns:
        A DataFrame of COLUMNS, grader by grader, in the order of the samples.
    """
    from justrl.verifiers import get_grader
    from justrl.verifiers.own import OwnGrader

    own = own or {}
    repeated = [name for name, count in Counter([*graders, *own]).items() if count > 1]
    if repeated or not graders:
        raise UserError(f"--graders: {repeated[0]} is named twice" if repeated else "--graders: name at least one")
    loaded: dict[str, Grader] = {name: get_grader(name, **(options or {}).get(name, {})) for name in graders}
    loaded |= {name: OwnGrader(function) for name, function in own.items()}
    return _concat(_grade_with(grader, name, samples) for name, grader in loaded.items())


def check_whole(samples: "pandas.DataFrame", settings: Mapping[str, Any]) -> None:
    """Raise UserError, naming the first case, if a question lacks samples or has different reference answers.

    The settings give the number of samples per question; otherwise it is the largest number of any question.
    """
    if GOLD not in samples:
        raise UserError("the completions have no reference answers: give the benchmark file with --golds")
    for (benchmark, question), rows in samples.groupby(["benchmark", "question_id"], sort=False):
        if (answers := rows[GOLD].unique()).size > 1:
            raise UserError(
                f"question {question} of {benchmark} has {answers.size} reference answers, {answers[0]!r:.60} and "
                f"{answers[1]!r:.60}: use those of the benchmark file (--golds), or remove the wrong rows"
            )
    wanted = (settings.get("protocol") or {}).get("samples") or int(samples["sample_index"].max()) + 1
    counts = samples.groupby(["benchmark", "question_id"], sort=False).size()
    few = counts[counts < wanted]
    if len(few):
        benchmark, question = few.index[0]
        raise UserError(
            f"{int((wanted - few).sum())} of {wanted * len(counts)} samples of {benchmark} are missing; "
            f"question {question}, the first incomplete one, has {few.iloc[0]} of {wanted}: give all "
            "files of these completions"
        )


def with_golds(
    samples: "pandas.DataFrame", settings: dict[str, Any], benchmark: str, questions: Sequence
) -> "pandas.DataFrame":
    """Add a benchmark's reference answers to the samples, replacing any that they have.

    Released samples also get the benchmark's question ids. Raises UserError for a sample without a question in it.
    """
    if settings.get("source") == "released":
        samples = match_questions(samples, questions).assign(benchmark=benchmark)
    answers = {question.id: question.answer for question in questions}
    unknown = samples[(samples["benchmark"] != benchmark) | ~samples["question_id"].isin(answers)]
    if len(unknown):
        raise UserError(f"the benchmark {benchmark} has no answer for {_name(unknown)}")
    return samples.assign(answer=samples["question_id"].map(answers))


def rejected_samples(samples: "pandas.DataFrame", grades: "pandas.DataFrame", grader: str) -> "pandas.DataFrame":
    """The samples that a grader did not grade as correct, whatever their outcome."""
    rows = grades[grades["grader"] == grader]
    if not len(rows):
        raise UserError(f"the given grades hold no verdicts of {grader}: grade with it first")
    check_complete(samples, rows, grader)
    correct = rows.loc[rows["outcome"] == "correct", KEY]
    marked = samples.merge(correct, on=KEY, how="left", indicator=True)
    return samples[(marked["_merge"] == "left_only").to_numpy()]


def check_complete(samples: "pandas.DataFrame", rows: "pandas.DataFrame", grader: str) -> None:
    """Raise UserError, naming the first case, unless a grader's grades and the samples match one to one."""
    twice = rows[rows.duplicated(KEY)]
    if len(twice):
        raise UserError(f"{len(twice)} samples have two verdicts of {grader}, the first being {_name(twice)}")
    both = samples[KEY].merge(rows[KEY], on=KEY, how="outer", indicator=True)
    ungraded, unknown = both[both["_merge"] == "left_only"], both[both["_merge"] == "right_only"]
    if len(ungraded):
        raise UserError(f"{len(ungraded)} samples have no verdict of {grader}, the first being {_name(ungraded)}")
    if len(unknown):
        raise UserError(
            f"{len(unknown)} verdicts of {grader} are on samples that are not there, the first being {_name(unknown)}"
        )


def write_grades(
    grades: "pandas.DataFrame", path: str | Path, samples: "pandas.DataFrame", settings: dict[str, Any]
) -> None:
    """Write grades as Parquet, with the digest of their completions and the graders' settings."""
    import pyarrow

    kinds = {"sample_index": pyarrow.int32()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    metadata = json.dumps({"completions": digest(samples), **settings}, ensure_ascii=False)
    table = pyarrow.Table.from_pandas(grades[COLUMNS], schema=schema, preserve_index=False)
    table = table.replace_schema_metadata({METADATA_KEY: metadata.encode()})
    write_parquet(table, path, compression="zstd")


def read_grades(paths: Sequence[str | Path], samples: "pandas.DataFrame") -> tuple["pandas.DataFrame", list[dict]]:
    """Read the grades files of these samples. Returns the grades and the settings of each file.

    Raises UserError: a file that doesn't exist or has no grades, an outcome other than the four, or grades of other
    completions (by digest), even if question and sample numbers agree.
    """
    expected, frames, settings = digest(samples), [], []
    for path in map(Path, paths):
        frame = read_table(path, COLUMNS, "grades").to_pandas()
        strange = frame[~frame["outcome"].isin(OUTCOMES)]
        if len(strange):
            raise UserError(f"{path}: outcome {strange.iloc[0].outcome!r} is none of {', '.join(OUTCOMES)}")
        found = table_settings(path)
        if found.get("completions") != expected:
            raise UserError(
                f"{path} has grades of other completions or against other reference answers: give the "
                "matching grades, or grade again with `justrl grade --golds`"
            )
        frames.append(frame)
        settings.append(found)
    return _concat(frames), settings


def summarise(grades: "pandas.DataFrame") -> dict[str, dict[str, Any]]:
    """Summarise grades by benchmark and grader: samples, accuracy (a fraction) and outcome counts.

    Every question has equal weight in the accuracy.
    """
    summary: dict[str, dict[str, Any]] = {}
    for (benchmark, grader), rows in grades.groupby(["benchmark", "grader"], sort=False):
        correct = rows["outcome"].eq("correct")
        summary.setdefault(str(benchmark), {})[str(grader)] = {
            "questions": int(rows["question_id"].nunique()),
            "samples": len(rows),
            "accuracy": float(correct.groupby(rows["question_id"]).mean().mean()),
            "outcomes": count_outcomes(rows["outcome"]),
        }
    return summary


def count_outcomes(outcomes: Iterable[str]) -> dict[str, int]:
    """Count each of the four outcomes, including zeros."""
    return dict.fromkeys(OUTCOMES, 0) | Counter(outcomes)


def format_summary(summary: dict[str, dict[str, Any]]) -> str:
    """Format a summary as a text table."""
    lines = [f"{'benchmark':<12} {'grader':<14} {'samples':>8} {'accuracy':>9}  " + "  ".join(OUTCOMES)]
    for benchmark, graders in summary.items():
        for grader, row in graders.items():
            counts = "  ".join(f"{row['outcomes'][name]:>{len(name)}}" for name in OUTCOMES)
            lines.append(f"{benchmark:<12} {grader:<14} {row['samples']:>8} {row['accuracy']:>9.2%}  {counts}")
    return "\n".join(lines)


def _grade_with(grader, name: str, samples: "pandas.DataFrame") -> "pandas.DataFrame":
    import pandas
    from tqdm import tqdm

    from justrl.verifiers.own import AT_ONCE, OwnGrader

    every = 0.5 if sys.stderr.isatty() else 10.0
    # A model grader holds all its requests at once, as generation does, and shows its own progress.
    chunk = max(len(samples), 1) if name == MODEL else AT_ONCE if isinstance(grader, OwnGrader) else CHUNK
    verdicts: list[tuple] = []
    said = None
    with grader, tqdm(total=len(samples), desc=name, unit="answer", mininterval=every) as bar:
        for start in range(0, len(samples), chunk):
            rows = samples.iloc[start : start + chunk]
            grades = _grade_chunk(grader, name, rows)
            verdicts += [(str(grade.outcome), grade.extracted) for grade in grades]
            said = _undecided(name, samples, verdicts) if isinstance(grader, OwnGrader) else None
            bar.update(len(rows))
    if said:
        print(said, file=sys.stderr)
    found = pandas.DataFrame(verdicts, columns=["outcome", "extracted"], dtype=object)
    return pandas.concat([samples[KEY].reset_index(drop=True).assign(grader=name), found], axis=1)


def _undecided(name: str, samples: "pandas.DataFrame", verdicts: list[tuple]) -> str | None:
    """A message on the answers that a user's grader left undecided, with the names of some; None if there are none.

    Raises UserError with that message if they are more than 1% of all samples, and more than one. Answers graded so far
    are enough to decide: a function that hangs on every answer is not called on all of them.
    """
    from justrl.verifiers.own import limits

    numbers = [number for number, (outcome, _) in enumerate(verdicts) if outcome == "timeout"]
    if not numbers:
        return None
    named = "; ".join(_name(samples.iloc[[number]]) for number in numbers[:NAMED])
    said = f"{name}: undecided are {len(numbers)} of {len(samples)} answers, within {limits()}: {named}"
    if len(numbers) > max(1, UNDECIDED_SHARE * len(samples)):
        raise UserError(f"{said}; grading stops above 1%: make the function faster, or let it return None in time")
    return said


def _grade_chunk(grader, name: str, rows: "pandas.DataFrame") -> list:
    from justrl.verifiers.extraction import cut_in_box
    from justrl.verifiers.outcome import Grade, Outcome
    from justrl.verifiers.own import OwnGrader

    columns = ["completion", "answer", "question"] if name == MODEL else ["completion", "answer"]
    answers: list[tuple] = [tuple(row) for row in rows[columns].itertuples(index=False)]
    if isinstance(grader, OwnGrader):
        told = rows[["question", "question_id", "benchmark"]].to_dict("records")
        answers = [(*answer, row) for answer, row in zip(answers, told, strict=True)]
    try:
        grades = grader.grade_many(answers)
    except UserError:
        raise
    except Exception as error:
        error.add_note(f"while {name} graded {len(rows)} samples from {_name(rows)} on")
        raise
    if len(grades) != len(rows):
        raise RuntimeError(f"{name} gave {len(grades)} verdicts on {len(rows)} samples")
    if name not in WHOLE_BOX:
        return grades
    reasons = rows["finish_reason"] if "finish_reason" in rows else [None] * len(rows)
    ends = zip(grades, rows["completion"], reasons, strict=True)
    # The box before the one that was cut off may be an intermediate step instead of the answer.
    return [Grade(Outcome.UNPARSED) if why == "length" and cut_in_box(text) else grade for grade, text, why in ends]


def _concat(frames: Iterable["pandas.DataFrame"]) -> "pandas.DataFrame":
    import pandas

    frames = list(frames)
    full = [frame for frame in frames if len(frame)]
    return pandas.concat(full, ignore_index=True) if full else frames[0]


def _name(rows: "pandas.DataFrame") -> str:
    row = rows.iloc[0]
    return f"{row.benchmark} question {row.question_id} sample {row.sample_index}"
