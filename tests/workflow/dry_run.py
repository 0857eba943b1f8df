"""Snakemake's dry runs in processes forked from one that has imported it: a third of the time of a fresh Python.

What is forked is Snakemake and its plugins; the package and the Snakefile are those of the folder that it runs in.
"""

import multiprocessing
import os
import sys
from pathlib import Path

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    ["snakemake.cli", "snakemake.workflow", "snakemake_executor_plugin_slurm", "pydantic", "pandas", "dry_run"]
)


def dry_run(folder: Path, arguments: tuple[str, ...], output: Path) -> int:
    """Run `snakemake ARGUMENTS` in `folder`, what it prints into `output`; return its status."""
    process = FORK.Process(target=_snakemake, args=(folder, arguments, output))
    process.start()
    process.join()
    return process.exitcode


def _snakemake(folder: Path, arguments: tuple[str, ...], output: Path) -> None:
    """Be `snakemake` in this process."""
    from snakemake.cli import main

    # There is one fork server for all tests of a process: others have it import the package of the repository.
    for name in [name for name in sys.modules if name.partition(".")[0] == "justrl"]:
        del sys.modules[name]
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    sys.path.insert(0, str(folder / "workflow"))
    os.environ["PYTHONPATH"] = sys.path[0]
    sys.argv = ["snakemake", *arguments]
    main(list(arguments))
