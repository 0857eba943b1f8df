"""Parallel parts of one computation on a CPU."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

# Seconds after which a thread that waits for the GIL gets it; the default of 5 ms is half of a small model's pass.
SWITCH_INTERVAL = 1e-4


def one_core_each(threads: int) -> ThreadPoolExecutor:
    """Return a pool of workers with one torch thread each, so that results do not depend on the thread count."""
    import torch

    sys.setswitchinterval(SWITCH_INTERVAL)
    return ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1))
