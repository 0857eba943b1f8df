"""Snakemake's plan, made to look at every job behind an ancient() input; the Snakefile puts it in place.

Snakemake passes over all jobs that come after one that has to run, for they run anyway. Those that an ancient() input
connects with it do not: nobody asks then whether their files are missing or older than another input, and a start that
was asked for them ends with status 0.
"""

from collections import deque
from collections.abc import Callable, Iterator

from snakemake.dag import DAG

# Functions of a plan that say which of its files are to be made again; the rules add theirs.
MAKE_AGAIN: list[Callable[[DAG], set[str]]] = []
_update_needrun = DAG.update_needrun


def install() -> None:
    """Make each plan look behind ancient() inputs."""
    DAG.update_needrun = _looking_behind  # type: ignore[method-assign]


async def _looking_behind(dag, *arguments, **options):
    for files in MAKE_AGAIN:
        dag.forcefiles |= files(dag)
    dag.bfs = _run_anyway(dag)
    try:
        return await _update_needrun(dag, *arguments, **options)
    finally:
        del dag.bfs


def _run_anyway(dag) -> Callable:
    """What takes the place of `DAG.bfs` meanwhile: over `dag.depending`, only jobs that run because of those before."""

    def bfs(direction, *jobs, stop=lambda job: False) -> Iterator:
        if direction is not dag.depending:
            yield from DAG.bfs(dag, direction, *jobs, stop=stop)
            return
        queue, visited = deque(jobs), set(jobs)
        while queue:
            job = queue.popleft()
            yield job
            for following, files in direction[job].items():
                if following not in visited and not all(file.is_ancient for file in files):
                    visited.add(following)
                    queue.append(following)

    return bfs
