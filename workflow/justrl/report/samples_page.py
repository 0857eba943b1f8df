"""The page of answers: one self-contained HTML file.

The answers are embedded as JSON; a script shows twenty at a time, so that thousands of long answers do not slow the
page down. All text is inserted as text, so nothing that a model wrote becomes markup. The page has no network access.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from justrl.config.paper import mark
from justrl.io import atomic_write
from justrl.report.html_tables import STYLESHEET
from justrl.report.samples import (
    ANSWERS,
    CHARACTERS,
    MARKS,
    Answer,
    Samples,
    accuracy,
    alarms,
    keep_answers,
    read_evaluation,
    read_rollouts,
    text_limit,
)

_PLACE = re.compile(r"@@(\w+)@@")
# Of a shortened text, this share of the kept characters is from its end, where the answer is.
END_SHARE = 2 / 3


def write_page(
    path: str | Path,
    samples: Samples,
    title: str,
    experiment: str,
    *,
    answers: int = ANSWERS,
    characters: int = CHARACTERS,
) -> None:
    """Write the answers as a page; all experiments except "paper" are labelled as such.

    The page keeps at most `answers` answers and `characters` of their text. A sentence on it lists what was left out.
    """
    kept, left_out = keep_answers(samples.answers, answers)
    lengths = [len(answer.text) for answer in kept]
    limit = text_limit(lengths, characters)
    notes = [*samples.notes, *([left_out] if left_out else [])]
    if cut := sum(length > limit for length in lengths):
        notes.append(
            f"{cut:,} of {len(kept):,} answers are longer than {limit:,} characters and are here without their middle: "
            f"--characters {sum(lengths)} keeps all; the files of the completions have them whole."
        )
    stamp = mark(experiment)
    content = {
        "graders": samples.graders,
        "marks": [[name, label, meaning] for name, (label, meaning) in MARKS.items()],
        "counts": {name: sum(name in answer.marks for answer in samples.answers) for name in MARKS},
        "total": len(samples.answers),
        "accuracy": accuracy(samples),
        "alarms": alarms(samples),
        "notes": notes,
        "questions": samples.questions,
        "answers": [_plain(answer, limit) for answer in kept],
    }
    parts = {
        "TITLE": html.escape(title),
        "STAMP": f'<p class="stamp">{html.escape(stamp)}</p>' if stamp else "",
        "STYLE": STYLESHEET,
        "DATA": script_json(content),
    }
    template = (files("justrl.report") / "samples.html").read_text(encoding="utf-8")
    with atomic_write(path) as handle:
        handle.write(_PLACE.sub(lambda match: parts[match[1]], template))


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: it cannot open or close an element or a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(answer: Answer, limit: int) -> list[Any]:
    end = round(limit * END_SHARE)
    whole = len(answer.text) <= limit
    text = [answer.text] if whole else [answer.text[: limit - end], answer.text[len(answer.text) - end :]]
    left = 0 if whole else len(answer.text) - limit
    return [answer.question, answer.label, text, left, answer.tokens, answer.ended, answer.verdicts, answer.marks]


def write_samples(
    outputs: Mapping[str, Path],
    completions: Sequence[Path],
    grades: Sequence[Path],
    benchmark: Path,
    headline: str,
    experiment: str,
    title: str,
    answers: int = ANSWERS,
    characters: int = CHARACTERS,
) -> list[str]:
    """Write the page with the answers of an evaluation; return its alarms."""
    samples = read_evaluation(completions, grades, benchmark, headline)
    write_page(outputs[".html"], samples, title, experiment, answers=answers, characters=characters)
    return [sentence for _, sentence in alarms(samples)]


def write_rollouts(
    outputs: Mapping[str, Path],
    rollouts: Sequence[Path],
    experiment: str,
    title: str,
    answers: int = ANSWERS,
    characters: int = CHARACTERS,
) -> list[str]:
    """Write the page with the saved rollouts of a training; return its alarms."""
    samples = read_rollouts(rollouts)
    write_page(outputs[".html"], samples, title, experiment, answers=answers, characters=characters)
    return [sentence for _, sentence in alarms(samples)]
