"""Make Snakemake's plan check every job behind an ancient() input; the Snakefile installs this.

Snakemake skips all jobs that come after a job that has to run, because they run anyway. This is not true of jobs that
are connected with it by an ancient() input: their files are then not checked for being missing or older than another
input, and a start that requested them ends with status 0.
"""

from collections import deque
from collections.abc import Callable, Iterator

from snakemake.dag import DAG

# Functions of a plan that return which of its files to recreate; the rules add theirs.
MAKE_AGAIN: list[Callable[[DAG], set[str]]] = []
_update_needrun = DAG.update_needrun


def install() -> None:
    """Make each plan check behind ancient() inputs."""
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
    """Return a temporary `DAG.bfs` that, over `dag.depending`, visits only jobs that run because of those before."""

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
