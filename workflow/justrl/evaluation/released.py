"""The completions that the authors released: JSONL files, read as samples and settings."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from justrl.data.golds import clean_gold
from justrl.errors import UserError

if TYPE_CHECKING:
    import pandas

# `thunlp/JustRL`'s released generations: {task}_t{temperature}_p{top_p}_n{n}-MNT{max_tokens}.jsonl
_NAME = re.compile(r"(?P<task>.+)_t(?P<t>[\d.]+)_p(?P<p>[\d.]+)_n(?P<n>\d+)-MNT(?P<max>\d+)\.jsonl$")
_BENCHMARKS = {"aime24": "aime", "math-500": "math500", "olympiad-bench": "olympiad"}


def read_released(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read one of the authors' JSONL files: {example_id, prompt, answer, seed, response} per line.

    A question's samples are numbered by the first appearance of their seed in the file. Boxes and dollar signs are
    removed from reference answers, as for every benchmark here.
    """
    if not path.is_file():
        raise UserError(f"no such completions file: {path}")
    match = _NAME.search(path.name)
    task = match["task"].lower() if match else path.stem.lower()
    rows: list[dict[str, Any]] = []
    order: dict[int, int] = {}
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
                seed = int(item["seed"])
                if not all(isinstance(item[key], str) for key in ("prompt", "answer", "response")):
                    raise TypeError("prompt, answer and response must be text")
                rows.append(
                    {
                        "benchmark": _BENCHMARKS.get(task, task),
                        "question_id": str(item["example_id"]),
                        "sample_index": order.setdefault(seed, len(order)),
                        "seed": seed,
                        # The authors append their instruction to the question after one space.
                        "question": item["prompt"].rpartition(" Please reason step by step")[0] or item["prompt"],
                        "answer": clean_gold(item["answer"]),
                        "prompt": item["prompt"],
                        "completion": item["response"],
                        "token_count": None,
                        "finish_reason": None,
                        "model": path.parent.name,
                        "model_revision": None,
                    }
                )
            except (KeyError, ValueError, TypeError, RecursionError) as error:
                raise UserError(
                    f"{path}, line {number} is not of the released form "
                    f"(example_id, prompt, answer, seed, response): {type(error).__name__} {error}"
                ) from None
    if not rows:
        raise UserError(f"{path} holds no completions")
    settings: dict[str, Any] = {"source": "released", "model": path.parent.name}
    if match:
        sampling = {"temperature": float(match["t"]), "top_p": float(match["p"]), "max_tokens": int(match["max"])}
        settings["protocol"] = {"name": "released", **sampling, "samples": int(match["n"])}
    return rows, settings


def match_questions(samples: "pandas.DataFrame", questions: Sequence) -> "pandas.DataFrame":
    """Replace the authors' question numbers in released samples by the ids of our benchmark.

    Questions are matched by their text, ignoring white space, since the hub's copies may have another order.
    """
    ids = {" ".join(question.question.split()): question.id for question in questions}
    found = samples["question"].map(lambda text: ids.get(" ".join(text.split())))
    unknown = samples[found.isna()]
    if len(unknown):
        row = unknown.iloc[0]
        raise UserError(f"the benchmark has no question like number {row.question_id} of {row.benchmark}: other data?")
    samples = samples.assign(question_id=found)
    return samples.sort_values(["benchmark", "question_id", "sample_index"], ignore_index=True)
