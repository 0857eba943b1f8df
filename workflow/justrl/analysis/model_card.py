"""The model card of a trained run, as the Hugging Face Hub reads it: metadata, results, recipe, data.

It stands beside the run, not in its model folder, whose bytes are hashed and checked; docs/results.md says how to put
it beside the weights for an upload.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from justrl import paper
from justrl.analysis.comparison import compare
from justrl.analysis.comparison_tables import comparison_sections
from justrl.analysis.html_tables import Section, Text, markdown
from justrl.analysis.metrics import series
from justrl.analysis.results import Result, benchmark_label, experiment_of
from justrl.config_files import read_card
from justrl.errors import UserError
from justrl.io import atomic_write
from justrl.train import alarms

MADE_HERE = {"taught": "a small model made and taught by the workflow", "arithmetic": "sums made by the workflow"}
TAGS = ["justrl", "grpo", "reinforcement-learning", "math"]


def write_model_card(
    path: Path,
    described: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    results: Sequence[Result],
    family: str,
    sources: Sequence[Path] = (),
) -> None:
    """Write the card of the last checkpoint in `results`, which hold its base, too.

    Args:
        described: the run's run.json.
        rows: its metrics.
        family: whose published figures stand beside the results.
        sources: folders of the base model and the data set, whose licence a README.md there tells.

    Raises UserError where no result is of a trained checkpoint of the run.
    """
    run, experiment = str(described["run"]), experiment_of(results)
    steps = [result.step for result in results if result.run == run and result.step]
    if not steps:
        raise UserError(f"a model card needs the results of a trained checkpoint of {run}: give them by --results")
    last = [result for result in results if result.run == run and result.step == max(steps)]
    cells = compare(results, family, experiment)
    sections = [
        _making(described, rows, sources, experiment),
        _scoring(last),
        *comparison_sections(cells, results, family, experiment),
    ]
    title = f"{run}, step {max(steps):,}: {_source(described['model'])} trained by JustRL's recipe"
    with atomic_write(path) as handle:
        handle.write(
            f"---\n{_metadata(described, last, sources, experiment)}\n---\n\n{markdown(title, sections, experiment)}"
        )


def _metadata(described: Mapping[str, Any], last: Sequence[Result], sources: Sequence[Path], experiment: str) -> str:
    """The front matter; what is not known is left out, and a comment says so."""
    from huggingface_hub import EvalResult, ModelCardData

    model, dataset = described["model"], described["dataset"]
    found = licence(sources[0]) if sources else None
    name = f"{described['experiment']}-{described['run']}"
    data = ModelCardData(
        base_model=model.get("hub_id"),
        datasets=[dataset["hub_id"]] if dataset.get("hub_id") else None,
        license=found,
        language="en",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[*TAGS, "not-a-paper-result"] if paper.mark(experiment) else TAGS,
        model_name=name,
        eval_results=[EvalResult(**_evaluation(result, grader)) for result in last for grader in result.graders],
    )
    comments = []
    if not model.get("hub_id"):
        comments.append("# base_model: left out, since the base was made and taught here and is on no hub")
    if not dataset.get("hub_id"):
        comments.append("# datasets: left out, since the questions were generated here and are on no hub")
    if not found:
        where = f"; see https://huggingface.co/{model['hub_id']}" if model.get("hub_id") else ""
        comments.append(f"# license: left out, since no card of the base model that names one is here{where}")
    return "\n".join([_yaml(data.to_dict()), *comments])


class _FrontMatter(yaml.SafeDumper):
    """YAML in which no name makes a tag of HTML, for readers that show the front matter as text."""


def _yaml(values: Mapping[str, Any]) -> str:
    text = yaml.dump(values, Dumper=_FrontMatter, sort_keys=False, allow_unicode=True)
    return text.strip().replace("<", "\\x3C")


def _scalar(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "<" in text else None)


_FrontMatter.add_representer(str, _scalar)


def _evaluation(result: Result, grader: str) -> dict[str, Any]:
    """One figure in the hub's schema: avg@k in percent, with its 95% interval and the protocol."""
    average, protocol = result.average(grader), result.data["protocol"]
    questions = ((result.data.get("provenance") or {}).get("config") or {}).get("questions") or {}
    interval = [round(100 * average[end], 2) for end in ("ci_low", "ci_high")]
    return {
        "task_type": "text-generation",
        "dataset_type": questions.get("hub_id") or result.benchmark,
        "dataset_name": benchmark_label(result),
        "dataset_config": questions.get("hub_config"),
        "dataset_split": questions.get("split"),
        "dataset_revision": questions.get("revision"),
        "metric_type": "accuracy",
        "metric_name": f"avg@{result.data['samples_per_question']}, {grader}",
        "metric_value": round(100 * average["value"], 2),
        "metric_args": {"grader": grader, "interval_95": interval, "questions": result.data["n_questions"]}
        | {key: protocol[key] for key in ("temperature", "top_p", "max_tokens") if key in protocol},
    }


def licence(folder: Path) -> str | None:
    """The licence that the card of a downloaded model or data set names, if the card is there and does."""
    found = read_card(folder / "README.md").get("license")
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found or "") or None


def _source(source: Mapping[str, Any]) -> str:
    if not source.get("hub_id"):
        return MADE_HERE.get(source["source"], f"made by the workflow ({source['source']})")
    return source["hub_id"] + (f" at {source['revision']}" if source.get("revision") else "")


def _making(
    described: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], sources: Sequence[Path], experiment: str
) -> Section:
    whole = paper.final_steps(paper.setting(str(described["run"]))) if experiment == paper.PAPER else None
    _, rewards = series(rows, "reward_mean")
    data = _source(described["dataset"])
    if len(sources) > 1 and (terms := licence(sources[1])):
        data += f" (licence by its own card: {terms})"
    values = {
        "Base model": _source(described["model"]),
        "Questions": data,
        "Engine": described["engine"],
        "Seed": described["seed"],
        "Steps": f"{len(rows):,}" + (f" of the paper's {whole:,}" if whole and len(rows) < whole else ""),
        "Mean reward": f"{rewards[0]:+.2f} at the first step, {rewards[-1]:+.2f} at the last"
        if rewards
        else "not logged",
        **({"Accepted alarms": accepted} if (accepted := alarms.accepted_in_words(rows)) else {}),
        **{name: json.dumps(value) for name, value in described["recipe"].items()},
    }
    cells = [[Text(name), Text(str(value))] for name, value in values.items()]
    lead = "Trained on these questions by this recipe, whose values are named as in the workflow's configuration."
    return Section("Training", ["What", "Value"], cells, lead, numeric=False)


def _scoring(last: Sequence[Result]) -> Section:
    rows = [
        [Text(benchmark_label(result)), Text(f"{result.data['n_questions']:,} × {result.data['samples_per_question']}")]
        + [Text(str(result.data["protocol"].get(key, "–"))) for key in ("temperature", "top_p", "max_tokens")]
        for result in last
    ]
    columns = ["Benchmark", "Questions × samples", "Temperature", "top-p", "Tokens at most"]
    suffix = last[0].data["protocol"].get("prompt_suffix", "")
    return Section("Evaluation", columns, rows, f"Each question ends with “{suffix}” in the model's own chat template.")
