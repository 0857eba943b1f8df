"""Provenance of a result: code, configuration, data, software and hardware, without paths or host names."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from justrl.errors import UserError
from justrl.hardware import machine
from justrl.io import file_sha256, json_sha256, read_object, write_json

PACKAGES = (
    "torch", "transformers", "tokenizers", "vllm", "verl", "ray", "flash-attn", "math-verify", "sympy", "datasets",
    "pyarrow", "pandas", "numpy", "scipy", "matplotlib", "snakemake",
)  # fmt: skip


def collect_provenance(
    config: Mapping[str, Any] | None = None,
    seeds: Mapping[str, int | None] | None = None,
    sources: Iterable[str | Path] = (),
    results: Iterable[str | Path] = (),
    command: Sequence[str] | None = None,
    packages: Sequence[str] = PACKAGES,
) -> dict[str, Any]:
    """Describe how a result is made, as plain values ready for JSON.

    `sources` are the source.json files of the data sets and models used. `results` are the result files whose models,
    settings and machines are to be listed. `command` defaults to this process's own command line. Paths, host and user
    names are left out: every absolute path is reduced to its last part.
    """
    return {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": describe_command(sys.argv if command is None else command),
        "code": code_version(Path(__file__).resolve().parent) | {"sha256": code_sha256()},
        "config_sha256": None if config is None else json_sha256(config),
        "seeds": dict(seeds or {}),
        "sources": [without_paths(_read(path, "--sources")) for path in sources],
        "evaluations": [_evaluation(path) for path in results],
        "packages": package_versions(packages),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "hardware": hardware(),
    }


def result_provenance(
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    grading: Sequence[Mapping[str, Any]],
    inputs: Mapping[str, Path | Sequence[Path]],
) -> dict[str, Any]:
    """Describe how a result was made from files; identical whenever and wherever the same files are scored.

    Args:
        config: the part of the configuration that determines the result (`Layout.configuration`).
        settings: the generation settings of the completions, from `read_completions`.
        grading: the settings of each grades file.
        inputs: the files by kind; they are hashed.
    """
    files = {key: [value] if isinstance(value, Path) else value for key, value in inputs.items()}
    return {
        "code": code_version(Path(__file__).resolve().parent) | {"sha256": code_sha256()},
        "config_sha256": json_sha256(config),
        "config": config,
        "inputs": {
            kind: [{"file": path.name, "sha256": file_sha256(path)} for path in paths] for kind, paths in files.items()
        },
        "generation": {key: value for key, value in settings.items() if key != "environments"},
        "generated_with": settings.get("environments", []),
        "grading": list(grading),
        "packages": package_versions(),
        "python": platform.python_version(),
    }


def code_sha256() -> str:
    """One SHA-256 over the names and contents of all modules of this package, committed or not."""
    package = Path(__file__).resolve().parents[1]
    return json_sha256({path.relative_to(package).as_posix(): file_sha256(path) for path in package.rglob("*.py")})


def code_version(folder: Path) -> dict[str, Any]:
    """Commit of the repository that tracks this package and whether it has uncommitted changes.

    Without git, or for an installed copy, the commit is "unknown" and `reason` explains why.
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
    """Versions of the installed ones of these packages, from their metadata; nothing is imported."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory and GPUs of the machine."""
    return {"cpu": _cpu_model(), "cores": machine.usable_cores(), "memory_gib": _memory_gib(), "gpus": gpus()}


def gpus() -> list[dict[str, str]]:
    """Name, memory and driver of each NVIDIA GPU; empty without one."""
    with suppress(machine.NoDriver):
        return [
            {"name": gpu.name, "memory": f"{gpu.memory:.0f} MiB" if gpu.memory else "unknown", "driver": gpu.driver}
            for gpu in machine.gpus()
        ]
    return []


def without_paths(value: Any) -> Any:
    """A copy of plain values in which every absolute path is reduced to its last part."""
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
    """A command line as a user would type it: `python -m` for a module's path, absolute paths without their folders."""
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


def _read(path: str | Path, option: str) -> Any:
    try:
        return read_object(path)
    except (OSError, UserError) as error:
        raise UserError(f"{option}: {path} cannot be read as JSON: {error}") from None


def _evaluation(path: str | Path) -> dict[str, Any]:
    """The provenance in a result file: model, protocol, backend, seed, software and machines."""
    result = _read(path, "--results")
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


def _memory_gib() -> int | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    except (ValueError, OSError, AttributeError):
        return None


def write_provenance(record: Mapping[str, Any], experiment: str, outputs: Mapping[str, Path]) -> None:
    """Write a provenance record: `outputs` maps file endings, `.json` and `.html` (a page of the report), to files."""
    if ".json" in outputs:
        write_json(outputs[".json"], {"experiment": experiment, **record})
    if ".html" in outputs:
        from justrl.report.html_tables import write_html
        from justrl.report.provenance_tables import provenance_sections

        write_html(outputs[".html"], "Provenance", provenance_sections(record), experiment)
