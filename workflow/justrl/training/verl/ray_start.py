"""Start Ray on a busy node: `python -m justrl.training.verl.ray_start start ...` is `ray start ...` with more patience.

Ray gives the processes of a node 30 seconds to register, a constant in ray/_private/node.py (2.60), and then fails with
"The current node timed out during startup". On a node with other work, they may take longer.
"""

import time
from collections.abc import Callable
from typing import TypeVar

# Longer than a loaded node needs; a node that cannot start at all reports its failure that much later.
START_SECONDS = 300.0
T = TypeVar("T")


def patient(ask: Callable[..., T], seconds: float = START_SECONDS) -> Callable[..., T]:
    """Wrap a call to Ray so that it is retried for `seconds` while it raises RuntimeError."""

    def ask_again(*arguments: object) -> T:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    return ask_again


def wait_longer() -> None:
    """Make ray.init and `ray start` in this process wait START_SECONDS for the node that they start."""
    from ray._private import services

    services.get_node = patient(services.get_node)


def main() -> None:
    """Run Ray's own command."""
    from ray.scripts.scripts import main as ray

    wait_longer()
    ray()


if __name__ == "__main__":
    main()
