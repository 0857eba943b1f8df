"""Ask the package registry, by uv, whether every environment here can still be installed: `python envs/resolve.py`."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from justrl.hardware.machine import ENVS, LOCKS, pins_of, read_pins

PYTHON_VERSION = "3.11"
LINUX = ["--python-platform", "x86_64-manylinux_2_28"]
PLATFORM = dict.fromkeys(("gpu", "gpu-cu12", "gpu-verl"), LINUX)
OVERRIDES = {name: f"overrides-{name}.txt" for name in PLATFORM} | {"verl-cpu": "overrides.txt"}
CONDA = ("train.yaml", "evaluate.yaml", "workflow.yaml")
# Built where it is installed, against the torch there; its metadata can only be had by building it.
NOT_RESOLVED = {"flash-attn"}


def resolve(requirements: Path, options: list[str]) -> str | None:
    """Ask uv whether `requirements` can be had together; None if so, else what it says."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        sys.exit("uv is not installed: `pip install uv`, which this asks the registry with")
    command = [uv, "pip", "compile", "--quiet", "--python-version", PYTHON_VERSION, "--no-header", *options]
    done = subprocess.run([*command, str(requirements)], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()


def resolve_all() -> dict[str, str]:
    """Resolve every lock's requirements under the lock, and every conda file's pins; what failed, by file."""
    failures = {}
    for environment, lock in LOCKS.items():
        options = ["--constraint", str(ENVS / lock), *PLATFORM.get(environment, [])]
        if environment in OVERRIDES:
            options += ["--override", str(ENVS / OVERRIDES[environment])]
        failures[lock] = resolve((ENVS / lock).with_suffix(".in"), options)
    for name in CONDA:
        with tempfile.NamedTemporaryFile("w", suffix=".in") as requirements:
            lines = re.findall(r"^ +- (\S+==\S+)", (ENVS / name).read_text(), re.MULTILINE)
            requirements.write("\n".join(lines))
            requirements.flush()
            failures[name] = resolve(Path(requirements.name), LINUX)
    return {name: message for name, message in failures.items() if message}


def conda_disagreements() -> list[str]:
    """Pins of the conda files that differ from their lock's: train and evaluate from gpu, workflow from mini."""
    lines = []
    for name, environment in (("train.yaml", "gpu"), ("evaluate.yaml", "gpu"), ("workflow.yaml", "mini")):
        pins = pins_of(environment)
        for package, version in read_pins(ENVS / name).items():
            if package not in NOT_RESOLVED and pins.get(package) != version:
                lines.append(f"{name}: {package}=={version}, {LOCKS[environment]} has {pins.get(package, 'none')}")
    return lines


if __name__ == "__main__":
    problems = conda_disagreements() + [f"{name}: {message}" for name, message in resolve_all().items()]
    print("\n".join([f"{len(LOCKS) + len(CONDA)} environments, {len(problems)} problems", *problems]))
    sys.exit(1 if problems else 0)
