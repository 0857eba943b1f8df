"""Where a result comes from: code, configuration, data, software and hardware, without any path or host name."""

import argparse
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from justrl import cli
from justrl.errors import UserError
from justrl.io import read_json, write_json

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "vllm",
    "verl",
    "ray",
    "flash-attn",
    "math-verify",
    "sympy",
    "datasets",
    "pyarrow",
    "pandas",
    "numpy",
    "scipy",
    "matplotlib",
    "snakemake",
)


def collect_provenance(
    config: Mapping[str, Any] | None = None,
    seeds: Mapping[str, int] | None = None,
    sources: Iterable[str | Path] = (),
    results: Iterable[str | Path] = (),
    command: Sequence[str] | None = None,
    packages: Sequence[str] = PACKAGES,
) -> dict[str, Any]:
    """Describe how a result is made, as plain values ready for JSON.

    `sources` are the source.json files of the data sets and models used, `results` the result files whose models,
    settings and machines are to be listed; `command` defaults to this process's own.
    Takes no path, host or user name along: what is absolute in a value is cut to its last part.
    """
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": describe_command(sys.argv if command is None else command),
        "code": code_version(Path(__file__).resolve().parent),
        "config_sha256": None if config is None else config_hash(config),
        "seeds": dict(seeds or {}),
        "sources": [without_paths(_read_source(path)) for path in sources],
        "evaluations": [_evaluation(path) for path in results],
        "packages": package_versions(packages),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "hardware": hardware(),
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration's canonical JSON: the same for the same values in any order of keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, ensure_ascii=True, default=str).encode()).hexdigest()


def code_version(folder: Path) -> dict[str, Any]:
    """Commit of the repository that tracks this package and whether it has uncommitted changes.

    Without git, or for an installed copy, the commit is "unknown" and `reason` says why.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(folder, "rev-parse", "HEAD").strip()
        dirty = bool(_git(folder, "status", "--porcelain", "--untracked-files=no").strip())
    except FileNotFoundError:
        return {"commit": "unknown", "dirty": None, "reason": "git is not installed"}
    except subprocess.TimeoutExpired:
        return {"commit": "unknown", "dirty": None, "reason": "git did not answer"}
    except subprocess.CalledProcessError:
        return {"commit": "unknown", "dirty": None, "reason": "the package does not run from a git checkout"}
    return {"commit": commit, "dirty": dirty}


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of those packages that are installed, from their metadata; nothing is imported."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory and GPUs of the machine."""
    return {"cpu": _cpu_model(), "cores": _usable_cores(), "memory_gib": _memory_gib(), "gpus": gpus()}


def gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each NVIDIA GPU, as nvidia-smi says; empty without one."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [{"name": row[0], "memory": row[1], "driver": row[2]} for row in rows if len(row) == 3]


def without_paths(value: Any) -> Any:
    """A copy of plain values in which every absolute path is cut to its last part."""
    if isinstance(value, Mapping):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and "\n" not in value and Path(value).is_absolute():
        return Path(value).name
    return value


def describe_command(arguments: Sequence[str]) -> str:
    """A command line as one would type it, a module's path given back as `python -m`, absolute paths cut short."""
    first, *rest = [str(argument) for argument in arguments]
    parts = Path(first).with_suffix("").parts
    if "justrl" in parts:
        module = parts[len(parts) - 1 - parts[::-1].index("justrl") :]
        head = ["python", "-m", ".".join(part for part in module if part != "__main__")]
    else:
        head = [Path(first).name]
    cut = []
    for argument in rest:
        option, equals, value = argument.partition("=")
        value_cut = without_paths(value) if equals and option.startswith("--") else value
        cut.append(f"{option}={value_cut}" if equals and option.startswith("--") else without_paths(argument))
    return shlex.join([*head, *cut])


def _read_source(path: str | Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise UserError(f"--sources: {path} does not exist") from None
    except json.JSONDecodeError as error:
        raise UserError(f"--sources: {path} is not JSON ({error.msg})") from None


def _evaluation(path: str | Path) -> dict[str, Any]:
    """What a result file says of its own making: model, protocol, backend, seed, software and machines."""
    try:
        result = read_json(path)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"--results: {path} cannot be read as JSON: {error}") from None
    made = result.get("provenance") or {}
    generation = made.get("generation") or {}
    kept = ("model", "model_revision", "model_fingerprint", "backend", "dtype", "seed", "benchmark_fingerprint")
    return without_paths(
        {
            "name": result.get("name"),
            "benchmark": result.get("benchmark"),
            "protocol": (result.get("protocol") or {}).get("name"),
            "questions": result.get("n_questions"),
            "samples": result.get("samples_per_question"),
            **{key: generation.get(key) for key in kept},
            "generated_with": made.get("generated_with") or [],
        }
    )


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError, AttributeError):
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: write the provenance of the report."""
    parser = argparse.ArgumentParser(prog="python -m justrl.analysis.provenance", description=__doc__)
    parser.add_argument("--experiment", help="the experiment's name (default: the configuration's)")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--config", type=Path, help="the resolved configuration, a JSON file")
    given.add_argument("--config-json", help="the resolved configuration, JSON text")
    parser.add_argument("--sources", nargs="*", default=[], type=Path, metavar="source.json")
    parser.add_argument("--results", nargs="*", default=[], type=Path, metavar="RESULT.json")
    parser.add_argument("--output-json", type=Path)
    parser.add_argument("--output-html", type=Path)
    arguments = parser.parse_args(argv)
    if not (arguments.output_json or arguments.output_html):
        raise UserError("nothing to write: give --output-json, --output-html or both")
    config = _configuration(arguments)
    experiment = arguments.experiment or (config or {}).get("experiment")
    if not experiment:
        raise UserError("the experiment has no name: give --experiment, or a configuration that has one")
    seeds = {"experiment": config["seed"]} if config and "seed" in config else {}
    # The configuration stands in the record by its hash; on the command line it would drown the rest.
    command = [part if part != arguments.config_json else "..." for part in sys.argv]
    record = collect_provenance(config, seeds, arguments.sources, arguments.results, command)
    if arguments.output_json:
        write_json(arguments.output_json, {"experiment": experiment, **record})
    if arguments.output_html:
        from justrl.analysis.provenance_tables import provenance_sections
        from justrl.analysis.tables import write_html

        write_html(arguments.output_html, "Provenance", provenance_sections(record), experiment)
    return 0


def _configuration(arguments: argparse.Namespace) -> dict[str, Any] | None:
    if arguments.config_json is None and arguments.config is None:
        return None
    try:
        return json.loads(arguments.config_json) if arguments.config_json else read_json(arguments.config)
    except json.JSONDecodeError as error:
        raise UserError(f"the configuration is not JSON: {error}") from None
    except OSError as error:
        raise UserError(f"--config: {arguments.config} cannot be read: {error.strerror}") from None


if __name__ == "__main__":
    cli.run(main)
