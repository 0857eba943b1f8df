"""Parts of one computation side by side on a CPU."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

# Seconds after which a thread that waits for Python's lock gets it. By default 5 ms, in which a small model's pass is
# half done: measured, steps of two threads take 0.88 s with it and 0.74 s with this (one thread: 1.35 s).
SWITCH_INTERVAL = 1e-4


def one_core_each(threads: int) -> ThreadPoolExecutor:
    """Workers whose operations are by a single thread of torch each: what they make depends on no number of threads."""
    import torch

    sys.setswitchinterval(SWITCH_INTERVAL)
    return ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1))
