"""What the experiment costs before it is started: `python -m justrl.plan --help`."""

import argparse
import json

from justrl import cli, config
from justrl.operations import plan
from justrl.operations.hardware import GPUS


def main() -> int:
    """Print the plan of every enabled run as a table or as JSON."""
    parser = argparse.ArgumentParser(prog="python -m justrl.plan", description=main.__doc__)
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="overlay over config.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="dotted override")
    parser.add_argument("--gpu", metavar="NAME", help=f"another GPU than config's: {', '.join(GPUS)}")
    parser.add_argument("--nodes", type=int, metavar="N", help="another number of nodes than config's")
    parser.add_argument("--measured", metavar="FILE", help="metrics.jsonl whose step times replace the estimate")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    made = plan.make_plan(
        config.load(arguments.config, arguments.set), arguments.gpu, arguments.nodes, arguments.measured
    )
    print(json.dumps(made, indent=2) if arguments.json else plan.render(made))
    return 0


if __name__ == "__main__":
    cli.run(main)
