"""Configuration files as Snakemake takes them, read by the project's own parser; the logger plugin puts it in place.

Snakemake reads `--configfile` before the first line of the Snakefile runs, but after it has imported its plugins. Its
parser waits for a named pipe, takes minutes for a large file and has no end with a few anchors that repeat each other.
"""

from pathlib import Path
from typing import Any

from snakemake.common import configfile
from snakemake.exceptions import WorkflowError
from snakemake.settings import types

from justrl import config_files
from justrl.errors import UserError

_load_configfile = configfile.load_configfile


def install() -> None:
    """Read configuration files within limits from now on."""
    configfile.load_configfile = types.load_configfile = _load


def _load(path: str | Path) -> dict[str, Any]:
    # Whoever imports this workflow into their own has their own kind of configuration.
    if not all(Path(name).exists() for name in ("Snakefile", f"workflow/{Path(__file__).name}")):
        return _load_configfile(path)
    try:
        return config_files.read_yaml(path)
    except UserError as error:
        raise WorkflowError(str(error)) from None
