"""Parse Snakemake's configuration with the project's own parser; the logger plugin installs this.

Snakemake reads `--configfile` before the first line of the Snakefile runs, but after it has imported its plugins. Its
parser waits on a named pipe, takes minutes for a large file, does not end for a few anchors that repeat each other, and
uses the last of two equal keys; the same is true of a mapping in `--config`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snakemake import cli
from snakemake.common import configfile
from snakemake.exceptions import WorkflowError
from snakemake.settings import types

from justrl.config import files as config_files
from justrl.errors import UserError

_load_configfile, _parse_config = configfile.load_configfile, cli.parse_config


def install() -> None:
    """Replace Snakemake's configuration parsers by bounded ones."""
    configfile.load_configfile = types.load_configfile = _load
    cli.parse_config = _parse


def _ours() -> bool:
    """Return whether this project is started; a workflow that imports it has its own configuration."""
    return all(Path(name).exists() for name in ("Snakefile", f"workflow/{Path(__file__).name}"))


def _load(path: str | Path) -> dict[str, Any]:
    if not _ours():
        return _load_configfile(path)
    try:
        return config_files.read_yaml(path)
    except UserError as error:
        # Snakemake reads all words after the option as configuration files.
        way = "" if Path(path).exists() else "; name targets before --configfile"
        raise WorkflowError(f"{error}{way}") from None


def _parse(entries: Sequence[str] | None) -> dict[str, Any]:
    for name, _, value in (entry.partition("=") for entry in entries or () if _ours()):
        if value.startswith(("[", "{")):
            try:
                config_files.parse_yaml(value, f"--config {name}")
            except UserError as error:
                raise WorkflowError(str(error)) from None
    return _parse_config(entries)
