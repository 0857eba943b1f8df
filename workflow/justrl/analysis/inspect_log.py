"""An evaluation as a log of Inspect (https://inspect.aisi.org.uk, format 2), which its viewer and other programs read.

Each answer is a sample: its question by id, the epoch its number from 1, one score for each grader. Scores are letters:
C correct, I wrong, N where no answer was found or the grader gave up; the outcome stands beside them.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from justrl.analysis.samples import Answer, Samples

LETTERS = {"correct": "C", "wrong": "I", "unparsed": "N", "timeout": "N"}
STOP_REASONS = {"stop": "stop", "length": "max_tokens"}


def inspect_log(
    samples: Samples, graders: Sequence[str], settings: dict[str, Any], benchmark: str, experiment: str, made: datetime
) -> dict[str, Any]:
    """The log as a JSON value, the same for the same arguments.

    Args:
        graders: their names in the order of the answers' verdicts.
        settings: how the completions were made, as they say themselves.
        made: when they were, with a time zone.
    """
    model = str(settings.get("run") or settings.get("model"))
    protocol = settings.get("protocol", {})
    first = [answer.question for answer in samples.answers]
    epochs = max((first.count(question) for question in set(first)), default=0)
    generation = {name: protocol[name] for name in ("temperature", "top_p", "max_tokens") if name in protocol}
    if protocol.get("top_k", -1) > 0:
        generation["top_k"] = protocol["top_k"]
    name = f"{experiment}/{benchmark}/{model}/{settings.get('model_fingerprint')}"
    created = made.astimezone(UTC).isoformat(timespec="seconds")
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": uuid.uuid5(uuid.NAMESPACE_URL, name).hex,
            "run_id": uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/run").hex,
            "task_id": uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/task").hex,
            "created": created,
            "task": benchmark,
            "dataset": {
                "name": benchmark,
                "samples": len(samples.questions),
                "sample_ids": [name for name, _, _ in samples.questions],
                "shuffled": False,
            },
            "model": model,
            "model_generate_config": generation,
            "config": {"epochs": epochs},
            "tags": [] if experiment == "paper" else ["not a paper result"],
            "metadata": {"experiment": experiment, "generation": settings},
        },
        "plan": {"name": "plan", "steps": [], "config": generation},
        "results": {
            "total_samples": len(samples.answers),
            "completed_samples": len(samples.answers),
            "scores": [_accuracy(samples.answers, place, grader) for place, grader in enumerate(graders)],
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
        "samples": _samples(samples, graders, model),
    }


def made_at(completions: Sequence[str | Path]) -> datetime:
    """When the last of these files was written: they say how they were made, not when."""
    return datetime.fromtimestamp(max(Path(path).stat().st_mtime for path in completions), UTC)


def _accuracy(answers: Sequence[Answer], place: int, grader: str) -> dict[str, Any]:
    """The share of correct answers; questions have equal numbers of them, so it is avg@k."""
    correct = sum(answer.verdicts[place][0] == "correct" for answer in answers)
    value = correct / max(1, len(answers))
    return {"name": grader, "scorer": grader, "metrics": {"accuracy": {"name": "accuracy", "value": value}}}


def _samples(samples: Samples, graders: Sequence[str], model: str) -> list[dict[str, Any]]:
    epochs: dict[int, int] = {}
    found = []
    for answer in samples.answers:
        identifier, question, gold = samples.questions[answer.question]
        epochs[answer.question] = epochs.get(answer.question, 0) + 1
        said = {"role": "assistant", "content": answer.text, "source": "generate", "model": model}
        choice = {"message": said, "stop_reason": STOP_REASONS.get(answer.ended or "", "unknown")}
        usage = {"usage": {"output_tokens": answer.tokens}} if answer.tokens is not None else {}
        found.append(
            {
                "id": identifier,
                "epoch": epochs[answer.question],
                "input": question,
                "target": gold,
                "messages": [{"role": "user", "content": question, "source": "input"}, said],
                "output": {"model": model, "choices": [choice], "completion": answer.text, **usage},
                "scores": {
                    grader: {"value": LETTERS[outcome], "answer": extracted, "metadata": {"outcome": outcome}}
                    for grader, (outcome, extracted) in zip(graders, answer.verdicts, strict=True)
                },
                "metadata": {"marks": answer.marks},
            }
        )
    return found
