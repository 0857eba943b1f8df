"""Parts of one computation side by side on a CPU."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

# Seconds after which a thread that waits for Python's lock gets it; by default 5 ms, half of a small model's pass.
SWITCH_INTERVAL = 1e-4


def one_core_each(threads: int) -> ThreadPoolExecutor:
    """Workers whose operations are by a single thread of torch each: what they make depends on no number of threads."""
    import torch

    sys.setswitchinterval(SWITCH_INTERVAL)
    return ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1))
