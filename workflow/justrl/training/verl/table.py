"""The settings of a run as Markdown, for docs/verl.md: name, verl's key, value, source and note."""

import json
from collections.abc import Iterable

from justrl import config
from justrl.models.shape import shape_of
from justrl.training.verl.request import Row, VerlRequest


def markdown(rows: Iterable[Row], request: VerlRequest) -> str:
    """Return one table of settings with their values for `request`."""
    lines = ["| what | verl key | value | source | note |", "|---|---|---|---|---|"]
    for row in rows:
        value = json.dumps(row.value_for(request))
        lines.append(f"| {row.name} | `{row.key}` | `{value}` | {row.source} | {row.note} |")
    return "\n".join(lines)


def request_for(experiment: config.Experiment, run: str) -> VerlRequest:
    """Return a run's request to verl on the configured hardware."""
    return VerlRequest(
        recipe=experiment.run(run).recipe,
        seed=experiment.seed,
        hardware=experiment.hardware,
        run=run,
        experiment=experiment.experiment,
        shape=shape_of(experiment.models[experiment.run(run).model]),
    )
