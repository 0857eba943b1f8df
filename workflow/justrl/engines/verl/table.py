"""The settings of a run as Markdown, for the README: what it is called, verl's key, the value, its source and why."""

import argparse
import json
from collections.abc import Iterable

from justrl import cli, config
from justrl.engines.verl import settings
from justrl.engines.verl.request import Request, Row


def markdown(rows: Iterable[Row], request: Request) -> str:
    """One table of settings with their values for `request`."""
    lines = ["| what | verl key | value | source | note |", "|---|---|---|---|---|"]
    for row in rows:
        value = json.dumps(row.value_for(request))
        lines.append(f"| {row.name} | `{row.key}` | `{value}` | {row.source} | {row.note} |")
    return "\n".join(lines)


def request_for(experiment: dict, run: str) -> Request:
    """What a run asks of verl on the hardware of the configuration."""
    return Request(
        recipe=config.recipe_of(experiment, run),
        seed=experiment["seed"],
        hardware=experiment["hardware"],
        run=run,
        experiment=experiment["experiment"],
    )


def main(argv: list[str] | None = None) -> None:
    """Print the tables of one run."""
    parser = argparse.ArgumentParser(prog="python -m justrl.engines.verl.table", description=__doc__)
    parser.add_argument("--run", default="deepseek", help="a run of config.yaml")
    parser.add_argument("--part", choices=["recipe", "run", "speed"], required=True, help="which settings")
    args = parser.parse_args(argv)
    part = {"recipe": settings.RECIPE, "run": settings.RUN, "speed": settings.SPEED}[args.part]
    print(markdown(part, request_for(config.load(), args.run)))


if __name__ == "__main__":
    cli.run(main)
