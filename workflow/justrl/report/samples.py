"""The page of answers for reading: the question, the answer, the verdict of each grader, and what looks wrong.

The page is one self-contained HTML file without network access. The answers are embedded as JSON; a script shows twenty
at a time, so that thousands of long answers do not slow the page down. All text is inserted as text, so nothing that a
model wrote becomes markup.

An answer has marks (`MARKS`) by which readers can filter. An alarm is a sentence above the answers about a mark that
many of them share. Marks and alarms are computed from all answers at full length, even if the page keeps fewer or
shorter ones.
"""

import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from justrl.config import paper
from justrl.errors import UserError
from justrl.evaluation.completions import KEY, read_completions, read_table
from justrl.evaluation.generating import read_benchmark
from justrl.evaluation.grading import check_complete, read_grades, with_golds
from justrl.report import html_tables

if TYPE_CHECKING:
    import pandas
    from markupsafe import Markup

_LAST_WORD = re.compile(r"(\w+(?:\.\d+)?)\W*$")
# The reference answer counts as present if it occurs within this many characters of the end.
NEAR_THE_END = 300
# Default limits of a page: characters of all answers together, and answers.
CHARACTERS = 3_000_000
ANSWERS = 5_000
# Of a shortened text, this share of the kept characters is from its end, where the answer is.
END_SHARE = 2 / 3
MARKS = {
    "wrong": ("not correct", "not correct according to the primary grader"),
    "disagree": ("graders disagree", "graders disagree on whether it is correct"),
    "truncated": ("truncated", "truncated at the token limit"),
    "unread": (
        "correct answer not extracted",
        f"no grader accepts it, but the reference answer is in the last {NEAR_THE_END} characters",
    ),
    "unparsed": ("unparsed", "the primary grader found no answer"),
    "timeout": ("grader gave up", "a grader ran out of time or memory"),
    "repeated": ("repeated text", "ends with the same text five times or more, or zlib compresses it to a tenth"),
    "empty": ("empty", "no text at all"),
    "solve_none": ("question never solved", "none of its answers is correct according to the primary grader"),
}
# Share of the answers from which a mark becomes an alarm.
ALARMS = {"unparsed": 0.1, "truncated": 0.1, "disagree": 0.05, "unread": 0.05, "repeated": 0.05, "empty": 0.01}
ALARMS |= {"timeout": 0.01}
MEANINGS = {
    "truncated": "they were truncated at the token limit",
    "disagree": "one grader accepts them and another rejects them, so the accuracy depends on the grader",
    "unread": "the correct answer appears near their end, but no grader extracted it",
    "repeated": "they repeat the same text",
    "empty": "they contain no text",
    "timeout": "a grader ran out of time or memory; they count as not correct",
}
ROLLOUT_COLUMNS = ("step", "sample_index", "prompt", "gold", "response", "length", "reward", "correct", "finish_reason")


@dataclass
class Answer:
    """One answer: index of its question, verdicts as (outcome, extracted) in the graders' order, and marks."""

    question: int
    label: str
    text: str
    tokens: int | None
    ended: str | None
    verdicts: list[tuple[str, str | None]]
    marks: list[str] = field(default_factory=list)


@dataclass
class Samples:
    """Questions as (id, text, reference answer), their answers, and the graders' names, the primary grader first."""

    questions: list[tuple[str, str, str]]
    answers: list[Answer]
    graders: list[str]
    notes: list[str] = field(default_factory=list)


def read_evaluation(
    completions: Sequence[str | Path], grades: Sequence[str | Path], benchmark: str | Path, headline: str
) -> Samples:
    """Read the answers of one evaluation by question, with the verdicts of all graders, the primary grader's first.

    Raises UserError if files do not belong together, an answer lacks a verdict, or the primary grader has no verdicts.
    """
    from justrl.evaluation.scoring import add_combined  # loads SciPy: imported late so that --help stays fast

    name, asked = read_benchmark(benchmark)
    samples = with_golds(*read_completions(completions), name, asked)
    verdicts = add_combined(samples, read_grades(grades, samples)[0])
    graders = [str(grader) for grader in verdicts["grader"].unique()]
    for grader in graders:
        check_complete(samples, verdicts[verdicts["grader"] == grader], grader)
    if headline not in graders:
        raise UserError(f"the primary grader {headline} has no verdicts: choose one of {', '.join(graders)}")
    graders.sort(key=lambda grader: grader != headline)
    found = {grader: _by_sample(verdicts, grader) for grader in graders}
    places = {question.id: place for place, question in enumerate(asked)}
    answers = [
        Answer(
            question=places[row["question_id"]],
            label=f"sample {row['sample_index']}",
            text=row["completion"],
            tokens=_whole(row["token_count"]),
            ended=row["finish_reason"] if isinstance(row["finish_reason"], str) else None,
            verdicts=[found[grader][row["question_id"], row["sample_index"]] for grader in graders],
        )
        for row in samples.to_dict("records")
    ]
    answers.sort(key=lambda answer: answer.question)
    questions = [(question.id, question.question, question.answer) for question in asked]
    return mark(Samples(questions, answers, graders))


def read_rollouts(paths: Sequence[str | Path]) -> Samples:
    """Read the saved rollouts of a training, in the order of its steps; a note names each missing file."""
    questions: dict[tuple[str, str], int] = {}
    answers: list[Answer] = []
    absent = [path for path in paths if not Path(path).is_file()]
    for path in (path for path in paths if path not in absent):
        for row in read_table(path, ROLLOUT_COLUMNS, "rollouts").to_pylist():
            question = questions.setdefault((row["prompt"], row["gold"]), len(questions))
            verdict = ("correct" if row["correct"] else "wrong", f"{row['reward']:+g}")
            label = f"step {row['step']}, sample {row['sample_index']}"
            answers.append(Answer(question, label, row["response"], row["length"], row["finish_reason"], [verdict]))
    notes = ["A few rollouts per step are saved, from different questions (hardware.rollouts_kept)."]
    if absent:
        notes.append(f"No rollouts were saved for {len(absent)} of {len(paths)} segments (first: {absent[0]}).")
    asked = [(f"{number + 1}", prompt, gold) for (prompt, gold), number in questions.items()]
    return mark(Samples(asked, answers, ["reward"], notes), all_answers=False)


def mark(samples: Samples, all_answers: bool = True) -> Samples:
    """Set the marks of each answer. Unless these are all answers, no question is marked as never solved."""
    solved = {answer.question for answer in samples.answers if answer.verdicts[0][0] == "correct"}
    for answer in samples.answers:
        outcomes = [outcome for outcome, _ in answer.verdicts]
        correct = outcomes.count("correct")
        holds = {
            "wrong": outcomes[0] != "correct",
            "disagree": 0 < correct < len(outcomes),
            "truncated": answer.ended == "length",
            "unread": not correct and stands_near_the_end(samples.questions[answer.question][2], answer.text),
            "unparsed": outcomes[0] == "unparsed",
            "timeout": "timeout" in outcomes,
            "repeated": is_repeated(answer.text),
            "empty": not answer.text.strip(),
            "solve_none": all_answers and answer.question not in solved,
        }
        answer.marks = [name for name in MARKS if holds[name]]
    return samples


def stands_near_the_end(gold: str, text: str) -> bool:
    """True if the reference answer occurs near the end of a text, but not within a longer number or word.

    White space is ignored. A single letter or digit occurs in any solution, so it counts only as the last number or
    word.
    """
    letters = [re.escape(letter) for letter in gold if not letter.isspace()]
    if len(letters) == 1 and gold.strip().isalnum():
        last = _LAST_WORD.search(text[-NEAR_THE_END:])
        return last is not None and last[1] == gold.strip()
    whole = r"(?<![\w.])" + r"\s*".join(letters) + r"(?!\w|\.\d)"
    return bool(letters) and bool(re.search(whole, text[-NEAR_THE_END:]))


def is_repeated(text: str) -> bool:
    """True if a text ends with the same piece at least five times, or if zlib compresses it to a tenth."""
    data = text.encode("utf-8", "replace")
    return _ends_in_circles(text[-400:]) or (len(data) >= 2000 and len(zlib.compress(data, 1)) * 10 < len(data))


def _ends_in_circles(text: str) -> bool:
    """True if the last 40 characters or more are one piece repeated five times.

    In the reversed text, a prefix of n characters with a border of length b repeats itself every n - b characters
    (Knuth, Morris, Pratt).
    """
    letters = text[::-1]
    borders, border = [0] * len(letters), 0
    for place in range(1, len(letters)):
        while border and letters[place] != letters[border]:
            border = borders[border - 1]
        border += letters[place] == letters[border]
        borders[place] = border
        length = place + 1
        if length >= 40 and (length - border) * 5 <= length:
            return True
    return False


def alarms(samples: Samples) -> list[tuple[str, str]]:
    """Problems that many answers share, as (mark, sentence), the most frequent first."""
    total, first = len(samples.answers), samples.graders[0]
    if not total:
        return []
    found = []
    for name, least in ALARMS.items():
        marked = [answer for answer in samples.answers if name in answer.marks]
        if marked and len(marked) >= least * total:
            by = f" by {first}" if name == "unparsed" else ""
            meaning = _why_unparsed(marked) if name == "unparsed" else MEANINGS[name]
            share = f"{100 * len(marked) / total:.0f}% {MARKS[name][0]}{by} ({len(marked):,} of {total:,})"
            found.append((len(marked), name, f"{share}: {meaning}."))
    if all("wrong" in answer.marks for answer in samples.answers):
        found.append((total, "wrong", f"None of the {total:,} answers is correct ({first})."))
    return [(name, sentence) for _, name, sentence in sorted(found, key=lambda each: -each[0])]


def accuracy(samples: Samples) -> str:
    """A sentence with the share of correct answers by each grader, in the graders' order."""
    total = len(samples.answers)
    if not total:
        return ""
    shares = []
    for place, grader in enumerate(samples.graders):
        correct = sum(answer.verdicts[place][0] == "correct" for answer in samples.answers)
        shares.append(f"{100 * correct / total:.1f}% by {grader}")
    return f"Correct of {total:,} answers: {', '.join(shares)}."


def _why_unparsed(answers: Sequence[Answer]) -> str:
    half = len(answers) / 2
    if sum("empty" in answer.marks for answer in answers) > half:
        return "the answers are empty"
    if sum("truncated" in answer.marks for answer in answers) > half:
        return "most of them were truncated at the token limit before an answer"
    if sum("\\boxed{" not in answer.text for answer in answers) > half:
        return "the answers are not in a box"
    return "most of them have a box that is not closed or cannot be parsed"


def keep_answers(answers: Sequence[Answer], most: int) -> tuple[list[Answer], str]:
    """Keep at most `most` answers, the first ones of every question; also returns a sentence on those left out."""
    if len(answers) <= most:
        return list(answers), ""
    seen: Counter[int] = Counter()
    ranked = []
    for place, answer in enumerate(answers):
        seen[answer.question] += 1
        ranked.append((seen[answer.question], place))
    places = sorted(place for _, place in sorted(ranked)[:most])
    sentence = (
        f"{len(answers) - most:,} of {len(answers):,} answers are left out (of each question the last ones): "
        f"--answers {len(answers)} keeps all."
    )
    return [answers[place] for place in places], sentence


def text_limit(lengths: Sequence[int], characters: int) -> int:
    """The largest limit per answer such that all answers together have at most `characters`."""
    left, many = characters, len(lengths)
    for length in sorted(lengths):
        if length * many > left:
            return left // many
        left, many = left - length, many - 1
    return max(lengths, default=0)


def _by_sample(verdicts: "pandas.DataFrame", grader: str) -> dict[tuple[str, int], tuple[str, str | None]]:
    rows = verdicts[verdicts["grader"] == grader]
    columns = [*KEY[1:], "outcome", "extracted"]
    return {
        (question, sample): (outcome, extracted if isinstance(extracted, str) else None)
        for question, sample, outcome, extracted in rows[columns].itertuples(index=False)
    }


def _whole(value: Any) -> int | None:
    return None if value is None or value != value else int(value)


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
    html_tables.write_page(path, "samples.html", title=title, stamp=paper.mark(experiment), data=_script_json(content))


def _script_json(value: Any) -> "Markup":
    """JSON that is safe inside a script element: it cannot open or close an element or a comment."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


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
