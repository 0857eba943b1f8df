"""Can it run here? Checked in seconds, before anything is paid for: `python -m justrl.preflight --help`.

At the terminal it looks at the whole experiment from the machine it is on. In the workflow it looks at one run from the
node that will train it (`--run run.json --model ... --data ... --hardware ...`).
"""

import argparse
import json
import sys
from pathlib import Path

from justrl import cli, config
from justrl.errors import UserError
from justrl.io import read_json, write_json


def main() -> int:
    """Check everything that can be checked before a GPU is paid for; each failure says what to do."""
    parser = argparse.ArgumentParser(prog="python -m justrl.preflight", description=main.__doc__)
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="overlay over config.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="dotted override")
    parser.add_argument("--run", metavar="NAME", help="one run instead of all enabled ones; or its run.json")
    parser.add_argument("--offline", action="store_true", help="do not ask the hub")
    parser.add_argument("--results", type=Path, help="results folder (default: the configuration's)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report as JSON")
    job = parser.add_argument_group("in the workflow, with --run run.json")
    job.add_argument("--model", type=Path, metavar="DIR", help="base model folder")
    job.add_argument("--data", type=Path, metavar="FILE", help="training Parquet")
    job.add_argument("--hardware", type=json.loads, metavar="JSON", help="the configuration's `hardware`")
    job.add_argument("--engine-config", type=Path, metavar="FILE", help="the resolved configuration of verl")
    arguments = parser.parse_args()
    if arguments.run and arguments.run.endswith(".json"):
        missing = [name for name in ("model", "data", "hardware") if getattr(arguments, name) is None]
        if missing:
            parser.error(f"--run {arguments.run} also needs --{', --'.join(missing)}")
        done = _check_job(arguments)
    else:
        done = _check_experiment(arguments)
    return report(done, arguments.output)


def _check_job(arguments: argparse.Namespace) -> list:
    from justrl.operations import preflight

    beside = Path(arguments.run).with_name("verl.yaml")
    return preflight.check_job(
        read_json(arguments.run),
        arguments.model,
        arguments.data,
        arguments.hardware,
        arguments.output or Path(arguments.run),
        arguments.engine_config or beside,
    )


def _check_experiment(arguments: argparse.Namespace) -> list:
    from justrl.operations import preflight

    loaded = config.load(arguments.config, arguments.set)
    if arguments.offline:
        loaded["hub"]["offline"] = True
    runs = [name for name, run in loaded["runs"].items() if run["enabled"]]
    if arguments.run:
        config.recipe_of(loaded, arguments.run)
        runs = [arguments.run]
    if not runs:
        raise UserError("no run is enabled in the configuration: set runs.<name>.enabled, or name one with --run")
    results = arguments.results or Path(loaded.get("pathvars", {}).get("results", "results"))
    return preflight.check_experiment(loaded, runs, results)


def report(done: list, output: Path | None) -> int:
    """Print the table, write the JSON report unless a check failed in a job, and return the exit status."""
    from justrl.operations import checks

    failed = [check for check in done if check.status == checks.FAILED]
    # In a job, the table belongs to the log, which takes standard error.
    print(checks.table(done), file=sys.stderr if output else sys.stdout)
    # As an output of the workflow the report means "passed"; a failure must leave none, or the next run would go on.
    if output and not failed:
        write_json(output, {"passed": True, "checks": [check.as_dict() for check in done]})
    if failed:
        sentences = "; ".join(f"{check.name}: {check.found}" for check in failed)
        print(f"error: {len(failed)} of {len(done)} checks failed: {sentences}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    cli.run(main)
